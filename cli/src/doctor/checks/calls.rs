//! Check of the way as a whole: LiteLLM is called as a user calls it, and the sidecar says what of the user went on.

use crate::criteria::{CallOutcome, UserCall};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::outcome::Outcome;

const CHECK: &str = "call through LiteLLM";

pub fn called_through_litellm(facts: &Facts) -> Vec<Finding> {
    let findings = facts.live.calls.iter().map(|call| {
        let subject = format!("{}/{}", call.namespace, call.resource);
        match &call.outcome {
            CallOutcome::Called { call: made, .. } => called(subject, &call.namespace, made),
            CallOutcome::Reported { not_called, .. } => Finding::not_checked(CHECK, subject, not_called.why()),
            CallOutcome::KeyUnusable(problem) => Finding::fault(
                CHECK,
                subject,
                problem,
                "name a Secret of LiteLLM's namespace and the key in it that has LiteLLM's key, as in \
                 --litellm-key-secret litellm/master-key",
            ),
            CallOutcome::ServerUnknownOrNotAllowed(problem) => Finding::fault(
                CHECK,
                subject,
                problem,
                "restart LiteLLM if the resource is newer than its pod, or whatever else the resource's conditions say of LiteLLM; \
                 else grant the server to the key or its team there, or to every key by spec.liteLLM.allowAllKeys, or give a \
                 key that may use it, such as the master key",
            ),
            CallOutcome::Failing(problem) => Finding::not_checked(CHECK, subject, problem),
            CallOutcome::Failed { pod, problem } => Finding::fault(
                CHECK,
                subject,
                format!("through the pod {pod}: {problem}"),
                way_out(pod, &call.namespace),
            ),
            CallOutcome::NotMade(why) => Finding::not_checked(CHECK, subject, why),
        }
    });
    findings.collect()
}

fn called(subject: String, namespace: &str, call: &UserCall) -> Finding {
    let (arrival, arrived) = call.arrival();
    let (listing, listed) = call.listing();
    let message = format!("{listed}; {arrived}");
    let outcomes = [arrival, listing];
    if outcomes.contains(&Outcome::Fault) {
        Finding::fault(CHECK, subject, message, way_out(&call.pod, namespace))
    } else if outcomes.contains(&Outcome::Warning) {
        let way_out = "a server that wants a session which it knows refuses the test user's: look at the calls of real users \
                       with kubectl mcp-auth logs --audit";
        Finding::warning(CHECK, subject, message, way_out)
    } else if outcomes.contains(&Outcome::NotChecked) {
        Finding::not_checked(CHECK, subject, message)
    } else {
        Finding::passed(CHECK, subject, message)
    }
}

fn way_out(pod: &str, namespace: &str) -> String {
    format!(
        "may the key use this server, and is it LiteLLM's entry of its configuration, not one of its database? docs/errors.md \
         explains the sidecar's errors; kubectl logs {pod} -n {namespace} has LiteLLM's, and with -c mcpauth-sidecar the \
         sidecar's"
    )
}
