//! Users' own tokens (RFC 8693): each is requested when its user needs it, once however many calls wait for
//! it (single flight), and kept until shortly before its end. `cache` decides; this makes the requests.
//!
//! A user without a token gets an error, never another user's token.

mod affected_users;
mod byte_budget;
mod cache;
mod quota;

use std::sync::Arc;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::clock::time_before;
use crate::token_request::with_deadline;
use crate::{Circuit, Clock, Error, IssuedToken, Policy, Token};
use cache::{CacheLookup, UserTokenCache};
pub use quota::{TenantQuota, UserTokenLimit, UserTokenQuotas};

/// Users whose tokens are kept, unless stated otherwise.
const DEFAULT_CAPACITY: usize = 10_000;
/// Bytes of cached tokens and errors. The authorization server is not ours, and what it issues must not fill
/// the operator's memory.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Requests under way at once. The others wait in line, within their deadline.
const MAX_CONCURRENT_REQUESTS: usize = 64;

/// The users' tokens for one MCP server. Needs a tokio runtime.
pub struct UserTokens {
    shared: Arc<Shared>,
}

/// Names a user by a keyed hash of the user's token.
type User = [u8; 32];

type TokenResult = Result<Arc<Token>, Error>;

struct Shared {
    cache: Mutex<UserTokenCache>,
    policy: Policy,
    clock: Clock,
    permits: Semaphore,
    /// What the users' tokens are hashed with: without it a hash says nothing.
    pepper: SecretBox<[u8; 32]>,
}

impl UserTokens {
    pub fn new(policy: Policy, clock: Clock) -> Self {
        Self::with_capacity(DEFAULT_CAPACITY, policy, clock)
    }

    /// Keeps within what the tenant may keep of all its resources, besides.
    pub fn within(self, quota: TenantQuota) -> Self {
        let quota = quota.of_resource(Arc::downgrade(&self.shared));
        self.shared.cache.lock().set_quota(quota);
        self
    }

    /// What the tenant may keep, where that is why tokens are not kept.
    pub fn limited_to(&self) -> Option<UserTokenLimit> {
        self.shared.cache.lock().limited_to()
    }

    /// Keeps the tokens of this many users, at least one, or of fewer where their tokens are so long that
    /// they would take more than 32 MiB. The one least recently used goes first.
    pub fn with_capacity(capacity: usize, policy: Policy, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                cache: Mutex::new(UserTokenCache::new(capacity, MAX_BYTES, policy, clock.clone())),
                policy,
                clock,
                permits: Semaphore::new(MAX_CONCURRENT_REQUESTS),
                pepper: SecretBox::new(Box::new(rand::random())),
            }),
        }
    }

    /// The token for the user of this subject token: the one that is there, or the one that `exchange`
    /// brings. While a failure is fresh it is returned again, without a request. Giving up the wait does not
    /// give up the request: others may wait for it.
    pub async fn get<F>(&self, subject: &SecretString, exchange: impl FnOnce() -> F) -> TokenResult
    where
        F: Future<Output = Result<IssuedToken, Error>> + Send + 'static,
    {
        let user = self.user(subject);
        let lookup = self.shared.cache.lock().find(user);
        let in_flight = match lookup {
            CacheLookup::Token(token) => return Ok(token),
            CacheLookup::Failure(error) => return Err(error),
            CacheLookup::InFlight(in_flight) => in_flight,
            CacheLookup::Miss(request_id, started) => {
                let in_flight = started.in_flight();
                let request = Arc::clone(&self.shared).request(exchange());
                let shared = Arc::clone(&self.shared);
                let finish = move |outcome: Option<TokenResult>| {
                    let outcome = outcome.unwrap_or(Err(Error::Interrupted));
                    let outcome = shared.cache.lock().finish_request(user, request_id, outcome);
                    shared.enforce_quota();
                    outcome
                };
                tokio::spawn(started.run(request, finish).in_current_span());
                in_flight
            }
        };
        in_flight.outcome().await.unwrap_or(Err(Error::Interrupted))
    }

    /// Goes on with a token that was exchanged before, such as by another replica, where nothing is known of this user.
    pub fn insert_if_unknown(&self, subject: &SecretString, token: Arc<Token>) {
        let user = self.user(subject);
        self.shared.cache.lock().insert_if_unknown(user, token);
        self.shared.enforce_quota();
    }

    /// The MCP server answered 401 to the user's token of this id. If that is the one that is there, it is
    /// dropped, and the next [`UserTokens::get`] asks for another. Where successors are refused as well, each
    /// stays further and further until it is dropped.
    pub fn report_rejected(&self, subject: &SecretString, token_id: &str) {
        let user = self.user(subject);
        self.shared.cache.lock().reject(user, token_id);
    }

    /// Another client asks from now on: failures so far say nothing any more. Tokens stay.
    pub fn reset_failures(&self) {
        self.shared.cache.lock().reset_failures();
    }

    /// Requests begun so far.
    pub fn requests(&self) -> u64 {
        self.shared.cache.lock().requests()
    }

    /// Whether requests are made at all.
    pub fn circuit(&self) -> Circuit {
        self.shared.cache.lock().circuit()
    }

    fn user(&self, subject: &SecretString) -> User {
        let mut hash = Sha256::new();
        hash.update(self.shared.pepper.expose_secret());
        hash.update(subject.expose_secret());
        hash.finalize().into()
    }
}

impl std::fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserTokens").finish_non_exhaustive()
    }
}

impl Shared {
    fn enforce_quota(&self) {
        let quota = self.cache.lock().quota();
        quota.enforce();
    }

    /// One request, in its turn and within its deadline.
    async fn request(
        self: Arc<Self>,
        exchange: impl Future<Output = Result<IssuedToken, Error>>,
    ) -> TokenResult {
        let queued = async {
            let _turn = self.permits.acquire().await.map_err(|_| Error::Interrupted)?;
            let (sent_at, timer) = (self.clock.now(), tokio::time::Instant::now());
            let issued = exchange.await?;
            let now = self.clock.now();
            Token::issue(issued, sent_at.min(time_before(now, timer.elapsed())), now)
        };
        with_deadline(self.policy.deadline, queued).await.map(Arc::new)
    }
}
