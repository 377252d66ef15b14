//! Checks of LiteLLM's pods: whether they have the sidecar, of which version, and whether it is up to date.

use kube::ResourceExt;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_operator::inject::annotations;

use super::resources::of_condition;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub fn sidecars_synced(facts: &Facts) -> Vec<Finding> {
    // Pods without a sidecar are told one by one, with the reason of each.
    of_condition(facts, "sidecars", conditions::SIDECARS_SYNCED, |condition| {
        facts.inventory.pods.is_none() || condition.reason != reasons::PODS_NOT_INJECTED
    })
}

pub fn injected(facts: &Facts) -> Vec<Finding> {
    let check = "pods";
    let Some(pods) = &facts.inventory.pods else {
        let message = "pods may not be listed with your rights";
        return vec![Finding::not_checked(check, "pods", message)];
    };
    let mut findings: Vec<Finding> = facts
        .uninjected
        .iter()
        .map(|pod| {
            let subject = format!("{}/{}", pod.namespace, pod.name);
            match &pod.explanation {
                Some(explanation) => Finding::fault(
                    check,
                    subject,
                    format!("it runs without the sidecar: {}", explanation.reason),
                    explanation.way_out.clone().unwrap_or_default(),
                ),
                None => Finding::fault(
                    check,
                    subject,
                    "it runs without the sidecar",
                    format!(
                        "kubectl mcp-auth explain {} -n {} says why",
                        pod.name, pod.namespace
                    ),
                ),
            }
        })
        .collect();
    let Some(installed) = facts.installed_version() else {
        return findings;
    };
    let with_sidecar = pods.iter().filter(mcp_auth_operator::is_injected);
    let of_other_version: Vec<String> = with_sidecar
        .filter(|pod| pod.annotations().get(annotations::INJECTED) != Some(&installed))
        .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
        .collect();
    if let Some(first) = of_other_version.first() {
        findings.push(Finding::warning(
            check,
            first,
            format!(
                "{} pods have the sidecar of another version than the operator's ({installed})",
                of_other_version.len()
            ),
            "a restart gives them the new one: `kubectl mcp-auth status` has the commands",
        ));
    }
    findings
}
