//! The `McpServerAuth` resources, as every replica knows them: of all namespaces, or of several, in one
//! store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{Changes, ResourceRef};
use tracing::warn;

use crate::api_server::is_forbidden;

/// The resources that the watch has stored. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Resources(Store<McpServerAuth>);

/// The key of a resource in stores of kube's runtime.
pub fn object_ref(resource_ref: &ResourceRef) -> ObjectRef<McpServerAuth> {
    ObjectRef::new(&resource_ref.name).within(&resource_ref.namespace)
}

/// What changed in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResourceEvent {
    Changed(ResourceRef),
    Deleted(ResourceRef),
    /// The store holds every resource there is.
    Listed,
}

impl Resources {
    /// The resources of these namespaces, or of all if there are none, and the watch that keeps them up to
    /// date.
    pub fn watch(client: &Client, namespaces: &[String], changes: Changes) -> (Self, ResourceWatch) {
        let apis: Vec<Api<McpServerAuth>> = match namespaces {
            [] => vec![Api::all(client.clone())],
            some => some
                .iter()
                .map(|namespace| Api::namespaced(client.clone(), namespace))
                .collect(),
        };
        let store = MergedStore::new(apis.len());
        let resources = Self(store.writer.as_reader());
        let watches = apis.into_iter().enumerate().map(|(index, api)| {
            let events = watch(api, watcher::Config::default()).default_backoff();
            events.map(move |event| (index, event)).boxed()
        });
        let watch = ResourceWatch {
            watches: stream::select_all(watches),
            store,
            pending: VecDeque::new(),
            changes,
        };
        (resources, watch)
    }

    /// The store itself, for kube's runtime.
    pub fn store(&self) -> Store<McpServerAuth> {
        self.0.clone()
    }

    /// The resources of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<McpServerAuth>> {
        self.0
            .state_filter(|resource| resource.metadata.namespace.as_deref() == Some(namespace))
    }

    /// Every namespace that has a resource.
    pub fn namespaces(&self) -> Vec<String> {
        let namespaces = self
            .0
            .state()
            .iter()
            .filter_map(|resource| resource.metadata.namespace.clone())
            .collect();
        let unique: HashSet<String> = namespaces;
        unique.into_iter().collect()
    }
}

/// Keeps the store up to date while it is polled.
pub struct ResourceWatch {
    watches: SelectAll<BoxStream<'static, (usize, watcher::Result<Event<McpServerAuth>>)>>,
    store: MergedStore,
    /// Events that are in the store already and have not been returned yet.
    pending: VecDeque<ResourceEvent>,
    changes: Changes,
}

impl ResourceWatch {
    /// The next change of the store. A watch begins again when it ends, so that there always is a next one.
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> ResourceEvent {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            match self.watches.next().await {
                Some((index, event)) => self.apply(index, event),
                None => std::future::pending().await,
            }
        }
    }

    fn apply(&mut self, index: usize, event: watcher::Result<Event<McpServerAuth>>) {
        let events = match event {
            Ok(event) => self.store.apply(index, event),
            Err(error) => {
                warn!(%error, "watching McpServerAuth failed; trying again");
                // One namespace that was deleted, and its Role with it, does not keep the others from being
                // listed.
                match is_forbidden(&error) {
                    true => self.store.mark_listed(index),
                    false => Vec::new(),
                }
            }
        };
        for event in &events {
            if let ResourceEvent::Changed(resource_ref) | ResourceEvent::Deleted(resource_ref) = event {
                self.changes.announce(&resource_ref.namespace);
            }
        }
        self.pending.extend(events);
    }
}

/// One store for the events of several watches. A reflector's own list events replace the whole store, so
/// they are applied as single changes here.
struct MergedStore {
    writer: Writer<McpServerAuth>,
    watches: Vec<WatchState>,
}

/// What one watch has shown.
#[derive(Default)]
struct WatchState {
    revisions: HashMap<ResourceRef, Revision>,
    /// While it lists: the resources that the list has shown so far.
    listing: HashSet<ResourceRef>,
    listed: bool,
}

/// Distinguishes a resource from the one before: deleted and created again, it starts at generation 1 too.
#[derive(Clone, Eq, PartialEq)]
struct Revision {
    uid: Option<String>,
    generation: i64,
}

impl MergedStore {
    fn new(watches: usize) -> Self {
        let (_, mut writer) = reflector::store();
        // A store counts as ready, and answers, only after a first list.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self {
            writer,
            watches: (0..watches).map(|_| WatchState::default()).collect(),
        }
    }

    fn apply(&mut self, index: usize, event: Event<McpServerAuth>) -> Vec<ResourceEvent> {
        let state = &mut self.watches[index];
        match event {
            Event::Init => {
                state.listing.clear();
                Vec::new()
            }
            Event::InitApply(resource) => {
                state.listing.insert(ResourceRef::from(&resource));
                self.store(index, resource)
            }
            Event::Apply(resource) => self.store(index, resource),
            Event::Delete(resource) => {
                let resource_ref = ResourceRef::from(&resource);
                state.revisions.remove(&resource_ref);
                self.writer.apply_watcher_event(&Event::Delete(resource));
                vec![ResourceEvent::Deleted(resource_ref)]
            }
            Event::InitDone => {
                // What was deleted while the watch was down has no event of its own.
                let deleted = state
                    .revisions
                    .keys()
                    .filter(|resource_ref| !state.listing.contains(resource_ref))
                    .cloned();
                let deleted: Vec<ResourceRef> = deleted.collect();
                let store = self.writer.as_reader();
                for resource_ref in &deleted {
                    state.revisions.remove(resource_ref);
                    if let Some(resource) = store.get(&object_ref(resource_ref)) {
                        self.writer
                            .apply_watcher_event(&Event::Delete((*resource).clone()));
                    }
                }
                let deleted = deleted.into_iter().map(ResourceEvent::Deleted);
                deleted.chain(self.mark_listed(index)).collect()
            }
        }
    }

    /// Notes that a watch has shown all there is.
    fn mark_listed(&mut self, index: usize) -> Vec<ResourceEvent> {
        self.watches[index].listed = true;
        match self.watches.iter().all(|state| state.listed) {
            true => vec![ResourceEvent::Listed],
            false => Vec::new(),
        }
    }

    /// Stores a resource. A change of its status alone, which only the operator writes, is no event.
    fn store(&mut self, index: usize, resource: McpServerAuth) -> Vec<ResourceEvent> {
        let resource_ref = ResourceRef::from(&resource);
        let revision = Revision {
            uid: resource.metadata.uid.clone(),
            generation: resource.metadata.generation.unwrap_or_default(),
        };
        let previous = self.watches[index]
            .revisions
            .insert(resource_ref.clone(), revision.clone());
        self.writer.apply_watcher_event(&Event::Apply(resource));
        match previous {
            Some(previous) if previous == revision => Vec::new(),
            Some(previous) if previous.uid != revision.uid => {
                vec![
                    ResourceEvent::Deleted(resource_ref.clone()),
                    ResourceEvent::Changed(resource_ref),
                ]
            }
            _ => vec![ResourceEvent::Changed(resource_ref)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(namespace: &str, name: &str, generation: i64) -> McpServerAuth {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": name, "namespace": namespace, "generation": generation},
            "spec": {
                "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            },
        }))
        .unwrap()
    }

    fn resource_ref(namespace: &str, name: &str) -> ResourceRef {
        ResourceRef {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let mut store = MergedStore::new(2);
        let resources = Resources(store.writer.as_reader());
        let stored_in = |namespace| resources.in_namespace(namespace).len();
        store.apply(0, Event::Init);
        assert_eq!(
            store.apply(0, Event::InitApply(resource("a", "x", 1))),
            [ResourceEvent::Changed(resource_ref("a", "x"))]
        );
        assert!(
            store.apply(0, Event::InitDone).is_empty(),
            "b has not been listed"
        );
        store.apply(1, Event::Init);
        store.apply(1, Event::InitApply(resource("b", "y", 1)));
        assert_eq!(store.apply(1, Event::InitDone), [ResourceEvent::Listed]);
        assert_eq!((stored_in("a"), stored_in("b")), (1, 1));

        // The watch of b breaks; y is deleted before it lists again.
        store.apply(1, Event::Init);
        assert_eq!(stored_in("b"), 1, "nothing is lost while it lists");
        assert_eq!(
            store.apply(1, Event::InitDone),
            [
                ResourceEvent::Deleted(resource_ref("b", "y")),
                ResourceEvent::Listed
            ]
        );
        assert_eq!((stored_in("a"), stored_in("b")), (1, 0));
    }

    #[test]
    fn a_change_of_the_status_alone_is_no_event() {
        let mut store = MergedStore::new(1);
        assert_eq!(store.apply(0, Event::Apply(resource("a", "x", 1))).len(), 1);
        assert!(store.apply(0, Event::Apply(resource("a", "x", 1))).is_empty());
        assert_eq!(store.apply(0, Event::Apply(resource("a", "x", 2))).len(), 1);
    }
}
