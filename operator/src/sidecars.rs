//! The sidecars that are connected or were a moment ago, and what each last reported: sync writes it, the
//! status tells of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::reachability::ServerReachability;
use mcp_auth_protocol::sync::{Problem, Report};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A sidecar that served before is not behind while a newer snapshot is on its way to it.
pub const GRACE: Duration = Duration::from_secs(10);
/// A sidecar that has disconnected counts as it was for this long: streams are renewed and replicas of the
/// operator come and go, while the sidecar serves on.
pub const DISCONNECT_GRACE: Duration = Duration::from_secs(60);
/// What is kept of a report; a sidecar with more to say has said enough.
const MAX_SERVERS: usize = 256;
const MAX_PROBLEMS: usize = 16;
const MAX_TEXT_BYTES: usize = 512;

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
    pub reachability: Vec<ServerReachability>,
    /// Nothing is known of it yet, since this replica has only just begun to lead: it may be about to come
    /// back.
    pub is_awaited: bool,
}

impl Sidecar {
    /// Whether it uses the newest snapshot, or may yet be taking it over.
    pub fn is_up_to_date(&self) -> bool {
        self.applied.is_some() && (self.sent_revision == self.applied || self.is_taking_over())
    }

    /// Whether a status can tell one from the other. One that goes from a snapshot to the next is served all the
    /// while.
    fn is_same_for_status(&self, other: &Self) -> bool {
        let is_served = self.is_up_to_date() && other.is_up_to_date();
        let whats_served = |sidecar: &Self| Self {
            sent_revision: None,
            sent_at: None,
            applied: None,
            ..sidecar.clone()
        };
        self == other || is_served && whats_served(self) == whats_served(other)
    }

    pub fn is_taking_over(&self) -> bool {
        self.sent_revision != self.applied && self.sent_at.is_some_and(|at| at.elapsed() < GRACE)
    }
}

/// By uid of the pod: those that are connected, and those that were a moment ago. Cheap to clone; all clones
/// are the same.
#[derive(Clone)]
pub struct Sidecars {
    known: Arc<Mutex<HashMap<String, KnownSidecar>>>,
    /// Until when sidecars that were never seen may be about to come.
    awaited_until: Arc<Mutex<Option<Instant>>>,
    changed: mpsc::UnboundedSender<String>,
    /// For the leader, where this replica follows: number of the last change.
    revision: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct KnownSidecar {
    /// Number of its newest connection.
    connection: u64,
    is_connected: bool,
    sidecar: Sidecar,
    /// The status has been told that it does not take the last snapshot over.
    is_overdue: bool,
    /// Number of the last change of what the leader is told of it.
    revision: u64,
}

/// What a follower tells the leader of a sidecar that is connected to it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardedSidecar {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub sent_revision: Option<String>,
    #[serde(default)]
    pub report: Report,
}

/// The right to write one sidecar's entry, which goes when this is dropped.
pub struct SidecarEntry {
    sidecars: Sidecars,
    uid: String,
    connection: u64,
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
        let is_new = !known.contains_key(uid);
        let entry = known.entry(uid.to_owned()).or_default();
        entry.connection += 1;
        entry.is_connected = true;
        entry.sidecar.namespace = namespace.into();
        entry.sidecar.name = name.into();
        entry.revision = self.next_revision();
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

    pub fn get(&self, uid: &str) -> Option<Sidecar> {
        if let Some(known) = self.known.lock().get(uid) {
            return Some(known.sidecar.clone());
        }
        let is_awaited = self
            .awaited_until
            .lock()
            .is_some_and(|until| Instant::now() < until);
        is_awaited.then(|| Sidecar {
            is_awaited,
            ..Sidecar::default()
        })
    }

    /// Tells of each change of what [`Self::changed_since`] returns.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// By uid of the pod, each sidecar that has changed since this revision; nothing where it has disconnected.
    pub fn changed_since(&self, revision: u64) -> Vec<(String, Option<ForwardedSidecar>)> {
        let known = self.known.lock();
        let changed = known.iter().filter(|(_, known)| known.revision > revision);
        let forwarded = changed.map(|(uid, known)| {
            let sidecar = known.is_connected.then(|| ForwardedSidecar::from(&known.sidecar));
            (uid.clone(), sidecar)
        });
        forwarded.collect()
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
        if !known.get(uid).is_some_and(is_gone) {
            return;
        }
        let gone = known.remove(uid);
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

impl From<&Sidecar> for ForwardedSidecar {
    fn from(sidecar: &Sidecar) -> Self {
        let Sidecar {
            namespace,
            name,
            version,
            sent_revision,
            // The leader's own clock tells since when.
            sent_at: _,
            applied,
            restart_needed_for,
            problems,
            notices,
            reachability,
            is_awaited: _,
        } = sidecar.clone();
        Self {
            namespace,
            name,
            sent_revision,
            report: Report {
                version,
                applied,
                restart_needed_for,
                problems,
                notices,
                reachability,
                ..Report::default()
            },
        }
    }
}

impl SidecarEntry {
    /// Takes over what a follower says of a sidecar that is connected to it.
    pub fn record_forwarded(&self, forwarded: ForwardedSidecar) {
        if let Some(revision) = &forwarded.sent_revision {
            let known = self.sidecars.get(&self.uid);
            if known.is_none_or(|known| known.sent_revision.as_ref() != Some(revision)) {
                self.record_sent(revision);
            }
        }
        self.record_report(forwarded.report);
    }

    pub fn record_sent(&self, revision: &str) {
        self.modify(|sidecar| {
            sidecar.sent_revision = Some(revision.to_owned());
            sidecar.sent_at = Some(Instant::now());
        });
    }

    /// Has the status looked at, once, where the sidecar has not taken the last snapshot over in time: of that there
    /// is no event.
    pub fn tell_if_overdue(&self) {
        let mut known = self.sidecars.known.lock();
        let entry = known.get_mut(&self.uid);
        let Some(entry) = entry.filter(|entry| entry.connection == self.connection) else {
            return;
        };
        let is_overdue = !entry.sidecar.is_up_to_date();
        let is_news = is_overdue && !entry.is_overdue;
        entry.is_overdue = is_overdue;
        let namespace = is_news.then(|| entry.sidecar.namespace.clone());
        drop(known);
        if let Some(namespace) = namespace {
            self.sidecars.announce(&namespace);
        }
    }

    /// Whether no newer connection of the same pod has taken the entry over.
    pub fn is_current(&self) -> bool {
        let known = self.sidecars.known.lock();
        known
            .get(&self.uid)
            .is_some_and(|known| known.connection == self.connection)
    }

    pub fn record_report(&self, mut report: Report) {
        report.restart_needed_for.truncate(MAX_SERVERS);
        report.problems.truncate(MAX_PROBLEMS);
        report.reachability.truncate(MAX_SERVERS);
        for known in &mut report.reachability {
            let end = known.detail.floor_char_boundary(MAX_TEXT_BYTES);
            known.detail.truncate(end);
        }
        report.notices.truncate(MAX_PROBLEMS);
        let end = report.version.floor_char_boundary(MAX_TEXT_BYTES);
        report.version.truncate(end);
        for problem in report.problems.iter_mut().chain(&mut report.notices) {
            for text in [&mut problem.reason, &mut problem.message] {
                text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
            }
        }

        self.modify(|sidecar| {
            sidecar.version = report.version;
            sidecar.applied = report.applied;
            sidecar.restart_needed_for = report.restart_needed_for;
            sidecar.problems = report.problems;
            sidecar.notices = report.notices;
            sidecar.reachability = report.reachability;
        });
    }

    fn modify(&self, change: impl FnOnce(&mut Sidecar)) {
        let mut known = self.sidecars.known.lock();
        let entry = known.get_mut(&self.uid);
        let Some(entry) = entry.filter(|entry| entry.connection == self.connection) else {
            return;
        };
        let before = entry.sidecar.clone();
        change(&mut entry.sidecar);
        let is_changed = entry.sidecar != before;
        if is_changed {
            entry.revision = self.sidecars.next_revision();
        }
        let is_news = !before.is_same_for_status(&entry.sidecar);
        let namespace = is_news.then_some(before.namespace);
        drop(known);
        if let Some(namespace) = namespace {
            self.sidecars.announce(&namespace);
        }
    }
}

impl Drop for SidecarEntry {
    fn drop(&mut self) {
        let mut known = self.sidecars.known.lock();
        let entry = known.get_mut(&self.uid);
        let Some(entry) = entry.filter(|entry| entry.connection == self.connection) else {
            return;
        };
        entry.is_connected = false;
        entry.revision = self.sidecars.next_revision();
        drop(known);
        let (sidecars, uid, connection) = (self.sidecars.clone(), self.uid.clone(), self.connection);
        // Dropped outside of the runtime only when the operator has ended.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(DISCONNECT_GRACE).await;
                sidecars.forget(&uid, connection);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_is_up_to_date_once_it_has_applied_what_was_sent() {
        let (sidecars, _changed) = Sidecars::new();
        let entry = sidecars.enter("uid", "apps", "litellm-0");
        assert!(!sidecars.get("uid").unwrap().is_up_to_date());
        entry.record_sent("1");
        entry.record_report(Report {
            applied: Some("1".into()),
            ..Report::default()
        });
        assert!(sidecars.get("uid").unwrap().is_up_to_date());
        entry.record_sent("2");
        assert!(
            sidecars.get("uid").unwrap().is_up_to_date(),
            "it may be taking it over"
        );
        tokio::time::advance(GRACE).await;
        assert!(!sidecars.get("uid").unwrap().is_up_to_date());
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_is_looked_at_for_a_sidecar_that_stays_behind_and_not_for_each_snapshot() {
        let (sidecars, mut changed) = Sidecars::new();
        let entry = sidecars.enter("uid", "apps", "litellm-0");
        let apply = |revision: &str| {
            entry.record_report(Report {
                applied: Some(revision.into()),
                ..Report::default()
            });
        };
        entry.record_sent("1");
        apply("1");
        while changed.try_recv().is_ok() {}
        entry.record_sent("2");
        entry.tell_if_overdue();
        apply("2");
        entry.record_sent("3");
        assert!(changed.try_recv().is_err(), "it is served all the while");

        tokio::time::advance(GRACE).await;
        for _ in 0..3 {
            entry.tell_if_overdue();
        }
        assert_eq!(changed.try_recv().unwrap(), "apps");
        assert!(changed.try_recv().is_err(), "once");
        apply("3");
        assert_eq!(changed.try_recv().unwrap(), "apps", "it serves again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_connection_that_ends_leaves_the_newer_one_alone() {
        let (sidecars, _changed) = Sidecars::new();
        let old = sidecars.enter("uid", "apps", "litellm-0");
        let new = sidecars.enter("uid", "apps", "litellm-0");
        new.record_sent("1");
        old.record_sent("0");
        drop(old);
        tokio::time::sleep(2 * DISCONNECT_GRACE).await;
        assert_eq!(sidecars.get("uid").unwrap().sent_revision.as_deref(), Some("1"));
        drop(new);
        tokio::time::sleep(2 * DISCONNECT_GRACE).await;
        assert!(sidecars.get("uid").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disconnect_shorter_than_the_grace_period_changes_nothing() {
        let (sidecars, mut changed) = Sidecars::new();
        let applied = Report {
            applied: Some("1".into()),
            ..Report::default()
        };
        let entry = sidecars.enter("uid", "apps", "litellm-0");
        entry.record_sent("1");
        entry.record_report(applied.clone());
        while changed.try_recv().is_ok() {}

        drop(entry);
        tokio::time::sleep(DISCONNECT_GRACE / 2).await;
        assert!(sidecars.get("uid").unwrap().is_up_to_date());
        let entry = sidecars.enter("uid", "apps", "litellm-0");
        entry.record_report(applied);
        tokio::time::sleep(2 * DISCONNECT_GRACE).await;
        assert!(sidecars.get("uid").unwrap().is_up_to_date());
        assert!(changed.try_recv().is_err(), "no status need be looked at");

        drop(entry);
        tokio::time::sleep(2 * DISCONNECT_GRACE).await;
        assert!(sidecars.get("uid").is_none());
        assert_eq!(changed.recv().await.as_deref(), Some("apps"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_at_a_follower_counts_at_the_leader_as_one_of_its_own() {
        let ((follower, _at_follower), (leader, _at_leader)) = (Sidecars::new(), Sidecars::new());
        let entry = follower.enter("uid", "apps", "litellm-0");
        entry.record_sent("1");
        entry.record_report(Report {
            applied: Some("1".into()),
            restart_needed_for: vec!["tools".into()],
            notices: vec![Problem::new("Noticed", "by the sidecar")],
            ..Report::default()
        });
        let forward = || {
            let (uid, forwarded) = follower.changed_since(0).pop().unwrap();
            let line = serde_json::to_string(&forwarded).unwrap();
            (
                uid,
                serde_json::from_str::<Option<ForwardedSidecar>>(&line).unwrap(),
            )
        };
        let (uid, forwarded) = forward();
        let at_leader = leader.enter(&uid, "apps", "litellm-0");
        at_leader.record_forwarded(forwarded.unwrap());
        let known = leader.get("uid").unwrap();
        assert!(known.is_up_to_date());
        assert_eq!(known.restart_needed_for, ["tools"]);
        assert_eq!(known.notices.len(), 1);

        entry.record_sent("2");
        at_leader.record_forwarded(forward().1.unwrap());
        tokio::time::advance(GRACE / 2).await;
        // The same again, as after another change, is not sent again.
        at_leader.record_forwarded(forward().1.unwrap());
        assert!(leader.get("uid").unwrap().is_taking_over());
        tokio::time::advance(GRACE / 2).await;
        assert!(!leader.get("uid").unwrap().is_up_to_date());

        let revision = *follower.subscribe().borrow();
        drop(entry);
        assert_eq!(follower.changed_since(revision), [("uid".to_owned(), None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_awaits_the_sidecars_that_it_has_never_seen() {
        let (sidecars, _changed) = Sidecars::new();
        assert!(sidecars.get("uid").is_none());
        let until = sidecars.await_all();
        assert!(sidecars.get("uid").unwrap().is_awaited);
        let _entry = sidecars.enter("uid", "apps", "litellm-0");
        assert!(!sidecars.get("uid").unwrap().is_awaited, "it has come");
        tokio::time::sleep_until(until).await;
        assert!(sidecars.get("uid-2").is_none());
    }
}
