//! Signing keys that the operator makes for clients (`privateKeyJwt.managed`): one Secret in its own namespace holds them
//! all, the replica that leads makes and rotates them ([`keeper`]), and every replica publishes the public halves
//! ([`publish`]).
//!
//! [`key_set`] decides: the next key is published from the moment that its predecessor signs, and a key that signs no
//! more stays published until its last assertion is over. Every replica reads the Secret by one watch, and only what the
//! Secret holds signs or is published.

mod keeper;
mod key_set;
mod public_url;
mod publish;
mod stored;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client};
use mcp_auth_crds::{ManagedKeyStatus, McpServerAuth};
use mcp_auth_credentials::conditions::seconds;
use mcp_auth_credentials::references::fields;
use mcp_auth_credentials::{ManagedKey, NotServedError, NotServedReason, ResourceRef};
use mcp_auth_oauth::Clock;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc};

use key_set::{KeySet, KeySets};
pub use public_url::PublicUrl;
pub use publish::router;

/// Where the keys are kept, and where they are published.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of the operator.
    pub namespace: String,
    pub secret: String,
    /// By which authorization servers reach what is published; unknown where the administrator does not say it.
    pub url: Option<PublicUrl>,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct ManagedKeys(Arc<Shared>);

struct Shared {
    /// `None`: the operator makes no keys.
    config: Option<Config>,
    api: Api<Secret>,
    clock: Clock,
    /// As the Secret holds them. `None`: it has not been read yet.
    keys: RwLock<Option<KeySets>>,
    /// What the Secret held when the watch last showed it are no keys.
    is_spoilt: AtomicBool,
    /// Why the Secret could not be read or written the last time.
    problem: Mutex<Option<String>>,
    /// Resources that the Secret has no room for.
    refused: RwLock<BTreeSet<ResourceRef>>,
    /// A resource wants a key, or wants it otherwise.
    wanted: Notify,
    changed: mpsc::UnboundedSender<ResourceRef>,
}

impl ManagedKeys {
    /// The receiver gets each resource whose key has changed.
    pub fn new(
        client: &Client,
        config: Option<Config>,
        clock: Clock,
    ) -> (Self, mpsc::UnboundedReceiver<ResourceRef>) {
        let namespace = config.as_ref().map_or("default", |config| &config.namespace);
        let (changed, receiver) = mpsc::unbounded_channel();
        let keys = Self(Arc::new(Shared {
            api: Api::namespaced(client.clone(), namespace),
            config,
            clock,
            keys: RwLock::default(),
            is_spoilt: AtomicBool::new(false),
            problem: Mutex::default(),
            refused: RwLock::default(),
            wanted: Notify::new(),
            changed,
        }));
        (keys, receiver)
    }

    /// The key that a resource signs with now; `None` where it wants none of ours.
    pub fn find(&self, resource: &McpServerAuth) -> Option<Result<ManagedKey, NotServedError>> {
        let resource_ref = ResourceRef::from(resource);
        if !wants_key(resource) {
            self.forget(&resource_ref);
            return None;
        }
        let Some(config) = &self.0.config else {
            let message = format!(
                "{}: this operator makes no keys; managedKeys.enabled of its chart turns that on, and keyRef takes a key \
                 of yours",
                fields::MANAGED_KEY
            );
            return Some(Err(NotServedError::new(NotServedReason::InvalidSpec, message)));
        };
        self.0.wanted.notify_one();
        let keys = self.0.keys.read();
        let key_set = keys.as_ref().and_then(|keys| keys.get(&resource_ref));
        Some(match key_set.filter(|keys| keys.may_sign(self.0.clock.now())) {
            Some(keys) => Ok(ManagedKey {
                key: keys.current.key.clone(),
                client_id_metadata: metadata_url(config, &resource_ref),
            }),
            None => Err(self.not_there(&resource_ref)),
        })
    }

    /// What the status says of the key of a resource.
    pub fn in_status(&self, resource: &McpServerAuth) -> Option<ManagedKeyStatus> {
        let config = self.0.config.as_ref().filter(|_| wants_key(resource))?;
        let resource_ref = ResourceRef::from(resource);
        let keys = self.0.keys.read();
        let keys = keys.as_ref()?.get(&resource_ref)?;
        let path = publish::key_set_path(&resource_ref);
        Some(ManagedKeyStatus {
            jwks_uri: match &config.url {
                Some(url) => url.join(&path),
                None => path,
            },
            client_id_metadata: metadata_url(config, &resource_ref),
            key_id: keys.current.id().to_owned(),
            next_key_id: keys.next.id().to_owned(),
            rotates_at: Time(seconds(keys.rotates_at(key_set::rotate_after(resource)?))),
        })
    }

    /// The resource is gone, or wants no key any more.
    pub fn forget(&self, resource_ref: &ResourceRef) {
        let keys = self.0.keys.read();
        if keys.as_ref().is_some_and(|keys| keys.contains_key(resource_ref)) {
            self.0.wanted.notify_one();
        }
    }

    fn not_there(&self, resource_ref: &ResourceRef) -> NotServedError {
        if self.0.refused.read().contains(resource_ref) {
            let message = format!(
                "{}: the Secret that the operator keeps the keys of all clients in is full: use keyRef with a key of \
                 yours, or delete resources whose key the operator makes",
                fields::MANAGED_KEY
            );
            return NotServedError::new(NotServedReason::LimitExceeded, message);
        }
        match &*self.0.problem.lock() {
            Some(problem) => {
                let message = format!("{}: {problem}", fields::MANAGED_KEY);
                NotServedError::new(NotServedReason::Forbidden, message)
            }
            None => {
                let message = format!("{}: the operator is making the key", fields::MANAGED_KEY);
                NotServedError::new(NotServedReason::Pending, message)
            }
        }
    }

    /// Takes over what the Secret holds now, and tells of each resource whose key is another than before.
    fn replace(&self, keys: KeySets) {
        *self.0.problem.lock() = None;
        self.0.is_spoilt.store(false, Ordering::Relaxed);
        let before = self.0.keys.write().replace(keys.clone()).unwrap_or_default();
        let named = |keys: Option<&KeySet>| {
            keys.map(|keys| (keys.current.id().to_owned(), keys.next.id().to_owned()))
        };
        let known: BTreeMap<_, _> = before.iter().chain(&keys).collect();
        for resource_ref in known.into_keys() {
            if named(before.get(resource_ref)) != named(keys.get(resource_ref)) {
                self.announce(resource_ref);
            }
        }
    }

    /// The Secret could not be read or written. Resources that have a key go on with it.
    fn fail(&self, problem: String, affected: impl IntoIterator<Item = ResourceRef>) {
        let before = self.0.problem.lock().replace(problem.clone());
        if before.as_ref() != Some(&problem) {
            for resource_ref in affected {
                self.announce(&resource_ref);
            }
        }
    }

    /// These resources get no key, and those that were refused before may.
    fn refuse(&self, refused: BTreeSet<ResourceRef>) {
        let before = std::mem::replace(&mut *self.0.refused.write(), refused.clone());
        for resource_ref in before.symmetric_difference(&refused) {
            self.announce(resource_ref);
        }
    }

    fn announce(&self, resource_ref: &ResourceRef) {
        // Without a receiver the operator is stopping.
        let _ = self.0.changed.send(resource_ref.clone());
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

/// Whether the operator is to make this resource's key.
fn wants_key(resource: &McpServerAuth) -> bool {
    let oauth2 = resource.spec.oauth2.as_ref();
    oauth2.is_some_and(|oauth2| oauth2.client_authentication.managed_key().is_some())
}

/// Of the client ID metadata document, which is for https URLs only.
fn metadata_url(config: &Config, resource_ref: &ResourceRef) -> Option<String> {
    let url = config.url.as_ref().filter(|url| url.is_https())?;
    Some(url.join(&publish::metadata_path(resource_ref)))
}

#[cfg(test)]
mod tests;
