//! The webhook configuration's CA bundle, by which the API server trusts the operator.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{info, warn};

use super::serving::Certificates;
use crate::api_server::with_deadline;

/// How soon a webhook configuration that could not be changed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the authority into every webhook of the configuration, at once and whenever the configuration
/// changes, such as by an upgrade of the chart. `trusted` becomes true once every webhook has it, or where
/// there is no configuration to write it into.
pub async fn keep_webhook_ca_bundle(
    client: Client,
    name: String,
    certificates: Certificates,
    trusted: watch::Sender<bool>,
) {
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let mut configurations = watcher::watch_object(api.clone(), &name)
        .default_backoff()
        .boxed();
    let mut ticks = tokio::time::interval(RETRY_INTERVAL);
    let mut latest = None;
    loop {
        tokio::select! {
            Some(event) = configurations.next() => match event {
                Ok(configuration) => latest = Some(configuration),
                Err(error) => {
                    warn!(%error, configuration = name, "watching the webhook configuration failed");
                }
            },
            _ = ticks.tick() => {}
        }
        let Some(latest) = &latest else { continue };
        let patch = latest
            .as_ref()
            .and_then(|latest| ca_bundle_patch(latest, &certificates.authority()));
        let Some(patch) = patch else {
            trusted.send_replace(true);
            continue;
        };
        match with_deadline(api.patch(&name, &PatchParams::default(), &Patch::Json::<()>(patch))).await {
            Ok(_) => info!(configuration = name, "the API server now trusts the webhook"),
            Err(error) => {
                warn!(%error, configuration = name, "the webhook configuration could not be changed")
            }
        }
    }
}

/// The patch that writes the authority into the configuration; `None` if it is in every webhook.
fn ca_bundle_patch(
    configuration: &MutatingWebhookConfiguration,
    authority: &str,
) -> Option<json_patch::Patch> {
    let bundle = ByteString(authority.as_bytes().to_vec());
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let stale = webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
    let operations: Vec<_> = stale
        .map(|(index, _)| {
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            serde_json::json!({"op": "add", "path": path, "value": bundle})
        })
        .collect();
    let patch = serde_json::from_value(operations.into()).expect("these are operations of a JSON patch");
    Some(patch).filter(|patch: &json_patch::Patch| !patch.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_that_do_not_trust_the_authority_are_patched() {
        let configuration = serde_json::from_value(serde_json::json!({
            "webhooks": [
                {"name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {}},
                {
                    "name": "b", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {"caBundle": "UEVN"},
                },
            ],
        }))
        .unwrap();
        let patch = serde_json::to_value(ca_bundle_patch(&configuration, "PEM").unwrap()).unwrap();
        assert_eq!(
            patch,
            serde_json::json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "UEVN"}])
        );
    }
}
