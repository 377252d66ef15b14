//! The sidecars that are connected, and what each last reported: sync writes it, the status tells of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::sync::{Problem, Report};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A sidecar that served before is not behind while a newer snapshot is on its way to it.
pub const GRACE: Duration = Duration::from_secs(10);
/// What is kept of a report; a sidecar with more to say has said enough.
const MAX_SERVERS: usize = 256;
const MAX_PROBLEMS: usize = 16;
const MAX_TEXT_BYTES: usize = 512;

/// One connected sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    pub namespace: String,
    pub name: String,
    /// Revision of the last snapshot sent on the stream.
    pub sent_revision: Option<String>,
    pub sent_at: Option<Instant>,
    pub applied: Option<String>,
    pub restart_needed_for: Vec<String>,
    pub problems: Vec<Problem>,
}

impl Sidecar {
    /// Whether it uses the newest snapshot, or may yet be taking it over.
    pub fn is_up_to_date(&self) -> bool {
        self.applied.is_some() && (self.sent_revision == self.applied || self.is_taking_over())
    }

    pub fn is_taking_over(&self) -> bool {
        self.sent_revision != self.applied && self.sent_at.is_some_and(|at| at.elapsed() < GRACE)
    }
}

/// By uid of the pod. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Sidecars {
    connected: Arc<Mutex<HashMap<String, (u64, Sidecar)>>>,
    changed: mpsc::UnboundedSender<String>,
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
                connected: Arc::default(),
                changed,
            },
            receiver,
        )
    }

    /// Enters a sidecar. A newer connection of the same pod takes the entry over, and the older one's writes
    /// and end then do nothing: it may be half dead and end long after.
    pub fn enter(&self, uid: &str, namespace: &str, name: &str) -> SidecarEntry {
        let sidecar = Sidecar {
            namespace: namespace.into(),
            name: name.into(),
            ..Sidecar::default()
        };
        let mut connected = self.connected.lock();
        let connection = connected.get(uid).map_or(0, |(connection, _)| connection + 1);
        connected.insert(uid.to_owned(), (connection, sidecar));
        drop(connected);
        self.announce(namespace);
        SidecarEntry {
            sidecars: self.clone(),
            uid: uid.to_owned(),
            connection,
        }
    }

    pub fn get(&self, uid: &str) -> Option<Sidecar> {
        self.connected.lock().get(uid).map(|(_, sidecar)| sidecar.clone())
    }

    fn announce(&self, namespace: &str) {
        // Without a receiver this replica does not lead, and no task writes statuses.
        let _ = self.changed.send(namespace.to_owned());
    }
}

impl SidecarEntry {
    pub fn record_sent(&self, revision: &str) {
        self.modify(|sidecar| {
            sidecar.sent_revision = Some(revision.to_owned());
            sidecar.sent_at = Some(Instant::now());
        });
    }

    /// Whether no newer connection of the same pod has taken the entry over.
    pub fn is_current(&self) -> bool {
        let connected = self.sidecars.connected.lock();
        connected
            .get(&self.uid)
            .is_some_and(|(connection, _)| *connection == self.connection)
    }

    pub fn record_report(&self, mut report: Report) {
        report.restart_needed_for.truncate(MAX_SERVERS);
        report.problems.truncate(MAX_PROBLEMS);
        for problem in &mut report.problems {
            for text in [&mut problem.reason, &mut problem.message] {
                text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
            }
        }

        self.modify(|sidecar| {
            sidecar.applied = report.applied;
            sidecar.restart_needed_for = report.restart_needed_for;
            sidecar.problems = report.problems;
        });
    }

    fn modify(&self, change: impl FnOnce(&mut Sidecar)) {
        let mut connected = self.sidecars.connected.lock();
        let Some((connection, sidecar)) = connected.get_mut(&self.uid) else {
            return;
        };
        if *connection != self.connection {
            return;
        }
        let before = sidecar.clone();
        change(sidecar);
        let namespace = (*sidecar != before).then(|| sidecar.namespace.clone());
        drop(connected);
        if let Some(namespace) = namespace {
            self.sidecars.announce(&namespace);
        }
    }
}

impl Drop for SidecarEntry {
    fn drop(&mut self) {
        let mut connected = self.sidecars.connected.lock();
        if connected
            .get(&self.uid)
            .is_some_and(|(connection, _)| *connection == self.connection)
        {
            let (_, sidecar) = connected.remove(&self.uid).expect("it was there a line above");
            drop(connected);
            self.sidecars.announce(&sidecar.namespace);
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

    #[test]
    fn a_stale_connection_that_ends_leaves_the_newer_one_alone() {
        let (sidecars, _changed) = Sidecars::new();
        let old = sidecars.enter("uid", "apps", "litellm-0");
        let new = sidecars.enter("uid", "apps", "litellm-0");
        new.record_sent("1");
        old.record_sent("0");
        drop(old);
        assert_eq!(sidecars.get("uid").unwrap().sent_revision.as_deref(), Some("1"));
        drop(new);
        assert!(sidecars.get("uid").is_none());
    }
}
