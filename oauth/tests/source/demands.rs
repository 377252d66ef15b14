//! What resource servers say of a token: refused (401), and not enough (403).

use mcp_auth_oauth::{
    BasicErrorResponseType, Circuit, Clock, Error, ErrorCode, ErrorResponse, StepUp, StepUpError,
    TokenSource, TokenSourceState,
};

use crate::script::{Script, Step, unavailable};
use crate::{at, issue, policy, serves, sleep, spawn, state};

fn scopes(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn id(state: &TokenSourceState) -> String {
    state.token.as_ref().unwrap().id.clone()
}

pub fn invalid_scope() -> Error {
    Error::Rejected(ErrorResponse {
        code: ErrorCode::Basic(BasicErrorResponseType::InvalidScope),
        description: None,
        status: 400,
        retry_after: None,
        advice: None,
    })
}

/// A token that lives for an hour and has this scope.
fn scoped(token: &'static str, scope: Option<&'static str>) -> Step {
    Step::IssueScoped { token, scope }
}

/// Waits for this token and says that it is refused.
async fn refuse(source: &TokenSource, token: &str) {
    let state = state(&mut source.subscribe(), |state| serves(state) == Some(token)).await;
    source.report_rejected(&id(&state));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_gets_one_successor_at_once_however_many_say_so_and_however_late() {
    let clock = Clock::starting_at(crate::start());
    let slow = Step::Issue {
        token: "two",
        expires_in: Some(3600),
        takes: 3,
    };
    let script = Script::new(&clock, [issue("one", 3600), slow]);
    let (source, mut states) = spawn(&script, &clock);
    let one = id(&state(&mut states, |state| state.token.is_some()).await);
    sleep(100).await;
    for _ in 0..100 {
        source.report_rejected(&one);
    }
    let refused = state(&mut states, |state| state.rejected).await;
    assert_eq!(
        serves(&refused),
        Some("one"),
        "it serves until its successor is there"
    );
    sleep(2).await;
    source.report_rejected(&one);
    let two = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!((two.rejected, two.rejections_in_a_row), (false, 1));
    for _ in 0..100 {
        source.report_rejected(&one);
        sleep(1).await;
    }
    assert_eq!(script.requests(), [0, 100]);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_names_no_token_in_use_does_nothing() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(&clock, [issue("one", 3600)]);
    let (source, mut states) = spawn(&script, &clock);
    state(&mut states, |state| state.token.is_some()).await;
    states.mark_unchanged();
    source.report_rejected("0000000000000000");
    source.report_rejected("");
    source.demand_scopes("0000000000000000", scopes("a"));
    sleep(100).await;
    assert!(!states.has_changed().unwrap());
    assert_eq!(script.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_every_token_is_no_reason_to_ask_all_the_time() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(&clock, (0..1000).map(|_| issue("refused", 3600)));
    let (source, states) = spawn(&script, &clock);
    for _ in 0..3600 {
        let state = states.borrow().clone();
        source.report_rejected(&state.token.map(|token| token.id.clone()).unwrap_or_default());
        sleep(1).await;
    }
    let requests = script.requests();
    let apart: Vec<_> = requests.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(apart[0], 1, "the first is not waited for: {apart:?}");
    for (apart, least) in apart[1..].iter().zip([10, 20, 40, 80, 160, 300, 300, 300]) {
        assert!(*apart >= least && *apart <= least + 2, "{apart} after {least}");
    }
    assert!(requests.len() < 20, "{requests:?}");
    assert!(states.borrow().rejections_in_a_row > 10);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_a_refusal_end_the_row_and_show() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [issue("one", 36_000), issue("two", 36_000), issue("three", 36_000)],
    );
    let (source, mut states) = spawn(&script, &clock);
    refuse(&source, "one").await;
    state(&mut states, |state| {
        state.rejections_in_a_row == 1 && !state.rejected
    })
    .await;
    state(&mut states, |state| state.rejections_in_a_row == 0).await;
    assert_eq!(clock.now(), at(600));
    refuse(&source, "two").await;
    state(&mut states, |state| serves(state) == Some("three")).await;
    assert_eq!(script.requests(), [0, 0, 600]);
}

#[tokio::test(start_paused = true)]
async fn while_the_authorization_server_is_ill_a_refusal_asks_for_nothing_and_the_token_serves() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(&clock, [issue("one", 3600)]);
    let longest = mcp_auth_oauth::Policy {
        random: || 1.0,
        ..policy()
    };
    let source = TokenSource::spawn(script.clone(), longest, clock.clone());
    let mut states = source.subscribe();
    let open = |state: &TokenSourceState| matches!(state.circuit, Circuit::Open { .. });
    let ill = state(&mut states, open).await;
    let before = script.requests();
    assert_eq!(ill.failures_in_a_row, 3);
    assert_eq!(
        ill.circuit,
        Circuit::Open {
            until: ill.next_attempt_at
        }
    );
    for _ in 0..7 {
        source.report_rejected(&id(&ill));
        source.demand_scopes(&id(&ill), scopes("a"));
        sleep(1).await;
    }
    let refused = state(&mut states, |state| state.rejected).await;
    assert_eq!((script.requests(), serves(&refused)), (before, Some("one")));
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_is_the_successor() {
    let clock = Clock::starting_at(crate::start());
    let slow = Step::Issue {
        token: "two",
        expires_in: Some(3600),
        takes: 60,
    };
    let script = Script::new(&clock, [issue("one", 3600), slow]);
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    sleep(2430).await;
    source.report_rejected(&id(&one));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 2412]);
    sleep(1000).await;
    assert_eq!(script.requests(), [0, 2412]);
}

#[tokio::test(start_paused = true)]
async fn scopes_that_are_demanded_are_asked_for_at_once_and_kept() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [
            scoped("one", Some("tools")),
            scoped("two", None),
            scoped("three", Some("tools b a")),
        ],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    sleep(50).await;
    for _ in 0..20 {
        source.demand_scopes(&id(&one), scopes("a b"));
    }
    let two = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(
        two.step_up,
        StepUp::Granted {
            scopes: scopes("a b")
        }
    );
    state(&mut states, |state| serves(state) == Some("three")).await;
    assert_eq!(script.requests(), [0, 50, 50 + 2412]);
    assert_eq!(
        script.requested_scopes(),
        [scopes(""), scopes("a b"), scopes("a b")]
    );
}

#[tokio::test(start_paused = true)]
async fn scopes_that_are_refused_leave_the_token_alone_and_are_not_asked_for_again() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [
            scoped("one", None),
            Step::Fail(invalid_scope()),
            scoped("two", None),
        ],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    for _ in 0..20 {
        source.demand_scopes(&id(&one), scopes("a"));
        sleep(10).await;
    }
    let refused = state(&mut states, |state| state.step_up != StepUp::None).await;
    assert_eq!(
        refused.step_up,
        StepUp::Refused {
            scopes: scopes("a"),
            why: StepUpError::Failed(invalid_scope())
        }
    );
    assert_eq!(serves(&refused), Some("one"));
    assert_eq!((refused.failures_in_a_row, refused.last_error), (0, None));
    assert_eq!(refused.next_attempt_at, at(2412));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 0, 2412]);
    assert_eq!(script.requested_scopes(), [scopes(""), scopes("a"), scopes("")]);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_scopes_does_not_take_over() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [
            scoped("one", Some("tools")),
            scoped("same", Some("tools")),
            scoped("two", Some("tools")),
        ],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    let refused = state(&mut states, |state| state.step_up != StepUp::None).await;
    let why = StepUpError::NotGranted;
    assert_eq!(
        refused.step_up,
        StepUp::Refused {
            scopes: scopes("a"),
            why
        }
    );
    assert_eq!((serves(&refused), id(&refused)), (Some("one"), id(&one)));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 0, 2412]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_gets_a_successor_even_where_scopes_were_asked_for_meanwhile_and_refused() {
    let clock = Clock::starting_at(crate::start());
    let slow_refusal = Step::FailLate(invalid_scope(), 5);
    let script = Script::new(&clock, [scoped("one", None), slow_refusal, scoped("two", None)]);
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    sleep(1).await;
    source.report_rejected(&id(&one));
    state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(script.requests(), [0, 0, 6]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_while_scopes_are_asked_for_costs_three_tries_and_not_the_token() {
    let clock = Clock::starting_at(crate::start());
    let down = || Step::Fail(unavailable(None));
    let script = Script::new(
        &clock,
        [scoped("one", None), down(), down(), down(), scoped("two", None)],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    let two = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!(
        script.requested_scopes(),
        [scopes(""), scopes("a"), scopes("a"), scopes("a"), scopes("")]
    );
    assert!(matches!(two.step_up, StepUp::Refused { .. }), "{:?}", two.step_up);
    source.demand_scopes(&id(&two), scopes("a"));
    sleep(1).await;
    assert_eq!(
        script.requested_scopes().last(),
        Some(&scopes("a")),
        "nobody has refused them"
    );
}

#[tokio::test(start_paused = true)]
async fn scopes_that_are_granted_no_more_do_not_cost_the_token() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [
            scoped("one", None),
            scoped("two", None),
            Step::Fail(invalid_scope()),
            scoped("three", None),
        ],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    let three = state(&mut states, |state| serves(state) == Some("three")).await;
    assert_eq!(script.requests(), [0, 0, 2412, 2413]);
    assert_eq!(script.requested_scopes().last(), Some(&scopes("")));
    assert!(matches!(three.step_up, StepUp::Refused { .. }));
}

#[tokio::test(start_paused = true)]
async fn scopes_that_are_none_are_refused_without_a_request() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(&clock, [scoped("one", None)]);
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), vec!["a\" evil".into()]);
    let refused = state(&mut states, |state| state.step_up != StepUp::None).await;
    let why = StepUpError::Malformed;
    assert_eq!(refused.step_up, StepUp::Refused { scopes: vec![], why });
    sleep(100).await;
    assert_eq!(script.requests(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_regular_renewal_with_fewer_scopes_than_before_takes_over() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        [
            scoped("one", None),
            scoped("two", None),
            scoped("three", Some("tools")),
        ],
    );
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    let three = state(&mut states, |state| serves(state) == Some("three")).await;
    assert_eq!(clock.now(), at(2412));
    let why = StepUpError::NotGranted;
    assert_eq!(
        three.step_up,
        StepUp::Refused {
            scopes: scopes("a"),
            why
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_scopes_takes_over_from_one_that_was_refused_meanwhile() {
    let clock = Clock::starting_at(crate::start());
    let slow_and_short = Step::Issue {
        token: "two",
        expires_in: Some(3600),
        takes: 5,
    };
    let script = Script::new(&clock, [scoped("one", None), slow_and_short]);
    let (source, mut states) = spawn(&script, &clock);
    let one = state(&mut states, |state| state.token.is_some()).await;
    source.demand_scopes(&id(&one), scopes("a"));
    sleep(1).await;
    source.report_rejected(&id(&one));
    let two = state(&mut states, |state| serves(state) == Some("two")).await;
    assert_eq!((clock.now(), two.rejected), (at(5), false));
    assert_eq!(script.requests(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn more_scopes_are_no_sign_that_tokens_are_taken_again() {
    let clock = Clock::starting_at(crate::start());
    let script = Script::new(
        &clock,
        ["one", "two", "three", "four"].map(|token| scoped(token, None)),
    );
    let (source, mut states) = spawn(&script, &clock);
    refuse(&source, "one").await;
    let two = state(&mut states, |state| serves(state) == Some("two")).await;
    source.demand_scopes(&id(&two), scopes("a"));
    refuse(&source, "three").await;
    let four = state(&mut states, |state| serves(state) == Some("four")).await;
    assert_eq!(four.rejections_in_a_row, 2);
    assert_eq!(script.requests(), [0, 0, 0, 10]);
}
