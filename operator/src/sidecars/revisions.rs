//! Revisions of namespaces: whether anything has changed that a status tells of their sidecars. A status that finds the same
//! revision as the one before need not look at thousands of them again.

use std::collections::HashMap;

use tokio::time::Instant;

/// Compared with an earlier one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NamespaceRevision {
    /// Number of the last change that a status may tell.
    state: u64,
    /// Of the last one of what sidecars have learned of servers; with sidecars that came or went.
    pub reports: u64,
    /// Until when a sidecar that was never seen may be about to come.
    awaited_until: Option<Instant>,
    /// The earliest time from which on a sidecar may be behind that is not yet.
    taking_over_until: Option<Instant>,
}

impl NamespaceRevision {
    /// Whether statuses tell the same as at an `earlier` revision.
    pub fn is_as_at(&self, earlier: &Self) -> bool {
        let is_same = |this: &Self, other: &Self| {
            (this.state, this.awaited_until) == (other.state, other.awaited_until)
        };
        let is_over = |until: Instant| until <= Instant::now();
        is_same(self, earlier) && !self.taking_over_until.is_some_and(is_over)
    }

    /// Whether a sidecar may be behind after a while, with nothing that tells of it.
    pub fn is_any_taking_over(&self) -> bool {
        self.taking_over_until.is_some()
    }
}

/// By namespace, for as long as it has sidecars.
#[derive(Default)]
pub struct NamespaceRevisions {
    of_namespaces: HashMap<String, Revisions>,
    /// Number of the last change in any of them, so that none comes twice.
    last: u64,
}

#[derive(Default)]
struct Revisions {
    sidecars: usize,
    state: u64,
    reports: u64,
    taking_over_until: Option<Instant>,
}

impl NamespaceRevisions {
    pub fn get(&self, namespace: &str, awaited_until: Option<Instant>) -> NamespaceRevision {
        let known = self.of_namespaces.get(namespace);
        NamespaceRevision {
            state: known.map_or(0, |known| known.state),
            reports: known.map_or(0, |known| known.reports),
            awaited_until,
            taking_over_until: known.and_then(|known| known.taking_over_until),
        }
    }

    pub fn entered(&mut self, namespace: &str) {
        let known = self.of_namespaces.entry(namespace.to_owned()).or_default();
        known.sidecars += 1;
        self.report_changed(namespace);
    }

    pub fn left(&mut self, namespace: &str) {
        self.report_changed(namespace);
        let Some(known) = self.of_namespaces.get_mut(namespace) else {
            return;
        };
        known.sidecars -= 1;
        if known.sidecars == 0 {
            self.of_namespaces.remove(namespace);
        }
    }

    /// Of what a status tells of a sidecar, but for what it has learned of servers.
    pub fn state_changed(&mut self, namespace: &str) {
        if let Some(known) = self.of_namespaces.get_mut(namespace) {
            self.last += 1;
            known.state = self.last;
        }
    }

    pub fn report_changed(&mut self, namespace: &str) {
        self.state_changed(namespace);
        if let Some(known) = self.of_namespaces.get_mut(namespace) {
            known.reports = known.state;
        }
    }

    /// A sidecar counts as up to date until then.
    pub fn is_taking_over(&mut self, namespace: &str, until: Instant) {
        if let Some(known) = self.of_namespaces.get_mut(namespace) {
            known.taking_over_until = Some(known.taking_over_until.map_or(until, |known| known.min(until)));
        }
    }

    /// All sidecars of the namespace were looked at: the first of them counts as up to date until then.
    pub fn looked_at(&mut self, namespace: &str, until: Option<Instant>) {
        if let Some(known) = self.of_namespaces.get_mut(namespace) {
            known.taking_over_until = until;
        }
    }
}
