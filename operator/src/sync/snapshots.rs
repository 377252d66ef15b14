//! The snapshots in use: made and serialised once for all pods of a namespace that have the same labels, however many
//! streams there are. `serialised` has their lines.

mod serialised;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::server;
use mcp_auth_credentials::{Changes, Credentials, ResourceRef};
use mcp_auth_protocol::sync::{Capability, Snapshot};
use parking_lot::Mutex;

use crate::certificates::Certificates;
use crate::entitlement::{Labels, entitled};
use crate::resources::Resources;

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
    groups: Mutex<HashMap<GroupKey, Weak<Group>>>,
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
    /// Sorted by name.
    servers: Vec<MadeServer>,
}

/// A server, and what it was made of: where one of a hundred tokens is renewed, the others need not be made again.
#[derive(Clone)]
struct MadeServer {
    resource: Arc<McpServerAuth>,
    /// Of what is published for it.
    revision: Option<u64>,
    server: Arc<SerialisedServer>,
}

impl Made {
    fn server(&self, name: &str) -> Option<&MadeServer> {
        let index = self
            .servers
            .binary_search_by(|made| made.server.name.as_str().cmp(name));
        index.ok().map(|index| &self.servers[index])
    }
}

impl Snapshots {
    pub fn new(
        resources: Resources,
        credentials: Credentials,
        certificates: Certificates,
        changes: Changes,
    ) -> Self {
        Self(Arc::new(Inner {
            resources,
            credentials,
            certificates,
            changes,
            groups: Mutex::default(),
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
        let resources = resources.in_namespace(namespace).unwrap_or_default();
        let previous = newest.take();
        let made = |resource: Arc<McpServerAuth>| {
            // Read before what it is of, as above.
            let revision = credentials.revision(&ResourceRef::from(&*resource));
            let before = previous
                .as_ref()
                .and_then(|made| made.server(&resource.spec.server.name));
            let is_same =
                |made: &&MadeServer| made.revision == revision && Arc::ptr_eq(&made.resource, &resource);
            before.filter(is_same).cloned().unwrap_or_else(|| MadeServer {
                revision,
                server: SerialisedServer::new(server(&resource, credentials.get(&resource))).into(),
                resource,
            })
        };
        let servers: Vec<_> = entitled(&resources, labels).into_iter().map(made).collect();
        let snapshot = Snapshot {
            revision: String::new(),
            operator_ca: authority.clone(),
            capabilities: vec![Capability::Acknowledgements],
            fingerprint_key: Some(certificates.fingerprint_key(namespace).into()),
            servers: Vec::new(),
            sent_at: None,
            unreadable: Vec::new(),
        };
        let serialised = servers.iter().map(|made| made.server.clone()).collect();
        let snapshot = Arc::new(SerialisedSnapshot::new(snapshot, serialised));
        let previous = previous.map(|made| made.snapshot);
        let is_same = |previous: &Arc<SerialisedSnapshot>| previous.has_content_of(&snapshot);
        let snapshot = previous.filter(is_same).unwrap_or(snapshot);
        *newest = Some(Made {
            change,
            authority,
            snapshot: snapshot.clone(),
            servers,
        });
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
    }
}

#[cfg(test)]
mod tests;
