//! Rate limit of requests to one authorization server, shared by all clients of a process: after a restart every
//! token source wants its first token at once, and a server that asks one client to wait means the next one too.
//!
//! Users' tokens do not count: calls wait for them, and [`UserTokens`](crate::UserTokens) bounds them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oauth2::ClientId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use crate::clock::time_after;
use crate::discovery::well_known;
use crate::renewal::deadline::Deadline;
use crate::{Clock, Error, RetryAfter};

/// Requests under way at once at one server.
const MAX_CONCURRENT_REQUESTS: usize = 4;
/// How long each counts at least: no more than sixteen are made in a second.
const MIN_SPACING: Duration = Duration::from_millis(250);
/// Longest wait in line. After that a request is made out of turn: a server that is slow must not make it fail.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// The rate limits of all servers. Clones share them.
#[derive(Clone, Default)]
pub struct RequestLimiter {
    servers: Arc<Mutex<HashMap<String, Arc<ServerLimit>>>>,
}

struct ServerLimit {
    permits: Arc<Semaphore>,
    /// Until when the server asked to be left alone: by everyone, where there is no client, or by one client.
    pauses: Mutex<HashMap<Option<ClientId>, Deadline>>,
}

/// A turn at a server. Ends a moment after it is dropped.
pub(crate) struct Turn {
    server: Arc<ServerLimit>,
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl RequestLimiter {
    /// Waits for a turn at the server of this endpoint. An error while that server asks to be left alone.
    pub(crate) async fn turn(
        &self,
        endpoint: &Url,
        client_id: Option<&ClientId>,
        clock: &Clock,
    ) -> Result<Turn, Error> {
        let server = self.server(endpoint);
        server.check_pause(client_id, clock)?;
        let permit = timeout(QUEUE_TIMEOUT, Arc::clone(&server.permits).acquire_owned()).await;
        // It may have said so to one that was before this one in line.
        server.check_pause(client_id, clock)?;
        Ok(Turn {
            server,
            permit: permit.ok().and_then(Result::ok),
            began: Instant::now(),
        })
    }

    fn server(&self, endpoint: &Url) -> Arc<ServerLimit> {
        let mut servers = self.servers.lock();
        // Servers that no request is under way to and that asked for nothing need not be remembered.
        servers.retain(|_, server| Arc::strong_count(server) > 1 || !server.pauses.lock().is_empty());
        Arc::clone(servers.entry(well_known::origin(endpoint)).or_default())
    }
}

impl ServerLimit {
    fn check_pause(&self, client_id: Option<&ClientId>, clock: &Clock) -> Result<(), Error> {
        let mut pauses = self.pauses.lock();
        pauses.retain(|_, until| !until.has_passed(clock));
        let of_client = client_id.and_then(|id| pauses.get(&Some(id.clone())));
        match of_client.or_else(|| pauses.get(&None)) {
            Some(until) => Err(Error::RateLimited {
                retry_after: RetryAfter::Date(until.at),
            }),
            None => Ok(()),
        }
    }
}

impl Turn {
    /// Remembers what a failed request says about the next ones. That a client makes too many requests (429) is
    /// about that client alone: servers of many tenants count for each.
    pub fn learn(&self, error: &Error, client_id: Option<&ClientId>, clock: &Clock) {
        let (status, retry_after) = match error {
            Error::Rejected(rejection) | Error::BothSecretsRefused(rejection) => {
                (rejection.status, rejection.retry_after)
            }
            Error::HttpStatus { status, retry_after } => (*status, *retry_after),
            _ => return,
        };
        let Some(retry_after) = retry_after else { return };
        let now = clock.now();
        let until = Deadline::at(time_after(now, retry_after.wait(now)), clock);
        let of_client = client_id.filter(|_| status == 429).cloned();
        self.server.pauses.lock().insert(of_client, until);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (permit, end) = (self.permit.take(), self.began + MIN_SPACING);
        // Without a runtime there is nobody who waits.
        if let (Some(permit), Ok(runtime)) = (permit, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                sleep_until(end).await;
                drop(permit);
            });
        }
    }
}

impl Default for ServerLimit {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
            pauses: Mutex::default(),
        }
    }
}

impl fmt::Debug for RequestLimiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestLimiter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jiff::Timestamp;

    use super::*;

    fn clock() -> Clock {
        Clock::starting_at(Timestamp::from_second(1_900_000_000).unwrap())
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn failure(status: u16, retry_after: &str) -> Error {
        Error::HttpStatus {
            status,
            retry_after: RetryAfter::parse(retry_after),
        }
    }

    async fn is_free(limiter: &RequestLimiter, endpoint: &str, client: &str, clock: &Clock) -> bool {
        let client = ClientId::new(client.into());
        limiter.turn(&url(endpoint), Some(&client), clock).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_sources_that_start_together_are_four_requests_at_once_and_sixteen_a_second() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let under_way = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (limiter, clock) = (limiter.clone(), clock.clone());
                let (under_way, most) = (Arc::clone(&under_way), Arc::clone(&most));
                tokio::spawn(async move {
                    let endpoint = url("https://auth.example.com/token");
                    let turn = limiter.turn(&endpoint, None, &clock).await.unwrap();
                    most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), MAX_CONCURRENT_REQUESTS);
        // The first four at once, and then four each quarter of a second.
        let elapsed = began.elapsed();
        assert!(
            elapsed >= 24 * MIN_SPACING && elapsed < 26 * MIN_SPACING,
            "{elapsed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_holds_nobody_up_for_longer_than_the_line() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let endpoint = url("https://auth.example.com/token");
        let mut hanging = Vec::new();
        for _ in 0..MAX_CONCURRENT_REQUESTS {
            hanging.push(limiter.turn(&endpoint, None, &clock).await.unwrap());
        }
        let began = Instant::now();
        limiter.turn(&endpoint, None, &clock).await.unwrap();
        assert_eq!(began.elapsed(), QUEUE_TIMEOUT);
        // Another server is another line.
        limiter
            .turn(&url("https://other.example.com/token"), None, &clock)
            .await
            .unwrap();
        assert_eq!(began.elapsed(), QUEUE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is_by_all_clients_until_then() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let endpoint = url("https://auth.example.com/token");
        let turn = limiter.turn(&endpoint, None, &clock).await.unwrap();
        turn.learn(&failure(503, "90"), Some(&ClientId::new("a".into())), &clock);
        drop(turn);
        let error = limiter.turn(&endpoint, None, &clock).await.err().unwrap();
        assert_eq!(error.reason(), "RateLimited");
        assert_eq!(
            error.retry_after().unwrap().wait(clock.now()),
            Duration::from_secs(90)
        );
        assert!(!is_free(&limiter, "https://auth.example.com/other", "b", &clock).await);
        assert!(is_free(&limiter, "https://other.example.com/token", "b", &clock).await);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert!(is_free(&limiter, "https://auth.example.com/token", "b", &clock).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_makes_too_many_requests_is_told_to_wait_alone() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let endpoint = url("https://login.example.com/tenant/token");
        let greedy = ClientId::new("greedy".into());
        let turn = limiter.turn(&endpoint, Some(&greedy), &clock).await.unwrap();
        turn.learn(&failure(429, "30"), Some(&greedy), &clock);
        assert!(!is_free(&limiter, endpoint.as_str(), "greedy", &clock).await);
        assert!(is_free(&limiter, endpoint.as_str(), "modest", &clock).await);
    }
}
