//! What sync and a follower write of one sidecar, for as long as it is connected.

use mcp_auth_protocol::sync::Report;
use tokio::time::Instant;

use super::{DISCONNECT_GRACE, ForwardedSidecar, Sidecar, Sidecars};

/// What is kept of a report; a sidecar with more to say has said enough.
const MAX_SERVERS: usize = 256;
const MAX_PROBLEMS: usize = 16;
const MAX_TEXT_BYTES: usize = 512;

/// The right to write one sidecar's entry, which goes when this is dropped.
pub struct SidecarEntry {
    pub(super) sidecars: Sidecars,
    pub(super) uid: String,
    pub(super) connection: u64,
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
