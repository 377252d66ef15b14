//! One watch for each object that a resource refers to, shared by all that refer to it and ended with the
//! last.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use mcp_auth_credentials::ResourceRef;
use mcp_auth_credentials::references::{Data, Kind, Lookup, Reference};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::api_server::is_forbidden;

/// Names an object: kind, namespace and name.
type Object = (Kind, String, String);

/// The right to Secrets, where the operator has it in those namespaces alone that grant it.
#[derive(Clone, Debug)]
pub struct SecretsGrant {
    /// The ClusterRole that is to be bound there.
    pub cluster_role: String,
    /// Namespace and name of the operator's ServiceAccount.
    pub account: (String, String),
}

impl SecretsGrant {
    /// By which it is granted in this namespace.
    pub fn command(&self, namespace: &str) -> Arc<str> {
        let Self {
            cluster_role,
            account: (account_namespace, account),
        } = self;
        format!(
            "kubectl create rolebinding {cluster_role} --clusterrole={cluster_role} \
             --serviceaccount={account_namespace}:{account} --namespace={namespace}"
        )
        .into()
    }
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct References {
    client: Client,
    secrets_grant: Option<SecretsGrant>,
    watched: Arc<Mutex<HashMap<Object, Watched>>>,
    changed: mpsc::UnboundedSender<ResourceRef>,
}

struct Watched {
    lookup: Lookup,
    users: Vec<ResourceRef>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl References {
    /// The receiver gets each resource that refers to an object that changed.
    pub fn new(
        client: Client,
        secrets_grant: Option<SecretsGrant>,
    ) -> (Self, mpsc::UnboundedReceiver<ResourceRef>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        (
            Self {
                client,
                secrets_grant,
                watched: Arc::default(),
                changed,
            },
            receiver,
        )
    }

    /// Makes `references` all that the resource refers to. No references: the resource is gone.
    pub fn set(&self, resource_ref: &ResourceRef, references: &[Reference]) {
        let object = |reference: &Reference| {
            (
                reference.kind,
                resource_ref.namespace.clone(),
                reference.name.clone(),
            )
        };
        let referenced: Vec<Object> = references.iter().map(object).collect();
        let mut watched = self.watched.lock();
        watched.retain(|object, entry| {
            if !referenced.contains(object) {
                entry.users.retain(|user| user != resource_ref);
            }
            !entry.users.is_empty()
        });
        for object in referenced {
            let entry = watched
                .entry(object.clone())
                .or_insert_with(|| self.start(object));
            if !entry.users.contains(resource_ref) {
                entry.users.push(resource_ref.clone());
            }
        }
    }

    /// Ends all watches, and forgets what they have read.
    pub fn clear(&self) {
        self.watched.lock().clear();
    }

    pub fn get(&self, namespace: &str, reference: &Reference) -> Lookup {
        let object = (reference.kind, namespace.to_owned(), reference.name.clone());
        self.watched
            .lock()
            .get(&object)
            .map_or(Lookup::Unknown, |entry| entry.lookup.clone())
    }

    fn start(&self, object: Object) -> Watched {
        let references = self.clone();
        let task = match object.0 {
            Kind::Secret => tokio::spawn(references.watch_object::<Secret>(object)),
            Kind::ConfigMap => tokio::spawn(references.watch_object::<ConfigMap>(object)),
        };
        Watched {
            lookup: Lookup::Unknown,
            users: Vec::new(),
            task: task.abort_handle(),
        }
    }

    async fn watch_object<K>(self, object: Object)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Values,
        K: Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (_, namespace, name) = &object;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut exists = false;
        while let Some(event) = events.next().await {
            let lookup = match event {
                Ok(watcher::Event::Init) => {
                    exists = false;
                    continue;
                }
                Ok(watcher::Event::InitApply(found) | watcher::Event::Apply(found)) => {
                    exists = true;
                    Lookup::Found(Arc::new(found.values()))
                }
                Ok(watcher::Event::InitDone) if exists => continue,
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => Lookup::NotFound,
                Err(error) if is_forbidden(&error) => Lookup::Forbidden {
                    grant: self.grant(&object),
                },
                Err(error) => {
                    warn!(%namespace, %name, kind = object.0.as_str(), %error, "watch failed; trying again");
                    continue;
                }
            };
            self.record(&object, lookup);
        }
    }

    /// How the operator would come to read an object.
    fn grant(&self, (kind, namespace, _): &Object) -> Option<Arc<str>> {
        let grant = self.secrets_grant.as_ref().filter(|_| *kind == Kind::Secret)?;
        Some(grant.command(namespace))
    }

    fn record(&self, object: &Object, lookup: Lookup) {
        let users = match self.watched.lock().get_mut(object) {
            Some(entry) => {
                // What was read stays good while the API server refuses for a moment, as it does when it
                // starts.
                if matches!(
                    (&entry.lookup, &lookup),
                    (Lookup::Found(_), Lookup::Forbidden { .. })
                ) {
                    return;
                }
                entry.lookup = lookup;
                entry.users.clone()
            }
            None => return,
        };
        for user in users {
            // Without a receiver this replica does not lead, and no task reconciles.
            let _ = self.changed.send(user);
        }
    }
}

/// The values of a Secret or ConfigMap.
trait Values {
    fn values(self) -> Data;
}

impl Values for Secret {
    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0.into()))
            .collect()
    }
}

impl Values for ConfigMap {
    fn values(self) -> Data {
        self.data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.into_bytes().into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_binds_the_role_to_the_operators_account_in_the_namespace_of_the_secret() {
        let grant = SecretsGrant {
            cluster_role: "mcp-auth-operator-secrets".into(),
            account: ("mcp-auth-system".into(), "mcp-auth-operator".into()),
        };
        assert_eq!(
            &*grant.command("llm"),
            "kubectl create rolebinding mcp-auth-operator-secrets --clusterrole=mcp-auth-operator-secrets \
             --serviceaccount=mcp-auth-system:mcp-auth-operator --namespace=llm"
        );
    }
}
