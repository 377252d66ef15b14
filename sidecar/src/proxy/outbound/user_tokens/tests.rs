//! The tokio clock is paused: it advances only when no task has anything to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use mcp_auth_protocol::sync::{Credential, Transport};
use prometheus_client::registry::Registry;
use tokio::time::{advance, sleep};

use super::*;
use crate::control::exchange_client::UserTokenResponse;
use crate::proxy::outbound::tests::{server, server_named};

/// An operator that answers after a second, with a token whose id counts the exchanges, or does not.
struct SlowOperator {
    exchanges: AtomicUsize,
    ending: Ending,
    lifetime: i64,
}

#[derive(Clone, Copy)]
enum Ending {
    Token,
    Failure,
    Panic,
}

struct World {
    operator: Arc<SlowOperator>,
    user_tokens: UserTokens,
    wait_limit: WaitLimit,
    server: Arc<McpServer>,
    other: Arc<McpServer>,
}

struct SharedOperator(Arc<SlowOperator>);

impl TokenExchanger for SharedOperator {
    fn exchange(&self, _: UserTokenRequest) -> UserTokenResponse {
        let number = self.0.exchanges.fetch_add(1, Ordering::SeqCst);
        let (ending, end) = (self.0.ending, unix_now() + self.0.lifetime);
        Box::pin(async move {
            sleep(Duration::from_secs(1)).await;
            match ending {
                Ending::Panic => panic!("a bug in the exchange"),
                Ending::Failure => Err(Problem::new("SubjectRefused", "no")),
                Ending::Token => Ok(Credential::Bearer {
                    id: number.to_string(),
                    token: "t".into(),
                    proof_key: None,
                    expires_at: Some(end),
                }),
            }
        })
    }
}

impl World {
    fn new(limits: Limits, ending: Ending, lifetime: i64) -> Self {
        let metrics = Metrics::new(&mut Registry::default());
        let operator = Arc::new(SlowOperator {
            exchanges: AtomicUsize::new(0),
            ending,
            lifetime,
        });
        Self {
            user_tokens: UserTokens::new(
                Arc::new(SharedOperator(operator.clone())),
                limits,
                metrics.clone(),
            ),
            wait_limit: WaitLimit::new(limits.max_waiting, metrics),
            operator,
            server: server("https://tools.example.com/mcp", Transport::StreamableHttp),
            other: server_named(
                "other",
                "https://other.example.com/mcp",
                Transport::StreamableHttp,
            ),
        }
    }

    fn user(&self, subject: &str) -> UserKey {
        let usable = self.server.usable().unwrap();
        self.user_tokens.key(&self.server, usable, &subject.into())
    }

    async fn token(
        &self,
        subject: &str,
        rejected: Option<&Arc<AccessToken>>,
    ) -> Result<Arc<AccessToken>, ProxyError> {
        let user = self.user(subject);
        self.user_tokens
            .token(&self.server, user, &subject.into(), rejected, &self.wait_limit)
            .await
    }

    /// The same at another server.
    async fn other_token(&self, subject: &str) -> Result<Arc<AccessToken>, ProxyError> {
        let user = self
            .user_tokens
            .key(&self.other, self.other.usable().unwrap(), &subject.into());
        self.user_tokens
            .token(&self.other, user, &subject.into(), None, &self.wait_limit)
            .await
    }

    fn exchanges(&self) -> usize {
        self.operator.exchanges.load(Ordering::SeqCst)
    }

    fn entries(&self) -> usize {
        self.user_tokens.0.cache.lock().len()
    }
}

#[test]
fn a_token_is_used_until_shortly_before_its_end() {
    for (expires_at, expected) in [
        (Some(1_000 + 3_600), 1_000 + 3_590),
        (Some(1_000 + 10), 1_000 + 5),
        (Some(1_000), 1_000),
        (Some(900), 900),
        (Some(i64::MAX), i64::MAX - MARGIN_SECONDS),
        (None, 1_300),
    ] {
        assert_eq!(usable_until(expires_at, 1_000), expected, "{expires_at:?}");
    }
    assert_eq!(usable_until(Some(i64::MIN), 1_000), i64::MIN);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_ended_is_exchanged_anew() {
    let world = World::new(Limits::default(), Ending::Token, -1);
    world.token("ada", None).await.unwrap();
    world.token("ada", None).await.unwrap();
    assert_eq!(world.exchanges(), 2);
    world.user_tokens.sweep();
    assert_eq!(world.entries(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_asked_for_again_within_a_second() {
    let world = World::new(Limits::default(), Ending::Failure, 60);
    for _ in 0..10 {
        let error = world.token("ada", None).await.err().unwrap();
        assert_eq!(error.reason(), "exchange_failed");
    }
    assert_eq!(world.exchanges(), 1);
    assert!(world.token("bob", None).await.is_err());
    assert_eq!(world.exchanges(), 2, "another user has an exchange of their own");
    advance(FAILURE_TTL).await;
    assert!(world.token("ada", None).await.is_err());
    assert_eq!(world.exchanges(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_never_given_out_again_and_replaced_once() {
    let world = World::new(Limits::default(), Ending::Token, 60);
    let first = world.token("ada", None).await.unwrap();
    let renewed: Vec<_> = (0..10).map(|_| world.token("ada", Some(&first))).collect();
    for renewed in futures::future::join_all(renewed).await {
        assert_eq!(&*renewed.unwrap().id, "1");
    }
    assert_eq!(&*world.token("ada", Some(&first)).await.unwrap().id, "1");
    assert_eq!(world.exchanges(), 2);
    let second = world.token("ada", None).await.unwrap();
    world
        .user_tokens
        .mark_rejected(&world.server, world.user("ada"), &first);
    assert!(Arc::ptr_eq(&second, &world.token("ada", None).await.unwrap()));
    world
        .user_tokens
        .mark_rejected(&world.server, world.user("ada"), &second);
    assert_eq!(&*world.token("ada", None).await.unwrap().id, "2");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_does_not_answer_is_not_waited_for_for_long() {
    let limits = Limits {
        exchange_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let world = World::new(limits, Ending::Token, 60);
    let error = world.token("ada", None).await.err().unwrap().to_string();
    assert!(error.contains("ExchangeTimeout"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn so_many_users_are_kept_and_those_unused_for_longest_go_first() {
    let limits = Limits {
        max_users: 20,
        ..Limits::default()
    };
    let world = World::new(limits, Ending::Token, 60);
    for number in 0..100 {
        world.token(&number.to_string(), None).await.unwrap();
        // One is in use all the time.
        world.token("0", None).await.unwrap();
        assert!(world.entries() <= 20);
    }
    assert_eq!(world.exchanges(), 100);
}

#[tokio::test(start_paused = true)]
async fn while_all_places_are_taken_by_exchanges_nobody_else_is_asked_for() {
    let limits = Limits {
        max_users: 4,
        ..Limits::default()
    };
    let world = World::new(limits, Ending::Token, 60);
    let (ada, bob, eve) = tokio::join!(
        world.token("ada", None),
        world.token("bob", None),
        world.token("eve", None)
    );
    assert!(ada.is_ok() && bob.is_ok());
    assert_eq!(eve.err().unwrap().reason(), "too_many_waiting");
    assert_eq!(world.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_wait_starts_no_exchange_and_can_come_back() {
    let limits = Limits {
        max_waiting: 1,
        ..Limits::default()
    };
    let world = World::new(limits, Ending::Token, 60);
    let (ada, bob) = tokio::join!(world.token("ada", None), world.token("bob", None));
    assert!(ada.is_ok());
    assert_eq!(bob.err().unwrap().reason(), "too_many_waiting");
    assert_eq!((world.exchanges(), world.entries()), (1, 1));
    assert_eq!(&*world.token("bob", None).await.unwrap().id, "1");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_panics_is_a_failure_for_all_that_wait_and_the_next_one_is_another() {
    let world = World::new(Limits::default(), Ending::Panic, 60);
    let (first, second) = tokio::join!(world.token("ada", None), world.token("ada", None));
    for outcome in [first, second] {
        let error = outcome.err().unwrap().to_string();
        assert!(error.contains("ExchangeEnded"), "{error}");
    }
    assert_eq!(world.exchanges(), 1);
    advance(FAILURE_TTL).await;
    assert!(world.token("ada", None).await.is_err());
    assert_eq!(world.exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_takes_the_exchange_from_nobody() {
    let world = World::new(Limits::default(), Ending::Token, 60);
    let gone = timeout(Duration::from_millis(500), world.token("ada", None)).await;
    assert!(gone.is_err(), "it has waited for half of the time");
    assert_eq!(&*world.token("ada", None).await.unwrap().id, "0");
    assert_eq!(world.exchanges(), 1);
}

#[tokio::test(start_paused = true)]
async fn exchanges_for_one_server_do_not_hold_up_those_for_another() {
    let world = World::new(Limits::default(), Ending::Token, 60);
    let began = Instant::now();
    let names: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let all = futures::future::join_all(names.iter().map(|name| world.token(name, None)));
    let other = async {
        assert!(world.other_token("ada").await.is_ok());
        began.elapsed()
    };
    let (all, other) = tokio::join!(all, other);
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(
        other,
        Duration::from_secs(1),
        "its own exchange, and no other before it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_users_at_one_server_takes_no_token_from_the_users_of_another() {
    let limits = Limits {
        max_users: 10,
        ..Limits::default()
    };
    let world = World::new(limits, Ending::Token, 60);
    world.other_token("ada").await.unwrap();
    for number in 0..30 {
        world.token(&number.to_string(), None).await.unwrap();
    }
    assert_eq!((world.exchanges(), world.entries()), (31, 10));
    world.other_token("ada").await.unwrap();
    assert_eq!(world.exchanges(), 31, "it is still kept");
}

#[test]
fn users_differ_by_subject_server_and_url_and_show_nothing() {
    let world = World::new(Limits::default(), Ending::Token, 60);
    let other = World::new(Limits::default(), Ending::Token, 60);
    assert!(world.user("ada") == world.user("ada"));
    assert!(world.user("ada") != world.user("bob"));
    assert!(
        world.user("ada") != other.user("ada"),
        "each process has a key of its own"
    );
    let moved = server("https://tools.example.com/other", Transport::StreamableHttp);
    let moved = world
        .user_tokens
        .key(&moved, moved.usable().unwrap(), &"ada".into());
    assert!(world.user("ada") != moved);
}
