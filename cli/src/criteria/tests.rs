use std::sync::Arc;

use serde_json::{Value, json};

use super::live::{Call, DirectCall, LiteLlmPod};
use super::*;
use crate::lookup::Lookup;
use crate::mcp_call::ToolList;

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

fn listed(direct: DirectCall) -> CallOutcome {
    CallOutcome::Listed {
        pod: "litellm-0".to_owned(),
        tools: ToolList {
            server: "crm".to_owned(),
            protocol: "2025-06-18".to_owned(),
            tools: 3,
        },
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
        &live(listed(DirectCall::Refused(401))),
        now(),
    );
    assert_eq!(outcomes(&criteria), [Outcome::Passed; 5]);
    assert!(are_met(&criteria));
    insta::assert_snapshot!(anstream::adapter::strip_str(&render(&criteria)).to_string());
}

/// Each is broken alone, and no other fails with it that does not stand on it.
#[test]
fn each_criterion_fails_when_what_it_speaks_of_is_broken() {
    let well = || live(listed(DirectCall::Refused(401)));
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
        problem: "tools/list was answered with 502 Bad Gateway".to_owned(),
    });
    for number in [4, 5] {
        assert!(fault(number, &inventory(resource()), &failed).contains("502"));
    }
}

#[test]
fn litellm_s_own_requests_count_where_a_sidecar_lets_only_litellm_call() {
    let reported = CallOutcome::Reported {
        message: "the MCP server answers 1 of 1 sidecars".to_owned(),
        direct: DirectCall::Refused(401),
    };
    let criteria = all(&inventory(resource()), &live(reported), now());
    assert_eq!(outcomes(&criteria), [Outcome::Passed; 5]);
    assert!(
        criteria[3].findings[0].contains("without a token it answers 401"),
        "{criteria:#?}"
    );
}

#[test]
fn what_shows_nothing_is_not_called_met() {
    let open = all(
        &inventory(resource()),
        &live(listed(DirectCall::Answered(200))),
        now(),
    );
    assert_eq!(open[3].outcome, Outcome::Warning);
    assert!(
        open[3].findings[0].contains("nothing shows that the token arrived"),
        "{open:#?}"
    );
    let away = DirectCall::NotReached("connection refused".to_owned());
    assert_eq!(
        all(&inventory(resource()), &live(listed(away)), now())[3].outcome,
        Outcome::Warning
    );
    let skipped = live(CallOutcome::NotMade("--skip-calls".to_owned()));
    let skipped = all(&inventory(resource()), &skipped, now());
    assert_eq!(outcomes(&skipped)[3..], [Outcome::NotChecked; 2]);
    let mut bare = live(listed(DirectCall::Refused(401)));
    bare.pods[0].modifications = Lookup::Unknown("no workload made it".to_owned());
    assert_eq!(
        all(&inventory(resource()), &bare, now())[0].outcome,
        Outcome::NotChecked
    );
}
