//! Check of `spec.podSelector`: the default that earlier versions stored in resources.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
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
        .filter(|resource| is_merged(resource) && !is_stated(resource))
        .map(|resource| {
            let name = resource.name_any();
            let namespace = resource.namespace().unwrap_or_default();
            Finding::warning(
                "podSelector",
                subject(resource),
                format!(
                    "spec.podSelector holds {KEY}: {VALUE}, which nobody wrote: an early version stored its default, \
                     and pods must have that label besides what was written"
                ),
                format!(
                    "kubectl patch msa {name} -n {namespace} --type=json -p \
                     '[{{\"op\":\"remove\",\"path\":\"/spec/podSelector/matchLabels/app.kubernetes.io~1name\"}}]'"
                ),
            )
        });
    findings.collect()
}

/// Whether the label stands beside others. Alone it is what an absent `podSelector` means.
fn is_merged(resource: &McpServerAuth) -> bool {
    let LabelSelector {
        match_labels,
        match_expressions,
    } = &resource.spec.pod_selector;
    let others = match_labels
        .iter()
        .flatten()
        .filter(|(key, _)| *key != KEY)
        .count()
        + match_expressions.iter().flatten().count();
    let value = match_labels.iter().flatten().find(|(key, _)| *key == KEY);
    others > 0 && value.is_some_and(|(_, value)| value == VALUE)
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
