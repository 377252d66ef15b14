//! Classes of pods: those that no status can tell apart, but for their names and for what their sidecars have learned of
//! servers. A status looks at each class once, where it would look at a thousand pods of one Deployment, and there may be a
//! hundred resources that select them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_protocol::sync::Problem;

use crate::inject::annotations;
use crate::pods::{self, WatchedPod};
use crate::sidecars::Sidecar;

/// How many pods a message names before it only counts them.
const MAX_NAMED: usize = 3;

/// A pod and its sidecar, if that is connected.
pub type PodWithSidecar = (Arc<WatchedPod>, Option<Arc<Sidecar>>);

/// Pods that are alike in all that a status asks of them.
#[derive(Clone, Debug)]
pub struct PodClass {
    /// One of them.
    pub pod: Arc<WatchedPod>,
    pub sidecar: Option<Arc<Sidecar>>,
    pub names: PodNames,
    pub newest_created: Option<Timestamp>,
    /// As it was when the class was made, for then it was true of all of them: one is late before another.
    is_up_to_date: bool,
    is_starting: bool,
}

/// How many pods there are, and the names that a message lists.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodNames {
    pub count: usize,
    /// The first in alphabetical order, so that they are the same each time.
    first: Vec<String>,
}

/// What a status may ask of a pod.
#[derive(Eq, Hash, PartialEq)]
struct Traits<'a> {
    annotations: &'a BTreeMap<String, String>,
    owner: Option<&'a str>,
    is_starting: bool,
    /// Where it may be asked why the webhook has not seen it.
    created: Option<Timestamp>,
    sidecar: Option<SidecarTraits<'a>>,
}

#[derive(Eq, Hash, PartialEq)]
struct SidecarTraits<'a> {
    is_awaited: bool,
    is_up_to_date: bool,
    version: &'a str,
    restart_needed_for: &'a [String],
    problems: &'a [Problem],
    notices: &'a [Problem],
}

/// The classes of pods that have the same labels.
pub fn classes<'a>(pods: impl IntoIterator<Item = &'a PodWithSidecar>, now: Timestamp) -> Vec<PodClass> {
    let mut indices: HashMap<Traits<'a>, usize> = HashMap::new();
    let mut classes: Vec<PodClass> = Vec::new();
    for with_sidecar in pods {
        match indices.entry(traits(with_sidecar, now)) {
            Entry::Occupied(index) => {
                if let Some(class) = classes.get_mut(*index.get()) {
                    class.add(&with_sidecar.0);
                }
            }
            Entry::Vacant(index) => {
                let class = PodClass::of(with_sidecar, index.key());
                index.insert(classes.len());
                classes.push(class);
            }
        }
    }
    // In the order of names, so that of several that fit the same is told each time.
    classes.sort_by(|one, other| one.names.first.cmp(&other.names.first));
    classes
}

fn traits((pod, sidecar): &PodWithSidecar, now: Timestamp) -> Traits<'_> {
    Traits {
        annotations: pod.annotations(),
        owner: pod.owner().map(|owner| owner.uid.as_str()),
        is_starting: pods::is_starting(pod, now),
        created: pod.created.filter(|_| !is_marked(pod)),
        sidecar: sidecar.as_deref().map(SidecarTraits::from),
    }
}

impl<'a> From<&'a Sidecar> for SidecarTraits<'a> {
    fn from(sidecar: &'a Sidecar) -> Self {
        Self {
            is_awaited: sidecar.is_awaited,
            is_up_to_date: sidecar.is_up_to_date(),
            version: &sidecar.version,
            restart_needed_for: &sidecar.restart_needed_for,
            problems: &sidecar.problems,
            notices: &sidecar.notices,
        }
    }
}

impl PodClass {
    /// A class of one pod.
    fn of((pod, sidecar): &PodWithSidecar, traits: &Traits<'_>) -> Self {
        let mut class = Self {
            pod: pod.clone(),
            sidecar: sidecar.clone(),
            names: PodNames::default(),
            newest_created: None,
            is_up_to_date: traits
                .sidecar
                .as_ref()
                .is_some_and(|sidecar| sidecar.is_up_to_date),
            is_starting: traits.is_starting,
        };
        class.add(pod);
        class
    }

    fn add(&mut self, pod: &WatchedPod) {
        self.names.add(&pod.name);
        self.newest_created = self.newest_created.max(pod.created);
    }

    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_deref()
    }

    pub fn is_injected(&self) -> bool {
        pods::is_injected(&*self.pod)
    }

    pub fn is_awaited(&self) -> bool {
        self.sidecar().is_some_and(|sidecar| sidecar.is_awaited)
    }

    /// Whether their sidecars use the newest snapshot, or may yet be taking it over.
    pub fn is_up_to_date(&self) -> bool {
        self.is_up_to_date
    }

    /// Whether they are so young that their sidecars need not be connected yet.
    pub fn is_starting(&self) -> bool {
        self.is_starting
    }
}

impl PodNames {
    pub fn add(&mut self, name: &str) {
        self.count += 1;
        self.insert(name);
    }

    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        other.first.iter().for_each(|name| self.insert(name));
    }

    fn insert(&mut self, name: &str) {
        let index = self.first.partition_point(|known| known.as_str() <= name);
        if index < MAX_NAMED {
            self.first.insert(index, name.to_owned());
            self.first.truncate(MAX_NAMED);
        }
    }

    /// Of the first pod.
    pub fn first(&self) -> Option<&str> {
        self.first.first().map(String::as_str)
    }

    /// As a message lists them; `None` where there are none.
    pub fn list(&self) -> Option<String> {
        let more = match self.count - self.first.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let pods = if self.count == 1 { "pod" } else { "pods" };
        (self.count > 0).then(|| format!("{pods} {}{more}", self.first.join(", ")))
    }
}

/// Whether the webhook has looked at the pod.
pub(super) fn is_marked(pod: &WatchedPod) -> bool {
    let keys = [
        annotations::INJECTED,
        annotations::SKIPPED,
        annotations::NOT_INJECTED,
    ];
    keys.iter().any(|key| pod.annotations().contains_key(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_in_their_order_however_they_came_together() {
        let names = |names: &[&str]| {
            let mut all = PodNames::default();
            names.iter().for_each(|name| all.add(name));
            all
        };
        assert_eq!(PodNames::default().list(), None);
        assert_eq!(names(&["b"]).list().as_deref(), Some("pod b"));
        let mut all = names(&["e", "b", "d"]);
        assert_eq!(all.list().as_deref(), Some("pods b, d, e"));
        all.merge(&names(&["f", "a", "c"]));
        assert_eq!(all.list().as_deref(), Some("pods a, b, c and 3 more"));
        assert_eq!(all, names(&["c", "f", "a", "d", "b", "e"]));
    }
}
