//! The keys as the Secret holds them: JSON under one key, so that one write changes them together.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mcp_auth_credentials::ResourceRef;
use mcp_auth_oauth::KeyError;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;

use super::key_set::{KeySet, KeySets, OwnKey, RetiredKey};

/// The key of the Secret.
pub const DATA_KEY: &str = "keys.json";

/// What a Secret holds cannot be read. Says nothing of its values.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum StoredError {
    #[error("it has no key {DATA_KEY:?}")]
    NoKeys,
    #[error("its key {DATA_KEY:?} is not what an operator of this version writes")]
    Unreadable,
}

/// No `Debug`: it holds private keys.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredKeySet {
    current: StoredKey,
    next: StoredKey,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<StoredRetiredKey>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredKey {
    #[serde(serialize_with = "exposed")]
    private_key: SecretString,
    since: Time,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredRetiredKey {
    public_key: Value,
    until: Time,
}

/// The keys in a Secret. Those of a resource that cannot be read are left out, and with that made anew.
pub fn read(secret: &Secret) -> Result<KeySets, StoredError> {
    let data = secret.data.as_ref().and_then(|data| data.get(DATA_KEY));
    let data = data.ok_or(StoredError::NoKeys)?;
    let stored: BTreeMap<String, Value> =
        serde_json::from_slice(&data.0).map_err(|_| StoredError::Unreadable)?;
    let readable = stored.into_iter().filter_map(|(name, keys)| {
        let (namespace, name) = name.split_once('/')?;
        let resource_ref = ResourceRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let keys: StoredKeySet = serde_json::from_value(keys).ok()?;
        Some((resource_ref, KeySet::try_from(keys).ok()?))
    });
    Ok(readable.collect())
}

/// The data of the Secret that holds these keys.
pub fn data(keys: &KeySets) -> BTreeMap<String, ByteString> {
    let stored: BTreeMap<String, StoredKeySet> = keys
        .iter()
        .map(|(ResourceRef { namespace, name }, keys)| (format!("{namespace}/{name}"), keys.into()))
        .collect();
    let text = serde_json::to_vec(&stored).expect("texts are JSON");
    BTreeMap::from([(DATA_KEY.to_owned(), ByteString(text))])
}

impl TryFrom<StoredKeySet> for KeySet {
    type Error = KeyError;

    fn try_from(stored: StoredKeySet) -> Result<Self, KeyError> {
        let own = |key: StoredKey| OwnKey::new(key.private_key, key.since.0);
        Ok(Self {
            current: own(stored.current)?,
            next: own(stored.next)?,
            retired: stored
                .retired
                .into_iter()
                .map(|retired| RetiredKey {
                    public_jwk: retired.public_key,
                    until: retired.until.0,
                })
                .collect(),
        })
    }
}

impl From<&KeySet> for StoredKeySet {
    fn from(keys: &KeySet) -> Self {
        let own = |key: &OwnKey| StoredKey {
            private_key: key.pem.clone(),
            since: Time(key.since),
        };
        let retired = keys.retired.iter().map(|retired| StoredRetiredKey {
            public_key: retired.public_jwk.clone(),
            until: Time(retired.until),
        });
        Self {
            current: own(&keys.current),
            next: own(&keys.next),
            retired: retired.collect(),
        }
    }
}

/// Into the Secret, and nowhere else.
fn exposed<S: Serializer>(text: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.expose_secret())
}
