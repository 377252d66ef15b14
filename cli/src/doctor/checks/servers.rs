//! Check of the MCP servers: whether sidecars reach them, as the condition `ServerReachable` says.

use mcp_auth_crds::conditions;

use super::resources::subject;
use super::ways_out::way_out;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::status::condition;

pub fn reachable(facts: &Facts) -> Vec<Finding> {
    let check = "MCP server";
    let resources = facts.inventory.resources.iter();
    let findings = resources.filter_map(|resource| {
        let condition = condition(resource, conditions::SERVER_REACHABLE)?;
        let (subject, message) = (subject(resource), condition.message.as_str());
        Some(match condition.status.as_str() {
            "True" => Finding::passed(check, subject, message),
            "False" => {
                let way_out = way_out(&condition.reason, resource);
                let what = message
                    .strip_suffix(way_out.as_str())
                    .unwrap_or(message)
                    .trim_end_matches(['.', ' ']);
                Finding::fault(check, subject, format!("{}: {what}", condition.reason), way_out)
            }
            // Nothing is known yet, as where no sidecar runs, which is told before.
            _ => return None,
        })
    });
    findings.collect()
}
