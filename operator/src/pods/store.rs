//! The pods of one namespace, as their watch has shown them.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kube::runtime::watcher::Event;

use super::PodMeta;
use super::watched_pod::{SharedMetas, WatchedPod};

/// Kept up to date by [`Self::apply`].
#[derive(Default)]
pub struct PodStore {
    pods: HashSet<ByName>,
    is_listed: bool,
}

/// Turns events of a watch into changes of a store.
#[derive(Default)]
pub struct PodEvents {
    shared: SharedMetas,
    listing: HashSet<ByName>,
}

/// One change of a store.
pub enum PodChange {
    /// A list is complete: there are these pods and no others.
    Listed(Listing),
    Applied(Arc<WatchedPod>),
    /// By name.
    Deleted(Box<str>),
}

pub struct Listing(HashSet<ByName>);

struct ByName(Arc<WatchedPod>);

impl PodEvents {
    /// What an event changes, if anything yet.
    pub fn change(&mut self, event: Event<PodMeta>) -> Option<PodChange> {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(pod) => {
                let pod = self.watched(pod);
                self.listing.replace(ByName(pod));
            }
            Event::InitDone => return Some(PodChange::Listed(Listing(std::mem::take(&mut self.listing)))),
            Event::Apply(pod) => return Some(PodChange::Applied(self.watched(pod))),
            Event::Delete(pod) => {
                let name = pod.metadata.name.unwrap_or_default();
                return Some(PodChange::Deleted(name.into()));
            }
        }
        None
    }

    fn watched(&mut self, pod: PodMeta) -> Arc<WatchedPod> {
        let mut pod = WatchedPod::from(pod);
        self.shared.share(&mut pod);
        Arc::new(pod)
    }
}

impl PodStore {
    pub fn get(&self, name: &str) -> Option<&Arc<WatchedPod>> {
        self.pods.get(name).map(|pod| &pod.0)
    }

    /// All of them, once they have been listed.
    pub fn listed(&self) -> Option<Vec<Arc<WatchedPod>>> {
        let all = || self.pods.iter().map(|pod| pod.0.clone()).collect();
        self.is_listed.then(all)
    }

    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The pods that a change shows and that are not known yet.
    pub fn new_pods(&self, change: &PodChange) -> Vec<Arc<WatchedPod>> {
        let is_new = |pod: &&Arc<WatchedPod>| self.get(&pod.name).is_none();
        match change {
            PodChange::Listed(Listing(pods)) => {
                pods.iter().map(|pod| &pod.0).filter(is_new).cloned().collect()
            }
            PodChange::Applied(pod) => Some(pod).filter(is_new).cloned().into_iter().collect(),
            PodChange::Deleted(_) => Vec::new(),
        }
    }

    /// Whether anything is different afterwards. Most of what happens to a pod is of its status, and is not kept.
    pub fn apply(&mut self, change: PodChange) -> bool {
        match change {
            PodChange::Listed(Listing(pods)) => {
                self.pods = pods;
                self.is_listed = true;
                true
            }
            PodChange::Applied(pod) if self.get(&pod.name).is_some_and(|known| *known == pod) => false,
            PodChange::Applied(pod) => {
                self.pods.replace(ByName(pod));
                true
            }
            PodChange::Deleted(name) => {
                self.pods.remove(&*name);
                true
            }
        }
    }
}

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, labels: &[(&str, &str)]) -> PodMeta {
        let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
        let metadata = json!({"name": name, "uid": uid, "labels": labels, "resourceVersion": uid});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    struct World {
        events: PodEvents,
        store: PodStore,
    }

    impl World {
        /// The names of new pods, and whether anything has changed.
        fn happens(&mut self, event: Event<PodMeta>) -> (Vec<String>, bool) {
            let Some(change) = self.events.change(event) else {
                return (Vec::new(), false);
            };
            let new = self.store.new_pods(&change);
            let names = new.iter().map(|pod| pod.name.to_string()).collect();
            (names, self.store.apply(change))
        }

        fn names(&self) -> Option<Vec<String>> {
            let mut names: Vec<_> = self
                .store
                .listed()?
                .iter()
                .map(|pod| pod.name.to_string())
                .collect();
            names.sort();
            Some(names)
        }
    }

    #[test]
    fn pods_are_known_once_they_have_been_listed_and_a_later_list_takes_their_place() {
        let mut world = World {
            events: PodEvents::default(),
            store: PodStore::default(),
        };
        world.happens(Event::Init);
        world.happens(Event::InitApply(pod("a", "1", &[])));
        assert_eq!(world.names(), None);
        assert_eq!(world.happens(Event::InitDone), (vec!["a".to_owned()], true));
        assert_eq!(world.names().unwrap(), ["a"]);

        let applied = Event::Apply(pod("b", "2", &[("app", "litellm")]));
        assert_eq!(world.happens(applied), (vec!["b".to_owned()], true));
        let status = Event::Apply(pod("b", "2", &[("app", "litellm")]));
        assert_eq!(
            world.happens(status),
            (vec![], false),
            "nothing that is kept has changed"
        );
        let labelled = Event::Apply(pod("b", "2", &[("app", "other")]));
        assert_eq!(world.happens(labelled), (vec![], true));
        assert_eq!(world.store.get("b").unwrap().labels()["app"], "other");
        let again = Event::Apply(pod("b", "3", &[("app", "other")]));
        assert_eq!(
            world.happens(again),
            (vec![], true),
            "another pod of the same name"
        );
        assert_eq!(&*world.store.get("b").unwrap().uid, "3");

        world.happens(Event::Init);
        world.happens(Event::InitApply(pod("b", "3", &[])));
        world.happens(Event::InitApply(pod("c", "4", &[])));
        assert_eq!(world.names().unwrap(), ["a", "b"], "until the list is complete");
        assert_eq!(world.happens(Event::InitDone), (vec!["c".to_owned()], true));
        assert_eq!(world.names().unwrap(), ["b", "c"]);
        world.happens(Event::Delete(pod("c", "4", &[])));
        assert_eq!(world.names().unwrap(), ["b"]);
    }
}
