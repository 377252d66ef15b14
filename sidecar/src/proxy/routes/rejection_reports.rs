//! Rejection reports: the tokens in use that MCP servers have rejected, as they are reported to the operator.
//! At most one for each server, for as long as the token is in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcp_auth_protocol::sync::{RejectedToken, RejectionCause, Report};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::access_token::AccessToken;
use crate::proxy::request_id::RequestId;

/// Most scopes of one challenge that are reported.
const MAX_SCOPES: usize = 64;
/// Longest scope that is reported; what is longer is taken for no scope.
const MAX_SCOPE_BYTES: usize = 256;

pub struct RejectionReports {
    entries: Mutex<BTreeMap<Box<str>, ReportedRejection>>,
    reports: watch::Sender<Report>,
}

struct ReportedRejection {
    token: Arc<AccessToken>,
    why: RejectionCause,
    /// Demanded scopes that no other token has come with: waiting for them again would be in vain. `None`
    /// until there was such a demand.
    denied_scopes: Option<Vec<String>>,
}

/// Whether another token can be expected after a rejection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RenewalProspect {
    /// The report requests another token from the operator.
    Requested,
    /// These scopes were requested from the operator before, and no token has come.
    KnownDenied,
}

impl RejectionReports {
    pub fn new(reports: watch::Sender<Report>) -> Self {
        Self {
            entries: Mutex::default(),
            reports,
        }
    }

    /// Records a rejection of `token`, unless `in_use` says that another token is in use by now.
    pub fn record(
        &self,
        server: &str,
        token: &Arc<AccessToken>,
        why: RejectionCause,
        in_use: impl FnOnce() -> bool,
    ) -> RenewalProspect {
        let mut entries = self.entries.lock();
        // Checked under the lock: if the table changes after this, it removes the entry again.
        if !in_use() {
            return RenewalProspect::Requested;
        }
        let why = bounded(why);
        let entry = match entries.get_mut(server) {
            Some(entry) if Arc::ptr_eq(&entry.token, token) => {
                merge(&mut entry.why, &why);
                entry
            }
            _ => {
                let entry = ReportedRejection {
                    token: token.clone(),
                    why: why.clone(),
                    denied_scopes: None,
                };
                entries.insert(server.into(), entry);
                entries.get_mut(server).expect("it was inserted a line above")
            }
        };
        let is_known_denied = match (&why, &entry.denied_scopes) {
            (RejectionCause::InsufficientScope(scopes), Some(denied)) => {
                scopes.iter().all(|scope| denied.contains(scope))
            }
            _ => false,
        };
        if self.publish(&entries) {
            // Without the scopes, which are text of the server's.
            let unauthorized = why == RejectionCause::Unauthorized;
            tracing::warn!(
                request = RequestId::current().map(tracing::field::display),
                server,
                unauthorized,
                "token rejected; requesting another from the operator"
            );
        }
        match is_known_denied {
            true => RenewalProspect::KnownDenied,
            false => RenewalProspect::Requested,
        }
    }

    /// Records that no other token has come with `scopes`.
    pub fn record_denied_scopes(&self, server: &str, token: &Arc<AccessToken>, scopes: &[String]) {
        let mut entries = self.entries.lock();
        let entry = entries
            .get_mut(server)
            .filter(|entry| Arc::ptr_eq(&entry.token, token));
        if let Some(entry) = entry {
            add(entry.denied_scopes.get_or_insert_default(), scopes);
        }
    }

    /// Removes the rejection: the server accepts the token again.
    pub fn remove(&self, server: &str, token: &Arc<AccessToken>) {
        let mut entries = self.entries.lock();
        if entries
            .get(server)
            .is_some_and(|entry| Arc::ptr_eq(&entry.token, token))
        {
            entries.remove(server);
            self.publish(&entries);
        }
    }

    /// Removes the tokens that are not in use any more.
    pub fn retain(&self, in_use: impl Fn(&str, &Arc<AccessToken>) -> bool) {
        let mut entries = self.entries.lock();
        entries.retain(|server, entry| in_use(server, &entry.token));
        self.publish(&entries);
    }

    /// Puts the rejections into the report. True if that changed it.
    fn publish(&self, entries: &BTreeMap<Box<str>, ReportedRejection>) -> bool {
        let rejected = entries.iter().map(|(server, entry)| RejectedToken {
            server: server.as_ref().to_owned(),
            token: entry.token.id.as_ref().to_owned(),
            why: entry.why.clone(),
        });
        self.reports.send_if_modified(|report| {
            if entries.is_empty() && report.refused.is_empty() {
                return false;
            }
            let rejected: Vec<_> = rejected.collect();
            let is_changed = report.refused != rejected;
            report.refused = rejected;
            is_changed
        })
    }
}

/// A token that the server does not accept at all outweighs demands for scopes, which add up.
fn merge(recorded: &mut RejectionCause, why: &RejectionCause) {
    match (&mut *recorded, why) {
        (RejectionCause::Unauthorized, _) => {}
        (_, RejectionCause::Unauthorized) => *recorded = RejectionCause::Unauthorized,
        (RejectionCause::InsufficientScope(recorded), RejectionCause::InsufficientScope(more)) => {
            add(recorded, more)
        }
    }
}

fn add(recorded: &mut Vec<String>, more: &[String]) {
    for scope in more.iter().filter(|scope| scope.len() <= MAX_SCOPE_BYTES) {
        if !recorded.contains(scope) && recorded.len() < MAX_SCOPES {
            recorded.push(scope.clone());
        }
    }
}

fn bounded(why: RejectionCause) -> RejectionCause {
    match why {
        RejectionCause::Unauthorized => why,
        RejectionCause::InsufficientScope(mut scopes) => {
            scopes.retain(|scope| scope.len() <= MAX_SCOPE_BYTES);
            scopes.truncate(MAX_SCOPES);
            RejectionCause::InsufficientScope(scopes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp_auth_protocol::sync;

    fn token(id: &str) -> Arc<AccessToken> {
        let credential = sync::Credential::Bearer {
            id: id.into(),
            token: "t".into(),
            proof_key: None,
            expires_at: None,
        };
        Arc::new(AccessToken::from_credential(&credential).unwrap().unwrap())
    }

    fn scopes(names: &[&str]) -> RejectionCause {
        RejectionCause::InsufficientScope(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn rejection_reports() -> (RejectionReports, watch::Receiver<Report>) {
        let sender = watch::Sender::new(Report::default());
        let reports = sender.subscribe();
        (RejectionReports::new(sender), reports)
    }

    #[test]
    fn many_rejections_of_one_token_are_one_entry_until_another_is_in_use() {
        let (reports_of, mut reports) = rejection_reports();
        let a = token("a");
        for _ in 0..100 {
            reports_of.record("tools", &a, RejectionCause::Unauthorized, || true);
        }
        let expected = RejectedToken {
            server: "tools".into(),
            token: "a".into(),
            why: RejectionCause::Unauthorized,
        };
        assert_eq!(reports.borrow_and_update().refused, [expected]);
        reports_of.retain(|_, token| Arc::ptr_eq(token, &a));
        assert!(!reports.has_changed().unwrap(), "nothing is news");
        reports_of.retain(|_, _| false);
        assert_eq!(reports.borrow_and_update().refused, []);
        reports_of.record("tools", &a, RejectionCause::Unauthorized, || false);
        assert!(!reports.has_changed().unwrap(), "another is in use already");
    }

    #[test]
    fn demands_for_scopes_add_up_and_a_token_that_is_not_accepted_at_all_outweighs_them() {
        let (reports_of, reports) = rejection_reports();
        let a = token("a");
        let why = || reports.borrow().refused[0].why.clone();
        reports_of.record("tools", &a, scopes(&["read"]), || true);
        reports_of.record("tools", &a, scopes(&["write", "read", &"x".repeat(300)]), || true);
        assert_eq!(why(), scopes(&["read", "write"]));
        reports_of.record("tools", &a, RejectionCause::Unauthorized, || true);
        reports_of.record("tools", &a, scopes(&["more"]), || true);
        assert_eq!(why(), RejectionCause::Unauthorized);
    }

    #[test]
    fn scopes_that_nobody_grants_are_asked_for_once_for_each_token() {
        let (reports_of, _reports) = rejection_reports();
        let (a, b) = (token("a"), token("b"));
        let record = |token, names: &[&str]| reports_of.record("tools", token, scopes(names), || true);
        assert_eq!(record(&a, &["admin"]), RenewalProspect::Requested);
        reports_of.record_denied_scopes("tools", &a, &["admin".to_owned()]);
        assert_eq!(record(&a, &["admin"]), RenewalProspect::KnownDenied);
        assert_eq!(record(&a, &["admin", "other"]), RenewalProspect::Requested);
        assert_eq!(record(&b, &["admin"]), RenewalProspect::Requested);
        assert_eq!(record(&b, &[]), RenewalProspect::Requested);
        reports_of.record_denied_scopes("tools", &b, &[]);
        assert_eq!(
            record(&b, &[]),
            RenewalProspect::KnownDenied,
            "a demand that names no scope is one too"
        );
    }
}
