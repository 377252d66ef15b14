//! Discovery watch: keeps looking the authorization server up where no token is requested, and the identity provider where
//! there is one, so that what is wrong with them is known before the first user needs it. Sends no secret.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::time_after;
use crate::discovery::CACHE_TTL;
use crate::renewal::schedule::{MAX_BACKOFF, retry_at, retry_permanent_at, with_jitter};
use crate::renewal::state::Failure;
use crate::{Client, Clock, Error, Policy, ServerMetadata};

/// How long a server that was found is not looked up again: as long as metadata are used without a new search.
const INTERVAL: Duration = CACHE_TTL;

/// What came of the last search.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum DiscoveryState {
    #[default]
    Pending,
    /// The registration states the endpoints.
    NothingToDiscover,
    Found,
    Failed(Failure),
}

/// A handle on a running watch. Dropping it ends the watch and the search under way.
#[derive(Debug)]
pub struct DiscoveryWatch {
    state: watch::Receiver<DiscoveryState>,
    /// None: there is nothing to discover.
    task: Option<AbortHandle>,
}

impl DiscoveryWatch {
    /// Searches at once. Needs a tokio runtime.
    pub fn spawn(client: Client, policy: Policy, clock: Clock) -> Self {
        let discovered = Discovered {
            server: client.subscribe_discovered(),
            identity_provider: client.subscribe_identity_provider(),
        };
        let is_needed = discovered.server.is_some() || discovered.identity_provider.is_some();
        let (sender, state) = watch::channel(match is_needed {
            true => DiscoveryState::Pending,
            false => DiscoveryState::NothingToDiscover,
        });
        let task =
            is_needed.then(|| tokio::spawn(run(client, policy, clock, discovered, sender)).abort_handle());
        Self { state, task }
    }

    /// What came of the last search, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<DiscoveryState> {
        self.state.clone()
    }
}

impl Drop for DiscoveryWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What is discovered, by whoever looks for it. None: its endpoints are stated.
struct Discovered {
    server: Option<Receiver>,
    identity_provider: Option<Receiver>,
}

type Receiver = watch::Receiver<Option<Arc<ServerMetadata>>>;

impl Discovered {
    fn mark_unchanged(&mut self) {
        for receiver in [&mut self.server, &mut self.identity_provider]
            .into_iter()
            .flatten()
        {
            receiver.mark_unchanged();
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.server) => {}
            () = changed(&mut self.identity_provider) => {}
        }
    }
}

/// Never, where there is nothing to discover or nobody who would.
async fn changed(receiver: &mut Option<Receiver>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn run(
    client: Client,
    policy: Policy,
    clock: Clock,
    mut discovered: Discovered,
    state: watch::Sender<DiscoveryState>,
) {
    let mut failures = 0;
    loop {
        let outcome = client.discover_for_users().await;
        // Up to here it is this search's own.
        discovered.mark_unchanged();
        let now = clock.now();
        let (outcome, next_at) = match outcome {
            Ok(()) => {
                failures = 0;
                let next_at = time_after(now, with_jitter(INTERVAL, policy.random));
                (DiscoveryState::Found, next_at)
            }
            Err(error) => {
                failures += 1;
                let next_at = next_after(&error, failures, &policy, now);
                (DiscoveryState::Failed(Failure { at: now, error }), next_at)
            }
        };
        state.send_replace(outcome);
        tokio::select! {
            () = clock.sleep_until(next_at) => {}
            // The exchange of a user's token found it meanwhile. As it was, too: what failed may have been the search.
            () = discovered.changed() => {}
        }
    }
}

fn next_after(error: &Error, failures: u32, policy: &Policy, now: Timestamp) -> Timestamp {
    match error.is_permanent() {
        true => retry_permanent_at(now, failures, policy),
        false => retry_at(now, failures, error.retry_after(), MAX_BACKOFF, policy),
    }
}
