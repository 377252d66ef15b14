//! Pods that the webhook refused a while ago, by their workload. A pod that was refused never exists, so nothing of it can say why:
//! each replica records what it refused, a follower passes that on to the replica that leads, and that one tells the workload and
//! the resources, and its followers, one of which may lead next.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::entitlement::Labels;

/// A refusal that is older stands for nothing: controllers try again after 1000 s at most (kube-controller-manager's work queues),
/// and a refusal that lasts has come again by then.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(20);
/// How often it is looked whether a workload that was refused is still there.
pub const LOOK_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
/// The same refusal is recorded once in this time. A controller tries again after milliseconds at first.
const MIN_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Workloads of a namespace whose refusals are remembered.
const MAX_OF_NAMESPACE: usize = 32;
/// Of all namespaces.
const MAX_REFUSED: usize = 2048;
/// What is kept of a pod's labels and of the text. LiteLLM's pods have a tenth of this.
const MAX_BYTES: usize = 4096;

/// What made a pod, as people name it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PodMaker {
    kind: String,
    name: String,
}

impl PodMaker {
    /// By the controller of a pod and the pod's labels: the Deployment and not its ReplicaSet, whose name is the
    /// Deployment's with the label `pod-template-hash` at its end.
    pub fn new(owner: &OwnerReference, labels: &Labels) -> Self {
        let hash = labels.get("pod-template-hash");
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        let (kind, name) = match (owner.kind.as_str(), deployment) {
            ("ReplicaSet", Some(deployment)) => ("Deployment", deployment),
            (kind, _) => (kind, owner.name.as_str()),
        };
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for PodMaker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// A pod that was refused.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedPod {
    pub namespace: String,
    pub labels: Labels,
    /// Whoever makes the pod.
    pub owner: OwnerReference,
    /// The reason, a colon and the way out.
    pub text: String,
    pub at: Timestamp,
}

impl RefusedPod {
    pub fn maker(&self) -> PodMaker {
        PodMaker::new(&self.owner, &self.labels)
    }

    /// From when on it stands for nothing.
    pub fn until(&self) -> Timestamp {
        self.at + LIFETIME
    }

    fn is_as(&self, other: &Self) -> bool {
        (&self.labels, &self.owner, &self.text) == (&other.labels, &other.owner, &other.text)
    }
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct RefusedPods {
    records: Arc<Mutex<Records>>,
    revision: Arc<watch::Sender<u64>>,
    /// For reconcile: the namespaces whose statuses are due.
    changed: mpsc::UnboundedSender<String>,
}

#[derive(Default)]
struct Records {
    /// With the number of its last change.
    by_namespace: HashMap<String, HashMap<PodMaker, (u64, Arc<RefusedPod>)>>,
    /// When it was looked whether the workload is there, by its UID.
    looked_at: HashMap<String, Timestamp>,
    /// Of which anything was ever recorded.
    known_namespaces: HashSet<String>,
    last: u64,
}

impl RefusedPods {
    pub fn new(changed: mpsc::UnboundedSender<String>) -> Self {
        Self {
            records: Arc::default(),
            revision: Arc::new(watch::Sender::new(0)),
            changed,
        }
    }

    /// Records a refusal, by this replica or by another. One with more labels than a LiteLLM's pod ever has is left out.
    pub fn record(&self, mut refused: RefusedPod, now: Timestamp) {
        let label_bytes = refused.labels.iter().map(|(key, value)| key.len() + value.len());
        if label_bytes.sum::<usize>() > MAX_BYTES || refused.until() <= now {
            return;
        }
        refused.text.truncate(refused.text.floor_char_boundary(MAX_BYTES));
        // By another replica's clock.
        refused.at = refused.at.min(now);
        let namespace = refused.namespace.clone();
        let Some(revision) = self.records.lock().insert(refused, now) else {
            return;
        };
        self.revision.send_replace(revision);
        // Without a receiver the operator is stopping.
        let _ = self.changed.send(namespace);
    }

    /// Those of a namespace that stand for something.
    pub fn in_namespace(&self, namespace: &str, now: Timestamp) -> Vec<Arc<RefusedPod>> {
        let records = self.records.lock();
        let of_namespace = records.by_namespace.get(namespace).into_iter().flatten();
        let standing = of_namespace.map(|(_, (_, refused))| refused.clone());
        let mut standing: Vec<_> = standing.filter(|refused| now < refused.until()).collect();
        standing.sort_by(|one, other| one.text.cmp(&other.text));
        standing
    }

    /// Whether nothing was recorded of a namespace since the process started, and less time has passed than a controller may wait
    /// for: what was refused before every replica ended is known by nobody but the resources' own conditions.
    pub fn may_be_unknown(&self, namespace: &str, started: Timestamp, now: Timestamp) -> bool {
        now < started + LIFETIME && !self.records.lock().known_namespaces.contains(namespace)
    }

    /// Those of a namespace of which it was not looked for a while whether their workloads are still there.
    pub fn due_for_a_look(&self, namespace: &str, now: Timestamp) -> Vec<Arc<RefusedPod>> {
        let mut due = self.in_namespace(namespace, now);
        let mut records = self.records.lock();
        records
            .looked_at
            .retain(|_, looked| now < *looked + LOOK_INTERVAL);
        due.retain(|refused| !records.looked_at.contains_key(&refused.owner.uid));
        for refused in &due {
            records.looked_at.insert(refused.owner.uid.clone(), now);
        }
        due
    }

    /// What was refused has gone; what was refused of the same name since has not.
    pub fn forget(&self, refused: &RefusedPod) {
        let mut records = self.records.lock();
        if let Some(of_namespace) = records.by_namespace.get_mut(&refused.namespace) {
            of_namespace.retain(|_, (_, known)| known.owner.uid != refused.owner.uid);
        }
    }

    /// Number of the last record.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// What was recorded after this number.
    pub fn recorded_since(&self, revision: u64) -> Vec<Arc<RefusedPod>> {
        let records = self.records.lock();
        let all = records.by_namespace.values().flat_map(HashMap::values);
        let newer = all.filter(|(recorded, _)| *recorded > revision);
        newer.map(|(_, refused)| refused.clone()).collect()
    }
}

impl Records {
    /// The number of the change, if it is one.
    fn insert(&mut self, refused: RefusedPod, now: Timestamp) -> Option<u64> {
        let maker = refused.maker();
        let of_namespace = self.by_namespace.get(&refused.namespace);
        let known = of_namespace.and_then(|known| known.get(&maker));
        let is_known = |known: &RefusedPod| {
            refused.at <= known.at || (refused.is_as(known) && refused.at < known.at + MIN_INTERVAL)
        };
        if known.is_some_and(|(_, known)| is_known(known)) {
            return None;
        }
        let is_new = known.is_none();
        if is_new && (of_namespace.map_or(0, HashMap::len) >= MAX_OF_NAMESPACE || self.len() >= MAX_REFUSED) {
            self.forget_ended(now);
            let of_namespace = self.by_namespace.get(&refused.namespace);
            if of_namespace.map_or(0, HashMap::len) >= MAX_OF_NAMESPACE || self.len() >= MAX_REFUSED {
                return None;
            }
        }
        self.last += 1;
        if self.known_namespaces.len() < MAX_REFUSED {
            self.known_namespaces.insert(refused.namespace.clone());
        }
        let of_namespace = self.by_namespace.entry(refused.namespace.clone()).or_default();
        of_namespace.insert(maker, (self.last, Arc::new(refused)));
        Some(self.last)
    }

    fn len(&self) -> usize {
        self.by_namespace.values().map(HashMap::len).sum()
    }

    fn forget_ended(&mut self, now: Timestamp) {
        for of_namespace in self.by_namespace.values_mut() {
            of_namespace.retain(|_, (_, refused)| now < refused.until());
        }
        self.by_namespace
            .retain(|_, of_namespace| !of_namespace.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        start() + SignedDuration::from_secs(seconds)
    }

    fn refused(replica_set: &str, hash: Option<&str>, at: Timestamp) -> RefusedPod {
        RefusedPod {
            namespace: "llm".into(),
            labels: hash
                .map(|hash| ("pod-template-hash".to_owned(), hash.to_owned()))
                .into_iter()
                .collect(),
            owner: OwnerReference {
                api_version: "apps/v1".into(),
                kind: "ReplicaSet".into(),
                name: replica_set.into(),
                uid: format!("uid-of-{replica_set}"),
                controller: Some(true),
                block_owner_deletion: None,
            },
            text: "LiteLlmTls: LiteLLM serves TLS itself".into(),
            at,
        }
    }

    fn recorded(refusals: impl IntoIterator<Item = RefusedPod>) -> RefusedPods {
        let refused_pods = RefusedPods::new(mpsc::unbounded_channel().0);
        for refused in refusals {
            let now = refused.at;
            refused_pods.record(refused, now);
        }
        refused_pods
    }

    fn makers(refused_pods: &RefusedPods, now: Timestamp) -> Vec<String> {
        let standing = refused_pods.in_namespace("llm", now);
        standing
            .iter()
            .map(|refused| refused.maker().to_string())
            .collect()
    }

    #[test]
    fn a_workload_is_looked_for_now_and_then_and_one_that_has_gone_is_refused_no_more() {
        let refused_pods = recorded([
            refused("litellm-7c9", Some("7c9"), start()),
            refused("gateway-5d9", Some("5d9"), start()),
        ]);
        let due = |seconds| refused_pods.due_for_a_look("llm", after(seconds)).len();
        assert_eq!([due(1), due(2), due(30), due(31), due(32)], [2, 0, 0, 2, 0]);
        assert_eq!(refused_pods.due_for_a_look("other", after(90)).len(), 0);
        refused_pods.forget(&refused("litellm-7c9", Some("7c9"), start()));
        assert_eq!(makers(&refused_pods, after(90)), ["Deployment gateway"]);
    }

    #[test]
    fn a_workload_is_refused_once_however_often_it_tries_and_by_whichever_replica_set() {
        let refused_pods = recorded([
            refused("litellm-7c9", Some("7c9"), start()),
            refused("litellm-7c9", Some("7c9"), after(1)),
            refused("litellm-5d9", Some("5d9"), after(30)),
        ]);
        assert_eq!(makers(&refused_pods, after(60)), ["Deployment litellm"]);
        assert_eq!(refused_pods.recorded_since(0).len(), 1);
        assert_eq!(
            *refused_pods.subscribe().borrow(),
            2,
            "a second try at once is no news"
        );
        assert!(refused_pods.recorded_since(2).is_empty());
        // Not made by a Deployment.
        let alone = recorded([refused("litellm", None, start())]);
        assert_eq!(makers(&alone, start()), ["ReplicaSet litellm"]);
    }

    #[test]
    fn what_was_refused_before_the_process_may_be_unknown_until_something_is_recorded_or_a_controller_has_tried_again()
     {
        let refused_pods = recorded([]);
        let may_be_unknown = |seconds| refused_pods.may_be_unknown("llm", start(), after(seconds));
        assert!(may_be_unknown(0) && may_be_unknown(1000));
        assert!(!refused_pods.may_be_unknown("llm", start(), start() + LIFETIME));
        refused_pods.record(refused("a", None, after(1)), after(1));
        assert!(!may_be_unknown(2));
        refused_pods.forget(&refused("a", None, after(1)));
        assert!(!may_be_unknown(3), "that it has gone is known");
        assert!(refused_pods.may_be_unknown("other", start(), after(3)));
    }

    #[test]
    fn what_is_tried_no_more_is_forgotten_after_the_longest_wait_of_a_controller() {
        let refused_pods = recorded([refused("litellm-7c9", Some("7c9"), start())]);
        assert_eq!(
            makers(&refused_pods, after(1000)).len(),
            1,
            "it may be tried again now"
        );
        assert!(makers(&refused_pods, start() + LIFETIME).is_empty());
        // Another replica tells of it late.
        refused_pods.record(refused("other-1", Some("1"), start()), start() + LIFETIME);
        assert!(refused_pods.recorded_since(1).is_empty());
    }

    #[test]
    fn a_namespace_with_many_refusals_leaves_room_for_those_of_others_and_no_label_set_is_endless() {
        let crowd = (0..1000).map(|number| refused(&format!("a-{number}"), None, start()));
        let refused_pods = recorded(crowd);
        assert_eq!(makers(&refused_pods, start()).len(), MAX_OF_NAMESPACE);
        let elsewhere = RefusedPod {
            namespace: "quiet".into(),
            ..refused("a", None, start())
        };
        refused_pods.record(elsewhere, start());
        assert_eq!(refused_pods.in_namespace("quiet", start()).len(), 1);
        let later = start() + LIFETIME;
        refused_pods.record(refused("b", None, later), later);
        assert_eq!(
            makers(&refused_pods, later),
            ["ReplicaSet b"],
            "there is room again"
        );

        let mut endless = refused("c", None, later);
        endless.labels.insert("key".into(), "x".repeat(MAX_BYTES));
        refused_pods.record(endless, later);
        assert_eq!(makers(&refused_pods, later), ["ReplicaSet b"]);
    }
}
