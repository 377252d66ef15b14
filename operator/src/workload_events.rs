//! Events on the workload of a pod, such as a Deployment, and on resources: what injection has to say where people look
//! first. Whoever decides hands a notice to a bounded queue and never waits; one task writes, each notice once in a
//! while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, interval, sleep};
use tracing::debug;

use crate::api_server::with_deadline;
use crate::event_recorder::EventRecorder;
use crate::liveness::{BEAT_INTERVAL, Liveness, Pulse};
use crate::pod_owners::controller;

/// Notices that wait to be written; more are dropped, since the pod's annotations and the log say the same.
const MAX_QUEUED: usize = 256;
/// Of them those about one namespace, so that there is room for the others'.
const MAX_QUEUED_OF_NAMESPACE: usize = 32;
/// The same notice about the same owner is written once in this time. What lasts is told at least every ten minutes, so that it
/// is written again before the API server forgets the event, which it does after an hour.
const REPEAT_AFTER: Duration = Duration::from_secs(30 * 60);
/// Notices about one namespace that are remembered for that.
const MAX_REMEMBERED_OF_NAMESPACE: usize = 256;
/// Between two events, so that a thousand pods that cannot be injected are no flood.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest note Kubernetes takes, in bytes.
const MAX_NOTE_BYTES: usize = 1024;

/// What became of a pod that is told of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NoticeKind {
    /// It was refused, because it asks for the sidecar and cannot be injected.
    Refused,
    /// It starts without the sidecar that it should have.
    NotInjected,
    /// It is selected and needs no sidecar.
    Skipped,
    /// It was injected, and something may not be as its owner expects.
    Warning,
    /// It was not injected, and what it states of injection is not known.
    UnknownAnnotation,
    /// Its sidecar warns of something.
    Sidecar,
    /// Its sidecar has a problem of its own.
    SidecarProblem,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct WorkloadEvents {
    sender: mpsc::Sender<Notice>,
    queued: QueuedNotices,
}

/// The notices that wait, by the namespace that they are about.
#[derive(Clone, Default)]
struct QueuedNotices(Arc<Mutex<HashMap<String, HashSet<Notice>>>>);

/// Writes what [`WorkloadEvents`] is told.
pub struct WorkloadEventWriter {
    client: Client,
    events: EventRecorder,
    notices: mpsc::Receiver<Notice>,
    queued: QueuedNotices,
    told: RecentNotices,
    liveness: Liveness,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Notice {
    about: ObjectId,
    namespace: String,
    kind: NoticeKind,
    text: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct ObjectId {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

impl NoticeKind {
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::Refused,
        Self::NotInjected,
        Self::Skipped,
        Self::Warning,
        Self::UnknownAnnotation,
        Self::Sidecar,
        Self::SidecarProblem,
    ];

    /// Reason of the event. Closed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => "PodRefused",
            Self::NotInjected => "PodNotInjected",
            Self::Skipped => "PodSkipped",
            Self::Warning => "InjectedWithWarnings",
            Self::UnknownAnnotation => "UnknownAnnotation",
            Self::Sidecar => "SidecarNotice",
            Self::SidecarProblem => "SidecarProblem",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Refused => "pods are refused",
            Self::NotInjected => "pods start without the sidecar of mcp-auth",
            Self::Skipped => "pods need no sidecar of mcp-auth",
            Self::Warning => "pods have the sidecar of mcp-auth",
            Self::UnknownAnnotation => "pods have no sidecar of mcp-auth",
            Self::Sidecar | Self::SidecarProblem => "sidecars of mcp-auth report",
        }
    }

    fn event_type(self) -> EventType {
        match self {
            Self::Skipped => EventType::Normal,
            _ => EventType::Warning,
        }
    }
}

impl WorkloadEvents {
    pub fn new(client: Client, events: EventRecorder, liveness: Liveness) -> (Self, WorkloadEventWriter) {
        let (sender, notices) = mpsc::channel(MAX_QUEUED);
        let queued = QueuedNotices::default();
        let writer = WorkloadEventWriter {
            client,
            events,
            notices,
            queued: queued.clone(),
            told: RecentNotices::default(),
            liveness,
        };
        (Self { sender, queued }, writer)
    }

    /// For tests of what tells.
    #[cfg(test)]
    pub fn unread() -> Self {
        Self {
            sender: mpsc::channel(1).0,
            queued: QueuedNotices::default(),
        }
    }

    /// Tells the workload that owns a pod. A pod without an owner is looked at by whoever made it.
    pub fn tell_owner(&self, namespace: &str, owner: Option<&OwnerReference>, kind: NoticeKind, text: &str) {
        if let Some(owner) = owner {
            self.send(namespace, ObjectId::from(owner), kind, text);
        }
    }

    /// Tells an object itself.
    pub fn tell(&self, object: &ObjectReference, kind: NoticeKind, text: &str) {
        let namespace = object.namespace.clone().unwrap_or_default();
        let id = ObjectId {
            api_version: object.api_version.clone().unwrap_or_default(),
            kind: object.kind.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
            uid: object.uid.clone().unwrap_or_default(),
        };
        self.send(&namespace, id, kind, text);
    }

    fn send(&self, namespace: &str, about: ObjectId, kind: NoticeKind, text: &str) {
        let notice = Notice {
            about,
            namespace: namespace.to_owned(),
            kind,
            text: text.to_owned(),
        };
        // A ReplicaSet tries again and again: the same need not wait twice.
        if self.queued.contains(&notice) {
            return;
        }
        let is_queued = self.queued.add(&notice) && {
            let sent = self.sender.try_send(notice);
            if let Err(TrySendError::Full(notice) | TrySendError::Closed(notice)) = &sent {
                self.queued.remove(notice);
            }
            sent.is_ok()
        };
        if !is_queued {
            debug!(
                namespace,
                reason = kind.reason(),
                "an event was dropped: too many wait"
            );
        }
    }
}

impl QueuedNotices {
    fn contains(&self, notice: &Notice) -> bool {
        let queued = self.0.lock();
        let of_namespace = queued.get(&notice.namespace);
        of_namespace.is_some_and(|notices| notices.contains(notice))
    }

    /// Whether there is room for one more about its namespace.
    fn add(&self, notice: &Notice) -> bool {
        let mut queued = self.0.lock();
        let of_namespace = queued.entry(notice.namespace.clone()).or_default();
        of_namespace.len() < MAX_QUEUED_OF_NAMESPACE && of_namespace.insert(notice.clone())
    }

    fn remove(&self, notice: &Notice) {
        let mut queued = self.0.lock();
        if let Some(of_namespace) = queued.get_mut(&notice.namespace) {
            of_namespace.remove(notice);
            if of_namespace.is_empty() {
                queued.remove(&notice.namespace);
            }
        }
    }
}

impl WorkloadEventWriter {
    /// Writes for as long as there is anyone to tell it something.
    pub async fn run(mut self) {
        let pulse = self.liveness.pulse("the writer of events".to_owned());
        let mut ticks = interval(BEAT_INTERVAL);
        loop {
            pulse.beat();
            let notice = tokio::select! {
                notice = self.notices.recv() => notice,
                _ = ticks.tick() => continue,
            };
            let Some(notice) = notice else { return };
            self.queued.remove(&notice);
            if self.told.is_news(&notice, Instant::now()) {
                self.write(&notice, &pulse).await;
                sleep(PAUSE).await;
            }
        }
    }

    async fn write(&self, notice: &Notice, pulse: &Pulse) {
        let namespace = &notice.namespace;
        let object = match notice.about.kind.as_str() {
            "ReplicaSet" => self.owner_of_replica_set(namespace, &notice.about).await,
            _ => notice.about.clone(),
        };
        pulse.beat();
        let mut note = format!("{}: {}", notice.kind.prefix(), notice.text);
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        let event = Event {
            type_: notice.kind.event_type(),
            reason: notice.kind.reason().to_owned(),
            note: Some(note),
            action: "Injection".to_owned(),
            secondary: None,
        };
        let regarding = object.into_reference(namespace);
        self.events.publish(&event, &regarding).await;
    }

    /// The Deployment, or whatever else made the ReplicaSet; the ReplicaSet itself where that is not known.
    async fn owner_of_replica_set(&self, namespace: &str, replica_set: &ObjectId) -> ObjectId {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), namespace);
        let owner = match with_deadline(api.get_metadata_opt(&replica_set.name)).await {
            Ok(found) => found.and_then(|found| found.metadata.owner_references),
            Err(error) => {
                debug!(%error, namespace, name = replica_set.name, "the owner is not known");
                None
            }
        };
        let owner = controller(owner.as_deref().unwrap_or_default());
        owner.map_or_else(|| replica_set.clone(), ObjectId::from)
    }
}

impl From<&OwnerReference> for ObjectId {
    fn from(owner: &OwnerReference) -> Self {
        Self {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }
}

impl ObjectId {
    fn into_reference(self, namespace: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.api_version),
            kind: Some(self.kind),
            name: Some(self.name),
            uid: Some(self.uid),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        }
    }
}

/// What was told of each namespace a short while ago.
#[derive(Default)]
struct RecentNotices(HashMap<String, HashMap<Notice, Instant>>);

impl RecentNotices {
    fn is_news(&mut self, notice: &Notice, now: Instant) -> bool {
        let is_recent = |told: &Instant| now.duration_since(*told) < REPEAT_AFTER;
        if !self.0.contains_key(&notice.namespace) {
            self.0.retain(|_, told| told.values().any(is_recent));
        }
        let told = self.0.entry(notice.namespace.clone()).or_default();
        if told.get(notice).is_some_and(is_recent) {
            return false;
        }
        if told.len() >= MAX_REMEMBERED_OF_NAMESPACE {
            told.retain(|_, told| is_recent(told));
        }
        // Without room there has been enough to read.
        if told.len() >= MAX_REMEMBERED_OF_NAMESPACE {
            return false;
        }
        told.insert(notice.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests;
