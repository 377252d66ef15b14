//! Shared tokens: token sources of one tenant whose registrations would bring the very same token have it requested once.
//! Each source goes on deciding by itself when it wants another one; what the others have had requested in the meantime is
//! good enough for it, and no two of them request at once.
//!
//! Nothing is shared across tenants, and nothing that is bound to a key or found by an MCP server
//! ([`TokenDigest::of`](crate::TokenDigest::of)).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::server_hints::ServerHints;
use crate::token_request::{TokenRequestFuture, TokenRequester};
use crate::{Clock, Error, IssuedToken, TokenDigest, TokenRequest};

/// The registrations of a process. Clones share them.
#[derive(Clone, Default)]
pub struct SharedTokens(Arc<Mutex<Slots>>);

type Slots = HashMap<(Arc<str>, TokenDigest), Weak<Slot>>;

/// One registration of one tenant.
#[derive(Default)]
pub struct Slot {
    /// Held by the one source that requests.
    newest: tokio::sync::Mutex<Newest>,
    /// Requests that have ended, of whichever source.
    ended: AtomicU64,
    /// What the answers so far taught, for all sources: it is the same server.
    pub(crate) hints: Arc<ServerHints>,
}

/// The outcome of the last request.
#[derive(Default)]
struct Newest {
    /// Of the token, which no other has; 0 where there is none yet.
    serial: u64,
    token: Option<(IssuedToken, Timestamp)>,
    failure: Option<Error>,
}

/// Requests tokens for one source, by way of what others have. Clones are one.
#[derive(Clone)]
pub struct SharedRequester(Arc<Requester>);

struct Requester {
    requester: Box<dyn TokenRequester>,
    clock: Clock,
    slot: Option<Arc<Slot>>,
    /// Of the token that this source got last. 0: it had none from here.
    received: AtomicU64,
}

impl SharedTokens {
    /// The slot of a registration; none where its tokens are shared with nobody.
    pub fn slot(&self, tenant: &str, digest: Option<TokenDigest>) -> Option<Arc<Slot>> {
        let key = (Arc::from(tenant), digest?);
        let mut slots = self.0.lock();
        if let Some(slot) = slots.get(&key).and_then(Weak::upgrade) {
            return Some(slot);
        }
        // Those that no source is of any more need not be remembered.
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::default());
        slots.insert(key, Arc::downgrade(&slot));
        Some(slot)
    }
}

impl SharedRequester {
    pub fn new(requester: impl TokenRequester, slot: Option<Arc<Slot>>, clock: Clock) -> Self {
        Self(Arc::new(Requester {
            requester: Box::new(requester),
            clock,
            slot,
            received: AtomicU64::new(0),
        }))
    }
}

impl TokenRequester for SharedRequester {
    fn request(&self, request: &TokenRequest) -> TokenRequestFuture<'_> {
        match &self.0.slot {
            // What one MCP server demands is no other's business.
            Some(slot) if request.scopes.is_empty() => {
                let request = request.clone();
                Box::pin(async move { self.0.request(slot, &request).await })
            }
            _ => self.0.requester.request(request),
        }
    }
}

impl Requester {
    async fn request(&self, slot: &Slot, request: &TokenRequest) -> Result<IssuedToken, Error> {
        let ended_before = slot.ended.load(Ordering::SeqCst);
        let mut newest = slot.newest.lock().await;
        if let Some(issued) = self.take(&newest, request) {
            self.received.store(newest.serial, Ordering::SeqCst);
            return Ok(issued);
        }
        // It failed while this source waited for its turn, and would fail once more.
        if slot.ended.load(Ordering::SeqCst) != ended_before
            && let Some(failure) = &newest.failure
        {
            return Err(failure.clone());
        }
        let sent_at = self.clock.now();
        let outcome = self.requester.request(request).await;
        slot.ended.fetch_add(1, Ordering::SeqCst);
        match &outcome {
            Ok(issued) => {
                newest.serial += 1;
                newest.token = Some((issued.clone(), sent_at));
                newest.failure = None;
                self.received.store(newest.serial, Ordering::SeqCst);
            }
            Err(error) => newest.failure = Some(error.clone()),
        }
        outcome
    }

    /// The newest token, if it is another one than this source had, and half of its life is left at least: one that is about
    /// to be renewed would have to be renewed here too.
    fn take(&self, newest: &Newest, request: &TokenRequest) -> Option<IssuedToken> {
        let (issued, sent_at) = newest.token.as_ref()?;
        let had_newest = match self.received.load(Ordering::SeqCst) {
            // It had none from here and may have this very one all the same: by the requester before this one, or by another
            // process. Taken for a new one, it would be renewed at its end, as that of a server that has no other until then.
            0 => {
                let in_use = request.in_use.as_ref();
                in_use.is_some_and(|token| token.secret() == issued.access_token.secret())
            }
            received => received == newest.serial,
        };
        if had_newest {
            return None;
        }
        let age = Duration::try_from(self.clock.now().duration_since(*sent_at)).ok()?;
        let life = match issued.expires_in {
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).ok()?),
            None => request.assumed_lifetime,
        };
        (age <= life / 2).then(|| IssuedToken {
            age,
            ..issued.clone()
        })
    }
}

impl fmt::Debug for SharedTokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedTokens").finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedRequester {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedRequester").finish_non_exhaustive()
    }
}
