//! Checks of the namespaces: whether they opted in, and whether the API server calls the webhook for them.

use crate::doctor::facts::{Facts, NamespaceFacts, WebhookCall};
use crate::doctor::finding::Finding;
use crate::lookup::Lookup;
use crate::webhook_scope::{INJECTION_LABEL, WebhookScope, webhook_scope};

pub fn opted_in(facts: &Facts) -> Vec<Finding> {
    let findings = facts.namespaces.iter();
    findings.map(|namespace| opted_in_one(facts, namespace)).collect()
}

fn opted_in_one(facts: &Facts, namespace: &NamespaceFacts) -> Finding {
    let (check, name) = ("namespace", namespace.name.as_str());
    let labels = match &namespace.labels {
        Lookup::Found(labels) => labels,
        Lookup::Missing => {
            return Finding::fault(
                check,
                name,
                "there is no such namespace",
                "name another with --namespace, or look at all with --all-namespaces",
            );
        }
        Lookup::Unknown(why) => return Finding::not_checked(check, name, why),
    };
    let way_out =
        format!("kubectl label namespace {name} {INJECTION_LABEL}=enabled, and restart LiteLLM's Deployment");
    match labels.get(INJECTION_LABEL).map(String::as_str) {
        Some("enabled") => {
            let scope = facts
                .webhook()
                .map(|webhook| webhook_scope(webhook, labels, &Default::default()));
            match scope {
                Some(WebhookScope::NotSelected) => Finding::fault(
                    check,
                    name,
                    "it opted in, and the webhook configuration leaves it out",
                    "take it out of webhook.excludedNamespaces of the chart, or into watchNamespaces; the \
                     operator's own namespace never gets sidecars",
                ),
                _ => Finding::passed(check, name, "it opted in to injection"),
            }
        }
        Some(other) => Finding::fault(
            check,
            name,
            format!(
                "its label {INJECTION_LABEL} is a text of {} characters, and only `enabled` opts in",
                other.chars().count()
            ),
            way_out,
        ),
        None if facts.uninjected.iter().any(|pod| pod.namespace == name) => Finding::fault(
            check,
            name,
            "it has not opted in to injection, and pods that a resource selects run without the sidecar",
            way_out,
        ),
        None => Finding::warning(
            check,
            name,
            "it has not opted in to injection: only pods with the label mcpauth.dev/inject=true get the sidecar",
            way_out,
        ),
    }
}

pub fn webhook_call(facts: &Facts) -> Vec<Finding> {
    let check = "webhook call";
    let findings = facts.namespaces.iter().map(|namespace| {
        let name = &namespace.name;
        match &namespace.webhook_call {
            WebhookCall::Injected => {
                Finding::passed(check, name, "the API server called the webhook, which injected (dry run)")
            }
            WebhookCall::NotInjected => Finding::fault(
                check,
                name,
                "a pod that asks for the sidecar came back without it (dry run): the webhook did not answer",
                "the API server's log says why it failed; a NetworkPolicy must let the API server reach the \
                 operator's port 8443",
            ),
            WebhookCall::Failed(message) => Finding::fault(
                check,
                name,
                format!("the API server cannot call the webhook: {message}"),
                "see that the operator runs, and that a NetworkPolicy lets the API server reach its port 8443",
            ),
            WebhookCall::NotMade(why) => Finding::not_checked(check, name, why),
        }
    });
    findings.collect()
}
