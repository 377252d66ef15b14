//! The `McpServerAuth` resources, as every replica knows them: of all namespaces, or of several, in one
//! store.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll};
use jiff::Timestamp;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{Changes, Credentials, ResourceRef};
use parking_lot::{RwLock, RwLockReadGuard};
use tracing::warn;

use crate::api_server::is_forbidden;
use crate::entitlement::{Labels, entitled};
use crate::namespace_index::NamespaceIndex;
use crate::tenant_limits::TenantLimits;

/// The resources that the watches have stored. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Resources {
    store: Store<McpServerAuth>,
    listed: Arc<RwLock<ListedNamespaces>>,
    by_namespace: Arc<RwLock<NamespaceIndex>>,
    former_servers: Arc<RwLock<FormerServers>>,
    limits: TenantLimits,
    /// Says what is in use.
    credentials: Option<Credentials>,
}

/// By namespace that has a resource and by server name, when it was that a resource with the name went, since this replica began to watch.
type FormerServers = HashMap<String, HashMap<String, Timestamp>>;

/// What is kept of a namespace; those that went first are forgotten.
const MAX_FORMER_SERVERS: usize = 64;

/// The namespaces whose resources are all in the store.
#[derive(Debug, Default)]
struct ListedNamespaces {
    all: bool,
    some: HashSet<String>,
}

/// The key of a resource in stores of kube's runtime.
pub fn object_ref(resource_ref: &ResourceRef) -> ObjectRef<McpServerAuth> {
    ObjectRef::new(&resource_ref.name).within(&resource_ref.namespace)
}

/// What changed in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResourceEvent {
    Changed(ResourceRef),
    Deleted(ResourceRef),
    /// The store holds every resource that can be listed: each watch has either listed, or may not.
    Listed,
}

impl ResourceEvent {
    /// Which resource is no longer what it was.
    pub fn resource(&self) -> Option<&ResourceRef> {
        match self {
            Self::Changed(resource) | Self::Deleted(resource) => Some(resource),
            Self::Listed => None,
        }
    }
}

impl Resources {
    /// The resources of these namespaces, or of all if there are none, and the watch that keeps them up to
    /// date.
    pub fn watch(client: &Client, namespaces: &[String], changes: Changes) -> (Self, ResourceWatch) {
        let scopes: Vec<Option<String>> = match namespaces {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let events = |scope: &Option<String>| {
            let api: Api<McpServerAuth> = match scope {
                None => Api::all(client.clone()),
                Some(namespace) => Api::namespaced(client.clone(), namespace),
            };
            let events = watch(api, watcher::Config::default()).default_backoff();
            // Managed fields are most of a resource's memory, and the operator does not read them.
            events
                .modify(|resource| resource.metadata.managed_fields = None)
                .boxed()
        };
        let watches = scopes.iter().map(events).collect();
        Self::from_watches(scopes, watches, changes)
    }

    /// From the events of each scope: a namespace, or all of them.
    pub fn from_watches(
        scopes: Vec<Option<String>>,
        watches: Vec<ResourceEvents>,
        changes: Changes,
    ) -> (Self, ResourceWatch) {
        let store = MergedStore::new(scopes);
        let resources = store.resources();
        let watches = watches
            .into_iter()
            .enumerate()
            .map(|(index, events)| events.map(move |event| (index, event)).boxed());
        let watch = ResourceWatch {
            watches: stream::select_all(watches),
            store,
            pending: VecDeque::new(),
            changes,
        };
        (resources, watch)
    }

    /// Those that are beyond these limits are given to no pod, unless they have a token already.
    pub fn with_limits(self, limits: TenantLimits, credentials: Credentials) -> Self {
        Self {
            limits,
            credentials: Some(credentials),
            ..self
        }
    }

    /// The store itself, for kube's runtime.
    pub fn store(&self) -> Store<McpServerAuth> {
        self.store.clone()
    }

    /// The resources of a namespace, once they have been listed. Before that nothing can be said of any of
    /// them: an older one that is yet unknown may have the same server name.
    pub fn in_namespace(&self, namespace: &str) -> Option<Vec<Arc<McpServerAuth>>> {
        let listed = self.listed.read();
        if !listed.all && !listed.some.contains(namespace) {
            return None;
        }
        drop(listed);
        let by_namespace = self.by_namespace.read();
        let resources = by_namespace.get(namespace).into_iter().flat_map(BTreeMap::values);
        Some(resources.cloned().collect())
    }

    /// Of those the ones that claim their server's name: each of the others is beyond a limit, and what works goes on.
    pub fn within_limits(&self, namespace: &str) -> Option<Vec<Arc<McpServerAuth>>> {
        let credentials = self.credentials.as_ref();
        let has_token = |resource: &McpServerAuth| credentials.is_some_and(|it| it.has_token(resource));
        Some(self.limits.within(self.in_namespace(namespace)?, has_token))
    }

    /// Those that serve a pod with these labels, one for each server name, by which they are sorted. One that is beyond a limit has a
    /// name that no other claims: its sidecars may have a token of it that this replica does not know, and go on with that.
    pub fn entitled(&self, namespace: &str, labels: &Labels) -> Option<Vec<Arc<McpServerAuth>>> {
        let all = self.in_namespace(namespace)?;
        let within = self.within_limits(namespace)?;
        let are_all_within = within.len() == all.len();
        let mut given = entitled(&within, labels);
        if !are_all_within {
            let name = |resource: &Arc<McpServerAuth>| resource.spec.server.name.clone();
            let claimed: HashSet<_> = given.iter().map(name).collect();
            let others = entitled(&all, labels).into_iter();
            given.extend(others.filter(|resource| !claimed.contains(&resource.spec.server.name)));
            given.sort_by(|a, b| a.spec.server.name.cmp(&b.spec.server.name));
        }
        Some(given)
    }

    /// Whether the namespace has a resource.
    pub fn has_any_in(&self, namespace: &str) -> bool {
        self.by_namespace.read().contains_key(namespace)
    }

    /// Whether the namespace has been listed, and has no such resource.
    pub fn is_gone(&self, resource: &ResourceRef) -> bool {
        let listed = self.listed.read();
        let is_listed = listed.all || listed.some.contains(&resource.namespace);
        let by_namespace = self.by_namespace.read();
        let of_namespace = by_namespace.get(&resource.namespace);
        is_listed && of_namespace.is_none_or(|resources| !resources.contains_key(&resource.name))
    }

    /// Those of which what is published is of a resource that was deleted, be another of its name there or none.
    pub fn gone(
        &self,
        published: impl Iterator<Item = ResourceRef>,
        credentials: &Credentials,
    ) -> Vec<ResourceRef> {
        let is_recreated = |resource: &ResourceRef| {
            let stored = self.store.get(&object_ref(resource));
            stored.is_some_and(|stored| credentials.is_of_former_resource(&stored))
        };
        published
            .filter(|resource| self.is_gone(resource) || is_recreated(resource))
            .collect()
    }

    /// Whether a resource of the namespace had this server name at this time or later, and none has it now.
    pub fn had_server(&self, namespace: &str, server: &str, since: Option<Timestamp>) -> bool {
        let former_servers = self.former_servers.read();
        let went = former_servers
            .get(namespace)
            .and_then(|servers| servers.get(server));
        went.is_some_and(|went| since.is_none_or(|since| since <= *went))
    }

    /// Everything that is stored, of namespaces that have been listed whole and of others. Held for a moment only.
    pub fn index(&self) -> RwLockReadGuard<'_, NamespaceIndex> {
        self.by_namespace.read()
    }

    /// Every namespace that has a resource.
    pub fn namespaces(&self) -> Vec<String> {
        self.by_namespace.read().keys().cloned().collect()
    }
}

/// What one watch tells.
pub type ResourceEvents = BoxStream<'static, watcher::Result<Event<McpServerAuth>>>;

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
                let namespace = self.store.watches[index].scope.as_deref();
                warn!(%error, namespace, "watching McpServerAuth failed; trying again");
                match is_forbidden(&error) {
                    true => self.store.mark_forbidden(index),
                    false => Vec::new(),
                }
            }
        };
        for event in &events {
            if let Some(resource_ref) = event.resource() {
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
    listed: Arc<RwLock<ListedNamespaces>>,
    by_namespace: Arc<RwLock<NamespaceIndex>>,
    former_servers: Arc<RwLock<FormerServers>>,
}

/// What one watch has shown.
#[derive(Default)]
struct WatchState {
    /// Its namespace; none where it watches all of them.
    scope: Option<String>,
    revisions: HashMap<ResourceRef, Revision>,
    /// While it lists: the resources that the list has shown so far.
    listing: HashSet<ResourceRef>,
    listed: bool,
    /// The API server has refused a list or watch.
    forbidden: bool,
}

/// Distinguishes a resource from the one before: deleted and created again, it starts at generation 1 too.
#[derive(Clone, Eq, PartialEq)]
struct Revision {
    uid: Option<String>,
    generation: i64,
    /// Its status says that no operator serves it.
    is_marked: bool,
}

impl Revision {
    fn of(resource: &McpServerAuth) -> Self {
        Self {
            uid: resource.metadata.uid.clone(),
            generation: resource.metadata.generation.unwrap_or_default(),
            is_marked: resource
                .status
                .as_ref()
                .is_some_and(|status| status.is_not_watched()),
        }
    }

    /// Whether there is something to do after the one before. A change of the status alone is the operator's own.
    fn is_news(&self, previous: &Self) -> bool {
        let is_same = (&self.uid, self.generation) == (&previous.uid, previous.generation);
        !is_same || self.is_marked && !previous.is_marked
    }
}

impl MergedStore {
    fn new(scopes: Vec<Option<String>>) -> Self {
        let (_, mut writer) = reflector::store();
        // A store counts as ready, and answers, only after a first list.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self {
            writer,
            watches: scopes
                .into_iter()
                .map(|scope| WatchState {
                    scope,
                    ..WatchState::default()
                })
                .collect(),
            listed: Arc::default(),
            by_namespace: Arc::default(),
            former_servers: Arc::default(),
        }
    }

    fn resources(&self) -> Resources {
        Resources {
            store: self.writer.as_reader(),
            listed: self.listed.clone(),
            by_namespace: self.by_namespace.clone(),
            former_servers: self.former_servers.clone(),
            limits: TenantLimits::default(),
            credentials: None,
        }
    }

    /// Into the store and the index.
    fn write(&mut self, resource_ref: &ResourceRef, event: &Event<McpServerAuth>) {
        self.writer.apply_watcher_event(event);
        let ResourceRef { namespace, name } = resource_ref;
        let mut by_namespace = self.by_namespace.write();
        match self.writer.as_reader().get(&object_ref(resource_ref)) {
            Some(resource) => {
                let resources = by_namespace.entry(namespace.clone()).or_default();
                let server = resource.spec.server.name.clone();
                let before = resources.insert(name.clone(), resource);
                if let Some(before) = before.filter(|before| before.spec.server.name != server) {
                    self.note_former(&before);
                }
            }
            None => {
                if let Some(resources) = by_namespace.get_mut(namespace) {
                    if let Some(before) = resources.remove(name) {
                        self.note_former(&before);
                    }
                    if resources.is_empty() {
                        by_namespace.remove(namespace);
                        self.former_servers.write().remove(namespace);
                    }
                }
            }
        }
    }

    fn note_former(&self, resource: &McpServerAuth) {
        let namespace = resource.metadata.namespace.clone().unwrap_or_default();
        let mut former_servers = self.former_servers.write();
        let servers = former_servers.entry(namespace).or_default();
        servers.insert(resource.spec.server.name.clone(), Timestamp::now());
        if servers.len() > MAX_FORMER_SERVERS {
            let first = servers.iter().min_by_key(|(_, went)| **went);
            if let Some(first) = first.map(|(server, _)| server.clone()) {
                servers.remove(&first);
            }
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
                self.write(&resource_ref, &Event::Delete(resource));
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
                for resource_ref in &deleted {
                    state.revisions.remove(resource_ref);
                }
                let store = self.writer.as_reader();
                for resource_ref in &deleted {
                    if let Some(resource) = store.get(&object_ref(resource_ref)) {
                        self.write(resource_ref, &Event::Delete((*resource).clone()));
                    }
                }
                let deleted = deleted.into_iter().map(ResourceEvent::Deleted);
                deleted.chain(self.mark_listed(index)).collect()
            }
        }
    }

    /// Notes that a watch has shown all there is. Of the first list there are no events before: only now is it
    /// known what each of its resources means.
    fn mark_listed(&mut self, index: usize) -> Vec<ResourceEvent> {
        let state = &mut self.watches[index];
        let is_first_list = !std::mem::replace(&mut state.listed, true);
        let mut events = Vec::new();
        if is_first_list {
            let mut listed = self.listed.write();
            match &state.scope {
                None => listed.all = true,
                Some(namespace) => drop(listed.some.insert(namespace.clone())),
            }
            events.extend(state.revisions.keys().cloned().map(ResourceEvent::Changed));
        }
        events.extend(self.all_answered());
        events
    }

    /// Notes that a watch may not list. One namespace that was deleted, and its Role with it, does not keep the
    /// others from being served; it counts as unknown itself.
    fn mark_forbidden(&mut self, index: usize) -> Vec<ResourceEvent> {
        let is_news = !std::mem::replace(&mut self.watches[index].forbidden, true);
        self.all_answered().filter(|_| is_news).into_iter().collect()
    }

    fn all_answered(&self) -> Option<ResourceEvent> {
        let is_answered = |state: &WatchState| state.listed || state.forbidden;
        let is_any_listed = self.watches.iter().any(|state| state.listed);
        (is_any_listed && self.watches.iter().all(is_answered)).then_some(ResourceEvent::Listed)
    }

    /// Stores a resource. A change of its status alone is an event only where it says that no operator serves it.
    fn store(&mut self, index: usize, resource: McpServerAuth) -> Vec<ResourceEvent> {
        let resource_ref = ResourceRef::from(&resource);
        let revision = Revision::of(&resource);
        let previous = self.watches[index]
            .revisions
            .insert(resource_ref.clone(), revision.clone());
        self.write(&resource_ref, &Event::Apply(resource));
        if !self.watches[index].listed {
            return Vec::new();
        }
        match previous {
            Some(previous) if !revision.is_news(&previous) => Vec::new(),
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
mod tests;
