//! Audit keys: the public keys that a resource's `spec.audit.user.jwks` leads to, fetched and kept up to date, for
//! sidecars to verify users' tokens by. Keys that were fetched once stay in use while their issuer cannot be
//! asked.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::{Clock, KeySetLocation, Limits, PublicKey};
use mcp_auth_protocol::sync::VerificationKey;
use mcp_auth_resilience::exponential;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// Between two requests: an issuer publishes a new key some time before it signs with it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Between two requests of which the first has failed.
const MIN_RETRY: Duration = Duration::from_secs(5);

/// Fetches for as long as it lives.
pub struct AuditKeys {
    /// The proxy in it may change under way.
    location: Arc<Mutex<KeySetLocation>>,
    state: Arc<Mutex<AuditKeysState>>,
    task: AbortHandle,
}

/// What is known of the keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditKeysState {
    pub keys: Arc<[VerificationKey]>,
    /// Why they could not be fetched the last time.
    pub problem: Option<String>,
}

impl AuditKeys {
    /// Goes on with what `previous` has, where it is of the same location.
    pub fn start(
        location: KeySetLocation,
        previous: Option<Self>,
        clock: &Clock,
        on_change: impl Fn() + Send + 'static,
    ) -> Self {
        if let Some(previous) = previous
            && previous.location.lock().is_same_set(&location)
        {
            *previous.location.lock() = location;
            return previous;
        }
        let location = Arc::new(Mutex::new(location));
        let state = Arc::new(Mutex::new(AuditKeysState::default()));
        let task = tokio::spawn(keep_fetched(
            location.clone(),
            state.clone(),
            clock.clone(),
            on_change,
        ));
        Self {
            location,
            state,
            task: task.abort_handle(),
        }
    }

    pub fn state(&self) -> AuditKeysState {
        self.state.lock().clone()
    }
}

impl Drop for AuditKeys {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_fetched(
    location: Arc<Mutex<KeySetLocation>>,
    state: Arc<Mutex<AuditKeysState>>,
    clock: Clock,
    on_change: impl Fn(),
) {
    let mut failures = 0;
    loop {
        let current = location.lock().clone();
        let fetched = current.fetch(Limits::default()).await;
        let before = state.lock().clone();
        let (now, wait) = match fetched {
            Ok(keys) => {
                failures = 0;
                let keys = keys.into_iter().map(verification_key).collect();
                let problem = None;
                (AuditKeysState { keys, problem }, REFRESH_INTERVAL)
            }
            Err(error) => {
                let wait = exponential(MIN_RETRY, failures, REFRESH_INTERVAL);
                failures = failures.saturating_add(1);
                let problem = Some(error.to_string());
                let keys = before.keys.clone();
                (AuditKeysState { keys, problem }, wait)
            }
        };
        if now != before {
            *state.lock() = now;
            on_change();
        }
        clock.sleep_until(clock.now() + wait).await;
    }
}

fn verification_key(key: PublicKey) -> VerificationKey {
    let PublicKey {
        kty,
        kid,
        alg,
        crv,
        n,
        e,
        x,
        y,
    } = key;
    VerificationKey {
        kty,
        kid,
        alg,
        crv,
        n,
        e,
        x,
        y,
    }
}
