//! Events on the workload of a pod, such as a Deployment, and on resources: what injection has to say where people look
//! first. Whoever decides hands a notice to a bounded queue and never waits; one task writes, each notice once in a
//! while.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::api_server::with_deadline;

/// Notices that wait to be written; more are dropped, since the pod's annotations and the log say the same.
const MAX_QUEUED: usize = 256;
/// The same notice about the same owner is written once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(15 * 60);
/// Notices that are remembered for that.
const MAX_REMEMBERED: usize = 1024;
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
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct WorkloadEvents(mpsc::Sender<Notice>);

/// Writes what [`WorkloadEvents`] is told.
pub struct WorkloadEventWriter {
    client: Client,
    recorder: Recorder,
    notices: mpsc::Receiver<Notice>,
    told: RecentNotices,
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
    /// Reason of the event. Closed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => "PodRefused",
            Self::NotInjected => "PodNotInjected",
            Self::Skipped => "PodSkipped",
            Self::Warning => "InjectedWithWarnings",
            Self::UnknownAnnotation => "UnknownAnnotation",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Refused => "pods are refused",
            Self::NotInjected => "pods start without the sidecar of mcp-auth",
            Self::Skipped => "pods need no sidecar of mcp-auth",
            Self::Warning => "pods have the sidecar of mcp-auth",
            Self::UnknownAnnotation => "pods have no sidecar of mcp-auth",
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
    pub fn new(client: Client, recorder: Recorder) -> (Self, WorkloadEventWriter) {
        let (sender, notices) = mpsc::channel(MAX_QUEUED);
        let writer = WorkloadEventWriter {
            client,
            recorder,
            notices,
            told: RecentNotices::default(),
        };
        (Self(sender), writer)
    }

    /// For tests of what tells.
    #[cfg(test)]
    pub fn unread() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Tells the workload that owns a pod. A pod without an owner is looked at by whoever made it.
    pub fn tell_owner(&self, namespace: &str, owners: &[OwnerReference], kind: NoticeKind, text: &str) {
        let owner = owners.iter().find(|owner| owner.controller == Some(true));
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
        if self.0.try_send(notice).is_err() {
            debug!(
                namespace,
                reason = kind.reason(),
                "an event was dropped: too many wait"
            );
        }
    }
}

impl WorkloadEventWriter {
    /// Writes for as long as there is anyone to tell it something.
    pub async fn run(mut self) {
        while let Some(notice) = self.notices.recv().await {
            if self.told.is_news(&notice, Instant::now()) {
                self.write(&notice).await;
                sleep(PAUSE).await;
            }
        }
    }

    async fn write(&self, notice: &Notice) {
        let namespace = &notice.namespace;
        let object = match notice.about.kind.as_str() {
            "ReplicaSet" => self.owner_of_replica_set(namespace, &notice.about).await,
            _ => notice.about.clone(),
        };
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
        if let Err(error) = with_deadline(self.recorder.publish(&event, &regarding)).await {
            warn!(%error, namespace, reason = event.reason, "an event could not be written");
        }
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
        let mut owners = owner.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true));
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

/// What was told a short while ago.
#[derive(Default)]
struct RecentNotices(HashMap<Notice, Instant>);

impl RecentNotices {
    fn is_news(&mut self, notice: &Notice, now: Instant) -> bool {
        let is_recent = |told: &Instant| now.duration_since(*told) < REPEAT_AFTER;
        if self.0.get(notice).is_some_and(is_recent) {
            return false;
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, told| is_recent(told));
        }
        // Without room there has been enough to read.
        if self.0.len() >= MAX_REMEMBERED {
            return false;
        }
        self.0.insert(notice.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests;
