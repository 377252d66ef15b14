//! Check of the way as a whole: one real `tools/list` of each server, through a pod.

use crate::criteria::CallOutcome;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub fn tools_listed(facts: &Facts) -> Vec<Finding> {
    let check = "tools/list";
    let findings = facts.live.calls.iter().map(|call| {
        let subject = format!("{}/{}", call.namespace, call.resource);
        match &call.outcome {
            CallOutcome::Listed { pod, tools, .. } => {
                Finding::passed(check, subject, format!("{} through the pod {pod}", tools.describe()))
            }
            CallOutcome::Reported { message, .. } => {
                Finding::passed(check, subject, format!("as sidecars report of LiteLLM's requests: {message}"))
            }
            CallOutcome::Failed { pod, problem } => Finding::fault(
                check,
                subject,
                format!("through the pod {pod}: {problem}"),
                format!(
                    "docs/errors.md explains the sidecar's errors; kubectl logs {pod} -n {} -c mcpauth-sidecar \
                     has the rest",
                    call.namespace
                ),
            ),
            CallOutcome::NotMade(why) => Finding::not_checked(check, subject, why),
        }
    });
    findings.collect()
}
