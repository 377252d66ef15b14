//! Tokens in use that MCP servers refused, as the operator is told of them: at most one for each server, for as long
//! as it is in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_auth_protocol::sync::{RefusedBecause, RefusedToken, Report};
use tokio::sync::watch;

use super::token::Token;

/// Scopes of one challenge that are passed on; the longest of them. What a server demands beyond that is no scope.
const MAX_SCOPES: usize = 64;
const MAX_SCOPE: usize = 256;

pub struct Refusals {
    entries: Mutex<BTreeMap<Box<str>, Entry>>,
    reports: watch::Sender<Report>,
}

struct Entry {
    token: Arc<Token>,
    why: RefusedBecause,
    /// Scopes that no other token has come for, once there were any such demands: asking again would only make more
    /// requests wait in vain.
    denied: Option<Vec<String>>,
}

/// What to expect of a refusal that was entered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prospect {
    /// The operator is asked for another token.
    Asked,
    /// It was asked for these scopes before, in vain.
    Denied,
}

impl Refusals {
    pub fn new(reports: watch::Sender<Report>) -> Self {
        Self {
            entries: Mutex::default(),
            reports,
        }
    }

    /// Enters a refusal of `token`, unless `in_use` says that another is in use by now.
    pub fn enter(
        &self,
        server: &str,
        token: &Arc<Token>,
        why: RefusedBecause,
        in_use: impl FnOnce() -> bool,
    ) -> Prospect {
        let mut entries = self.lock();
        // Looked at under the lock: a table that comes after this takes the entry out again.
        if !in_use() {
            return Prospect::Asked;
        }
        let why = bounded(why);
        let entry = match entries.get_mut(server) {
            Some(entry) if Arc::ptr_eq(&entry.token, token) => {
                merge(&mut entry.why, &why);
                entry
            }
            _ => {
                let entry = Entry {
                    token: token.clone(),
                    why: why.clone(),
                    denied: None,
                };
                entries.insert(server.into(), entry);
                entries.get_mut(server).expect("it was inserted a line above")
            }
        };
        let denied = match (&why, &entry.denied) {
            (RefusedBecause::InsufficientScope(scopes), Some(denied)) => {
                scopes.iter().all(|scope| denied.contains(scope))
            }
            _ => false,
        };
        if self.publish(&entries) {
            // Not what it says: that is the server's own text.
            let unauthorized = why == RefusedBecause::Unauthorized;
            tracing::warn!(
                server,
                unauthorized,
                "token refused; the operator is asked for another"
            );
        }
        match denied {
            true => Prospect::Denied,
            false => Prospect::Asked,
        }
    }

    /// No other token has come for `scopes`.
    pub fn deny(&self, server: &str, token: &Arc<Token>, scopes: &[String]) {
        let mut entries = self.lock();
        let entry = entries
            .get_mut(server)
            .filter(|entry| Arc::ptr_eq(&entry.token, token));
        if let Some(entry) = entry {
            add(entry.denied.get_or_insert_default(), scopes);
        }
    }

    /// The server takes the token again.
    pub fn forget(&self, server: &str, token: &Arc<Token>) {
        let mut entries = self.lock();
        if entries
            .get(server)
            .is_some_and(|entry| Arc::ptr_eq(&entry.token, token))
        {
            entries.remove(server);
            self.publish(&entries);
        }
    }

    /// Takes out the tokens that are not in use any more.
    pub fn keep(&self, in_use: impl Fn(&str, &Arc<Token>) -> bool) {
        let mut entries = self.lock();
        entries.retain(|server, entry| in_use(server, &entry.token));
        self.publish(&entries);
    }

    /// Whether that is news.
    fn publish(&self, entries: &BTreeMap<Box<str>, Entry>) -> bool {
        let told = entries.iter().map(|(server, entry)| RefusedToken {
            server: server.as_ref().to_owned(),
            token: entry.token.id.as_ref().to_owned(),
            why: entry.why.clone(),
        });
        self.reports.send_if_modified(|report| {
            if entries.is_empty() && report.refused.is_empty() {
                return false;
            }
            let refused: Vec<_> = told.collect();
            let news = report.refused != refused;
            report.refused = refused;
            news
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token that is not taken at all is the graver refusal; demands for scopes add up.
fn merge(known: &mut RefusedBecause, why: &RefusedBecause) {
    match (&mut *known, why) {
        (RefusedBecause::Unauthorized, _) => {}
        (_, RefusedBecause::Unauthorized) => *known = RefusedBecause::Unauthorized,
        (RefusedBecause::InsufficientScope(known), RefusedBecause::InsufficientScope(more)) => {
            add(known, more)
        }
    }
}

fn add(known: &mut Vec<String>, more: &[String]) {
    for scope in more.iter().filter(|scope| scope.len() <= MAX_SCOPE) {
        if !known.contains(scope) && known.len() < MAX_SCOPES {
            known.push(scope.clone());
        }
    }
}

fn bounded(why: RefusedBecause) -> RefusedBecause {
    match why {
        RefusedBecause::Unauthorized => why,
        RefusedBecause::InsufficientScope(mut scopes) => {
            scopes.retain(|scope| scope.len() <= MAX_SCOPE);
            scopes.truncate(MAX_SCOPES);
            RefusedBecause::InsufficientScope(scopes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp_auth_protocol::sync;

    fn token(id: &str) -> Arc<Token> {
        let credential = sync::Credential::Bearer {
            id: id.into(),
            token: "t".into(),
            proof_key: None,
            expires_at: None,
        };
        Arc::new(Token::of(&credential).unwrap().unwrap())
    }

    fn scopes(names: &[&str]) -> RefusedBecause {
        RefusedBecause::InsufficientScope(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn refusals() -> (Refusals, watch::Receiver<Report>) {
        let sender = watch::Sender::new(Report::default());
        let reports = sender.subscribe();
        (Refusals::new(sender), reports)
    }

    #[test]
    fn many_refusals_of_one_token_are_one_entry_until_another_is_in_use() {
        let (refusals, mut reports) = refusals();
        let a = token("a");
        for _ in 0..100 {
            refusals.enter("tools", &a, RefusedBecause::Unauthorized, || true);
        }
        let expected = RefusedToken {
            server: "tools".into(),
            token: "a".into(),
            why: RefusedBecause::Unauthorized,
        };
        assert_eq!(reports.borrow_and_update().refused, [expected]);
        refusals.keep(|_, token| Arc::ptr_eq(token, &a));
        assert!(!reports.has_changed().unwrap(), "nothing is news");
        refusals.keep(|_, _| false);
        assert_eq!(reports.borrow_and_update().refused, []);
        refusals.enter("tools", &a, RefusedBecause::Unauthorized, || false);
        assert!(!reports.has_changed().unwrap(), "another is in use already");
    }

    #[test]
    fn demands_for_scopes_add_up_and_a_token_that_is_not_taken_at_all_outweighs_them() {
        let (refusals, reports) = refusals();
        let a = token("a");
        let why = || reports.borrow().refused[0].why.clone();
        refusals.enter("tools", &a, scopes(&["read"]), || true);
        refusals.enter("tools", &a, scopes(&["write", "read", &"x".repeat(300)]), || true);
        assert_eq!(why(), scopes(&["read", "write"]));
        refusals.enter("tools", &a, RefusedBecause::Unauthorized, || true);
        refusals.enter("tools", &a, scopes(&["more"]), || true);
        assert_eq!(why(), RefusedBecause::Unauthorized);
    }

    #[test]
    fn scopes_that_nobody_grants_are_asked_for_once_for_each_token() {
        let (refusals, _reports) = refusals();
        let (a, b) = (token("a"), token("b"));
        let enter = |token, names: &[&str]| refusals.enter("tools", token, scopes(names), || true);
        assert_eq!(enter(&a, &["admin"]), Prospect::Asked);
        refusals.deny("tools", &a, &["admin".to_owned()]);
        assert_eq!(enter(&a, &["admin"]), Prospect::Denied);
        assert_eq!(enter(&a, &["admin", "other"]), Prospect::Asked);
        assert_eq!(enter(&b, &["admin"]), Prospect::Asked);
        assert_eq!(enter(&b, &[]), Prospect::Asked);
        refusals.deny("tools", &b, &[]);
        assert_eq!(
            enter(&b, &[]),
            Prospect::Denied,
            "a demand that names no scope is one too"
        );
    }
}
