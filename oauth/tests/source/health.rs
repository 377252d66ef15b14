//! A server that fails, a client that is replaced, a clock that is set.

use std::time::Duration;

use mcp_auth_oauth::{Circuit, Clock, Policy, RetryAfter, TokenSource, TokenSourceState};

use crate::demands::invalid_scope;
use crate::script::{Script, Step, unavailable};
use crate::{at, issue, policy, seconds, serves, sleep, spawn, start, state, token};

fn is_open(state: &TokenSourceState) -> bool {
    matches!(state.circuit, Circuit::Open { .. })
}

#[tokio::test(start_paused = true)]
async fn the_circuit_opens_after_three_failures_tries_again_with_one_request_and_closes() {
    let clock = Clock::starting_at(start());
    let down = || Step::Fail(unavailable(None));
    let slow = Step::Issue {
        token: "one",
        expires_in: Some(3600),
        takes: 5,
    };
    let script = Script::new(&clock, [down(), down(), down(), slow]);
    let (_source, mut states) = spawn(&script, &clock);
    let second = state(&mut states, |state| state.failures_in_a_row == 2).await;
    assert_eq!(second.circuit, Circuit::Closed);
    let open = state(&mut states, is_open).await;
    assert_eq!(open.circuit, Circuit::Open { until: at(3) });
    sleep(2).await;
    assert_eq!(
        (states.borrow().circuit, script.under_way()),
        (Circuit::HalfOpen, 1)
    );
    let closed = state(&mut states, |state| state.token.is_some()).await;
    assert_eq!((closed.circuit, closed.failures_in_a_row), (Circuit::Closed, 0));
    assert_eq!(script.requests(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_to_be_left_alone_is_at_once() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [Step::Fail(unavailable(RetryAfter::parse("90")))]);
    let (_source, mut states) = spawn(&script, &clock);
    let open = state(&mut states, |state| state.failures_in_a_row == 1).await;
    assert_eq!(open.circuit, Circuit::Open { until: at(90) });
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_hangs_ends_at_the_deadline_and_is_tried_again() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [Step::Hang, Step::Hang, issue("one", 3600)]);
    let policy = Policy {
        deadline: Duration::from_secs(30),
        ..policy()
    };
    let source = TokenSource::spawn(script.clone(), policy, clock.clone());
    let mut states = source.subscribe();
    let failed = state(&mut states, |state| state.last_error.is_some()).await;
    assert_eq!(failed.last_error.unwrap().error.reason(), "Timeout");
    assert_eq!(script.under_way(), 0);
    state(&mut states, |state| state.token.is_some()).await;
    assert_eq!(script.requests(), [0, 31, 62]);
}

#[tokio::test(start_paused = true)]
async fn it_shows_whether_the_token_is_the_configured_clients_own() {
    let clock = Clock::starting_at(start());
    let old = Script::new(&clock, [issue("old", 3600)]);
    let (source, mut states) = spawn(&old, &clock);
    assert!(!states.borrow().is_verified());
    let first = state(&mut states, |state| state.token.is_some()).await;
    assert!(first.is_verified());

    source.replace(Script::new(&clock, []));
    let broken = state(&mut states, |state| state.failures_in_a_row == 1).await;
    assert_eq!((serves(&broken), broken.is_verified()), (Some("old"), false));
    assert_eq!((broken.generation, broken.token_generation), (1, Some(0)));

    source.replace(Script::new(&clock, [issue("new", 3600)]));
    let mended = state(&mut states, |state| serves(state) == Some("new")).await;
    assert!(mended.is_verified());
}

#[tokio::test(start_paused = true)]
async fn another_policy_right_after_a_new_secret_does_not_put_its_request_off() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("old", 3600), issue("new", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    source.replace(script.clone());
    source.set_policy(policy());
    state(&mut states, |state| serves(state) == Some("new")).await;
    assert_eq!(script.requests(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn scopes_that_are_refused_or_not_granted_do_not_put_off_what_a_new_secret_has_to_show() {
    let scoped = |token| Step::IssueScoped {
        token,
        scope: Some("tools"),
    };
    for (answer, requests) in [
        (scoped("new"), vec![0]),
        (Step::Fail(invalid_scope()), vec![0, 1]),
    ] {
        let clock = Clock::starting_at(start());
        let old = Script::new(&clock, [scoped("old"), Step::Hang]);
        let new = Script::new(&clock, [answer, scoped("new")]);
        let (source, mut states) = spawn(&old, &clock);
        let one = state(&mut states, |state| state.token.is_some()).await;
        source.demand_scopes(&one.token.unwrap().id, vec!["a".into()]);
        source.replace(new.clone());
        let proven = state(&mut states, |state| serves(state) == Some("new")).await;
        assert!(proven.is_verified());
        assert_eq!(new.requests(), requests);
        assert_eq!(new.requested_scopes()[0], ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_handed_over_is_not_verified_until_the_client_was_issued_one_itself() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("own", 3600)]);
    let source = TokenSource::resume(script, policy(), clock, token(2000), None);
    let mut states = source.subscribe();
    assert!(!states.borrow().is_verified());
    assert!(
        state(&mut states, |state| serves(state) == Some("own"))
            .await
            .is_verified()
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_ends_the_token_and_brings_a_new_one() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), issue("two", 3600)]);
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    sleep(60).await;
    clock.set_by(10 * 24 * 3600);
    sleep(31).await;
    let two = states.borrow().clone();
    assert_eq!((serves(&two), two.failures_in_a_row), (Some("two"), 0));
    assert_eq!(script.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_stops_no_renewal_and_keeps_no_token_beyond_its_life() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), issue("two", 3600)]);
    let (_source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    sleep(60).await;
    clock.set_by(-10 * 24 * 3600);
    sleep(2412 - 60).await;
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(seconds(clock.now()), 2412 - 10 * 24 * 3600);
    assert!(!one.token.unwrap().is_expired(clock.now()));
    // The server is down from now on.
    state(&mut states, |state| state.token.is_none()).await;
    assert_eq!(seconds(clock.now()), 2412 + 3600 - 10 * 24 * 3600);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_while_scopes_are_refused_stops_no_renewal() {
    let clock = Clock::starting_at(start());
    let scoped = |token| Step::IssueScoped {
        token,
        scope: Some("tools"),
    };
    let script = Script::new(&clock, [scoped("one"), scoped("short"), scoped("two")]);
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    let began = tokio::time::Instant::now();
    clock.set_by(-10 * 24 * 3600);
    source.demand_scopes(&one.token.unwrap().id, vec!["a".into()]);
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2412));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_while_a_request_is_under_way_lengthens_no_life() {
    // Set forward it seems to have taken longer, as after a sleep of the machine, and the life counts from
    // its start.
    for (by, expected) in [(-24 * 3600, 3590), (1800, 1790)] {
        let clock = Clock::starting_at(start());
        let slow = Step::Issue {
            token: "one",
            expires_in: Some(3600),
            takes: 10,
        };
        let script = Script::new(&clock, [slow]);
        let (_source, mut states) = spawn(&script, &clock);
        sleep(5).await;
        clock.set_by(by);
        let one = state(&mut states, |state| state.token.is_some()).await;
        let remaining = one.token.unwrap().expires_at.unwrap().duration_since(clock.now());
        assert_eq!(remaining.as_secs(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn another_policy_on_a_clock_that_was_set_back_leaves_no_gap_behind_the_tokens_end() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, [issue("one", 3600), issue("two", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    let began = tokio::time::Instant::now();
    state(&mut states, |state| state.token.is_some()).await;
    sleep(60).await;
    clock.set_by(-10 * 24 * 3600);
    source.set_policy(Policy {
        refresh_before: "1%".parse().unwrap(),
        ..policy()
    });
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(began.elapsed(), Duration::from_secs(3600));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_by_just_the_backoff_makes_no_hot_loop() {
    let clock = Clock::starting_at(start());
    let busy = || Step::Fail(unavailable(RetryAfter::parse("45")));
    let script = Script::new(
        &clock,
        std::iter::repeat_with(busy).take(1000).collect::<Vec<_>>(),
    );
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.failures_in_a_row == 1).await;
    // The alarm for the second attempt rings by its timer, and the third is due when the clock shows the same
    // again.
    sleep(44).await;
    clock.set_by(-45);
    sleep(60).await;
    assert!(
        script.requests().len() <= 4,
        "{} requests",
        script.requests().len()
    );
}
