//! The `McpServerAuth` resources, as every replica knows them: of all namespaces, or of several, in one
//! store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client};
use mcp_auth_crds::McpServerAuth;
use tracing::warn;

use crate::api_server::is_forbidden;
use crate::changes::Changes;
use crate::key::Key;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Resources(Store<McpServerAuth>);

/// What the watch tells besides the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    Changed(Key),
    Gone(Key),
    /// The store holds everything there is.
    Listed,
}

impl Resources {
    /// The resources, and the stream that keeps them up to date while it is polled. It never ends. No
    /// namespaces: all of them.
    pub fn watch(
        client: &Client,
        namespaces: &[String],
        changes: Changes,
    ) -> (Self, impl Stream<Item = Seen> + Send + use<>) {
        let apis: Vec<Api<McpServerAuth>> = match namespaces {
            [] => vec![Api::all(client.clone())],
            some => some
                .iter()
                .map(|namespace| Api::namespaced(client.clone(), namespace))
                .collect(),
        };
        let mut keeper = Keeper::new(apis.len());
        let resources = Self(keeper.writer.as_reader());
        let events = apis.into_iter().enumerate().map(|(watch_number, api)| {
            let events = watch(api, watcher::Config::default()).default_backoff();
            events.map(move |event| (watch_number, event)).boxed()
        });
        let seen = stream::select_all(events).flat_map(move |(watch_number, event)| {
            let seen = match event {
                Ok(event) => keeper.keep(watch_number, event),
                Err(error) => {
                    warn!(%error, "watching McpServerAuth failed; trying again");
                    // One namespace that is gone, and its Role with it, does not hold up the others.
                    if is_forbidden(&error) {
                        keeper.listed(watch_number)
                    } else {
                        Vec::new()
                    }
                }
            };
            for seen in &seen {
                if let Seen::Changed(key) | Seen::Gone(key) = seen {
                    changes.announce(&key.namespace);
                }
            }
            stream::iter(seen)
        });
        (resources, seen)
    }

    /// For the parts of the runtime that want one.
    pub fn store(&self) -> Store<McpServerAuth> {
        self.0.clone()
    }

    /// The resources of a namespace.
    pub fn of(&self, namespace: &str) -> Vec<Arc<McpServerAuth>> {
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

/// Puts the events of several watches into one store. A reflector's own list events replace the whole store,
/// so they are taken apart into single changes here.
struct Keeper {
    writer: Writer<McpServerAuth>,
    watches: Vec<Known>,
}

/// What one watch has shown.
#[derive(Default)]
struct Known {
    /// What distinguishes an object from the one before: deleted and created again, it starts at generation 1
    /// too.
    versions: HashMap<Key, (Option<String>, i64)>,
    /// While it lists: what it has shown so far.
    listing: HashSet<Key>,
    listed: bool,
}

impl Keeper {
    fn new(watches: usize) -> Self {
        let (_, mut writer) = reflector::store();
        // An empty list makes the store one that answers.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self {
            writer,
            watches: (0..watches).map(|_| Known::default()).collect(),
        }
    }

    fn keep(&mut self, watch: usize, event: Event<McpServerAuth>) -> Vec<Seen> {
        let known = &mut self.watches[watch];
        match event {
            Event::Init => {
                known.listing.clear();
                Vec::new()
            }
            Event::InitApply(resource) => {
                known.listing.insert(Key::from(&resource));
                self.apply(watch, resource)
            }
            Event::Apply(resource) => self.apply(watch, resource),
            Event::Delete(resource) => {
                let key = Key::from(&resource);
                known.versions.remove(&key);
                self.writer.apply_watcher_event(&Event::Delete(resource));
                vec![Seen::Gone(key)]
            }
            Event::InitDone => {
                // What was deleted while the watch was down has no event of its own.
                let gone = known
                    .versions
                    .keys()
                    .filter(|key| !known.listing.contains(key))
                    .cloned();
                let gone: Vec<Key> = gone.collect();
                let store = self.writer.as_reader();
                for key in &gone {
                    known.versions.remove(key);
                    if let Some(resource) = store.get(&key.into()) {
                        self.writer
                            .apply_watcher_event(&Event::Delete((*resource).clone()));
                    }
                }
                let gone = gone.into_iter().map(Seen::Gone);
                gone.chain(self.listed(watch)).collect()
            }
        }
    }

    /// Notes that a watch has shown all there is.
    fn listed(&mut self, watch: usize) -> Vec<Seen> {
        self.watches[watch].listed = true;
        let all = self.watches.iter().all(|known| known.listed);
        if all { vec![Seen::Listed] } else { Vec::new() }
    }

    /// A change of the status alone, which is ours, is stored and not told.
    fn apply(&mut self, watch: usize, resource: McpServerAuth) -> Vec<Seen> {
        let key = Key::from(&resource);
        let version = (
            resource.metadata.uid.clone(),
            resource.metadata.generation.unwrap_or_default(),
        );
        let known = self.watches[watch].versions.insert(key.clone(), version.clone());
        self.writer.apply_watcher_event(&Event::Apply(resource));
        match known {
            Some(known) if known == version => Vec::new(),
            Some((uid, _)) if uid != version.0 => vec![Seen::Gone(key.clone()), Seen::Changed(key)],
            _ => vec![Seen::Changed(key)],
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

    fn key(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_list_of_one_namespace_leaves_the_others_alone() {
        let mut keeper = Keeper::new(2);
        let resources = Resources(keeper.writer.as_reader());
        keeper.keep(0, Event::Init);
        assert_eq!(
            keeper.keep(0, Event::InitApply(resource("a", "x", 1))),
            [Seen::Changed(key("a", "x"))]
        );
        assert!(
            keeper.keep(0, Event::InitDone).is_empty(),
            "b has not been listed"
        );
        keeper.keep(1, Event::Init);
        keeper.keep(1, Event::InitApply(resource("b", "y", 1)));
        assert_eq!(keeper.keep(1, Event::InitDone), [Seen::Listed]);
        assert_eq!((resources.of("a").len(), resources.of("b").len()), (1, 1));

        // The watch of b breaks; y is deleted before it lists again.
        keeper.keep(1, Event::Init);
        assert_eq!(resources.of("b").len(), 1, "nothing is lost while it lists");
        assert_eq!(
            keeper.keep(1, Event::InitDone),
            [Seen::Gone(key("b", "y")), Seen::Listed]
        );
        assert_eq!((resources.of("a").len(), resources.of("b").len()), (1, 0));
    }

    #[test]
    fn a_change_of_the_status_alone_is_not_told() {
        let mut keeper = Keeper::new(1);
        assert_eq!(keeper.keep(0, Event::Apply(resource("a", "x", 1))).len(), 1);
        assert!(keeper.keep(0, Event::Apply(resource("a", "x", 1))).is_empty());
        assert_eq!(keeper.keep(0, Event::Apply(resource("a", "x", 2))).len(), 1);
    }
}
