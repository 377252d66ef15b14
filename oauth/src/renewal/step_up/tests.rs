use proptest::prelude::*;

use super::*;
use crate::ErrorResponse;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_900_000_000 + second).unwrap()
}

fn scopes(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn demand(tracker: &mut StepUpTracker, text: &str, second: i64) -> DemandOutcome {
    tracker.demand(&scopes(text), None, at(second))
}

fn rejected(code: ErrorCode) -> Error {
    Error::Rejected(ErrorResponse {
        code,
        description: None,
        status: 400,
        retry_after: None,
        advice: None,
    })
}

/// Asks for what is to be asked for, and takes what comes.
fn answer(tracker: &mut StepUpTracker, scope: Option<&str>) -> GrantOutcome {
    let requested = tracker.scopes_to_request();
    let step = tracker.compare(&requested, scope);
    let accepted = !matches!(step, GrantOutcome::Short(_));
    tracker.record_grant(&requested, scope, accepted);
    step
}

fn granted(text: &str) -> GrantOutcome {
    GrantOutcome::Up(StepUp::Granted { scopes: scopes(text) })
}

#[test]
fn asks_for_the_union_of_what_was_granted_and_what_is_demanded() {
    let mut tracker = StepUpTracker::default();
    assert_eq!(demand(&mut tracker, "b", 0), DemandOutcome::RequestToken);
    assert_eq!(answer(&mut tracker, None), granted("b"));
    assert_eq!(demand(&mut tracker, "a", 1), DemandOutcome::RequestToken);
    assert_eq!(tracker.scopes_to_request(), ["a", "b"]);
    assert_eq!(answer(&mut tracker, Some("x a b")), granted("a b"));
    assert!(!tracker.is_pending());
    assert_eq!(
        tracker.scopes_to_request(),
        ["a", "b"],
        "renewals ask for them too"
    );
}

#[test]
fn what_is_on_its_way_is_not_asked_for_again_and_what_is_there_is_told() {
    let mut tracker = StepUpTracker::default();
    assert_eq!(demand(&mut tracker, "a b", 0), DemandOutcome::RequestToken);
    assert_eq!(demand(&mut tracker, "b", 0), DemandOutcome::Ignore);
    answer(&mut tracker, None);
    let still = |text: &str| refuse(scopes(text), StepUpError::StillDemanded);
    assert_eq!(demand(&mut tracker, "a", 0), still("a"));
    assert_eq!(tracker.demand(&scopes("c"), Some("c d"), at(0)), still("c"));
    assert_eq!(demand(&mut tracker, "", 0), DemandOutcome::Ignore);
}

#[test]
fn a_refused_union_is_asked_for_again_after_an_hour_and_not_before() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    let refused = tracker.failed(
        &tracker.scopes_to_request(),
        &rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)),
    );
    assert_eq!(
        refused,
        FailureOutcome::Refused(StepUp::Refused {
            scopes: scopes("a"),
            why: StepUpError::Failed(rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)))
        })
    );
    assert!(tracker.scopes_to_request().is_empty() && !tracker.is_pending());
    assert_eq!(demand(&mut tracker, "a", 3599), DemandOutcome::Ignore);
    assert_eq!(demand(&mut tracker, "a", 3600), DemandOutcome::RequestToken);
}

#[test]
fn a_refused_scope_does_not_spoil_the_ones_demanded_later() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    tracker.failed(
        &tracker.scopes_to_request(),
        &rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)),
    );
    demand(&mut tracker, "b", 0);
    assert_eq!(tracker.scopes_to_request(), ["b"]);
}

#[test]
fn three_requests_an_hour_and_no_more() {
    let mut tracker = StepUpTracker::default();
    for scope in ["a", "b", "c"] {
        assert_eq!(demand(&mut tracker, scope, 0), DemandOutcome::RequestToken);
        answer(&mut tracker, None);
    }
    assert_eq!(
        demand(&mut tracker, "d", 3599),
        refuse(scopes("d"), StepUpError::TooOften)
    );
    assert_eq!(demand(&mut tracker, "d", 3600), DemandOutcome::RequestToken);
    assert_eq!(tracker.scopes_to_request(), ["a", "b", "c", "d"]);
}

#[test]
fn a_token_without_the_scopes_is_a_refusal_and_one_with_some_is_half_a_step() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a b", 0);
    let missing = |text| StepUp::Refused {
        scopes: scopes(text),
        why: StepUpError::NotGranted,
    };
    assert_eq!(
        tracker.compare(&tracker.scopes_to_request(), Some("tools")),
        GrantOutcome::Short(missing("a b"))
    );
    assert_eq!(
        answer(&mut tracker, Some("tools b")),
        GrantOutcome::Half(missing("a"))
    );
    assert_eq!(tracker.scopes_to_request(), ["b"]);
}

#[test]
fn what_is_demanded_while_less_is_asked_for_is_asked_for_next() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    let requested = tracker.scopes_to_request();
    demand(&mut tracker, "b", 0);
    tracker.record_grant(&requested, None, true);
    assert!(tracker.is_pending());
    assert_eq!(tracker.scopes_to_request(), ["a", "b"]);

    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    let requested = tracker.scopes_to_request();
    demand(&mut tracker, "b", 0);
    tracker.failed(
        &requested,
        &rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)),
    );
    assert_eq!(
        (tracker.is_pending(), tracker.scopes_to_request()),
        (true, scopes("b"))
    );
}

#[test]
fn failures_of_other_kinds_are_tried_again_twice_and_then_give_way_to_regular_renewals() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    for error in [
        Error::Interrupted,
        rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidClient)),
    ] {
        assert_eq!(
            tracker.failed(&tracker.scopes_to_request(), &error),
            FailureOutcome::Other
        );
        assert!(tracker.is_pending());
    }
    let given_up = tracker.failed(&tracker.scopes_to_request(), &Error::Interrupted);
    assert!(matches!(
        given_up,
        FailureOutcome::GivenUp(StepUp::Refused { .. })
    ));
    assert!(tracker.scopes_to_request().is_empty());
    assert_eq!(
        demand(&mut tracker, "a", 1),
        DemandOutcome::RequestToken,
        "nobody refused them"
    );
}

#[test]
fn scopes_that_are_granted_no_more_leave_the_registrations_own() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    answer(&mut tracker, None);
    assert_eq!(
        tracker.failed(&tracker.scopes_to_request(), &Error::Interrupted),
        FailureOutcome::Other
    );
    assert_eq!(tracker.scopes_to_request(), ["a"]);
    let miss = tracker.failed(
        &tracker.scopes_to_request(),
        &rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)),
    );
    assert!(matches!(miss, FailureOutcome::Refused(_)));
    assert!(tracker.scopes_to_request().is_empty());
}

#[test]
fn scopes_that_are_allowed_no_more_are_neither_renewed_nor_asked_for() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a b", 0);
    answer(&mut tracker, None);
    demand(&mut tracker, "c", 0);
    assert!(tracker.retain(&scopes("b")));
    assert_eq!(
        (tracker.is_pending(), tracker.scopes_to_request()),
        (false, scopes("b"))
    );
    assert!(!tracker.retain(&scopes("b x")), "nothing is left to take away");
}

#[test]
fn a_refusal_is_told_for_an_hour() {
    let mut tracker = StepUpTracker::default();
    demand(&mut tracker, "a", 0);
    let FailureOutcome::Refused(refused) = tracker.failed(
        &tracker.scopes_to_request(),
        &rejected(ErrorCode::Basic(BasicErrorResponseType::InvalidScope)),
    ) else {
        panic!("the server refused them");
    };
    assert_eq!(tracker.last_outcome(&refused, at(3599)), refused);
    assert_eq!(tracker.last_outcome(&refused, at(3600)), StepUp::None);
}

#[test]
fn scopes_that_are_none_or_too_many_are_refused_as_a_whole_and_not_repeated() {
    let malformed = refuse([], StepUpError::Malformed);
    let long = "x".repeat(MAX_SCOPE_LEN + 1);
    for scope in ["", "a b", "a\"b", "a\\b", "a\nb", "é", &long] {
        let demanded = [scope.to_owned(), "fine".to_owned()];
        assert_eq!(
            StepUpTracker::default().demand(&demanded, None, at(0)),
            malformed,
            "{scope}"
        );
    }
    let many: Vec<_> = (0..=MAX_SCOPES).map(|n| n.to_string()).collect();
    assert_eq!(StepUpTracker::default().demand(&many, None, at(0)), malformed);
}

proptest! {
    #[test]
    fn whatever_happens_at_most_three_requests_an_hour_are_new_and_they_stay_small(
        events in prop::collection::vec((0_u8..6, "[a-f]( [a-f]){0,3}", 0_i64..600), 1..200),
    ) {
        let mut tracker = StepUpTracker::default();
        let (mut now, mut asks) = (0, Vec::new());
        for (event, text, wait) in events {
            now += wait;
            match event {
                0..3 => {
                    if demand(&mut tracker, &text, now) == DemandOutcome::RequestToken {
                        asks.push(now);
                        prop_assert!(tracker.is_pending());
                    }
                }
                3 => { answer(&mut tracker, Some(&text)); }
                4 => {
                    let code = ErrorCode::Basic(BasicErrorResponseType::InvalidScope);
                    tracker.failed(&tracker.scopes_to_request(), &rejected(code));
                }
                _ => { tracker.failed(&tracker.scopes_to_request(), &Error::Interrupted); }
            }
            prop_assert!(tracker.scopes_to_request().len() <= MAX_SCOPES);
            prop_assert!(asks.iter().filter(|at| now - **at < 3600).count() <= MAX_STEP_UPS);
        }
    }

    #[test]
    fn no_demand_panics(demanded in prop::collection::vec("\\PC{0,8}", 0..4), has in "\\PC{0,20}") {
        let _ = StepUpTracker::default().demand(&demanded, Some(&has), at(0));
    }
}
