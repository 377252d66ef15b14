//! Keeps the Secret, the TLS listener and the webhook configuration in step.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tracing::{info, warn};

use super::issue::{Due, Material, due, new_authority, new_serving};
use crate::api_server::within;

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVING: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";
/// How often the Secret is looked at: replicas that find it gone or renewed by another come together soon.
const CHECK: Duration = Duration::from_secs(60);
/// How soon a webhook configuration that could not be changed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Replicas that start together race for the Secret's creation.
const ATTEMPTS: u32 = 5;

#[derive(Clone, Debug)]
pub struct Config {
    /// Namespace and name of the Secret.
    pub namespace: String,
    pub secret: String,
    /// DNS names and IP addresses that the API server and the sidecars call the operator by.
    pub names: Vec<String>,
}

/// The certificates in use. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Certificates(Arc<RwLock<InUse>>);

struct InUse {
    authority: String,
    key: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .read()
                .expect("nothing panics while it holds the lock")
                .key
                .clone(),
        )
    }
}

impl Certificates {
    /// Takes the certificates from the Secret, after making or renewing what is due.
    pub async fn load(client: &Client, config: &Config) -> anyhow::Result<Self> {
        let material = settle(client, config).await?;
        Ok(Self(Arc::new(RwLock::new(in_use(&material)?))))
    }

    /// PEM certificates that clients trust the operator by.
    pub fn authority(&self) -> String {
        self.0
            .read()
            .expect("nothing panics while it holds the lock")
            .authority
            .clone()
    }

    /// Renews what becomes due, for as long as the operator runs.
    pub async fn keep(self, client: Client, config: Config) {
        let mut ticks = tokio::time::interval(CHECK);
        loop {
            ticks.tick().await;
            match settle(&client, &config)
                .await
                .and_then(|material| in_use(&material))
            {
                Ok(fresh) => *self.0.write().expect("nothing panics while it holds the lock") = fresh,
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the certificates could not be checked"
                ),
            }
        }
    }
}

/// Writes the authority into every webhook of the configuration, at once and whenever somebody changes it,
/// such as an upgrade of the chart. `trusted` says whether the API server trusts this operator; where there
/// is no configuration, nothing is to be trusted.
pub async fn keep_webhook_trust(
    client: Client,
    name: String,
    certificates: Certificates,
    trusted: watch::Sender<bool>,
) {
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    let mut configurations = watcher::watch_object(api.clone(), &name)
        .default_backoff()
        .boxed();
    let mut ticks = tokio::time::interval(RETRY);
    let mut latest = None;
    loop {
        tokio::select! {
            Some(event) = configurations.next() => match event {
                Ok(found) => latest = Some(found),
                Err(error) => warn!(%error, configuration = name, "watching the webhook configuration failed"),
            },
            _ = ticks.tick() => {}
        }
        let Some(latest) = &latest else { continue };
        let stale = latest
            .as_ref()
            .and_then(|latest| trust(latest, &certificates.authority()));
        let Some(patch) = stale else {
            trusted.send_replace(true);
            continue;
        };
        match within(api.patch(&name, &PatchParams::default(), &Patch::Json::<()>(patch))).await {
            Ok(_) => info!(configuration = name, "the API server now trusts the webhook"),
            Err(error) => {
                warn!(%error, configuration = name, "the webhook configuration could not be changed")
            }
        }
    }
}

/// What makes a configuration trust the authority; nothing if it does.
fn trust(configuration: &MutatingWebhookConfiguration, authority: &str) -> Option<json_patch::Patch> {
    let bundle = ByteString(authority.as_bytes().to_vec());
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let stale = webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
    let operations: Vec<_> = stale
        .map(|(index, _)| {
            serde_json::json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle})
        })
        .collect();
    let patch = serde_json::from_value(operations.into()).expect("these are operations of a JSON patch");
    Some(patch).filter(|patch: &json_patch::Patch| !patch.0.is_empty())
}

/// Brings the Secret up to date and returns what it holds.
async fn settle(client: &Client, config: &Config) -> anyhow::Result<Material> {
    let api = Api::<Secret>::namespaced(client.clone(), &config.namespace);
    for _ in 0..ATTEMPTS {
        let now = Timestamp::now();
        let found = within(api.get_opt(&config.secret))
            .await
            .context("reading the certificates' Secret")?;
        let held = found.as_ref().and_then(material);
        let fresh = match held
            .as_ref()
            .map_or(Due::Authority, |held| due(held, &config.names, now))
        {
            Due::Nothing => return Ok(held.expect("nothing is due of something")),
            Due::Serving => new_serving(held.as_ref().expect("it has an authority"), &config.names, now)?,
            Due::Authority => new_authority(&config.names, now)?,
        };
        let mut secret = secret(config, &fresh);
        let written = match found {
            None => within(api.create(&PostParams::default(), &secret)).await,
            Some(found) => {
                // With the resource version a replica that was faster is noticed.
                secret.metadata.resource_version = found.resource_version();
                secret.metadata.labels = found.metadata.labels;
                secret.metadata.annotations = found.metadata.annotations;
                within(api.replace(&config.secret, &PostParams::default(), &secret)).await
            }
        };
        match written {
            Ok(_) => {
                info!(secret = config.secret, "made new certificates");
                return Ok(fresh);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => continue,
            Err(error) => return Err(error).context("writing the certificates' Secret"),
        }
    }
    anyhow::bail!(
        "other replicas kept changing the Secret {}/{}",
        config.namespace,
        config.secret
    )
}

fn secret(config: &Config, material: &Material) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    Secret {
        metadata: ObjectMeta {
            name: Some(config.secret.clone()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            (AUTHORITY.to_owned(), bytes(&material.authority)),
            (AUTHORITY_KEY.to_owned(), bytes(&material.authority_key)),
            (SERVING.to_owned(), bytes(&material.serving)),
            (SERVING_KEY.to_owned(), bytes(&material.serving_key)),
        ])),
        ..Secret::default()
    }
}

fn material(secret: &Secret) -> Option<Material> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Material {
        authority: text(AUTHORITY)?,
        authority_key: text(AUTHORITY_KEY)?,
        serving: text(SERVING)?,
        serving_key: text(SERVING_KEY)?,
    })
}

fn in_use(material: &Material) -> anyhow::Result<InUse> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(material.serving.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(material.serving_key.as_bytes())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(InUse {
        authority: material.authority.clone(),
        key: Arc::new(CertifiedKey::new(chain, key)),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client of an API server that accepts connections and never answers.
    async fn client_of_a_silent_api_server() -> (Client, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = kube::Config::new(url.parse().unwrap());
        // The client's own timeouts, which must not stand in for ours.
        (config.connect_timeout, config.read_timeout, config.write_timeout) = (None, None, None);
        (Client::try_from(config).unwrap(), listener)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_is_an_error_and_not_an_endless_wait() {
        let (client, _listener) = client_of_a_silent_api_server().await;
        let config = Config {
            namespace: "mcp-auth".into(),
            secret: "mcp-auth-operator-tls".into(),
            names: vec!["127.0.0.1".into()],
        };
        let waits = tokio::time::timeout(Duration::from_secs(3600), Certificates::load(&client, &config));
        let error = waits.await.expect("it gives up by itself").unwrap_err();
        assert!(
            format!("{error:#}").contains("did not answer within"),
            "{error:#}"
        );
    }

    #[test]
    fn only_webhooks_that_do_not_trust_the_authority_are_patched() {
        let configuration = serde_json::from_value(serde_json::json!({
            "webhooks": [
                {"name": "a", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {}},
                {"name": "b", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"caBundle": "UEVN"}},
            ],
        }))
        .unwrap();
        let patch = serde_json::to_value(trust(&configuration, "PEM").unwrap()).unwrap();
        assert_eq!(
            patch,
            serde_json::json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "UEVN"}])
        );
    }
}
