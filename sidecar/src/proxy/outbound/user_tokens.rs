//! User-token cache: the users' own tokens (RFC 8693 token exchange), requested from the operator once for
//! each user, server and URL, and kept until they expire. The key is a keyed digest of the subject token that
//! is exchanged, so that no session of a user is kept here. What servers have of it is up to [`cache`].

mod cache;

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::sync::Problem;
use mcp_auth_resilience::single_flight::{AllInFlight, InFlight, Lookup, StartedRequest};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::limits::Limits;
use super::wait_limit::{WaitLimit, WaitPermit};
use crate::control::exchange_client::{TokenExchanger, UserTokenRequest};
use crate::proxy::clock::unix_now;
use crate::proxy::error::ProxyError;
use crate::proxy::metrics::Metrics;
use crate::proxy::request_id::RequestId;
use crate::proxy::routes::access_token::AccessToken;
use crate::proxy::routes::{McpServer, UsableServer};
use cache::UserTokenCache;

/// How long before its expiry a token is not used any more, since it has yet to travel and clocks differ; at
/// most half of its remaining life.
const MARGIN_SECONDS: i64 = 10;
/// How long a token without a stated expiry is used.
const DEFAULT_LIFETIME_SECONDS: i64 = 300;
/// How long a failed exchange is answered from the cache.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// Identifies a user at one URL of one server, for tokens that are minted for the same.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct UserKey([u8; 32]);

pub struct UserTokens(Arc<UserTokensInner>);

struct UserTokensInner {
    exchanger: Arc<dyn TokenExchanger>,
    /// Random, so that a [`UserKey`] means nothing outside of this process.
    key: [u8; 32],
    cache: Mutex<UserTokenCache>,
    limits: Limits,
    metrics: Metrics,
}

/// How a user's last token exchange ended.
enum CachedResult {
    Token {
        token: Arc<AccessToken>,
        /// In Unix seconds.
        usable_until: i64,
        /// The MCP server has rejected it.
        rejected: bool,
    },
    Failure {
        problem: Arc<Problem>,
        expires_at: Instant,
    },
}

type ExchangeResult = Result<Arc<AccessToken>, Arc<Problem>>;

/// What the cache holds for a user.
enum CacheLookup<'a> {
    Cached(ExchangeResult),
    InFlight(WaitPermit<'a>, InFlight<ExchangeResult>),
    /// An exchange is to be run now, for a token that replaces the one that was rejected.
    Miss {
        permit: WaitPermit<'a>,
        started: StartedRequest<ExchangeResult>,
        exchanges: Arc<Semaphore>,
        rejected: Option<Arc<AccessToken>>,
    },
}

impl UserTokens {
    pub fn new(exchanger: Arc<dyn TokenExchanger>, limits: Limits, metrics: Metrics) -> Self {
        Self(Arc::new(UserTokensInner {
            exchanger,
            key: rand::random(),
            cache: Mutex::new(UserTokenCache::new(limits.max_users)),
            limits,
            metrics,
        }))
    }

    pub fn key(&self, server: &McpServer, usable: &UsableServer, subject: &SecretString) -> UserKey {
        let mut digest = Sha256::new_with_prefix(self.0.key);
        let parts = [
            &*server.name,
            usable.resource_uid().unwrap_or_default(),
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
        let lookup = self.0.lookup(server, user, rejected, wait_limit)?;
        let (_permit, in_flight) = match lookup {
            CacheLookup::Cached(outcome) => {
                return outcome.map_err(|problem| exchange_error(server, &problem));
            }
            CacheLookup::InFlight(permit, in_flight) => (permit, in_flight),
            CacheLookup::Miss {
                permit,
                started,
                exchanges,
                rejected,
            } => {
                let in_flight = started.in_flight();
                let request = UserTokenRequest {
                    server: server.name.clone(),
                    url: usable.stated_url.clone(),
                    subject: subject.clone(),
                    refused: rejected.map(|token| token.id.clone()),
                };
                let exchange = Arc::clone(&self.0).exchange(request, exchanges);
                let (inner, server) = (Arc::clone(&self.0), server.name.clone());
                // A task of its own, so that it does not end when the client of this request goes away.
                let run = started.run(exchange, move |outcome| inner.finish(&server, user, outcome));
                match RequestId::current() {
                    Some(id) => tokio::spawn(id.scope(run)),
                    None => tokio::spawn(run),
                };
                (permit, in_flight)
            }
        };
        let outcome = in_flight.outcome().await;
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(aborted_problem())));
        outcome.map_err(|problem| exchange_error(server, &problem))
    }

    /// The server rejected the token, so the next request gets another.
    pub fn mark_rejected(&self, server: &McpServer, user: UserKey, rejected_token: &Arc<AccessToken>) {
        if let Some(Some(CachedResult::Token { token, rejected, .. })) =
            self.0.cache.lock().get_mut(&server.name, &user)
            && Arc::ptr_eq(token, rejected_token)
        {
            *rejected = true;
        }
    }

    /// Removes what has expired.
    pub fn sweep(&self) {
        let (now, instant) = (unix_now(), Instant::now());
        self.0.cache.lock().retain(|cached| match cached {
            Some(CachedResult::Token { usable_until, .. }) => now < *usable_until,
            Some(CachedResult::Failure { expires_at, .. }) => instant < *expires_at,
            None => false,
        });
    }
}

impl UserTokensInner {
    /// What there is for the user, which is never the `unwanted` token. Where that is nothing, an exchange is
    /// under way from now on. Whoever will wait has a permit first, so that an exchange that is entered is run.
    fn lookup<'a>(
        &self,
        server: &McpServer,
        user: UserKey,
        unwanted: Option<&Arc<AccessToken>>,
        wait_limit: &'a WaitLimit,
    ) -> Result<CacheLookup<'a>, ProxyError> {
        let mut replaced = unwanted.cloned();
        let mut cache = self.cache.lock();
        if let Some(Lookup { value, in_flight }) = cache.lookup(&server.name, &user) {
            if let Some(in_flight) = in_flight {
                let permit = wait_limit.acquire(server)?;
                return Ok(CacheLookup::InFlight(permit, in_flight.clone()));
            }
            match value {
                Some(CachedResult::Token {
                    token,
                    usable_until,
                    rejected,
                }) => {
                    if *rejected || unwanted.is_some_and(|unwanted| Arc::ptr_eq(unwanted, token)) {
                        replaced = Some(token.clone());
                    } else if unix_now() < *usable_until {
                        return Ok(CacheLookup::Cached(Ok(token.clone())));
                    }
                }
                Some(CachedResult::Failure { problem, expires_at }) if Instant::now() < *expires_at => {
                    return Ok(CacheLookup::Cached(Err(problem.clone())));
                }
                Some(CachedResult::Failure { .. }) | None => {}
            }
        }
        let permit = wait_limit.acquire(server)?;
        let (started, exchanges) =
            cache
                .start(&server.name, user)
                .map_err(|AllInFlight| ProxyError::TooManyWaiting {
                    resource: server.resource.clone(),
                })?;
        Ok(CacheLookup::Miss {
            permit,
            started,
            exchanges,
            rejected: replaced,
        })
    }

    async fn exchange(
        self: Arc<Self>,
        request: UserTokenRequest,
        exchanges: Arc<Semaphore>,
    ) -> ExchangeResult {
        let rejected = request.refused.clone();
        let exchange = async {
            // The semaphore is never closed.
            let _permit = exchanges.acquire().await;
            self.exchanger.exchange(request).await
        };
        let answer = timeout(self.limits.exchange_timeout, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(timeout_problem(self.limits.exchange_timeout)));
        answer
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
            .map_err(Arc::new)
    }

    /// Caches how an exchange ended, and returns what those get that wait for it. `None`: it was given up.
    fn finish(&self, server: &str, user: UserKey, outcome: Option<ExchangeResult>) -> ExchangeResult {
        let outcome = outcome.unwrap_or_else(|| Err(Arc::new(aborted_problem())));
        self.metrics.exchanged(outcome.is_ok());
        let result = match &outcome {
            Ok(token) => CachedResult::Token {
                token: token.clone(),
                usable_until: usable_until(token.expires_at, unix_now()),
                rejected: false,
            },
            Err(problem) => {
                tracing::warn!(
                    request = RequestId::current().map(tracing::field::display),
                    reason = problem.reason,
                    "no token for a user: {}",
                    problem.message
                );
                CachedResult::Failure {
                    problem: problem.clone(),
                    expires_at: Instant::now() + FAILURE_TTL,
                }
            }
        };
        if let Some(cached) = self.cache.lock().finish(server, user) {
            *cached = Some(result);
        }
        outcome
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
