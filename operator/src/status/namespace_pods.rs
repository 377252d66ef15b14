//! The pods of a namespace as all statuses of its resources see them: looked at once, and again where anything has changed
//! that a status tells.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use mcp_auth_crds::McpServerAuth;
use parking_lot::Mutex;

use super::learned::{LearnedOfServer, LearnedOfServers, learned};
use super::pod_classes::{PodClass, PodNames, PodWithSidecar, classes};
use crate::entitlement::{Labels, selects};
use crate::pods::{WatchedPod, ought_to_be_injected, starting_until};
use crate::sidecars::{NamespaceRevision, Sidecars};

/// The pods that may have a sidecar or be missing one, and the names of those that are ending.
pub struct NamespacePods {
    label_sets: Vec<LabelSet>,
    /// By labels.
    ending: HashMap<Labels, PodNames>,
    /// By labels, as `label_sets`.
    learned: Arc<HashMap<Labels, LearnedOfServers>>,
    seen: Seen,
}

/// Pods with the same labels: a resource selects all of them or none.
struct LabelSet {
    labels: Labels,
    /// Those that ought to have a sidecar.
    injectable: Vec<PodClass>,
    passed_over: Vec<PodClass>,
}

/// What a view was made of.
#[derive(Clone, Copy)]
struct Seen {
    pods: u64,
    sidecars: NamespaceRevision,
    at: Timestamp,
    /// The earliest time from which on a pod is no longer starting.
    starting_until: Option<Timestamp>,
}

/// What one resource selects.
#[derive(Clone, Default)]
pub struct Selected<'a> {
    /// Those that ought to have a sidecar.
    pub classes: Vec<&'a PodClass>,
    /// Those that get none.
    pub passed_over: Vec<&'a PodClass>,
    /// Those that are on their way out, of which nothing else is told.
    pub ending: PodNames,
    /// By sidecars of `classes`, of the resource's server.
    pub learned: LearnedOfServer,
    /// Servers that LiteLLM still offers and that no resource serves to these pods of `classes` any more.
    pub stale_servers: BTreeMap<String, PodNames>,
}

/// The newest view of each namespace that a status was looked at in.
#[derive(Default)]
pub struct NamespaceViews(Mutex<HashMap<String, Arc<NamespacePods>>>);

impl NamespaceViews {
    /// The `pods` of a namespace, of which `revision` is the last change.
    pub fn view(
        &self,
        namespace: &str,
        revision: u64,
        pods: impl FnOnce() -> Vec<Arc<WatchedPod>>,
        sidecars: &Sidecars,
        now: Timestamp,
    ) -> Arc<NamespacePods> {
        let mut views = self.0.lock();
        let previous = views.get(namespace);
        let newest = sidecars.revision_in(namespace);
        if let Some(view) = previous.filter(|view| view.seen.is_still(revision, &newest, now)) {
            return view.clone();
        }
        let previous = previous.map(|view| &**view);
        let view = NamespacePods::look(namespace, (revision, pods()), sidecars, now, previous);
        let view = Arc::new(view);
        views.insert(namespace.to_owned(), view.clone());
        view
    }

    /// Forgets the namespaces that are not among these.
    pub fn retain(&self, is_watched: impl Fn(&str) -> bool) {
        self.0.lock().retain(|namespace, _| is_watched(namespace));
    }
}

impl Seen {
    fn is_still(&self, pods: u64, sidecars: &NamespaceRevision, now: Timestamp) -> bool {
        let is_same_time = self.at <= now && self.starting_until.is_none_or(|until| now < until);
        self.pods == pods && sidecars.is_as_at(&self.sidecars) && is_same_time
    }
}

impl NamespacePods {
    fn look(
        namespace: &str,
        (revision, pods): (u64, Vec<Arc<WatchedPod>>),
        sidecars: &Sidecars,
        now: Timestamp,
        previous: Option<&Self>,
    ) -> Self {
        let (ending, pods): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod.is_ending);
        let uids = pods.iter().map(|pod| &*pod.uid);
        let (sidecars_revision, sidecars) = sidecars.in_namespace(namespace, uids);
        let seen = Seen {
            pods: revision,
            sidecars: sidecars_revision,
            at: now,
            starting_until: pods.iter().filter_map(|pod| starting_until(pod, now)).min(),
        };
        let with_sidecars: Vec<PodWithSidecar> = pods.into_iter().zip(sidecars).collect();
        let is_learned_same = |previous: &&Self| {
            (previous.seen.pods, previous.seen.sidecars.reports) == (seen.pods, seen.sidecars.reports)
        };
        let learned = previous
            .filter(is_learned_same)
            .map(|previous| previous.learned.clone());
        Self {
            ending: names_by_labels(&ending),
            ..Self::new(&with_sidecars, learned, seen)
        }
    }

    fn new(
        pods: &[PodWithSidecar],
        known: Option<Arc<HashMap<Labels, LearnedOfServers>>>,
        seen: Seen,
    ) -> Self {
        let mut by_labels: HashMap<&Labels, (Vec<&PodWithSidecar>, Vec<&PodWithSidecar>)> = HashMap::new();
        for pod in pods {
            let (injectable, passed_over) = by_labels.entry(pod.0.labels()).or_default();
            match ought_to_be_injected(&*pod.0) {
                true => injectable.push(pod),
                false => passed_over.push(pod),
            }
        }
        let learn = || {
            let of_pods = by_labels.iter();
            let of_pods =
                of_pods.map(|(labels, (pods, _))| ((*labels).clone(), learned(pods.iter().copied())));
            Arc::new(of_pods.collect())
        };
        let learned = known.unwrap_or_else(learn);
        let label_set = |(labels, (injectable, passed_over)): (&Labels, (Vec<_>, Vec<_>))| LabelSet {
            labels: labels.clone(),
            injectable: classes(injectable, seen.at),
            passed_over: classes(passed_over, seen.at),
        };
        Self {
            label_sets: by_labels.into_iter().map(label_set).collect(),
            ending: HashMap::new(),
            learned,
            seen,
        }
    }

    pub fn selected_by(&self, resource: &McpServerAuth) -> Selected<'_> {
        let selector = &resource.spec.pod_selector;
        let mut selected = Selected::default();
        for set in self
            .label_sets
            .iter()
            .filter(|set| selects(selector, &set.labels))
        {
            selected.classes.extend(&set.injectable);
            selected.passed_over.extend(&set.passed_over);
            let of_servers = self.learned.get(&set.labels);
            if let Some(learned) = of_servers.and_then(|learned| learned.get(&resource.spec.server.name)) {
                selected.learned.merge(learned);
            }
        }
        for (labels, names) in &self.ending {
            if selects(selector, labels) {
                selected.ending.merge(names);
            }
        }
        for classes in [&mut selected.classes, &mut selected.passed_over] {
            classes.sort_by_key(|class| class.names.first());
        }
        selected
    }
}

impl NamespacePods {
    /// See [`Selected::stale_servers`]. The neighbours are all resources that may be given to pods, and are asked for where a sidecar
    /// reports a server that is not the resource's own.
    pub fn stale_servers(
        &self,
        resource: &McpServerAuth,
        neighbours: impl FnOnce() -> Vec<Arc<McpServerAuth>>,
    ) -> BTreeMap<String, PodNames> {
        let mut stale: BTreeMap<String, PodNames> = BTreeMap::new();
        let neighbours = LazyCell::new(neighbours);
        let by_server = LazyCell::new(|| {
            let mut by_server: HashMap<&str, Vec<&LabelSelector>> = HashMap::new();
            for neighbour in neighbours.iter() {
                let of_server = by_server.entry(&neighbour.spec.server.name).or_default();
                of_server.push(&neighbour.spec.pod_selector);
            }
            by_server
        });
        let selector = &resource.spec.pod_selector;
        for set in &self.label_sets {
            let mut reported: BTreeMap<&str, PodNames> = BTreeMap::new();
            for class in &set.injectable {
                let servers = class.sidecar().into_iter().flat_map(|it| &it.restart_needed_for);
                let others: BTreeSet<&String> = servers
                    .filter(|server| **server != resource.spec.server.name)
                    .collect();
                for server in others {
                    reported.entry(server).or_default().merge(&class.names);
                }
            }
            if reported.is_empty() || !selects(selector, &set.labels) {
                continue;
            }
            for (server, names) in reported {
                let mut selectors = by_server.get(server).into_iter().flatten();
                if !selectors.any(|selector| selects(selector, &set.labels)) {
                    stale.entry(server.to_owned()).or_default().merge(&names);
                }
            }
        }
        stale
    }
}

fn names_by_labels(pods: &[Arc<WatchedPod>]) -> HashMap<Labels, PodNames> {
    let mut names: HashMap<Labels, PodNames> = HashMap::new();
    for pod in pods {
        names.entry(pod.labels().clone()).or_default().add(&pod.name);
    }
    names
}

#[cfg(test)]
mod tests;
