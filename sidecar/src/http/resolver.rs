//! Name resolution for one server: a short cache, one lookup at a time, and the last good answer where there is no new
//! one. A lookup takes a thread of the runtime until it ends, so a name server that hangs would otherwise take one for
//! every connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use mcp_auth_resilience::single_flight::{InFlight, SingleFlightCache};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// How long an answer is used without asking again.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// How long it is used where nobody answers.
const STALE_FOR: Duration = Duration::from_secs(600);
/// How long a new answer is waited for while there is an old one.
const REFRESH_WAIT: Duration = Duration::from_millis(250);

type Addresses = Arc<[SocketAddr]>;
type Answer = Result<Addresses, Arc<io::Error>>;
type Lookup = Box<dyn Fn() -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The addresses of one name and port. Clones are one.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    lookup: Lookup,
    cache: Mutex<SingleFlightCache<(), Option<Resolved>, Answer>>,
}

#[derive(Clone)]
struct Resolved {
    addresses: Addresses,
    at: Instant,
}

impl Resolver {
    /// By the system's resolver.
    pub fn new(name: &str, port: u16) -> Self {
        let name: Arc<str> = name.into();
        Self::with(Box::new(move || {
            let name = name.clone();
            Box::pin(async move { Ok(tokio::net::lookup_host((&*name, port)).await?.collect()) })
        }))
    }

    fn with(lookup: Lookup) -> Self {
        Self(Arc::new(Inner {
            lookup,
            cache: Mutex::new(SingleFlightCache::new(1)),
        }))
    }

    /// The addresses, of which there is at least one. Waits for as long as the lookup takes if there is no other answer.
    pub async fn resolve(&self) -> Answer {
        let (known, in_flight) = self.look();
        let Some(in_flight) = in_flight else {
            return known.ok_or_else(|| Arc::new(io::Error::other("the lookup could not be started")));
        };
        let answer = async { in_flight.outcome().await.unwrap_or_else(|| Err(ended())) };
        match known {
            None => answer.await,
            Some(known) => match timeout(REFRESH_WAIT, answer).await {
                Ok(Ok(addresses)) => Ok(addresses),
                // It has failed, or takes its time and will be there for those who come later.
                Ok(Err(_)) | Err(_) => Ok(known),
            },
        }
    }

    /// None of the addresses takes connections: the next one asks again.
    pub fn expire(&self) {
        if let Some(Some(resolved)) = self.0.cache.lock().get_mut(&()) {
            resolved.at = resolved.at.checked_sub(FRESH_FOR).unwrap_or(resolved.at);
        }
    }

    /// The last answer, unless it is too old, and the lookup that is under way unless it is fresh.
    fn look(&self) -> (Option<Addresses>, Option<InFlight<Answer>>) {
        let mut cache = self.0.cache.lock();
        let mut known = None;
        if let Some(lookup) = cache.lookup(&()) {
            let age = lookup.value.as_ref().map(|resolved| resolved.at.elapsed());
            if age.is_some_and(|age| age < STALE_FOR) {
                known = lookup.value.as_ref().map(|resolved| resolved.addresses.clone());
            }
            if age.is_some_and(|age| age < FRESH_FOR) {
                return (known, None);
            }
            if let Some(in_flight) = lookup.in_flight {
                return (known, Some(in_flight.clone()));
            }
        }
        let Ok(started) = cache.start(()) else {
            return (known, None);
        };
        let in_flight = started.in_flight();
        let (lookup, inner) = ((self.0.lookup)(), self.0.clone());
        // A task of its own: others wait for it when this request has gone.
        tokio::spawn(started.run(lookup, move |outcome| inner.finish(outcome)));
        (known, Some(in_flight))
    }
}

impl Inner {
    fn finish(&self, outcome: Option<io::Result<Vec<SocketAddr>>>) -> Answer {
        let answer = match outcome {
            Some(Ok(addresses)) if addresses.is_empty() => Err(Arc::new(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ))),
            Some(Ok(addresses)) => Ok(addresses.into()),
            Some(Err(error)) => Err(Arc::new(error)),
            None => Err(ended()),
        };
        let mut cache = self.cache.lock();
        if let (Some(kept), Ok(addresses)) = (cache.finish(()), &answer) {
            *kept = Some(Resolved {
                addresses: Addresses::clone(addresses),
                at: Instant::now(),
            });
        }
        answer
    }
}

fn ended() -> Arc<io::Error> {
    Arc::new(io::Error::other("the lookup ended without an answer"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use tokio::time::{advance, sleep};

    /// A name server that the test makes slow or broken.
    #[derive(Clone, Default)]
    struct NameServer(Arc<State>);

    #[derive(Default)]
    struct State {
        asked: AtomicUsize,
        delay: Mutex<Duration>,
        fails: Mutex<bool>,
    }

    impl NameServer {
        fn resolver(&self) -> Resolver {
            let state = self.0.clone();
            Resolver::with(Box::new(move || {
                let state = state.clone();
                Box::pin(async move {
                    let number = state.asked.fetch_add(1, Ordering::SeqCst);
                    let (delay, fails) = (*state.delay.lock(), *state.fails.lock());
                    sleep(delay).await;
                    match fails {
                        true => Err(io::Error::other("SERVFAIL")),
                        false => Ok(vec![SocketAddr::from(([10, 0, 0, number as u8], 443))]),
                    }
                })
            }))
        }

        fn asked(&self) -> usize {
            self.0.asked.load(Ordering::SeqCst)
        }
    }

    fn last_byte(answer: Answer) -> u16 {
        match answer.unwrap()[0] {
            SocketAddr::V4(address) => address.ip().octets()[3].into(),
            SocketAddr::V6(_) => panic!("not from here"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_connections_ask_once_and_a_fresh_answer_is_not_asked_for() {
        let names = NameServer::default();
        *names.0.delay.lock() = Duration::from_secs(1);
        let resolver = names.resolver();
        let all = futures::future::join_all((0..50).map(|_| resolver.resolve())).await;
        assert!(all.into_iter().all(|answer| last_byte(answer) == 0));
        assert_eq!(names.asked(), 1);
        advance(FRESH_FOR - Duration::from_millis(1)).await;
        assert_eq!((last_byte(resolver.resolve().await), names.asked()), (0, 1));
        advance(Duration::from_millis(1)).await;
        *names.0.delay.lock() = Duration::ZERO;
        assert_eq!(
            last_byte(resolver.resolve().await),
            1,
            "a new answer that comes at once is used"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_hangs_or_fails_leaves_the_last_answer() {
        let names = NameServer::default();
        let resolver = names.resolver();
        resolver.resolve().await.unwrap();
        advance(FRESH_FOR).await;
        *names.0.delay.lock() = Duration::from_secs(3_600);
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(last_byte(resolver.resolve().await), 0);
            assert_eq!(began.elapsed(), REFRESH_WAIT);
        }
        assert_eq!(names.asked(), 2, "one lookup hangs, and no other joins it");

        let names = NameServer::default();
        let resolver = names.resolver();
        resolver.resolve().await.unwrap();
        advance(FRESH_FOR).await;
        *names.0.fails.lock() = true;
        assert_eq!(last_byte(resolver.resolve().await), 0);
        advance(STALE_FOR).await;
        assert!(resolver.resolve().await.is_err(), "not for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_hangs_holds_up_no_other_name() {
        let (hanging, answering) = (NameServer::default(), NameServer::default());
        *hanging.0.delay.lock() = Duration::from_secs(3_600);
        let (hanging, answering) = (hanging.resolver(), answering.resolver());
        let mut waiting: Vec<_> = (0..1_000).map(|_| Box::pin(hanging.resolve())).collect();
        for wait in &mut waiting {
            assert!(futures::poll!(wait).is_pending());
        }
        let began = Instant::now();
        assert_eq!(last_byte(answering.resolve().await), 0);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_take_no_connection_are_asked_for_again() {
        let names = NameServer::default();
        let resolver = names.resolver();
        resolver.resolve().await.unwrap();
        resolver.expire();
        assert_eq!((last_byte(resolver.resolve().await), names.asked()), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_takes_the_lookup_from_nobody() {
        let names = NameServer::default();
        *names.0.delay.lock() = Duration::from_secs(10);
        let resolver = names.resolver();
        assert!(timeout(Duration::from_secs(5), resolver.resolve()).await.is_err());
        assert_eq!((last_byte(resolver.resolve().await), names.asked()), (0, 1));
    }
}
