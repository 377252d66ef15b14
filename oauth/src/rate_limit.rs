//! Rate limit of requests to one authorization server, shared by all clients of a process: after a restart every
//! token source wants its first token at once, and a server that asks a client to wait means it in all its resources.
//!
//! Users' tokens do not count: calls wait for them, and [`UserTokens`](crate::UserTokens) bounds them.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
/// Of them those of one tenant, however many it has in line: the rest is for whoever else comes.
const MAX_CONCURRENT_REQUESTS_OF_TENANT: usize = 3;
/// How long each counts at least: no more than sixteen are made in a second.
const MIN_SPACING: Duration = Duration::from_millis(250);
/// Longest wait in line for a server that is slow. After that a request is made out of turn: it must not fail because of others.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);
/// A server is not slow where so many turns have ended meanwhile, half of those that there can be: the line is long, and is
/// waited in, since all that is beyond it would come at once otherwise.
const TURNS_OF_MOVING_QUEUE: usize = 160;
/// Longest wait in a line that moves: what comes later fails, and lines up again.
const MOVING_QUEUE_TIMEOUT: Duration = Duration::from_secs(40);

/// The rate limits of all servers. Clones share them.
#[derive(Clone, Default)]
pub struct RequestLimiter {
    servers: Arc<Mutex<HashMap<String, Arc<ServerLimit>>>>,
    /// Whose requests these are, where several tenants share the process.
    tenant: Option<Arc<str>>,
}

struct ServerLimit {
    permits: Arc<Semaphore>,
    /// Turns that have ended.
    ended_turns: AtomicUsize,
    tenants: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    /// Until when the server asked to be left alone by a client. Others are not held up: servers of many tenants
    /// answer for one of them, and one request each tells the others.
    pauses: Mutex<HashMap<Option<ClientId>, Deadline>>,
}

/// A turn at a server. Ends a moment after it is dropped.
pub(crate) struct Turn {
    server: Arc<ServerLimit>,
    /// The server's, and the tenant's.
    permits: Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
    began: Instant,
}

impl RequestLimiter {
    /// The same limits for requests of one tenant, such as a namespace: it leaves turns for others, however many requests it has
    /// in line.
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self {
            servers: Arc::clone(&self.servers),
            tenant: Some(tenant.into()),
        }
    }

    /// Waits for a turn at the server of this endpoint. An error while that server asks to be left alone, and where too many
    /// wait.
    pub(crate) async fn turn(
        &self,
        endpoint: &Url,
        client_id: Option<&ClientId>,
        clock: &Clock,
    ) -> Result<Turn, Error> {
        let server = self.server(endpoint);
        server.check_pause(client_id, clock)?;
        let of_tenant = self.tenant.as_ref().map(|tenant| server.of_tenant(tenant));
        let permits = async {
            // Whoever waits for the tenant's turn is not yet in the line of all.
            let of_tenant = match of_tenant {
                Some(permits) => permits.acquire_owned().await.ok(),
                None => None,
            };
            let of_server = Arc::clone(&server.permits).acquire_owned().await.ok()?;
            Some((of_server, of_tenant))
        };
        let permits = server.in_line(permits).await?;
        // It may have said so to one that was before this one in line.
        server.check_pause(client_id, clock)?;
        Ok(Turn {
            server,
            permits,
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
    /// What is waited for, or nothing where the server is slow.
    async fn in_line<T>(&self, permits: impl Future<Output = Option<T>>) -> Result<Option<T>, Error> {
        let ended_turns = || self.ended_turns.load(Ordering::Relaxed);
        let mut permits = pin!(permits);
        let mut waited = Duration::ZERO;
        while waited < MOVING_QUEUE_TIMEOUT {
            let before = ended_turns();
            if let Ok(permits) = timeout(QUEUE_TIMEOUT, &mut permits).await {
                return Ok(permits);
            }
            if ended_turns().wrapping_sub(before) < TURNS_OF_MOVING_QUEUE {
                return Ok(None);
            }
            waited += QUEUE_TIMEOUT;
        }
        Err(Error::TooManyInLine { waited })
    }

    fn of_tenant(&self, tenant: &Arc<str>) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock();
        // One that has no request under way or in line need not be remembered.
        tenants.retain(|_, permits| Arc::strong_count(permits) > 1);
        let permits = tenants
            .entry(Arc::clone(tenant))
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS_OF_TENANT)));
        Arc::clone(permits)
    }

    fn check_pause(&self, client_id: Option<&ClientId>, clock: &Clock) -> Result<(), Error> {
        let mut pauses = self.pauses.lock();
        pauses.retain(|_, until| !until.has_passed(clock));
        match pauses.get(&client_id.cloned()) {
            Some(until) => Err(Error::RateLimited {
                retry_after: RetryAfter::Date(until.at),
            }),
            None => Ok(()),
        }
    }
}

impl Turn {
    /// Remembers what a failed request says about the next ones of this client.
    pub fn learn(&self, error: &Error, client_id: Option<&ClientId>, clock: &Clock) {
        let Some(retry_after) = error.retry_after() else {
            return;
        };
        let now = clock.now();
        let until = Deadline::at(time_after(now, retry_after.wait(now)), clock);
        self.server.pauses.lock().insert(client_id.cloned(), until);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (permits, end) = (self.permits.take(), self.began + MIN_SPACING);
        self.server.ended_turns.fetch_add(1, Ordering::Relaxed);
        // Without a runtime there is nobody who waits.
        if let (Some(permits), Ok(runtime)) = (permits, tokio::runtime::Handle::try_current()) {
            // What is forgotten with the server would not hold up the next one.
            let server = Arc::clone(&self.server);
            runtime.spawn(async move {
                sleep_until(end).await;
                drop((permits, server));
            });
        }
    }
}

impl Default for ServerLimit {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
            ended_turns: AtomicUsize::new(0),
            tenants: Mutex::default(),
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

    /// Nobody has a token, as after an outage: none of them comes out of turn, however many there are.
    #[tokio::test(start_paused = true)]
    async fn a_line_that_moves_is_waited_in_and_whoever_is_too_far_behind_is_told() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let began = Instant::now();
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let (limiter, clock) = (limiter.clone(), clock.clone());
                let endpoint = url("https://auth.example.com/token");
                tokio::spawn(async move {
                    let turn = limiter.turn(&endpoint, None, &clock).await;
                    (turn.map(drop), began.elapsed())
                })
            })
            .collect();
        let mut turns = Vec::new();
        let mut told = 0;
        for task in tasks {
            match task.await.unwrap() {
                (Ok(()), at) => turns.push(at),
                (Err(error), at) => {
                    assert_eq!((error.reason(), at), ("TooManyInLine", MOVING_QUEUE_TIMEOUT));
                    assert!(!error.is_permanent());
                    told += 1;
                }
            }
        }
        turns.sort_unstable();
        for (four_earlier, at) in turns.iter().zip(&turns[MAX_CONCURRENT_REQUESTS..]) {
            assert!(
                *at - *four_earlier >= MIN_SPACING,
                "{at:?} after {four_earlier:?}"
            );
        }
        assert_eq!(turns.len() + told, 1000);
        assert!(turns.len() >= 600, "{} were served", turns.len());
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

    /// A hundred requests of one tenant, to a server that answers none of them.
    #[tokio::test(start_paused = true)]
    async fn a_tenant_with_a_hundred_requests_in_line_holds_no_other_tenant_up() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let endpoint = url("https://auth.example.com/token");
        let begun = Arc::new(AtomicUsize::new(0));
        let crowd = limiter.of_tenant("crowd");
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (crowd, clock, begun) = (crowd.clone(), clock.clone(), Arc::clone(&begun));
                let endpoint = endpoint.clone();
                tokio::spawn(async move {
                    let _turn = crowd.turn(&endpoint, None, &clock).await.unwrap();
                    begun.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                })
            })
            .collect();
        // All of them are in line.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(begun.load(Ordering::SeqCst), MAX_CONCURRENT_REQUESTS_OF_TENANT);
        let began = Instant::now();
        for tenant in ["one", "two", "three"] {
            drop(
                limiter
                    .of_tenant(tenant)
                    .turn(&endpoint, None, &clock)
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(
            began.elapsed(),
            2 * MIN_SPACING,
            "each waits for the one before it"
        );
        assert_eq!(begun.load(Ordering::SeqCst), MAX_CONCURRENT_REQUESTS_OF_TENANT);
        for task in tasks {
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_a_server_asks_to_wait_waits_in_every_resource_and_holds_up_no_other() {
        const TOKEN: &str = "https://auth.example.com/token";
        for status in [429, 503] {
            let (limiter, clock) = (RequestLimiter::default(), clock());
            let told = ClientId::new("told".into());
            let turn = limiter.turn(&url(TOKEN), Some(&told), &clock).await.unwrap();
            turn.learn(&failure(status, "90"), Some(&told), &clock);
            drop(turn);
            let error = limiter
                .turn(&url(TOKEN), Some(&told), &clock)
                .await
                .err()
                .unwrap();
            assert_eq!(error.reason(), "RateLimited");
            let wait = error.retry_after().unwrap().wait(clock.now());
            assert_eq!(wait, Duration::from_secs(90));
            assert!(is_free(&limiter, TOKEN, "another", &clock).await);
            assert!(is_free(&limiter, "https://other.example.com/token", "told", &clock).await);
            tokio::time::sleep(Duration::from_secs(90)).await;
            assert!(is_free(&limiter, TOKEN, "told", &clock).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_says_nothing_of_time_holds_nobody_up() {
        let (limiter, clock) = (RequestLimiter::default(), clock());
        let turn = limiter
            .turn(&url("https://auth.example.com/token"), None, &clock)
            .await
            .unwrap();
        turn.learn(&Error::Interrupted, None, &clock);
        drop(turn);
        assert!(
            limiter
                .turn(&url("https://auth.example.com/token"), None, &clock)
                .await
                .is_ok()
        );
    }
}
