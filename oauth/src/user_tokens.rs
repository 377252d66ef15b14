//! Users' own tokens (RFC 8693): each is requested when its user needs it, once however many calls wait for
//! it (single flight), and kept until shortly before its end. `cache` decides; this makes the requests.
//!
//! A user without a token gets an error, never another user's token.

mod byte_budget;
mod cache;
mod lru;

use std::sync::Arc;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

use crate::clock::time_before;
use crate::token_request::with_deadline;
use crate::{Circuit, Clock, Error, IssuedToken, Policy, Token};
use cache::{CacheLookup, User, UserTokenCache};

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

type TokenResult = Result<Arc<Token>, Error>;

struct Shared {
    cache: Mutex<UserTokenCache>,
    policy: Policy,
    clock: Clock,
    permits: Semaphore,
    /// What the users' tokens are hashed with: a hash tells nothing to who does not have this.
    pepper: SecretBox<[u8; 32]>,
}

/// In-flight guard: brings a request to its end, even where its exchange panics or is given up.
struct InFlightGuard {
    shared: Arc<Shared>,
    user: User,
    request_id: u64,
    waiting: watch::Sender<Option<TokenResult>>,
}

impl UserTokens {
    pub fn new(policy: Policy, clock: Clock) -> Self {
        Self::with_capacity(DEFAULT_CAPACITY, policy, clock)
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
        let mut waiting = match lookup {
            CacheLookup::Token(token) => return Ok(token),
            CacheLookup::Failure(error) => return Err(error),
            CacheLookup::InFlight(waiting) => waiting,
            CacheLookup::Miss(request_id, sender) => {
                let waiting = sender.subscribe();
                let guard = InFlightGuard {
                    shared: Arc::clone(&self.shared),
                    user,
                    request_id,
                    waiting: sender,
                };
                tokio::spawn(guard.run(exchange()).in_current_span());
                waiting
            }
        };
        match waiting.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Error::Interrupted)),
            Err(_) => Err(Error::Interrupted),
        }
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

impl InFlightGuard {
    async fn run(self, exchange: impl Future<Output = Result<IssuedToken, Error>>) {
        let shared = Arc::clone(&self.shared);
        let queued = async {
            let _turn = shared.permits.acquire().await.map_err(|_| Error::Interrupted)?;
            let (sent_at, timer) = (shared.clock.now(), tokio::time::Instant::now());
            let issued = exchange.await?;
            let now = shared.clock.now();
            Token::issue(issued, sent_at.min(time_before(now, timer.elapsed())), now)
        };
        let outcome = with_deadline(shared.policy.deadline, queued).await;
        self.finish_request(outcome.map(Arc::new));
    }

    fn finish_request(&self, outcome: TokenResult) {
        let outcome = self
            .shared
            .cache
            .lock()
            .finish_request(self.user, self.request_id, outcome);
        self.waiting.send_replace(Some(outcome));
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.waiting.borrow().is_none() {
            self.finish_request(Err(Error::Interrupted));
        }
    }
}
