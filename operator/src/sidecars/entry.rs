//! What sync and a follower write of one sidecar, for as long as it is connected.

use std::sync::Arc;

use mcp_auth_protocol::sync::Report;
use tokio::time::Instant;

use super::{DISCONNECT_GRACE, ForwardedSidecar, KnownSidecars, LearnedServers, Sidecar, Sidecars};

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
        let ForwardedSidecar {
            sent_revision,
            report,
            ..
        } = forwarded;
        let report = within_bounds(report);
        self.modify(|sidecar| {
            let sent = sidecar.set_forwarded_sent(sent_revision);
            sidecar.set_report(report).max(sent)
        });
    }

    pub fn record_sent(&self, revision: &str) {
        self.modify(|sidecar| {
            sidecar.set_sent(Some(revision.to_owned()));
            Change::OfRevision
        });
    }

    /// Has the status looked at, once, where the sidecar has not taken the last snapshot over in time: of that there
    /// is no event.
    pub fn tell_if_overdue(&self) {
        let mut known = self.sidecars.known.lock();
        let entry = known.by_uid.get_mut(&self.uid);
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
            .by_uid
            .get(&self.uid)
            .is_some_and(|known| known.connection == self.connection)
    }

    pub fn record_report(&self, report: Report) {
        let report = within_bounds(report);
        self.modify(|sidecar| sidecar.set_report(report));
    }

    /// The sidecar is as it was when it last reported, but for this revision.
    pub fn record_applied(&self, revision: String) {
        self.modify(|sidecar| sidecar.set_applied(Some(revision)));
    }

    /// What a follower says of a sidecar that is otherwise as it said before.
    pub fn record_forwarded_revision(&self, sent: Option<String>, applied: Option<String>) {
        self.modify(|sidecar| {
            let sent = sidecar.set_forwarded_sent(sent);
            sidecar.set_applied(applied).max(sent)
        });
    }

    fn modify(&self, change: impl FnOnce(&mut Sidecar) -> Change) {
        let mut known = self.sidecars.known.lock();
        let KnownSidecars { by_uid, revisions } = &mut *known;
        let entry = by_uid.get_mut(&self.uid);
        let Some(entry) = entry.filter(|entry| entry.connection == self.connection) else {
            return;
        };
        let was_served = entry.sidecar.is_up_to_date();
        let change = change(Arc::make_mut(&mut entry.sidecar));
        if change != Change::None {
            entry.revision = self.sidecars.next_revision();
        }
        if change == Change::OfReport {
            entry.report_revision = entry.revision;
        }
        let is_served = entry.sidecar.is_up_to_date();
        let is_news = match change {
            Change::None => false,
            // The status cannot tell one revision from the other: the sidecar is served all the while.
            Change::OfRevision => !(was_served && is_served),
            Change::OfReport => true,
        };
        let namespace = &entry.sidecar.namespace;
        match change {
            _ if !is_news => {}
            Change::None | Change::OfRevision => revisions.state_changed(namespace),
            Change::OfReport => revisions.report_changed(namespace),
        }
        if let Some(until) = entry.sidecar.taking_over_until() {
            revisions.is_taking_over(namespace, until);
        }
        let namespace = is_news.then(|| entry.sidecar.namespace.clone());
        drop(known);
        if let Some(namespace) = namespace {
            self.sidecars.announce(&namespace);
        }
    }
}

/// What of a sidecar has changed.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Change {
    None,
    /// Which snapshot it was sent, or has taken over.
    OfRevision,
    OfReport,
}

impl Sidecar {
    fn set_sent(&mut self, revision: Option<String>) {
        self.sent_revision = revision;
        self.sent_at = Some(Instant::now());
    }

    /// The same again is not sent again.
    fn set_forwarded_sent(&mut self, revision: Option<String>) -> Change {
        if revision.is_none() || self.sent_revision == revision {
            return Change::None;
        }
        self.set_sent(revision);
        Change::OfRevision
    }

    fn set_applied(&mut self, revision: Option<String>) -> Change {
        let is_same = self.applied == revision;
        self.applied = revision;
        if is_same { Change::None } else { Change::OfRevision }
    }

    /// In place, since thousands report at once when a token is renewed, and most of a report stays what it was.
    fn set_report(&mut self, report: Report) -> Change {
        let Report {
            version,
            applied,
            restart_needed_for,
            problems,
            notices,
            reachability,
            pod: _,
            capabilities: _,
            acknowledged: _,
            refused: _,
        } = report;
        let reachability = LearnedServers::from(reachability);
        let is_same = self.version == version
            && self.restart_needed_for == restart_needed_for
            && self.problems == problems
            && self.notices == notices
            && self.reachability == reachability;
        let change = self.set_applied(applied);
        if is_same {
            return change;
        }
        self.version = version;
        self.restart_needed_for = restart_needed_for;
        self.problems = problems;
        self.notices = notices;
        self.reachability = reachability;
        Change::OfReport
    }
}

/// A report with no more than is kept of it.
fn within_bounds(mut report: Report) -> Report {
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
    report
}

impl Drop for SidecarEntry {
    fn drop(&mut self) {
        let mut known = self.sidecars.known.lock();
        let entry = known.by_uid.get_mut(&self.uid);
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
