use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::inventory::Unreadable;

fn resource(name: &str, status: Value) -> Arc<mcp_auth_crds::McpServerAuth> {
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": name, "namespace": "llm"},
        "spec": {
            "server": {"name": name, "url": format!("https://{name}.example.com/mcp")},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
        "status": status,
    });
    Arc::new(serde_json::from_value(resource).unwrap())
}

fn ready(status: &str, reason: &str, message: &str) -> Value {
    json!([{
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-12-01T00:00:00Z",
    }])
}

fn pod(name: &str, metadata: Value) -> mcp_auth_operator::PodMeta {
    let mut pod = json!({"metadata": {
        "name": name, "namespace": "llm", "labels": {"app.kubernetes.io/name": "litellm"},
    }});
    pod["metadata"]
        .as_object_mut()
        .unwrap()
        .extend(metadata.as_object().unwrap().clone());
    serde_json::from_value(pod).unwrap()
}

fn inventory() -> Inventory {
    Inventory {
        resources: vec![
            resource(
                "tools",
                json!({
                    "conditions": ready("True", "Ready", "LiteLLM reaches tools with a valid token"),
                    "token": {"type": "Bearer", "expiresAt": "2026-12-01T00:09:30Z"},
                    "sidecars": {"synced": 1, "total": 1, "summary": "1/1"},
                }),
            ),
            resource(
                "files",
                json!({"conditions": ready("False", "SecretNotFound", "Secret token does not exist: create it")}),
            ),
            resource(
                "mail",
                json!({"conditions": [], "token": {"expiresAt": "2026-11-30T23:00:00Z"}}),
            ),
        ],
        unreadable: vec![Unreadable {
            namespace: "llm".to_owned(),
            name: "newer".to_owned(),
            problem: "missing field `server`".to_owned(),
        }],
        pods: Some(vec![
            pod(
                "litellm-a",
                json!({"annotations": {"mcpauth.dev/injected": "0.1.0"}}),
            ),
            pod(
                "litellm-b",
                json!({"annotations": {"mcpauth.dev/not-injected": "ConfigUnknown: mount the file from a ConfigMap"}}),
            ),
            pod(
                "litellm-c",
                json!({"annotations": {"mcpauth.dev/skipped": "NotLiteLlm"}}),
            ),
            pod("web", json!({"labels": {"app": "web"}})),
        ]),
    }
}

fn report() -> StatusReport {
    StatusReport::new(
        &inventory(),
        Some("0.1.0".to_owned()),
        "2026-12-01T00:00:00Z".parse::<Timestamp>().unwrap(),
    )
}

#[test]
fn people_see_servers_tokens_sidecars_and_what_wants_attention() {
    let scope = Scope::Namespace("llm".to_owned());
    let text = render(&report(), &scope, None);
    insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
}

#[test]
fn programs_see_the_same_in_fields() {
    insta::assert_snapshot!(render(&report(), &Scope::All, Some(Format::Yaml)));
}

#[test]
fn pods_that_may_not_be_listed_are_said_to_be_missing_from_the_picture() {
    let mut inventory = inventory();
    inventory.pods = None;
    let report = StatusReport::new(&inventory, None, Timestamp::now());
    let text = render(&report, &Scope::All, None);
    assert!(text.contains("you may not list them"), "{text}");
}

#[test]
fn a_report_says_the_same_while_only_the_time_passes() {
    let later = StatusReport::new(
        &inventory(),
        Some("0.1.0".to_owned()),
        "2026-12-01T00:01:00Z".parse().unwrap(),
    );
    assert!(report().says_the_same(&later));
    let mut changed = inventory();
    changed.resources.pop();
    let changed = StatusReport::new(
        &changed,
        Some("0.1.0".to_owned()),
        "2026-12-01T00:01:00Z".parse().unwrap(),
    );
    assert!(!report().says_the_same(&changed));
}

fn of_deployment(name: &str, version: &str) -> mcp_auth_operator::PodMeta {
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "litellm-7c9d", "uid": "1", "controller": true,
    });
    let labels = json!({"app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9d"});
    let annotations = json!({"mcpauth.dev/injected": version});
    pod(
        name,
        json!({"ownerReferences": [owner], "labels": labels, "annotations": annotations}),
    )
}

#[test]
fn pods_that_keep_an_earlier_sidecar_are_named_with_the_command_that_mends_it() {
    let inventory = Inventory {
        pods: Some(vec![
            of_deployment("litellm-7c9d-a", "0.1.0"),
            of_deployment("litellm-7c9d-b", "0.1.0"),
            of_deployment("litellm-7c9d-c", "0.2.0"),
        ]),
        ..inventory()
    };
    // With the operator's version, and by the newest sidecar where that may not be read.
    for installed in [Some("0.2.0".to_owned()), None] {
        let report = StatusReport::new(&inventory, installed, Timestamp::now());
        let outdated: Vec<bool> = report.pods.iter().flatten().map(|pod| pod.outdated).collect();
        assert_eq!(outdated, [true, true, false]);
        let text = anstream::adapter::strip_str(&render(&report, &Scope::All, None)).to_string();
        assert!(text.contains("0.1.0 (outdated)"), "{text}");
        assert!(
            text.contains("2 pods keep the sidecar of another version than 0.2.0"),
            "{text}"
        );
        let command = "kubectl rollout restart deployment/litellm -n llm\n";
        assert_eq!(text.matches(command).count(), 1, "{text}");
    }
}
