//! The sidecars that are connected or were a moment ago, and what each last reported: sync writes it, the
//! status tells of it.

mod entry;
mod forwarded;
mod learned_servers;
mod revisions;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use entry::SidecarEntry;
pub use forwarded::ForwardedSidecar;
pub use learned_servers::LearnedServers;
pub use revisions::NamespaceRevision;
use revisions::NamespaceRevisions;

/// A sidecar that served before is not behind while a newer snapshot is on its way to it.
pub const GRACE: Duration = Duration::from_secs(10);
/// A sidecar that has disconnected counts as it was for this long: streams are renewed and replicas of the
/// operator come and go, while the sidecar serves on.
pub const DISCONNECT_GRACE: Duration = Duration::from_secs(60);
/// One connected sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    pub namespace: String,
    pub name: String,
    /// Of its program.
    pub version: String,
    /// Revision of the last snapshot sent on the stream.
    pub sent_revision: Option<String>,
    pub sent_at: Option<Instant>,
    pub applied: Option<String>,
    pub restart_needed_for: Vec<String>,
    pub problems: Vec<Problem>,
    pub notices: Vec<Problem>,
    /// What it has learned of the servers.
    pub reachability: LearnedServers,
    /// Nothing is known of it yet, since this replica has only just begun to lead: it may be about to come
    /// back.
    pub is_awaited: bool,
}

impl Sidecar {
    /// Whether it uses the newest snapshot, or may yet be taking it over.
    pub fn is_up_to_date(&self) -> bool {
        self.applied.is_some() && (self.sent_revision == self.applied || self.is_taking_over())
    }

    pub fn is_taking_over(&self) -> bool {
        self.taking_over_until().is_some()
    }

    /// From then on it is behind, where it may yet be taking the newest snapshot over.
    fn taking_over_until(&self) -> Option<Instant> {
        let until = self.sent_at.map(|at| at + GRACE);
        until.filter(|until| self.sent_revision != self.applied && Instant::now() < *until)
    }

    fn awaited() -> Self {
        Self {
            is_awaited: true,
            ..Self::default()
        }
    }
}

/// By uid of the pod: those that are connected, and those that were a moment ago. Cheap to clone; all clones
/// are the same.
#[derive(Clone)]
pub struct Sidecars {
    known: Arc<Mutex<KnownSidecars>>,
    /// Until when sidecars that were never seen may be about to come.
    awaited_until: Arc<Mutex<Option<Instant>>>,
    changed: mpsc::UnboundedSender<String>,
    /// For the leader, where this replica follows: number of the last change.
    revision: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct KnownSidecars {
    by_uid: HashMap<String, KnownSidecar>,
    /// For statuses, where this replica leads.
    revisions: NamespaceRevisions,
}

#[derive(Default)]
struct KnownSidecar {
    /// Number of its newest connection.
    connection: u64,
    is_connected: bool,
    /// Shared with whoever looks at many of them, as a status does.
    sidecar: Arc<Sidecar>,
    /// The status has been told that it does not take the last snapshot over.
    is_overdue: bool,
    /// Number of the last change of what the leader is told of it.
    revision: u64,
    /// Of the last one that was of more than the snapshots that it was sent and has taken over.
    report_revision: u64,
}

/// What the leader is told of a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub enum SidecarChange {
    Whole(Box<ForwardedSidecar>),
    /// Nothing but the snapshot that it was sent, or the one that it has taken over.
    Revision {
        sent: Option<String>,
        applied: Option<String>,
    },
    /// It has disconnected.
    Gone,
}

impl Sidecars {
    /// The receiver gets the namespace of each sidecar that changed.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        (
            Self {
                known: Arc::default(),
                awaited_until: Arc::default(),
                changed,
                revision: Arc::new(watch::Sender::new(0)),
            },
            receiver,
        )
    }

    /// Enters a sidecar. A newer connection of the same pod takes the entry over, with what is known of it,
    /// and the older one's writes and end then do nothing: it may be half dead and end long after.
    pub fn enter(&self, uid: &str, namespace: &str, name: &str) -> SidecarEntry {
        let mut known = self.known.lock();
        let KnownSidecars { by_uid, revisions } = &mut *known;
        let is_new = !by_uid.contains_key(uid);
        if is_new {
            revisions.entered(namespace);
        }
        let entry = by_uid.entry(uid.to_owned()).or_default();
        entry.connection += 1;
        entry.is_connected = true;
        // A uid is of one pod for ever.
        if is_new {
            let sidecar = Arc::make_mut(&mut entry.sidecar);
            sidecar.namespace = namespace.into();
            sidecar.name = name.into();
        }
        entry.revision = self.next_revision();
        entry.report_revision = entry.revision;
        let connection = entry.connection;
        drop(known);
        if is_new {
            self.announce(namespace);
        }
        SidecarEntry {
            sidecars: self.clone(),
            uid: uid.to_owned(),
            connection,
        }
    }

    /// This replica begins to lead: every sidecar there is comes to it within a while. Returns when those that
    /// have not come are missing.
    pub fn await_all(&self) -> Instant {
        let until = Instant::now() + DISCONNECT_GRACE;
        *self.awaited_until.lock() = Some(until);
        until
    }

    pub fn get(&self, uid: &str) -> Option<Arc<Sidecar>> {
        if let Some(known) = self.known.lock().by_uid.get(uid) {
            return Some(known.sidecar.clone());
        }
        self.awaited_until().map(|_| Sidecar::awaited().into())
    }

    /// The sidecars of these pods of a namespace by their uids, and the revision that they are of.
    pub fn in_namespace<'a>(
        &self,
        namespace: &str,
        uids: impl Iterator<Item = &'a str>,
    ) -> (NamespaceRevision, Vec<Option<Arc<Sidecar>>>) {
        let awaited_until = self.awaited_until();
        let awaited = awaited_until.map(|_| Arc::new(Sidecar::awaited()));
        let mut known = self.known.lock();
        let KnownSidecars { by_uid, revisions } = &mut *known;
        let mut taking_over_until = None;
        let sidecars = uids.map(|uid| {
            let Some(known) = by_uid.get(uid) else {
                return awaited.clone();
            };
            let until = known.sidecar.taking_over_until();
            taking_over_until = [taking_over_until, until].into_iter().flatten().min();
            Some(known.sidecar.clone())
        });
        let sidecars = sidecars.collect();
        revisions.looked_at(namespace, taking_over_until);
        (revisions.get(namespace, awaited_until), sidecars)
    }

    /// Where this is the same, so is what a status tells of the namespace's sidecars, for as long as none of them has to be up to
    /// date by a time.
    pub fn revision_in(&self, namespace: &str) -> NamespaceRevision {
        let awaited_until = self.awaited_until();
        self.known.lock().revisions.get(namespace, awaited_until)
    }

    fn awaited_until(&self) -> Option<Instant> {
        let until = *self.awaited_until.lock();
        until.filter(|until| Instant::now() < *until)
    }

    /// Tells of each change of what [`Self::changed_since`] returns.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// By uid of the pod, what has changed of each sidecar since this revision; the whole of it for a leader that reads
    /// nothing else.
    pub fn changed_since(&self, revision: u64, reads_revisions: bool) -> Vec<(String, SidecarChange)> {
        let known = self.known.lock();
        let changed = known.by_uid.iter().filter(|(_, known)| known.revision > revision);
        let changes = changed.map(|(uid, known)| {
            let change = if !known.is_connected {
                SidecarChange::Gone
            } else if reads_revisions && known.report_revision <= revision {
                SidecarChange::Revision {
                    sent: known.sidecar.sent_revision.clone(),
                    applied: known.sidecar.applied.clone(),
                }
            } else {
                SidecarChange::Whole(Box::new(ForwardedSidecar::new(&known.sidecar, known.connection)))
            };
            (uid.clone(), change)
        });
        changes.collect()
    }

    /// Called with the sidecars locked, so that no revision is seen before what it is of.
    fn next_revision(&self) -> u64 {
        self.revision.send_modify(|revision| *revision += 1);
        *self.revision.borrow()
    }

    /// Forgets a sidecar that has not come back.
    fn forget(&self, uid: &str, connection: u64) {
        let mut known = self.known.lock();
        let is_gone = |known: &KnownSidecar| known.connection == connection && !known.is_connected;
        if !known.by_uid.get(uid).is_some_and(is_gone) {
            return;
        }
        let gone = known.by_uid.remove(uid);
        if let Some(gone) = &gone {
            known.revisions.left(&gone.sidecar.namespace);
        }
        drop(known);
        if let Some(gone) = gone {
            self.announce(&gone.sidecar.namespace);
        }
    }

    fn announce(&self, namespace: &str) {
        // Without a receiver this replica does not lead, and no task writes statuses.
        let _ = self.changed.send(namespace.to_owned());
    }
}

#[cfg(test)]
mod tests;
