//! The Secrets and ConfigMaps that resources refer to: [`mcp_auth_credentials::references::needed`] says which a spec
//! refers to, and no other object's values are read.
//!
//! One watch of the metadata of all of them tells which have changed ([`metadata`]), and those that are referred to
//! are read then ([`read`]): a connection to the API server for each of them would be too many. Where the operator
//! may only know some by their names, each is watched by its name ([`by_name`]).

mod by_name;
mod metadata;
mod read;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Client, Resource};
use mcp_auth_credentials::ResourceRef;
use mcp_auth_credentials::credential_expiry::EXPIRES_AT;
use mcp_auth_credentials::references::{CONSENT_LABEL, Kind, Lookup, Reference};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

use crate::liveness::Liveness;
use values::Values;

/// Objects that are read at once: each takes a connection.
const MAX_READS: usize = 16;

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

/// Names an object: kind, namespace and name.
type Object = (Kind, String, String);

/// What one watch of metadata covers: a kind in a namespace, or in all of them.
type Scope = (Kind, Option<String>);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct References {
    client: Client,
    /// Whether one watch may cover all namespaces.
    is_cluster_wide: bool,
    /// Whether a Secret without [`CONSENT_LABEL`] is not read.
    requires_consent: bool,
    secrets_grant: Option<SecretsGrant>,
    watched: Arc<Mutex<Watched>>,
    reads: Arc<Semaphore>,
    changed: mpsc::UnboundedSender<ResourceRef>,
    liveness: Liveness,
}

#[derive(Default)]
struct Watched {
    objects: HashMap<Object, WatchedObject>,
    by_resource: HashMap<ResourceRef, Vec<Object>>,
    scopes: HashMap<Scope, WatchedScope>,
}

struct WatchedObject {
    lookup: Lookup,
    /// Its annotation [`EXPIRES_AT`].
    stated_end: Option<String>,
    /// The `metadata.resourceVersion` of what was read.
    version: Option<String>,
    /// What the watch has shown while it was read for the first time.
    noted_version: Option<String>,
    users: Vec<ResourceRef>,
    /// It is to be read again.
    outdated: Arc<Notify>,
    /// While its scope is listed: the list has shown it.
    is_listed: bool,
    /// Dropped with it, which ends the task.
    task: AbortOnDrop,
}

/// What was read of an object.
struct Finding {
    lookup: Lookup,
    stated_end: Option<String>,
}

impl From<Lookup> for Finding {
    fn from(lookup: Lookup) -> Self {
        Self {
            lookup,
            stated_end: None,
        }
    }
}

struct WatchedScope {
    /// Its metadata may not be watched, so that its objects are watched by their names.
    is_forbidden: bool,
    _task: AbortOnDrop,
}

/// A task that ends when this is dropped.
struct AbortOnDrop(AbortHandle);

impl From<JoinHandle<()>> for AbortOnDrop {
    fn from(task: JoinHandle<()>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl References {
    /// Of these namespaces, or of all if there are none. The receiver gets each resource that refers to an object that
    /// changed.
    pub fn new(
        client: Client,
        namespaces: &[String],
        secrets_grant: Option<SecretsGrant>,
        requires_consent: bool,
        liveness: Liveness,
    ) -> (Self, mpsc::UnboundedReceiver<ResourceRef>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        let references = Self {
            client,
            is_cluster_wide: namespaces.is_empty(),
            requires_consent,
            secrets_grant,
            watched: Arc::default(),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            changed,
            liveness,
        };
        (references, receiver)
    }

    /// Makes `references` all that the resource refers to. No references: the resource is gone.
    pub fn set(&self, resource_ref: &ResourceRef, references: &[Reference]) {
        let mut objects: Vec<Object> = Vec::new();
        for reference in references {
            let namespace = resource_ref.namespace.clone();
            let object = (reference.kind, namespace, reference.name.clone());
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
        let mut watched = self.watched.lock();
        let before = match objects.is_empty() {
            true => watched.by_resource.remove(resource_ref),
            false => watched.by_resource.insert(resource_ref.clone(), objects.clone()),
        };
        let before = before.unwrap_or_default();
        for object in before.iter().filter(|object| !objects.contains(object)) {
            self.leave(&mut watched, object, resource_ref);
        }
        for object in objects.into_iter().filter(|object| !before.contains(object)) {
            self.join(&mut watched, object, resource_ref);
        }
    }

    /// Ends all watches, and forgets what they have read.
    pub fn clear(&self) {
        *self.watched.lock() = Watched::default();
    }

    pub fn get(&self, namespace: &str, reference: &Reference) -> Lookup {
        let object = (reference.kind, namespace.to_owned(), reference.name.clone());
        let watched = self.watched.lock();
        let known = watched.objects.get(&object);
        known.map_or(Lookup::Unknown, |known| known.lookup.clone())
    }

    /// When the object says that what it holds ends.
    pub fn stated_end(&self, namespace: &str, reference: &Reference) -> Option<String> {
        let object = (reference.kind, namespace.to_owned(), reference.name.clone());
        self.watched.lock().objects.get(&object)?.stated_end.clone()
    }

    fn join(&self, watched: &mut Watched, object: Object, resource_ref: &ResourceRef) {
        if let Some(known) = watched.objects.get_mut(&object) {
            known.users.push(resource_ref.clone());
            return;
        }
        let scope = self.scope(&object);
        let scope_watch = watched
            .scopes
            .entry(scope)
            .or_insert_with_key(|scope| WatchedScope {
                is_forbidden: false,
                _task: self.start_scope(scope.clone()),
            });
        let outdated = Arc::new(Notify::new());
        let task = match scope_watch.is_forbidden {
            true => self.start_by_name(object.clone()),
            false => self.start_reading(object.clone(), outdated.clone()),
        };
        let known = WatchedObject {
            lookup: Lookup::Unknown,
            stated_end: None,
            version: None,
            noted_version: None,
            users: vec![resource_ref.clone()],
            outdated,
            is_listed: false,
            task,
        };
        watched.objects.insert(object, known);
    }

    fn leave(&self, watched: &mut Watched, object: &Object, resource_ref: &ResourceRef) {
        let Some(known) = watched.objects.get_mut(object) else {
            return;
        };
        known.users.retain(|user| user != resource_ref);
        if !known.users.is_empty() {
            return;
        }
        watched.objects.remove(object);
        let scope = self.scope(object);
        if !watched.objects.keys().any(|object| self.scope(object) == scope) {
            watched.scopes.remove(&scope);
        }
    }

    fn scope(&self, (kind, namespace, _): &Object) -> Scope {
        let is_granted_singly = *kind == Kind::Secret && self.secrets_grant.is_some();
        let is_cluster_wide = self.is_cluster_wide && !is_granted_singly;
        (*kind, (!is_cluster_wide).then(|| namespace.clone()))
    }

    fn start_scope(&self, scope: Scope) -> AbortOnDrop {
        let references = self.clone();
        let task = match scope.0 {
            Kind::Secret => tokio::spawn(references.watch_metadata::<Secret>(scope)),
            Kind::ConfigMap => tokio::spawn(references.watch_metadata::<ConfigMap>(scope)),
        };
        task.into()
    }

    fn start_reading(&self, object: Object, outdated: Arc<Notify>) -> AbortOnDrop {
        let references = self.clone();
        let task = match object.0 {
            Kind::Secret => tokio::spawn(references.keep_read::<Secret>(object, outdated)),
            Kind::ConfigMap => tokio::spawn(references.keep_read::<ConfigMap>(object, outdated)),
        };
        task.into()
    }

    fn start_by_name(&self, object: Object) -> AbortOnDrop {
        let references = self.clone();
        let task = match object.0 {
            Kind::Secret => tokio::spawn(references.watch_by_name::<Secret>(object)),
            Kind::ConfigMap => tokio::spawn(references.watch_by_name::<ConfigMap>(object)),
        };
        task.into()
    }

    /// What an object holds that resources may use.
    fn lookup<K: Resource + Values>(&self, found: K) -> Finding {
        let annotations = found.meta().annotations.as_ref();
        let stated_end = annotations.and_then(|all| all.get(EXPIRES_AT).cloned());
        let lookup = match K::NEEDS_CONSENT && self.requires_consent && !has_consent(&found) {
            true => Lookup::NotConsented,
            false => Lookup::Found(Arc::new(found.values())),
        };
        Finding { lookup, stated_end }
    }

    /// How the operator would come to read an object.
    fn grant(&self, (kind, namespace, _): &Object) -> Option<Arc<str>> {
        let grant = self.secrets_grant.as_ref().filter(|_| *kind == Kind::Secret)?;
        Some(grant.command(namespace))
    }

    fn watch_object_by_name(&self, object: &Object) {
        if let Some(known) = self.watched.lock().objects.get_mut(object) {
            known.task = self.start_by_name(object.clone());
        }
    }

    fn record(&self, object: &Object, finding: impl Into<Finding>, version: Option<String>) {
        let Finding { lookup, stated_end } = finding.into();
        let users = match self.watched.lock().objects.get_mut(object) {
            Some(known) => {
                // What was read stays good while the API server refuses for a moment, as it does when it
                // starts.
                if matches!(
                    (&known.lookup, &lookup),
                    (Lookup::Found(_), Lookup::Forbidden { .. })
                ) {
                    return;
                }
                known.lookup = lookup;
                known.stated_end = stated_end;
                let noted = known.noted_version.take();
                if noted.is_some() && noted != version {
                    known.outdated.notify_one();
                }
                known.version = version;
                known.users.clone()
            }
            None => return,
        };
        for user in users {
            // Without a receiver this replica does not lead, and no task reconciles.
            let _ = self.changed.send(user);
        }
    }
}

fn has_consent<K: Resource>(object: &K) -> bool {
    let labels = object.meta().labels.as_ref();
    let label = labels.and_then(|labels| labels.get(CONSENT_LABEL));
    label.is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests;
