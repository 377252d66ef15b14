//! The certificates' Secret, which all replicas share: read, and written when something is due.

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tracing::info;

use super::issue::next_material;
use super::material::CertificateMaterial;
use crate::api_server::with_deadline;

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const SERVING: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";
const FINGERPRINT_KEY: &str = "fingerprint.key";
/// Replicas that start together race for the Secret's creation.
const MAX_ATTEMPTS: u32 = 5;

/// Which Secret.
#[derive(Clone, Debug)]
pub struct SecretName {
    pub namespace: String,
    pub name: String,
}

/// Makes, renews or restores in the Secret what is due, and returns what the Secret holds then, and whether there was no Secret.
/// `remembered` is what this replica uses.
pub(super) async fn renew_if_due(
    client: &Client,
    SecretName { namespace, name }: &SecretName,
    names: &[String],
    remembered: Option<&CertificateMaterial>,
) -> anyhow::Result<(CertificateMaterial, bool)> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    for _ in 0..MAX_ATTEMPTS {
        let now = Timestamp::now();
        let existing = with_deadline(api.get_opt(name))
            .await
            .context("reading the certificates' Secret")?;
        let current = existing.as_ref().and_then(read_material);
        let next = next_material(current.as_ref(), remembered, names, now)?;
        if current.as_ref() == Some(&next) {
            return Ok((next, false));
        }
        let is_first = existing.is_none();
        let written = match existing {
            None => with_deadline(api.create(&PostParams::default(), &new_secret(name, &next))).await,
            Some(existing) if existing.immutable == Some(true) => anyhow::bail!(
                "the Secret {namespace}/{name} has `immutable: true`, and its certificates have to be replaced now and \
                 then: delete it, and create it without that field"
            ),
            Some(mut existing) => {
                // All else that the Secret has stays, such as its type and owners. Its resource version makes the API
                // server refuse this when another replica was faster.
                existing.data.get_or_insert_default().extend(data(&next));
                with_deadline(api.replace(name, &PostParams::default(), &existing)).await
            }
        };
        match written {
            Ok(_) => {
                info!(secret = name, "wrote the certificates");
                return Ok((next, is_first));
            }
            Err(kube::Error::Api(status)) if status.code == 409 => continue,
            Err(error) => return Err(error).context("writing the certificates' Secret"),
        }
    }
    anyhow::bail!("other replicas kept changing the Secret {namespace}/{name}")
}

fn new_secret(name: &str, material: &CertificateMaterial) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data(material).into()),
        ..Secret::default()
    }
}

fn data(material: &CertificateMaterial) -> [(String, ByteString); 5] {
    [
        (AUTHORITY, &material.authority),
        (AUTHORITY_KEY, &material.authority_key),
        (SERVING, &material.serving),
        (SERVING_KEY, &material.serving_key),
        (FINGERPRINT_KEY, &material.fingerprint_key),
    ]
    .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
}

fn read_material(secret: &Secret) -> Option<CertificateMaterial> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(CertificateMaterial {
        authority: text(AUTHORITY)?,
        authority_key: text(AUTHORITY_KEY)?,
        serving: text(SERVING)?,
        serving_key: text(SERVING_KEY)?,
        // A Secret of an earlier version has none, and its certificates are good all the same.
        fingerprint_key: text(FINGERPRINT_KEY).unwrap_or_default(),
    })
}
