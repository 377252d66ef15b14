//! The webhook configurations of mcp-auth, and whether the API server asks a webhook about a pod: by the
//! configuration's selectors.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::ListParams;
use mcp_auth_operator::selects;

use crate::cluster::Cluster;
use crate::error::CliError;

/// Label of a namespace that opts in.
pub const INJECTION_LABEL: &str = "mcpauth.dev/injection";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WebhookScope {
    Selected,
    NotSelected,
}

/// The configurations that inject; none where they may not be listed.
pub async fn webhook_configurations(
    cluster: &Cluster,
) -> Result<Option<Vec<MutatingWebhookConfiguration>>, CliError> {
    let api = Api::<MutatingWebhookConfiguration>::all(cluster.client.clone());
    let params = ListParams::default();
    match cluster
        .answer("list webhook configurations", api.list(&params))
        .await
    {
        Ok(found) => Ok(Some(injecting_webhooks(found.items))),
        Err(CliError::Forbidden { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The configurations that have an injecting webhook, known by its name, whatever the release is called.
fn injecting_webhooks(
    configurations: impl IntoIterator<Item = MutatingWebhookConfiguration>,
) -> Vec<MutatingWebhookConfiguration> {
    let injects = |webhook: &MutatingWebhook| webhook.name.ends_with(".inject.mcpauth.dev");
    configurations
        .into_iter()
        .filter(|configuration| configuration.webhooks.iter().flatten().any(injects))
        .collect()
}

/// Whether a webhook of the configuration looks at a pod with these labels in a namespace with those. Its
/// matchConditions say no more than `inject::decide` does.
pub fn webhook_scope(
    configuration: &MutatingWebhookConfiguration,
    namespace: &BTreeMap<String, String>,
    pod: &BTreeMap<String, String>,
) -> WebhookScope {
    let matches = |selector: &Option<LabelSelector>, labels| {
        selector.as_ref().is_none_or(|selector| selects(selector, labels))
    };
    let mut webhooks = configuration.webhooks.iter().flatten();
    let selected = webhooks.any(|webhook| {
        matches(&webhook.namespace_selector, namespace) && matches(&webhook.object_selector, pod)
    });
    match selected {
        true => WebhookScope::Selected,
        false => WebhookScope::NotSelected,
    }
}
