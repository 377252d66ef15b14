use proptest::prelude::*;

use super::*;
use crate::Rejection;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_900_000_000 + second).unwrap()
}

fn scopes(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn demand(steps: &mut Steps, text: &str, second: i64) -> Demand {
    steps.demand(&scopes(text), None, at(second))
}

fn rejected(code: Code) -> Error {
    Error::Rejected(Rejection {
        code,
        description: None,
        status: 400,
        retry_after: None,
    })
}

/// Asks for what is to be asked for, and takes what comes.
fn answer(steps: &mut Steps, scope: Option<&str>) -> Step {
    let asked = steps.ask();
    let step = steps.compare(&asked, scope);
    let taken = !matches!(step, Step::Short(_));
    steps.answered(&asked, scope, taken);
    step
}

fn granted(text: &str) -> Step {
    Step::Up(StepUp::Granted { scopes: scopes(text) })
}

#[test]
fn asks_for_the_union_of_what_was_granted_and_what_is_demanded() {
    let mut steps = Steps::default();
    assert_eq!(demand(&mut steps, "b", 0), Demand::Ask);
    assert_eq!(answer(&mut steps, None), granted("b"));
    assert_eq!(demand(&mut steps, "a", 1), Demand::Ask);
    assert_eq!(steps.ask(), ["a", "b"]);
    assert_eq!(answer(&mut steps, Some("x a b")), granted("a b"));
    assert!(!steps.is_pending());
    assert_eq!(steps.ask(), ["a", "b"], "renewals ask for them too");
}

#[test]
fn what_is_on_its_way_is_not_asked_for_again_and_what_is_there_is_told() {
    let mut steps = Steps::default();
    assert_eq!(demand(&mut steps, "a b", 0), Demand::Ask);
    assert_eq!(demand(&mut steps, "b", 0), Demand::Ignore);
    answer(&mut steps, None);
    let still = |text: &str| refuse(scopes(text), NoStepUp::StillDemanded);
    assert_eq!(demand(&mut steps, "a", 0), still("a"));
    assert_eq!(steps.demand(&scopes("c"), Some("c d"), at(0)), still("c"));
    assert_eq!(demand(&mut steps, "", 0), Demand::Ignore);
}

#[test]
fn a_refused_union_is_asked_for_again_after_an_hour_and_not_before() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    let refused = steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
    assert_eq!(
        refused,
        Miss::Refused(StepUp::Refused {
            scopes: scopes("a"),
            why: NoStepUp::Failed(rejected(Code::InvalidScope))
        })
    );
    assert!(steps.ask().is_empty() && !steps.is_pending());
    assert_eq!(demand(&mut steps, "a", 3599), Demand::Ignore);
    assert_eq!(demand(&mut steps, "a", 3600), Demand::Ask);
}

#[test]
fn a_refused_scope_does_not_spoil_the_ones_demanded_later() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
    demand(&mut steps, "b", 0);
    assert_eq!(steps.ask(), ["b"]);
}

#[test]
fn three_requests_an_hour_and_no_more() {
    let mut steps = Steps::default();
    for scope in ["a", "b", "c"] {
        assert_eq!(demand(&mut steps, scope, 0), Demand::Ask);
        answer(&mut steps, None);
    }
    assert_eq!(
        demand(&mut steps, "d", 3599),
        refuse(scopes("d"), NoStepUp::TooOften)
    );
    assert_eq!(demand(&mut steps, "d", 3600), Demand::Ask);
    assert_eq!(steps.ask(), ["a", "b", "c", "d"]);
}

#[test]
fn a_token_without_the_scopes_is_a_refusal_and_one_with_some_is_half_a_step() {
    let mut steps = Steps::default();
    demand(&mut steps, "a b", 0);
    let missing = |text| StepUp::Refused {
        scopes: scopes(text),
        why: NoStepUp::NotGranted,
    };
    assert_eq!(
        steps.compare(&steps.ask(), Some("tools")),
        Step::Short(missing("a b"))
    );
    assert_eq!(answer(&mut steps, Some("tools b")), Step::Half(missing("a")));
    assert_eq!(steps.ask(), ["b"]);
}

#[test]
fn what_is_demanded_while_less_is_asked_for_is_asked_for_next() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    let asked = steps.ask();
    demand(&mut steps, "b", 0);
    steps.answered(&asked, None, true);
    assert!(steps.is_pending());
    assert_eq!(steps.ask(), ["a", "b"]);

    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    let asked = steps.ask();
    demand(&mut steps, "b", 0);
    steps.failed(&asked, &rejected(Code::InvalidScope));
    assert_eq!((steps.is_pending(), steps.ask()), (true, scopes("b")));
}

#[test]
fn failures_of_other_kinds_are_tried_again_twice_and_then_give_way_to_regular_renewals() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    for error in [Error::Interrupted, rejected(Code::InvalidClient)] {
        assert_eq!(steps.failed(&steps.ask(), &error), Miss::Other);
        assert!(steps.is_pending());
    }
    let given_up = steps.failed(&steps.ask(), &Error::Interrupted);
    assert!(matches!(given_up, Miss::GivenUp(StepUp::Refused { .. })));
    assert!(steps.ask().is_empty());
    assert_eq!(demand(&mut steps, "a", 1), Demand::Ask, "nobody refused them");
}

#[test]
fn scopes_that_are_granted_no_more_leave_the_registrations_own() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    answer(&mut steps, None);
    assert_eq!(steps.failed(&steps.ask(), &Error::Interrupted), Miss::Other);
    assert_eq!(steps.ask(), ["a"]);
    let miss = steps.failed(&steps.ask(), &rejected(Code::InvalidScope));
    assert!(matches!(miss, Miss::Refused(_)));
    assert!(steps.ask().is_empty());
}

#[test]
fn a_refusal_is_told_for_an_hour() {
    let mut steps = Steps::default();
    demand(&mut steps, "a", 0);
    let Miss::Refused(told) = steps.failed(&steps.ask(), &rejected(Code::InvalidScope)) else {
        panic!("the server refused them");
    };
    assert_eq!(steps.remembered(&told, at(3599)), told);
    assert_eq!(steps.remembered(&told, at(3600)), StepUp::None);
}

#[test]
fn scopes_that_are_none_or_too_many_are_refused_as_a_whole_and_not_repeated() {
    let malformed = refuse([], NoStepUp::Malformed);
    let long = "x".repeat(LONGEST_SCOPE + 1);
    for scope in ["", "a b", "a\"b", "a\\b", "a\nb", "é", &long] {
        let demanded = [scope.to_owned(), "fine".to_owned()];
        assert_eq!(
            Steps::default().demand(&demanded, None, at(0)),
            malformed,
            "{scope}"
        );
    }
    let many: Vec<_> = (0..=MOST_SCOPES).map(|n| n.to_string()).collect();
    assert_eq!(Steps::default().demand(&many, None, at(0)), malformed);
}

proptest! {
    #[test]
    fn whatever_happens_at_most_three_requests_an_hour_are_new_and_they_stay_small(
        events in prop::collection::vec((0_u8..6, "[a-f]( [a-f]){0,3}", 0_i64..600), 1..200),
    ) {
        let mut steps = Steps::default();
        let (mut now, mut asks) = (0, Vec::new());
        for (event, text, wait) in events {
            now += wait;
            match event {
                0..3 => {
                    if demand(&mut steps, &text, now) == Demand::Ask {
                        asks.push(now);
                        prop_assert!(steps.is_pending());
                    }
                }
                3 => { answer(&mut steps, Some(&text)); }
                4 => { steps.failed(&steps.ask(), &rejected(Code::InvalidScope)); }
                _ => { steps.failed(&steps.ask(), &Error::Interrupted); }
            }
            prop_assert!(steps.ask().len() <= MOST_SCOPES);
            prop_assert!(asks.iter().filter(|at| now - **at < 3600).count() <= MOST_ASKED);
        }
    }

    #[test]
    fn no_demand_panics(demanded in prop::collection::vec("\\PC{0,8}", 0..4), has in "\\PC{0,20}") {
        let _ = Steps::default().demand(&demanded, Some(&has), at(0));
    }
}
