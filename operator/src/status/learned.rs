//! What the sidecars of some pods have learned of one server, summed up.

use std::collections::{BTreeMap, HashMap};

use mcp_auth_protocol::reachability::{Reachability, ServerReachability};

use super::pod_classes::{PodNames, PodWithSidecar};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LearnedOfServer {
    /// Sidecars that it answers.
    pub answered: usize,
    /// Since when it answers the first of them.
    pub answered_since: Option<i64>,
    /// Sidecars that it takes connections of, and that have had no answer.
    pub connected: usize,
    pub failing: BTreeMap<Reachability, FailingSidecars>,
}

/// Sidecars that cannot reach it for the same reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailingSidecars {
    pub names: PodNames,
    pub first: FirstFailure,
}

/// The one that lasts longest; of several the first pod's.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FirstFailure {
    pub since: i64,
    pod: String,
    pub detail: String,
}

/// By server.
pub type LearnedOfServers = HashMap<String, LearnedOfServer>;

/// What the sidecars of these pods have learned.
pub fn learned<'a>(pods: impl IntoIterator<Item = &'a PodWithSidecar>) -> LearnedOfServers {
    let mut learned = LearnedOfServers::new();
    for (pod, sidecar) in pods {
        for known in sidecar.iter().flat_map(|sidecar| sidecar.reachability.iter()) {
            match learned.get_mut(&known.server) {
                Some(learned) => learned.add(&pod.name, known),
                None => learned
                    .entry(known.server.clone())
                    .or_default()
                    .add(&pod.name, known),
            }
        }
    }
    learned
}

impl LearnedOfServer {
    pub fn add(&mut self, pod: &str, known: &ServerReachability) {
        match known.state {
            Reachability::NotContacted => {}
            Reachability::Connected => self.connected += 1,
            Reachability::Answered => {
                self.answered += 1;
                self.answered_since = earlier(self.answered_since, Some(known.since));
            }
            failure => {
                let mut names = PodNames::default();
                names.add(pod);
                let first = FirstFailure {
                    since: known.since,
                    pod: pod.to_owned(),
                    detail: known.detail.clone(),
                };
                self.add_failing(failure, FailingSidecars { names, first });
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.answered += other.answered;
        self.answered_since = earlier(self.answered_since, other.answered_since);
        self.connected += other.connected;
        for (failure, failing) in &other.failing {
            self.add_failing(*failure, failing.clone());
        }
    }

    fn add_failing(&mut self, failure: Reachability, failing: FailingSidecars) {
        match self.failing.get_mut(&failure) {
            Some(known) => {
                known.names.merge(&failing.names);
                if failing.first < known.first {
                    known.first = failing.first;
                }
            }
            None => drop(self.failing.insert(failure, failing)),
        }
    }
}

fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    [one, other].into_iter().flatten().min()
}
