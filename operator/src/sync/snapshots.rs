//! The snapshots in use: made and serialised once for all pods of a namespace that are entitled to the same, however many
//! streams and different labels there are. `serialised` has their lines, `length_limit` how long they may be.

mod length_limit;
mod serialised;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::server;
use mcp_auth_credentials::{AdministratorPolicy, Changes, Credentials, ResourceRef};
use mcp_auth_protocol::sync::{Capability, Snapshot};
use parking_lot::Mutex;

use crate::certificates::Certificates;
use crate::entitlement::Labels;
use crate::resources::Resources;

pub use length_limit::{LeftOut, ServerLengths};
use serialised::SerialisedServer;
pub use serialised::SerialisedSnapshot;

/// Makes snapshots, and keeps those that a stream uses. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    resources: Resources,
    credentials: Credentials,
    certificates: Certificates,
    changes: Changes,
    /// What the administrator allows.
    policy: AdministratorPolicy,
    groups: Mutex<HashMap<GroupKey, Weak<Group>>>,
    /// By namespace: what its groups share.
    shared: Mutex<HashMap<String, Arc<Mutex<Shared>>>>,
}

/// Namespace and labels.
type GroupKey = (String, Labels);

/// The pods of a namespace with the same labels: each is entitled to what the others are.
pub struct Group {
    key: GroupKey,
    newest: Mutex<Option<Made>>,
    inner: Weak<Inner>,
}

struct Made {
    /// Of the namespace's changes, when it was looked at last.
    change: u64,
    authority: String,
    snapshot: Arc<SerialisedSnapshot>,
}

/// What is in use of a namespace, whichever labels it is used by: each pod of a StatefulSet has a label of its own.
#[derive(Default)]
struct Shared {
    /// By the resource's name. Where one of a hundred tokens is renewed, the others need not be made again.
    servers: HashMap<String, SharedServer>,
    snapshots: Vec<Weak<SerialisedSnapshot>>,
}

/// A server, and what it was made of.
struct SharedServer {
    resource: Arc<McpServerAuth>,
    /// Of what is published for it.
    revision: Option<u64>,
    server: Weak<SerialisedServer>,
}

/// What sidecars are sent of the resource.
fn serialised_server(
    resource: &McpServerAuth,
    credentials: &Credentials,
    policy: &AdministratorPolicy,
) -> SerialisedServer {
    let addresses = policy.server_addresses(&resource.spec);
    SerialisedServer::new(server(resource, credentials.get(resource), Some(addresses)))
}

impl Shared {
    fn server(
        &mut self,
        resource: Arc<McpServerAuth>,
        credentials: &Credentials,
        policy: &AdministratorPolicy,
    ) -> Arc<SerialisedServer> {
        let resource_ref = ResourceRef::from(&*resource);
        // Read before what it is of, so that a change meanwhile is looked at again.
        let revision = credentials.revision(&resource_ref);
        let known = self.servers.get(&resource_ref.name);
        let known = known
            .filter(|known| known.revision == revision && Arc::ptr_eq(&known.resource, &resource))
            .and_then(|known| known.server.upgrade());
        known.unwrap_or_else(|| {
            let made = Arc::new(serialised_server(&resource, credentials, policy));
            let shared = SharedServer {
                resource,
                revision,
                server: Arc::downgrade(&made),
            };
            self.servers.insert(resource_ref.name, shared);
            made
        })
    }

    /// The snapshot in use that says the same, or else this one.
    fn snapshot(&mut self, snapshot: SerialisedSnapshot) -> Arc<SerialisedSnapshot> {
        let mut in_use = self.snapshots.iter().filter_map(Weak::upgrade);
        let known = in_use.find(|known| known.has_content_of(&snapshot));
        known.unwrap_or_else(|| {
            let snapshot = Arc::new(snapshot);
            self.snapshots.push(Arc::downgrade(&snapshot));
            snapshot
        })
    }

    fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.snapshots.is_empty()
    }

    fn forget_unused(&mut self) {
        self.servers.retain(|_, shared| shared.server.strong_count() > 0);
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
    }
}

impl Snapshots {
    pub fn new(
        resources: Resources,
        credentials: Credentials,
        certificates: Certificates,
        changes: Changes,
        policy: AdministratorPolicy,
    ) -> Self {
        Self(Arc::new(Inner {
            resources,
            credentials,
            certificates,
            changes,
            policy,
            groups: Mutex::default(),
            shared: Mutex::default(),
        }))
    }

    /// The group of a pod with these labels. It is forgotten when nobody holds it any more.
    pub fn group(&self, namespace: &str, labels: &Labels) -> Arc<Group> {
        let key = (namespace.to_owned(), labels.clone());
        let mut groups = self.0.groups.lock();
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade) {
            return group;
        }
        let group = Arc::new(Group {
            key: key.clone(),
            newest: Mutex::default(),
            inner: Arc::downgrade(&self.0),
        });
        groups.insert(key, Arc::downgrade(&group));
        group
    }

    /// What the pods of a group are entitled to now, and the authority. The same as before where nothing has changed.
    pub fn snapshot(&self, group: &Group) -> Arc<SerialisedSnapshot> {
        let Inner {
            resources,
            credentials,
            certificates,
            changes,
            ..
        } = &*self.0;
        let (namespace, labels) = &group.key;
        let mut newest = group.newest.lock();
        // Read before what it counts, so that a change meanwhile is looked at again.
        let change = changes.count(namespace);
        let is_newest = |made: &&Made| made.change == change && certificates.has_authority(&made.authority);
        if let Some(made) = newest.as_ref().filter(is_newest) {
            return made.snapshot.clone();
        }
        let authority = certificates.authority();
        // A namespace that was listed stays known.
        let entitled = resources.entitled(namespace, labels).unwrap_or_default();
        let snapshot = Snapshot {
            revision: String::new(),
            operator_ca: authority.clone(),
            capabilities: vec![Capability::Acknowledgements, Capability::Upgrade],
            fingerprint_key: Some(certificates.fingerprint_key(namespace).into()),
            servers: Vec::new(),
            sent_at: None,
            unreadable: Vec::new(),
        };
        let shared = self.0.shared.lock().entry(namespace.clone()).or_default().clone();
        let mut shared = shared.lock();
        let given = entitled.iter().cloned();
        let given: Vec<_> = given
            .map(|resource| shared.server(resource, credentials, &self.0.policy))
            .collect();
        let bytes = given.iter().map(|server| server.bytes());
        let beyond = length_limit::beyond(entitled.iter().map(|resource| &**resource).zip(bytes));
        let servers = given.into_iter().enumerate();
        let servers = servers
            .filter(|(index, _)| !beyond.contains(index))
            .map(|(_, server)| server)
            .collect();
        // The one before is in use until here: where nothing differs it stays the one, and nobody is sent it again.
        let snapshot = shared.snapshot(SerialisedSnapshot::new(snapshot, servers));
        *newest = Some(Made {
            change,
            authority,
            snapshot: snapshot.clone(),
        });
        shared.forget_unused();
        snapshot
    }
}

impl Group {
    pub fn is_of(&self, namespace: &str, labels: &Labels) -> bool {
        self.key.0 == namespace && self.key.1 == *labels
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut groups = inner.groups.lock();
        // Another one may have taken its place since.
        if groups
            .get(&self.key)
            .is_some_and(|group| group.strong_count() == 0)
        {
            groups.remove(&self.key);
        }
        drop(groups);
        self.newest.get_mut().take();
        let mut shared = inner.shared.lock();
        let Some(of_namespace) = shared.get(&self.key.0).cloned() else {
            return;
        };
        let mut of_namespace = of_namespace.lock();
        of_namespace.forget_unused();
        if of_namespace.is_empty() {
            shared.remove(&self.key.0);
        }
    }
}

#[cfg(test)]
mod tests;
