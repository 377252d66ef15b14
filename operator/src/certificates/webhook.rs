//! The webhook configuration's CA bundle, by which the API server trusts the operator.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Interval;
use tracing::{info, warn};

use super::check::{authorities, bundle};
use super::issue::first_valid;
use super::serving::Certificates;
use crate::api_server::with_deadline;
use crate::liveness::Liveness;

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
    liveness: Liveness,
) {
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let mut configurations = Configurations::watch(client, name.clone(), liveness);
    loop {
        let Some(latest) = configurations.next().await else {
            continue;
        };
        let patch = latest
            .as_ref()
            .and_then(|latest| ca_bundle_patch(latest, &certificates.authority(), Timestamp::now()));
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

/// Where another program writes the CA bundles, such as cert-manager's cainjector: `trusted` becomes true once every
/// webhook has one by which the API server takes what is served, or where there is no configuration. The log says while
/// the API server does not trust the webhook.
pub async fn await_webhook_ca_bundle(
    client: Client,
    name: String,
    (certificates, names): (Certificates, Vec<String>),
    trusted: watch::Sender<bool>,
    liveness: Liveness,
) {
    let mut configurations = Configurations::watch(client, name.clone(), liveness);
    let mut was_trusted = None;
    loop {
        let Some(latest) = configurations.next().await else {
            continue;
        };
        let untrusting: Vec<&str> = latest
            .iter()
            .flat_map(|latest| latest.webhooks.iter().flatten())
            .filter(|webhook| !certificates.is_trusted_by(&ca_bundle(webhook), &names))
            .map(|webhook| webhook.name.as_str())
            .collect();
        if untrusting.is_empty() {
            trusted.send_replace(true);
        }
        match (untrusting.is_empty(), was_trusted.replace(untrusting.is_empty())) {
            (true, Some(true)) | (false, Some(false)) => {}
            (true, _) => info!(configuration = name, "the API server trusts the webhook"),
            (false, _) => warn!(
                configuration = name,
                webhooks = untrusting.join(", "),
                "by its caBundle the API server does not take the serving certificate, so that no pod is injected until \
                 cert-manager's cainjector, or another program that keeps the bundle, has written the authority into it"
            ),
        }
    }
}

/// The webhook configuration, looked at whenever it changes and every [`RETRY_INTERVAL`], since what is served may change too.
struct Configurations {
    name: String,
    events: BoxStream<'static, watcher::Result<Option<MutatingWebhookConfiguration>>>,
    ticks: Interval,
    liveness: Liveness,
    latest: Option<Option<MutatingWebhookConfiguration>>,
}

impl Configurations {
    fn watch(client: Client, name: String, liveness: Liveness) -> Self {
        let api = Api::<MutatingWebhookConfiguration>::all(client);
        Self {
            events: watcher::watch_object(api, &name).default_backoff().boxed(),
            ticks: tokio::time::interval(RETRY_INTERVAL),
            name,
            liveness,
            latest: None,
        }
    }

    /// The next time to look: what is known, which is `None` until the API server has answered. The inner `None`: there
    /// is no configuration of this name.
    async fn next(&mut self) -> Option<&Option<MutatingWebhookConfiguration>> {
        self.liveness.beat("webhook configuration");
        tokio::select! {
            Some(event) = self.events.next() => match event {
                Ok(configuration) => self.latest = Some(configuration),
                Err(error) => {
                    warn!(%error, configuration = self.name, "watching the webhook configuration failed");
                }
            },
            _ = self.ticks.tick() => {}
        }
        self.latest.as_ref()
    }
}

/// The CA bundle of a webhook, in PEM; empty where it has none.
fn ca_bundle(webhook: &MutatingWebhook) -> String {
    let bundle = webhook.client_config.ca_bundle.as_ref();
    bundle.map_or_else(String::new, |bundle| {
        String::from_utf8_lossy(&bundle.0).into_owned()
    })
}

/// The patch that makes every webhook trust the authorities; `None` if each does. What another replica wrote
/// stays beside them: two that do not know the same authorities, as when one has just replaced a lost Secret,
/// would otherwise undo one another's work again and again.
fn ca_bundle_patch(
    configuration: &MutatingWebhookConfiguration,
    authority: &str,
    now: Timestamp,
) -> Option<json_patch::Patch> {
    let ours = authorities(authority);
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let changes: Vec<_> = webhooks
        .filter_map(|(index, webhook)| {
            let present = authorities(&ca_bundle(webhook));
            if ours.iter().all(|authority| present.contains(authority)) {
                return None;
            }
            let trusted = bundle(&first_valid([ours.clone(), present].concat(), now));
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            let value = ByteString(trusted.into_bytes());
            Some(serde_json::json!({"op": "add", "path": path, "value": value}))
        })
        .collect();
    if changes.is_empty() {
        return None;
    }
    // The indexes, and what stays, are those of this version.
    let version = configuration.metadata.resource_version.iter();
    let test = version.map(
        |version| serde_json::json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
    );
    let operations = test.chain(changes).collect::<Vec<_>>();
    Some(serde_json::from_value(operations.into()).expect("these are operations of a JSON patch"))
}

#[cfg(test)]
mod tests {
    use super::super::issue::new_authority;
    use super::*;

    fn configuration(bundles: &[&str]) -> MutatingWebhookConfiguration {
        let webhook = |bundle: &&str| {
            let bundle = ByteString(bundle.as_bytes().to_vec());
            serde_json::json!({
                "name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"caBundle": bundle},
            })
        };
        let webhooks: Vec<_> = bundles.iter().map(webhook).collect();
        let object = serde_json::json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks});
        serde_json::from_value(object).unwrap()
    }

    fn patched(
        before: &MutatingWebhookConfiguration,
        patch: &json_patch::Patch,
    ) -> MutatingWebhookConfiguration {
        let mut object = serde_json::to_value(before).unwrap();
        json_patch::patch(&mut object, patch).unwrap();
        serde_json::from_value(object).unwrap()
    }

    fn made() -> String {
        new_authority(&["127.0.0.1".into()], Timestamp::now())
            .unwrap()
            .authority
    }

    #[test]
    fn only_webhooks_that_do_not_trust_the_authority_are_patched() {
        let ours = made();
        let before = configuration(&["", &ours, "no certificate"]);
        let patch = ca_bundle_patch(&before, &ours, Timestamp::now()).unwrap();
        let patch = serde_json::to_value(patch).unwrap();
        let paths: Vec<_> = patch
            .as_array()
            .unwrap()
            .iter()
            .map(|operation| &operation["path"])
            .collect();
        assert_eq!(
            paths,
            [
                "/metadata/resourceVersion",
                "/webhooks/0/clientConfig/caBundle",
                "/webhooks/2/clientConfig/caBundle"
            ]
        );
        assert_eq!(
            patch[1]["value"],
            serde_json::json!(ByteString(ours.into_bytes()))
        );
    }

    #[test]
    fn replicas_with_different_authorities_come_to_rest() {
        let replicas = [made(), made()];
        let mut webhook = configuration(&[""]);
        let mut writes = 0;
        for replica in [0, 1, 0, 1, 0, 1] {
            if let Some(patch) = ca_bundle_patch(&webhook, &replicas[replica], Timestamp::now()) {
                webhook = patched(&webhook, &patch);
                writes += 1;
            }
        }
        assert_eq!(writes, 2);
    }

    #[test]
    fn a_configuration_that_changed_meanwhile_is_not_written_over() {
        let patch = ca_bundle_patch(&configuration(&[""]), &made(), Timestamp::now()).unwrap();
        let mut newer = serde_json::to_value(configuration(&[""])).unwrap();
        newer["metadata"]["resourceVersion"] = "8".into();
        assert!(json_patch::patch(&mut newer, &patch).is_err());
    }
}
