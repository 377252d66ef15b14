//! A token source over time, which stands still until a test lets it go on. No sockets: under a paused clock
//! tokio skips to the next timer whenever nothing else is ready, and a socket never is in time.

// All of this is a test; clippy.toml's allowance only sees functions that are marked as one.
#![allow(clippy::unwrap_used)]

mod day;
mod demands;
mod health;
mod model;
mod permanent;
mod repeated;
mod script;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_oauth::{
    Circuit, Clock, Error, IssuedToken, Policy, RetryAfter, Token, TokenSource, TokenSourceState,
};
use script::{Script, Step, unavailable};
use tokio::sync::watch;

fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

/// Seconds from the start.
fn seconds(at: Timestamp) -> i64 {
    at.as_second() - start().as_second()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(start().as_second() + seconds).unwrap()
}

fn issue(token: &'static str, expires_in: i64) -> Step {
    Step::Issue {
        token,
        expires_in: Some(expires_in),
        takes: 0,
    }
}

/// Renews when exactly 67 % of a life are over, and backs off for a second.
fn policy() -> Policy {
    Policy {
        refresh_before: "33%".parse().unwrap(),
        random: || 0.0,
        deadline: Duration::from_secs(24 * 60 * 60),
        ..Policy::default()
    }
}

fn spawn(script: &Script, clock: &Clock) -> (TokenSource, watch::Receiver<TokenSourceState>) {
    let source = TokenSource::spawn(script.clone(), policy(), clock.clone());
    let states = source.subscribe();
    (source, states)
}

/// The first state that fits, within a day.
async fn state(
    states: &mut watch::Receiver<TokenSourceState>,
    is_awaited: impl FnMut(&TokenSourceState) -> bool,
) -> TokenSourceState {
    let day = Duration::from_secs(24 * 60 * 60);
    let state = tokio::time::timeout(day, states.wait_for(is_awaited)).await;
    state.expect("it comes within a day").unwrap().clone()
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn serves(state: &TokenSourceState) -> Option<&str> {
    state
        .token
        .as_ref()
        .map(|token| token.access_token.secret().as_str())
}

#[tokio::test(start_paused = true)]
async fn requests_a_token_at_once_and_tells_all_about_it() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [Step::Issue {
            token: "one",
            expires_in: Some(3600),
            takes: 2,
        }],
    );
    let (_source, mut states) = spawn(&script, &clock);
    let pending = states.borrow().clone();
    assert!(pending.token.is_none() && pending.last_error.is_none());

    let state = state(&mut states, |state| state.token.is_some()).await;
    let token = state.token.clone().unwrap();
    assert_eq!(serves(&state), Some("one"));
    assert_eq!(token.scope.as_deref(), Some("tools"));
    assert_eq!((token.issued_at, token.expires_at), (at(0), Some(at(3600))));
    assert_eq!(state.next_attempt_at, at(2412));
    assert_eq!(
        (state.requests, state.failures_in_a_row, state.last_error),
        (1, 0, None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_takes_over_without_a_moment_in_between() {
    let clock = Clock::starting_at(start());
    let slow = Step::Issue {
        token: "two",
        expires_in: Some(3600),
        takes: 60,
    };
    let script = Script::new(&clock, [issue("one", 3600), slow]);
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| serves(state) == Some("one")).await;
    states.mark_unchanged();
    states.changed().await.unwrap();
    assert_eq!(serves(&states.borrow()), Some("two"));
    assert_eq!(clock.now(), at(2412 + 60));
    assert_eq!(script.requests(), [0, 2412]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_lands_as_the_old_token_ends_leaves_no_gap() {
    let clock = Clock::starting_at(start());
    let late = Step::Issue {
        token: "two",
        expires_in: Some(3600),
        takes: 3600 - 2412,
    };
    let script = Script::new(&clock, [issue("one", 3600), late]);
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    states.mark_unchanged();
    states.changed().await.unwrap();
    assert_eq!(clock.now(), at(3600));
    assert_eq!(serves(&states.borrow()), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn a_token_serves_until_it_really_expires_and_not_a_second_longer() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600)]);
    let (_source, mut states) = spawn(&script, &clock);
    let failed = state(&mut states, |state| state.last_error.is_some()).await;
    assert_eq!(serves(&failed), Some("one"));
    assert_eq!(failed.last_error.unwrap().at, at(2412));

    let expired = state(&mut states, |state| state.token.is_none()).await;
    assert_eq!(clock.now(), at(3600));
    assert_eq!(expired.last_error.unwrap().error, unavailable(None));
}

#[tokio::test(start_paused = true)]
async fn expiry_is_told_while_a_request_hangs_and_the_request_goes_on() {
    let clock = Clock::starting_at(start());
    let late = Step::Issue {
        token: "two",
        expires_in: Some(36_000),
        takes: 5000,
    };
    let script = Script::new(&clock, [issue("one", 3600), late]);
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    state(&mut states, |state| state.token.is_none()).await;
    assert_eq!((clock.now(), script.under_way()), (at(3600), 1));

    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(clock.now(), at(2412 + 5000));
    assert_eq!(script.requests(), [0, 2412]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_subscribers_share_one_request() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [Step::Issue {
            token: "one",
            expires_in: Some(3600),
            takes: 3,
        }],
    );
    let (source, _states) = spawn(&script, &clock);
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut states = source.subscribe();
            tokio::spawn(async move {
                state(&mut states, |state| serves(state) == Some("one"))
                    .await
                    .requests
            })
        })
        .collect();
    for one in waiting {
        assert_eq!(one.await.unwrap(), 1);
    }
    assert_eq!(script.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn there_is_never_more_than_one_request_under_way() {
    let clock = Clock::starting_at(start());
    let steps = [
        Step::Hang,
        Step::Hang,
        issue("one", 10),
        Step::Hang,
        issue("two", 10),
    ];
    let script = Script::new(&clock, steps);
    let (source, _states) = spawn(&script, &clock);
    for _ in 0..50 {
        sleep(7).await;
        source.replace(script.clone());
        source.replace(script.clone());
    }
    assert!(script.requests().len() > 50);
    assert_eq!(script.most_under_way(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_further_and_further_apart_up_to_a_minute_and_to_five_seconds_without_a_token() {
    let longest = || Policy {
        random: || 1.0,
        ..policy()
    };
    let day = 24 * 60 * 60;
    for (first, pauses) in [
        (Some(issue("one", day)), [2, 4, 8, 16, 32, 60, 60, 60]),
        (None, [2, 4, 5, 5, 5, 5, 5, 5]),
    ] {
        let clock = Clock::starting_at(start());
        let has_token = first.is_some();
        let script = Script::new(&clock, first);
        let source = TokenSource::spawn(script.clone(), longest(), clock.clone());
        let failed = state(&mut source.subscribe(), |state| state.failures_in_a_row == 9).await;
        assert_eq!(failed.token.is_some(), has_token);
        let requests = script.requests();
        let failures = &requests[requests.len() - 9..];
        let apart: Vec<_> = failures.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(apart, pauses);
        assert_eq!(seconds(failed.next_attempt_at), failures[8] + pauses[7]);
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_token_ends_in_an_outage_the_next_try_is_five_seconds_away_at_most() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 280)]);
    let longest = Policy {
        random: || 1.0,
        ..policy()
    };
    let source = TokenSource::spawn(script.clone(), longest, clock.clone());
    let mut states = source.subscribe();
    let failed = state(&mut states, |state| state.failures_in_a_row == 6).await;
    assert!(failed.next_attempt_at > at(285), "{}", failed.next_attempt_at);
    let expired = state(&mut states, |state| state.token.is_none()).await;
    assert_eq!((clock.now(), expired.next_attempt_at), (at(280), at(285)));
    assert_eq!(expired.circuit, Circuit::Open { until: at(285) });
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_token_shortens_no_pause_that_the_server_asked_for_or_that_only_a_change_ends() {
    for error in [unavailable(RetryAfter::parse("500")), Error::NoClientId] {
        let clock = Clock::starting_at(start());
        let steps = std::iter::once(issue("one", 300))
            .chain(std::iter::repeat_with(|| Step::Fail(error.clone())).take(20));
        let script = Script::new(&clock, steps.collect::<Vec<_>>());
        let (_source, mut states) = spawn(&script, &clock);
        let before = state(&mut states, |state| state.next_attempt_at > at(310)).await;
        assert_eq!(serves(&before), Some("one"));
        let expired = state(&mut states, |state| state.token.is_none()).await;
        assert_eq!(expired.next_attempt_at, before.next_attempt_at);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_the_server_asks() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [
            Step::Fail(unavailable(RetryAfter::parse("120"))),
            Step::Fail(unavailable(Some(RetryAfter::Date(at(150))))),
            issue("one", 3600),
        ],
    );
    let (_source, mut states) = spawn(&script, &clock);
    let state = state(&mut states, |state| state.token.is_some()).await;
    assert_eq!(script.requests(), [0, 120, 150]);
    assert_eq!((state.last_error, state.failures_in_a_row), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_on_arrival_is_not_served_and_not_asked_for_all_the_time() {
    let clock = Clock::starting_at(start());
    let steps = (0..100).map(|step| issue("over", -(step % 2)));
    let script = Script::new(&clock, steps);
    let (_source, mut states) = spawn(&script, &clock);
    let state = state(&mut states, |state| state.failures_in_a_row == 4).await;
    assert!(state.token.is_none());
    assert_eq!(state.last_error.unwrap().error.reason(), "ExpiredOnArrival");
    assert_eq!(script.requests(), [0, 2, 6, 14]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_on_arrival_leaves_the_one_in_use_alone() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), issue("over", 0)]);
    let (_source, mut states) = spawn(&script, &clock);
    let state = state(&mut states, |state| state.last_error.is_some()).await;
    assert_eq!(serves(&state), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unknown_life_is_renewed_regularly_and_outlasts_an_outage() {
    let clock = Clock::starting_at(start());
    let unknown = |token| Step::Issue {
        token,
        expires_in: None,
        takes: 0,
    };
    let script = Script::new(&clock, [unknown("one"), unknown("two")]);
    let (_source, mut states) = spawn(&script, &clock);
    let second = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(clock.now(), at(201));
    assert_eq!(second.token.unwrap().expires_at, None);
    sleep(24 * 60 * 60).await;
    assert_eq!(serves(&states.borrow()), Some("two"));
    assert!(states.borrow().last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_secret_is_tried_at_once_and_its_token_takes_over() {
    let clock = Clock::starting_at(start());
    let old = Script::new(&clock, [issue("old", 3600)]);
    let new = Script::new(
        &clock,
        [Step::Issue {
            token: "new",
            expires_in: Some(3600),
            takes: 5,
        }],
    );
    let (source, mut states) = spawn(&old, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    sleep(100).await;
    source.replace(new.clone());
    sleep(4).await;
    assert_eq!(serves(&states.borrow()), Some("old"));
    let taken = state(&mut states, |state| serves(state) == Some("new")).await;
    assert_eq!((clock.now(), taken.requests), (at(105), 2));
    assert_eq!(taken.next_attempt_at, at(100 + 2412));
    assert_eq!((old.requests(), new.requests()), (vec![0], vec![100]));
}

#[tokio::test(start_paused = true)]
async fn a_bad_new_secret_leaves_the_old_token_serving_to_its_end_and_shows() {
    let clock = Clock::starting_at(start());
    let old = Script::new(&clock, [issue("old", 3600)]);
    let bad = Script::new(&clock, []);
    let (source, mut states) = spawn(&old, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    source.replace(bad.clone());
    let failed = state(&mut states, |state| state.last_error.is_some()).await;
    assert_eq!((serves(&failed), clock.now()), (Some("old"), at(0)));
    state(&mut states, |state| state.token.is_none()).await;
    assert_eq!(clock.now(), at(3600));
    assert_eq!(old.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_new_secret_ends_the_backoff_and_the_request_with_the_old_one() {
    let clock = Clock::starting_at(start());
    let old = Script::new(
        &clock,
        [Step::Fail(unavailable(RetryAfter::parse("600"))), Step::Hang],
    );
    let (source, mut states) = spawn(&old, &clock);
    state(&mut states, |state| state.failures_in_a_row == 1).await;
    sleep(5).await;
    source.replace(old.clone());
    sleep(5).await;
    assert_eq!((old.requests(), old.under_way()), (vec![0, 5], 1));

    let new = Script::new(&clock, [issue("new", 3600)]);
    source.replace(new.clone());
    state(&mut states, |state| serves(state) == Some("new")).await;
    assert_eq!((new.requests(), old.under_way()), (vec![10], 0));
}

#[tokio::test(start_paused = true)]
async fn the_failures_of_the_old_secret_do_not_slow_the_new_one_down() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, []);
    let (source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.failures_in_a_row == 5).await;
    source.replace(Script::new(&clock, []));
    state(&mut states, |state| state.failures_in_a_row == 1).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_ends_the_source_and_the_request_under_way() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), Step::Hang]);
    let (source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    sleep(3000).await;
    assert_eq!(script.under_way(), 1);
    states.mark_unchanged();
    drop(source);
    let ended = tokio::time::timeout(Duration::from_secs(1), states.changed()).await;
    assert!(ended.expect("the source ends").is_err());
    assert_eq!(script.under_way(), 0);
    sleep(24 * 60 * 60).await;
    assert_eq!(script.requests(), [0, 2412]);
}

fn token(expires_at: i64) -> Arc<Token> {
    Arc::new(Token::handed_over(
        IssuedToken::bearer("handed over"),
        at(-1000),
        Some(at(expires_at)),
    ))
}

#[tokio::test(start_paused = true)]
async fn a_token_handed_over_serves_at_once_and_is_renewed_when_due() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("own", 3600)]);
    let source = TokenSource::resume(script.clone(), policy(), clock.clone(), token(2000), None);
    let mut states = source.subscribe();
    assert_eq!(serves(&states.borrow()), Some("handed over"));
    state(&mut states, |state| serves(state) == Some("own")).await;
    // Two thirds of the 3000 seconds that it lives from its issue on.
    assert_eq!(script.requests(), [1010]);
}

#[tokio::test(start_paused = true)]
async fn a_token_handed_over_is_renewed_when_its_previous_holder_was_to_and_never_later_than_due() {
    for (planned, expected) in [(700, 700), (-5, 0), (1900, 1010)] {
        let clock = Clock::starting_at(start());
        let script = Script::new(&clock, [issue("own", 3600)]);
        let source = TokenSource::resume(
            script.clone(),
            policy(),
            clock.clone(),
            token(2000),
            Some(at(planned)),
        );
        let mut states = source.subscribe();
        state(&mut states, |state| serves(state) == Some("own")).await;
        assert_eq!(script.requests(), [expected], "planned at {planned}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_handed_over_is_not_served() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [Step::Hang]);
    let source = TokenSource::resume(script.clone(), policy(), clock.clone(), token(0), None);
    assert!(source.subscribe().borrow().token.is_none());
    sleep(1).await;
    assert_eq!(script.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn another_policy_moves_the_next_renewal_and_requests_nothing() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), issue("two", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.next_attempt_at == at(2412)).await;
    source.set_policy(Policy {
        refresh_before: "5m".parse().unwrap(),
        ..policy()
    });
    let moved = state(&mut states, |state| state.next_attempt_at != at(2412)).await;
    assert_eq!((moved.next_attempt_at, moved.requests), (at(3300), 1));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 3300]);
}

#[tokio::test(start_paused = true)]
async fn debug_output_never_holds_the_token() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("t0p-s3cret", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    let state = state(&mut states, |state| state.token.is_some()).await;
    let seen = format!("{state:?} {source:?} {:?}", state.token);
    assert!(!seen.contains("t0p-s3cret"), "{seen}");
}
