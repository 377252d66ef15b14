//! Reachability reports: what the data path knows of each server, debounced for the operator, so that a server that
//! answers every second call is not a report a call.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use tokio::time::Instant;
use tracing::{info, warn};

/// Shortest time that a state stands in the report before another state of the same server does.
const MIN_HOLD: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct ReachabilityReports(BTreeMap<String, Reported>);

struct Reported {
    entry: ServerReachability,
    /// Absent for the first contact, which may be followed at once.
    held_until: Option<Instant>,
}

impl ReachabilityReports {
    /// Takes the states as they are now. True if the report has changed.
    pub fn update(&mut self, states: Vec<ServerReachability>, now: Instant) -> bool {
        let before = self.0.len();
        self.0
            .retain(|server, _| states.iter().any(|state| state.server == *server));
        let mut is_changed = self.0.len() != before;
        for entry in states {
            let reported = self.0.get(&entry.server);
            let is_due = reported.is_none_or(|reported| {
                reported.entry != entry && reported.held_until.is_none_or(|until| now >= until)
            });
            if is_due {
                log(reported.map(|reported| &reported.entry), &entry);
                let is_first = entry.state == Reachability::NotContacted;
                let held_until = (!is_first).then(|| now + MIN_HOLD);
                self.0
                    .insert(entry.server.clone(), Reported { entry, held_until });
                is_changed = true;
            }
        }
        is_changed
    }

    pub fn reported(&self) -> Vec<ServerReachability> {
        self.0.values().map(|reported| reported.entry.clone()).collect()
    }
}

fn log(before: Option<&ServerReachability>, now: &ServerReachability) {
    let ServerReachability {
        server,
        state,
        detail,
        ..
    } = now;
    let was_unreachable = before.is_some_and(|before| before.state.is_reachable() == Some(false));
    match state.is_reachable() {
        Some(false) => warn!(
            server,
            reason = state.reason(),
            detail,
            "MCP server not reachable"
        ),
        Some(true) if was_unreachable => {
            info!(server, reason = state.reason(), "MCP server reachable again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(server: &str, state: Reachability) -> ServerReachability {
        ServerReachability {
            server: server.into(),
            state,
            since: 1,
            detail: String::new(),
        }
    }

    #[test]
    fn a_server_that_answers_every_second_call_is_reported_at_most_every_ten_seconds() {
        let mut reports = ReachabilityReports::default();
        let start = Instant::now();
        let mut changes = 0;
        for call in 0..200_u32 {
            let of_call = match call % 2 {
                0 => Reachability::Answered,
                _ => Reachability::Unavailable,
            };
            let now = start + Duration::from_millis(500) * call;
            changes += u32::from(reports.update(vec![state("tools", of_call)], now));
        }
        assert!((2..=10).contains(&changes), "{changes} reports in 100 s");
    }

    #[test]
    fn the_first_contact_is_reported_at_once_and_what_stays_the_same_is_not_reported_again() {
        let mut reports = ReachabilityReports::default();
        let now = Instant::now();
        assert!(reports.update(vec![state("tools", Reachability::NotContacted)], now));
        assert!(reports.update(vec![state("tools", Reachability::CertificateNotTrusted)], now));
        let later = now + 2 * MIN_HOLD;
        assert!(!reports.update(vec![state("tools", Reachability::CertificateNotTrusted)], later));
        assert!(reports.update(vec![], later), "its resource is gone");
        assert_eq!(reports.reported(), []);
    }
}
