//! User-token cache: the users' own tokens (RFC 8693 token exchange), requested from the operator once for
//! each user, server and URL, and kept until they expire. The key is a keyed digest of the subject token that
//! is exchanged, so that no session of a user is kept here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::limits::Limits;
use super::wait_limit::WaitLimit;
use crate::control::exchange_client::{TokenExchanger, UserTokenRequest};
use crate::proxy::clock::unix_now;
use crate::proxy::error::ProxyError;
use crate::proxy::metrics::Metrics;
use crate::proxy::routes::access_token::AccessToken;
use crate::proxy::routes::{McpServer, UsableServer};

/// How long before its expiry a token is not used any more, since it has yet to travel and clocks differ; at
/// most half of its remaining life.
const MARGIN_SECONDS: i64 = 10;
/// How long a token without a stated expiry is used.
const DEFAULT_LIFETIME_SECONDS: i64 = 300;
/// How long a failed exchange is answered from the cache.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Token exchanges that run at the same time.
const MAX_CONCURRENT_EXCHANGES: usize = 64;

/// Identifies a user at one URL of one server, for tokens that are minted for the same.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct UserKey([u8; 32]);

pub struct UserTokens(Arc<UserTokensInner>);

struct UserTokensInner {
    exchanger: Arc<dyn TokenExchanger>,
    /// Random, so that a [`UserKey`] means nothing outside of this process.
    key: [u8; 32],
    entries: Mutex<HashMap<UserKey, UserTokenEntry>>,
    permits: Semaphore,
    limits: Limits,
    metrics: Metrics,
}

enum UserTokenEntry {
    /// A token exchange is under way; all requests of the user wait for the same result.
    InFlight(watch::Receiver<Option<ExchangeResult>>),
    Ready {
        token: Arc<AccessToken>,
        /// In Unix seconds.
        usable_until: i64,
        last_used: Instant,
        /// The MCP server has rejected it.
        rejected: bool,
    },
    Failed {
        problem: Arc<Problem>,
        expires_at: Instant,
    },
}

type ExchangeResult = Result<Arc<AccessToken>, Arc<Problem>>;

/// What the cache holds for a user.
enum CacheLookup {
    Cached(ExchangeResult),
    /// The receiver of the result, and the exchange to run if this lookup started it.
    InFlight(watch::Receiver<Option<ExchangeResult>>, Option<StartedExchange>),
    Full,
}

struct StartedExchange {
    sender: watch::Sender<Option<ExchangeResult>>,
    /// The token that the new one is to replace.
    rejected: Option<Arc<AccessToken>>,
}

impl UserTokens {
    pub fn new(exchanger: Arc<dyn TokenExchanger>, limits: Limits, metrics: Metrics) -> Self {
        Self(Arc::new(UserTokensInner {
            exchanger,
            key: rand::random(),
            entries: Mutex::default(),
            permits: Semaphore::new(MAX_CONCURRENT_EXCHANGES),
            limits,
            metrics,
        }))
    }

    pub fn key(&self, server: &McpServer, usable: &UsableServer, subject: &SecretString) -> UserKey {
        let mut digest = Sha256::new_with_prefix(self.0.key);
        let parts = [
            &*server.name,
            usable.url.as_str(),
            &*usable.credential_identity,
            subject.expose_secret(),
        ];
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        UserKey(digest.finalize().into())
    }

    /// The user's token, which is never `rejected`. Requests one from the operator if need be, once for all
    /// that wait.
    pub async fn token(
        &self,
        server: &McpServer,
        user: UserKey,
        subject: &SecretString,
        rejected: Option<&Arc<AccessToken>>,
        wait_limit: &WaitLimit,
    ) -> Result<Arc<AccessToken>, ProxyError> {
        let usable = server.require_usable()?;
        let (mut in_flight, started) = match self.0.lookup(user, rejected, unix_now()) {
            CacheLookup::Cached(outcome) => {
                return outcome.map_err(|problem| exchange_error(server, &problem));
            }
            CacheLookup::Full => {
                return Err(ProxyError::TooManyWaiting {
                    resource: server.resource.clone(),
                });
            }
            CacheLookup::InFlight(in_flight, started) => (in_flight, started),
        };
        let _permit = wait_limit.acquire(&server.resource)?;
        if let Some(started) = started {
            let request = UserTokenRequest {
                server: server.name.clone(),
                url: usable.stated_url.clone(),
                subject: subject.clone(),
                refused: started.rejected.as_ref().map(|token| token.id.clone()),
            };
            // A task of its own, so that it does not end when the client of this request goes away.
            tokio::spawn(self.0.clone().exchange(user, request, started.sender));
        }
        let outcome = match in_flight.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(aborted_problem())));
        outcome.map_err(|problem| exchange_error(server, &problem))
    }

    /// The server rejected the token, so the next request gets another.
    pub fn mark_rejected(&self, user: UserKey, rejected_token: &Arc<AccessToken>) {
        if let Some(UserTokenEntry::Ready { token, rejected, .. }) = self.0.entries.lock().get_mut(&user)
            && Arc::ptr_eq(token, rejected_token)
        {
            *rejected = true;
        }
    }

    /// Removes the entries that have expired.
    pub fn sweep(&self) {
        sweep(&mut self.0.entries.lock(), unix_now());
    }
}

impl UserTokensInner {
    fn lookup(&self, user: UserKey, unwanted: Option<&Arc<AccessToken>>, now: i64) -> CacheLookup {
        let mut entries = self.entries.lock();
        let mut replaced = unwanted.cloned();
        match entries.get_mut(&user) {
            Some(UserTokenEntry::InFlight(in_flight)) if in_flight.has_changed().is_ok() => {
                return CacheLookup::InFlight(in_flight.clone(), None);
            }
            Some(UserTokenEntry::Ready {
                token,
                usable_until,
                last_used,
                rejected,
            }) => {
                if *rejected || unwanted.is_some_and(|unwanted| Arc::ptr_eq(unwanted, token)) {
                    replaced = Some(token.clone());
                } else if now < *usable_until {
                    *last_used = Instant::now();
                    return CacheLookup::Cached(Ok(token.clone()));
                }
            }
            Some(UserTokenEntry::Failed { problem, expires_at }) if Instant::now() < *expires_at => {
                return CacheLookup::Cached(Err(problem.clone()));
            }
            Some(UserTokenEntry::InFlight(_) | UserTokenEntry::Failed { .. }) | None => {}
        }
        if entries.len() >= self.limits.max_users && !entries.contains_key(&user) {
            evict(&mut entries, now);
            if entries.len() >= self.limits.max_users {
                return CacheLookup::Full;
            }
        }
        let (sender, in_flight) = watch::channel(None);
        entries.insert(user, UserTokenEntry::InFlight(in_flight.clone()));
        let started = StartedExchange {
            sender,
            rejected: replaced,
        };
        CacheLookup::InFlight(in_flight, Some(started))
    }

    /// Runs one token exchange, caches its result and wakes those that wait for it.
    async fn exchange(
        self: Arc<Self>,
        user: UserKey,
        request: UserTokenRequest,
        sender: watch::Sender<Option<ExchangeResult>>,
    ) {
        let rejected = request.refused.clone();
        let exchange = async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            self.exchanger.exchange(request).await
        };
        let answer = timeout(self.limits.exchange_timeout, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(timeout_problem(self.limits.exchange_timeout)));
        let outcome = answer
            .and_then(|credential| match AccessToken::from_credential(&credential) {
                Ok(Some(token)) if rejected.as_ref().is_some_and(|rejected| *rejected == token.id) => {
                    Err(Problem::new(
                        "TokenRefused",
                        "the MCP server rejected the user's token, and the operator has no other",
                    ))
                }
                Ok(Some(token)) => Ok(Arc::new(token)),
                Ok(None) => Err(Problem::new(
                    "OperatorAnswerInvalid",
                    "the operator's answer is no token",
                )),
                Err(invalid) => Err(Problem::new("InvalidToken", invalid.to_string())),
            })
            .map_err(Arc::new);
        self.metrics.exchanged(outcome.is_ok());
        let entry = match &outcome {
            Ok(token) => UserTokenEntry::Ready {
                token: token.clone(),
                usable_until: usable_until(token.expires_at, unix_now()),
                last_used: Instant::now(),
                rejected: false,
            },
            Err(problem) => {
                tracing::warn!(
                    reason = problem.reason,
                    "no token for a user: {}",
                    problem.message
                );
                UserTokenEntry::Failed {
                    problem: problem.clone(),
                    expires_at: Instant::now() + FAILURE_TTL,
                }
            }
        };
        self.entries.lock().insert(user, entry);
        sender.send_replace(Some(outcome));
    }
}

/// Until when a token that was just issued is used, in Unix seconds.
fn usable_until(expires_at: Option<i64>, now: i64) -> i64 {
    match expires_at {
        None => now.saturating_add(DEFAULT_LIFETIME_SECONDS),
        Some(end) => {
            let remaining = end.saturating_sub(now).max(0);
            end.saturating_sub(MARGIN_SECONDS.min(remaining / 2))
        }
    }
}

fn sweep(entries: &mut HashMap<UserKey, UserTokenEntry>, now: i64) {
    let instant = Instant::now();
    entries.retain(|_, entry| match entry {
        UserTokenEntry::InFlight(in_flight) => in_flight.has_changed().is_ok(),
        UserTokenEntry::Ready { usable_until, .. } => now < *usable_until,
        UserTokenEntry::Failed { expires_at, .. } => instant < *expires_at,
    });
}

/// Removes the expired entries or, where there are none, the least recently used tenth: so many at once that
/// not every new user makes the whole map be searched.
fn evict(entries: &mut HashMap<UserKey, UserTokenEntry>, now: i64) {
    let entry_count = entries.len();
    sweep(entries, now);
    if entries.len() < entry_count {
        return;
    }
    let mut ready: Vec<_> = entries
        .iter()
        .filter_map(|(user, entry)| match entry {
            UserTokenEntry::Ready { last_used, .. } => Some((*last_used, *user)),
            UserTokenEntry::InFlight(_) | UserTokenEntry::Failed { .. } => None,
        })
        .collect();
    ready.sort_unstable_by_key(|(last_used, _)| *last_used);
    for (_, user) in ready.iter().take(ready.len().div_ceil(10)) {
        entries.remove(user);
    }
}

fn exchange_error(server: &McpServer, problem: &Problem) -> ProxyError {
    ProxyError::ExchangeFailed {
        resource: server.resource.clone(),
        why: problem.reason.as_str().into(),
        message: problem.message.as_str().into(),
    }
}

fn timeout_problem(within: Duration) -> Problem {
    let message = format!("the operator gave no answer within {} s", within.as_secs());
    Problem::new("ExchangeTimeout", message)
}

fn aborted_problem() -> Problem {
    Problem::new("ExchangeEnded", "the exchange ended without an answer")
}

#[cfg(test)]
mod tests;
