//! Check of `spec.podSelector`: the default that earlier versions stored in resources.

use std::collections::BTreeMap;

use kube::ResourceExt;
use mcp_auth_crds::McpServerAuth;
use serde_json::Value;

use super::resources::subject;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// The label that was the stored default. Today it is the default where `podSelector` is absent, and is not stored.
const KEY: &str = "app.kubernetes.io/name";
const VALUE: &str = "litellm";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub fn stored_default(facts: &Facts) -> Vec<Finding> {
    let resources = facts.inventory.resources.iter();
    let findings = resources
        .filter(|resource| is_stored(resource) && !is_stated(resource))
        .map(|resource| {
            let name = resource.name_any();
            let namespace = resource.namespace().unwrap_or_default();
            let message = match is_alone(resource) {
                true => format!(
                    "an earlier version stored its default {KEY}: {VALUE} in spec.podSelector; labels that are written \
                     there later are added to it"
                ),
                false => format!(
                    "spec.podSelector holds {KEY}: {VALUE}, which nobody wrote: an earlier version stored its default, \
                     and pods must have that label besides those that were written"
                ),
            };
            Finding::warning(
                "podSelector",
                subject(resource),
                message,
                format!(
                    "kubectl patch msa {name} -n {namespace} --type=json -p \
                     '[{{\"op\":\"remove\",\"path\":\"/spec/podSelector{}\"}}]'",
                    if is_alone(resource) { "" } else { "/matchLabels/app.kubernetes.io~1name" }
                ),
            )
        });
    findings.collect()
}

fn labels(resource: &McpServerAuth) -> Option<&BTreeMap<String, String>> {
    resource.spec.pod_selector.as_ref()?.match_labels.as_ref()
}

fn is_stored(resource: &McpServerAuth) -> bool {
    labels(resource).is_some_and(|labels| labels.get(KEY).is_some_and(|value| value == VALUE))
}

fn is_alone(resource: &McpServerAuth) -> bool {
    let selector = resource.spec.pod_selector.as_ref();
    let expressions = selector.and_then(|selector| selector.match_expressions.as_ref());
    labels(resource).is_some_and(|labels| labels.len() == 1) && expressions.is_none_or(Vec::is_empty)
}

/// Whether somebody wrote the label, as far as `kubectl apply` tells: by its annotation, or by the fields that it owns where
/// it applies on the server's side. Of a resource that was written in another way nothing is known.
fn is_stated(resource: &McpServerAuth) -> bool {
    if let Some(text) = resource.annotations().get(LAST_APPLIED) {
        let applied: Value = serde_json::from_str(text).unwrap_or_default();
        return applied["spec"]["podSelector"]["matchLabels"].get(KEY).is_some();
    }
    let managers = resource.metadata.managed_fields.as_deref().unwrap_or_default();
    let mut applied = managers
        .iter()
        .filter(|manager| manager.operation.as_deref() == Some("Apply") && manager.subresource.is_none())
        .peekable();
    let label = format!("f:{KEY}");
    applied.peek().is_none()
        || applied.any(|manager| {
            let fields = manager.fields_v1.as_ref().map(|fields| &fields.0);
            fields.is_some_and(|fields| {
                fields["f:spec"]["f:podSelector"]["f:matchLabels"]
                    .get(&label)
                    .is_some()
            })
        })
}
