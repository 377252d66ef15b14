//! Failures that last until somebody changes something, and what they cost over a day.

use mcp_auth_oauth::{ClaimMismatchError, Clock, Error, Policy, TokenSource};

use crate::script::{Script, Step, unavailable};
use crate::{issue, policy, serves, sleep, spawn, start, state};

const DAY: u64 = 24 * 60 * 60;

/// The token is minted, and thrown away.
fn mismatch() -> Step {
    Step::Fail(Error::TokenMismatch(ClaimMismatchError {
        claim: "aud".into(),
        expected: "\"https://tools.example.com/mcp\"".into(),
        found: "\"account\"".into(),
    }))
}

/// Requests of the first day, where each comes to what this makes of its number.
async fn requests_of_a_day(step: fn(usize) -> Step) -> usize {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, (0..10_000).map(step).collect::<Vec<_>>());
    let (_source, _states) = spawn(&script, &clock);
    sleep(DAY).await;
    script.requests().len()
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_fits_is_minted_some_150_times_a_day_and_a_healthy_one_36_times() {
    assert_eq!(requests_of_a_day(|_| mismatch()).await, 152);
    assert_eq!(
        requests_of_a_day(|_| Step::Fail(Error::AssertionUsed {
            field: "jwtBearer.assertionRef"
        }))
        .await,
        152
    );
    // Renewed at two thirds of an hour.
    let healthy = |nth: usize| issue(["one", "another"][nth % 2], 3600);
    assert_eq!(requests_of_a_day(healthy).await, 36);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_still_asked_within_five_seconds_where_no_token_serves() {
    let clock = Clock::starting_at(start());
    let script = Script::new(&clock, []);
    let longest = Policy {
        random: || 1.0,
        ..policy()
    };
    let source = TokenSource::spawn(script, longest, clock.clone());
    let down = state(&mut source.subscribe(), |state| state.failures_in_a_row == 50).await;
    let wait = down.next_attempt_at.duration_since(clock.now()).as_secs();
    assert_eq!(wait, 5);
    assert_eq!(down.last_error.unwrap().error, unavailable(None));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_resource_or_its_secret_is_tried_at_once_and_starts_the_row_over() {
    let clock = Clock::starting_at(start());
    let wrong = Script::new(
        &clock,
        std::iter::repeat_with(mismatch).take(100).collect::<Vec<_>>(),
    );
    let (source, mut states) = spawn(&wrong, &clock);
    state(&mut states, |state| state.failures_in_a_row == 8).await;
    sleep(10).await;
    let changed_at = crate::seconds(clock.now());

    let right = Script::new(&clock, [mismatch(), issue("one", 3600)]);
    source.replace(right.clone());
    let mended = state(&mut states, |state| state.token.is_some()).await;
    assert_eq!(serves(&mended), Some("one"));
    assert_eq!(right.requests(), [changed_at, changed_at + 2]);
    assert_eq!(wrong.requests().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_serves_goes_on_through_failures_of_its_renewal_and_ends_in_time() {
    let clock = Clock::starting_at(start());
    let script = Script::new(
        &clock,
        [issue("one", 300), mismatch(), mismatch(), issue("two", 300)],
    );
    let (_source, mut states) = spawn(&script, &clock);
    let failed = state(&mut states, |state| state.failures_in_a_row == 2).await;
    assert_eq!(serves(&failed), Some("one"));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 201, 203, 207]);
}
