use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::lookup::Lookup;

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-12-01T00:00:00Z",
    })
}

fn resource() -> Value {
    json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm", "generation": 2},
        "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"}},
        "status": {
            "observedGeneration": 2,
            "conditions": [
                condition("SecretsResolved", "True", "Resolved", "all was read"),
                condition("TokenIssued", "True", "Issued", "the token is valid"),
                condition("SidecarsSynced", "True", "Synced", "1 of 1 sidecars are up to date"),
            ],
            "token": {"type": "Bearer", "expiresAt": "2026-12-01T00:09:30Z"},
        },
    })
}

fn inventory(resource: Value) -> Inventory {
    Inventory {
        resources: vec![Arc::new(serde_json::from_value(resource).unwrap())],
        ..Inventory::default()
    }
}

fn called(direct: DirectCall) -> CallOutcome {
    CallOutcome::Called {
        call: UserCall::that_arrives(),
        direct,
    }
}

fn live(outcome: CallOutcome) -> LiveFacts {
    LiveFacts {
        pods: vec![LiteLlmPod {
            namespace: "llm".to_owned(),
            name: "litellm-0".to_owned(),
            images: vec!["litellm:1@sha256:ab".to_owned()],
            modifications: Lookup::Found(Vec::new()),
        }],
        calls: vec![Call {
            namespace: "llm".to_owned(),
            resource: "tools".to_owned(),
            outcome,
        }],
    }
}

fn outcomes(criteria: &[Criterion]) -> Vec<Outcome> {
    criteria.iter().map(|criterion| criterion.outcome).collect()
}

#[test]
fn five_criteria_are_answered_line_for_line() {
    let criteria = all(
        &inventory(resource()),
        &live(called(DirectCall::Refused(401))),
        now(),
    );
    assert_eq!(outcomes(&criteria), [Outcome::Passed; 5]);
    assert!(are_met(&criteria));
    insta::assert_snapshot!(anstream::adapter::strip_str(&render(&criteria)).to_string());
}

/// Each is broken alone, and no other fails with it that does not stand on it.
#[test]
fn each_criterion_fails_when_what_it_speaks_of_is_broken() {
    let well = || live(called(DirectCall::Refused(401)));
    let fault = |number: usize, inventory: &Inventory, live: &LiveFacts| {
        let criteria = all(inventory, live, now());
        assert!(!are_met(&criteria));
        assert_eq!(criteria[number - 1].outcome, Outcome::Fault, "{criteria:#?}");
        criteria[number - 1].findings.join("\n")
    };
    let mut modified = well();
    modified.pods[0].modifications = Lookup::Found(vec!["the container litellm runs other:1".to_owned()]);
    assert!(fault(1, &inventory(resource()), &modified).contains("runs other:1"));
    modified.pods.clear();
    assert!(fault(1, &inventory(resource()), &modified).contains("no LiteLLM pod"));

    let mut expired = resource();
    expired["status"]["token"]["expiresAt"] = json!("2026-11-30T00:00:00Z");
    assert!(fault(2, &inventory(expired), &well()).contains("the token expired at"));
    let mut refused = resource();
    refused["status"]["conditions"][1] = condition("TokenIssued", "False", "RequestFailed", "invalid_client");
    assert!(fault(2, &inventory(refused), &well()).contains("RequestFailed: invalid_client"));
    assert!(fault(2, &Inventory::default(), &well()).contains("there is no McpServerAuth"));

    let mut behind = resource();
    behind["status"]["conditions"][2] =
        condition("SidecarsSynced", "False", "SidecarsBehind", "pod litellm-0");
    assert!(fault(3, &inventory(behind), &well()).contains("SidecarsBehind"));
    let mut newer = resource();
    newer["metadata"]["generation"] = json!(3);
    assert!(fault(3, &inventory(newer), &well()).contains("its newest spec"));

    let failed = live(CallOutcome::Failed {
        pod: "litellm-0".to_owned(),
        problem: "LiteLLM answers tools/list with 502 Bad Gateway".to_owned(),
    });
    for number in [4, 5] {
        assert!(fault(number, &inventory(resource()), &failed).contains("502"));
    }
}

#[test]
fn litellm_s_own_requests_show_that_the_token_arrives_and_nothing_of_users() {
    let judged = |not_called: NotCalled, direct: DirectCall| {
        let reported = CallOutcome::Reported {
            message: "the MCP server answers 1 of 1 sidecars".to_owned(),
            direct,
            not_called,
        };
        let criteria = all(&inventory(resource()), &live(reported), now());
        assert_eq!(criteria[4].outcome, Outcome::Passed);
        (criteria[3].outcome, criteria[3].findings.join("\n"))
    };
    let (outcome, text) = judged(NotCalled::NothingOfUsers, DirectCall::Refused(401));
    assert_eq!(
        outcome,
        Outcome::Passed,
        "the resource passes on nothing of users"
    );
    assert!(text.ends_with("without a token it answers 401"), "{text}");
    let (outcome, text) = judged(NotCalled::NoKey, DirectCall::Refused(401));
    assert_eq!(outcome, Outcome::NotChecked, "half of it is shown: {text}");
    assert!(
        text.contains(
            "llm/tools: with the token that sidecars set, the MCP server answers 1 of 1 sidecars; without a token it answers 401\n\
             llm/tools: not checked: whether what users send arrives: give a key of LiteLLM by"
        ),
        "{text}"
    );
    let (outcome, text) = judged(NotCalled::NoKey, DirectCall::Answered(200));
    assert_eq!(outcome, Outcome::Warning, "{text}");
    let why = || NotCalled::Because("you may not forward ports".to_owned());
    let (outcome, text) = judged(why(), DirectCall::Refused(401));
    assert_eq!(
        outcome,
        Outcome::NotChecked,
        "a key was given, and the call was not made"
    );
    assert!(
        text.ends_with("not checked: whether what users send arrives: you may not forward ports"),
        "{text}"
    );
    let (outcome, text) = judged(why(), DirectCall::NotReached("it answers 500".to_owned()));
    assert_eq!(outcome, Outcome::Warning, "{text}");
}

#[test]
fn a_criterion_that_is_not_checked_for_one_server_is_not_met() {
    let mut both = live(called(DirectCall::Refused(401)));
    both.calls.push(Call {
        namespace: "llm".to_owned(),
        resource: "other".to_owned(),
        outcome: CallOutcome::NotMade("no pod that it selects has a sidecar that is ready".to_owned()),
    });
    let criteria = all(&inventory(resource()), &both, now());
    assert_eq!(outcomes(&criteria)[3..], [Outcome::NotChecked; 2]);
}

#[test]
fn what_shows_nothing_is_not_called_met() {
    let open = all(
        &inventory(resource()),
        &live(called(DirectCall::Answered(200))),
        now(),
    );
    assert_eq!(open[3].outcome, Outcome::Warning);
    assert!(
        open[3].findings[0].contains("nothing shows that the token arrived"),
        "{open:#?}"
    );
    let away = DirectCall::NotReached("connection refused".to_owned());
    assert_eq!(
        all(&inventory(resource()), &live(called(away)), now())[3].outcome,
        Outcome::Warning
    );
    let skipped = live(CallOutcome::NotMade("--skip-calls".to_owned()));
    let skipped = all(&inventory(resource()), &skipped, now());
    assert_eq!(outcomes(&skipped)[3..], [Outcome::NotChecked; 2]);
    let mut bare = live(called(DirectCall::Refused(401)));
    bare.pods[0].modifications = Lookup::Unknown("no workload made it".to_owned());
    assert_eq!(
        all(&inventory(resource()), &bare, now())[0].outcome,
        Outcome::NotChecked
    );
}
