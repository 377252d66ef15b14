//! Operator and sidecar of two versions: what the previous version wrote, recorded line by line in
//! `previous_version/`, is read by this one, and what this one writes has everything that the previous one reads.
//! With a release its own lines take their place.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::path::Path;

use mcp_auth_protocol::sync::{
    Credential, ExchangeRequest, ExchangeResponse, Problem, RejectionCause, Report, Snapshot,
};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn recorded(name: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous_version");
    let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert!(!lines.is_empty());
    lines
}

/// Each recorded message, as this version reads it. Written again by this version, it has all that it had.
fn read_and_write<T: DeserializeOwned + Serialize>(name: &str) -> Vec<T> {
    let read = recorded(name).into_iter().map(|line| {
        let message: T = serde_json::from_str(&line).unwrap();
        let before: Value = serde_json::from_str(&line).unwrap();
        let after = serde_json::to_value(&message).unwrap();
        assert_contains(&after, &before, name);
        message
    });
    read.collect()
}

/// That every field of `before` has the same value in `after`, which may have more of them.
fn assert_contains(after: &Value, before: &Value, at: &str) {
    match (after, before) {
        (Value::Object(after), Value::Object(before)) => {
            for (key, value) in before {
                let path = format!("{at}.{key}");
                let kept = after.get(key).unwrap_or_else(|| panic!("{path} is gone"));
                assert_contains(kept, value, &path);
            }
        }
        (Value::Array(after), Value::Array(before)) => {
            assert_eq!(after.len(), before.len(), "{at}");
            for (index, (after, before)) in after.iter().zip(before).enumerate() {
                assert_contains(after, before, &format!("{at}[{index}]"));
            }
        }
        (after, before) => assert_eq!(after, before, "{at}"),
    }
}

#[test]
fn a_snapshot_of_the_previous_operator_is_read_whole_and_one_of_this_one_has_all_that_it_had() {
    let snapshot = read_and_write::<Snapshot>("snapshot").remove(0);
    assert!(snapshot.unreadable.is_empty(), "{:?}", snapshot.unreadable);
    let [billing, crm, tools] = &snapshot.servers[..] else {
        panic!("there are three servers");
    };
    assert!(matches!(
        billing.credential,
        Credential::Unavailable { keep: true, .. }
    ));
    let Credential::Bearer {
        token,
        proof_key,
        expires_at,
        ..
    } = &crm.credential
    else {
        panic!("it has a token");
    };
    assert_eq!(token.expose_secret(), "recorded-t0ken");
    assert!(proof_key.is_some() && expires_at.is_some());
    assert!(crm.route.exchange.is_some() && crm.route.audit.is_some() && crm.client_certificate.is_some());
    let declined = tools.declined.as_ref().unwrap();
    assert_eq!(declined.why, RejectionCause::Unauthorized);
}

#[test]
fn a_report_of_the_previous_sidecar_is_read_whole_and_one_of_this_one_has_all_that_it_had() {
    let reports = read_and_write::<Report>("report");
    assert_eq!(reports[0].applied, None);
    let full = &reports[1];
    assert_eq!((full.problems.len(), full.refused.len()), (2, 2));
    assert_eq!(full.restart_needed_for, ["tools"]);
}

#[test]
fn exchanges_and_refusals_of_the_previous_version_are_read_and_those_of_this_one_have_all_that_they_had() {
    let request = read_and_write::<ExchangeRequest>("exchange_request").remove(0);
    assert_eq!(request.subject_token.expose_secret(), "recorded-subject");
    let response = read_and_write::<ExchangeResponse>("exchange_response").remove(0);
    assert!(matches!(response.credential, Credential::Bearer { .. }));
    assert_eq!(read_and_write::<Problem>("problem")[0].server, None);
}
