//! Checks of the namespaces: whether they opted in, and whether the API server calls the webhook for them.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

use super::resources::subject;
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

/// Whether the operator watches the namespaces. What stands in the status of resources elsewhere it wrote when it still did,
/// and has no right to change any more.
pub fn watched(facts: &Facts) -> Vec<Finding> {
    let Lookup::Found(deployment) = &facts.deployment else {
        return Vec::new();
    };
    let watched = watched_namespaces(deployment);
    if watched.is_empty() {
        return Vec::new();
    }
    let resources = facts.inventory.resources.iter();
    let unwatched = resources.filter(|resource| {
        let namespace = resource.namespace().unwrap_or_default();
        !watched.contains(&namespace.as_str())
    });
    let findings = unwatched.map(|resource| {
        let written = resource.status.iter().flat_map(|status| &status.conditions);
        let message = match written.map(|condition| &condition.last_transition_time).max() {
            None => "the operator does not watch this namespace".to_owned(),
            Some(last) => format!(
                "the operator does not watch this namespace: what the status says is of an earlier time, and changed \
                 last at {}",
                last.0
            ),
        };
        Finding::fault(
            "watched",
            subject(resource),
            message,
            "list the namespace in watchNamespaces of the chart, or delete the resource; LiteLLM's pods keep their \
             tokens until these expire",
        )
    });
    findings.collect()
}

/// As the chart tells the operator; empty where it watches all.
fn watched_namespaces(deployment: &Deployment) -> Vec<&str> {
    let pods = deployment
        .spec
        .iter()
        .filter_map(|spec| spec.template.spec.as_ref());
    let arguments = pods
        .flat_map(|pod| &pod.containers)
        .flat_map(|container| container.args.iter().flatten());
    arguments
        .filter_map(|argument| argument.strip_prefix("--watch-namespace="))
        .collect()
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
