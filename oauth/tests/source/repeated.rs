//! Servers that issue one token until its end, as WSO2's do, and tokens of unknown life.

use std::time::Duration;

use mcp_auth_oauth::{Clock, Policy, TokenSource};

use crate::script::{Script, Step};
use crate::{at, issue, policy, serves, sleep, spawn, start, state};

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_again_is_kept_under_its_name_and_asked_for_anew_at_its_end() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [issue("one", 3600), issue("one", 3600 - 2412), issue("two", 3600)],
    );
    let (_source, mut states) = spawn(&script, &clock);
    let first = state(&mut states, |state| state.token.is_some()).await;
    let again = state(&mut states, |state| {
        state.requests == 2 && state.next_attempt_at > at(2412)
    })
    .await;
    assert_eq!(
        again.token.as_ref().unwrap().id,
        first.token.unwrap().id,
        "sidecars would take it for another token"
    );
    assert_eq!(again.next_attempt_at, at(3600));
    let second = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(second.failures_in_a_row, 0);
    assert_eq!(script.requests(), [0, 2412, 3600]);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_clock_is_behind_is_asked_again_in_a_moment() {
    let clock = Clock::starting_at(start());
    let over = || Step::Issue {
        token: "one",
        expires_in: Some(0),
        takes: 0,
    };
    let script = Script::new(
        &clock,
        [
            issue("one", 3600),
            issue("one", 1188),
            over(),
            over(),
            issue("two", 3600),
        ],
    );
    let (_source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 2412, 3600, 3601, 3602]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_comes_again_stays_rejected_and_is_asked_for_later_and_later() {
    let clock = Clock::starting_at(start());
    let one = || issue("one", 3600);
    let script = Script::new(&clock, [one(), one(), one(), one(), issue("two", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    let first = state(&mut states, |state| state.token.is_some()).await;
    source.report_rejected(&first.token.unwrap().id);
    let again = state(&mut states, |state| state.rejections_in_a_row == 2).await;
    assert!(again.rejected);
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 0, 10, 30, 70]);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_unknown_life_is_renewed_by_the_life_that_is_stated_for_it() {
    let clock = Clock::starting_at(start());
    let opaque = |token| Step::Issue {
        token,
        expires_in: None,
        takes: 0,
    };
    let script = Script::new(&clock, [opaque("one"), opaque("two"), opaque("three")]);
    let policy = Policy {
        assumed_lifetime: Duration::from_secs(7200),
        ..policy()
    };
    let source = TokenSource::spawn(script.clone(), policy, clock.clone());
    let mut states = source.subscribe();
    state(&mut states, |state| serves(state) == Some("two")).await;
    sleep(1).await;
    // Two thirds of two hours, and not of five minutes.
    assert_eq!(script.requests(), [0, 4824]);
}
