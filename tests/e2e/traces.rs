//! What the other tests have left behind holds no secret: logs, events, statuses and pods.

use std::collections::BTreeMap;

use crate::client::{url, whoami};
use crate::command::{kubectl, run};
use crate::ground::{CLIENT_SECRET, CRUMB, NAMESPACE, OPERATOR_NAMESPACE, ground};

/// Everything to look at, by where it is from.
async fn traces() -> BTreeMap<String, String> {
    let mut traces = BTreeMap::new();
    let pods = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
    for (namespace, container) in [(NAMESPACE, "mcpauth-sidecar"), (OPERATOR_NAMESPACE, "operator")] {
        let place = ["--namespace", namespace];
        let list = [&place[..], &["get", "pods", "--output", pods]].concat();
        for pod in run("kubectl", &list, "").await.ok().lines() {
            for previous in ["--previous=false", "--previous=true"] {
                let log = ["logs", pod, "--container", container, previous, "--tail=-1"];
                let said = run("kubectl", &[&place[..], &log].concat(), "").await;
                // Most pods have no such container, or were never restarted.
                if said.success {
                    traces.insert(format!("log of {pod} ({previous})"), said.out);
                }
            }
        }
        let events = [&place[..], &["get", "events", "--output=json"]].concat();
        traces.insert(
            format!("events of {namespace}"),
            run("kubectl", &events, "").await.ok(),
        );
    }
    for kind in ["msa", "pods", "leases"] {
        traces.insert(
            kind.to_owned(),
            kubectl(&["get", kind, "--output=json"]).await.ok(),
        );
    }
    traces
}

#[tokio::test]
async fn no_log_event_status_or_pod_holds_a_secret_a_token_or_a_cookie() {
    ground().await;
    whoami(&url("litellm"), "tools", &format!("session_id={CRUMB}traced")).await;
    let traces = traces().await;
    let logs = |of: &str| {
        traces
            .iter()
            .any(|(name, text)| name.contains(of) && !text.is_empty())
    };
    assert!(
        logs("log of litellm-"),
        "a sidecar has logged: {:?}",
        traces.keys()
    );
    assert!(
        logs("log of e2e-mcp-auth-operator-"),
        "the operator has logged: {:?}",
        traces.keys()
    );
    for (name, text) in &traces {
        // `eyJ` begins every JSON Web Token.
        for secret in [CLIENT_SECRET, "eyJ", CRUMB] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{name} holds {secret}: {line:?}");
        }
    }
}
