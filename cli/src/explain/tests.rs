use serde_json::{Value, json};

use super::*;

fn resource(selector: Value) -> Arc<McpServerAuth> {
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "llm"},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            "cookiePassthrough": {"enabled": true, "cookieNames": ["session_id"]},
            "podSelector": selector,
        },
    });
    Arc::new(serde_json::from_value(resource).unwrap())
}

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "litellm-7c9-x", "namespace": "llm",
            "labels": {"app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "litellm-7c9", "uid": "u", "controller": true,
            }],
        },
        "spec": {"containers": [{
            "name": "litellm", "image": "ghcr.io/berriai/litellm:v1.90.0", "args": ["--port", "4000"], "ports": [{"containerPort": 4000}],
        }]},
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn webhook() -> MutatingWebhookConfiguration {
    let webhook = |name: &str, key: &str, pod: Value| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {},
            "namespaceSelector": {"matchExpressions": [
                {"key": "mcpauth.dev/injection", "operator": key, "values": ["enabled"]},
            ]},
            "objectSelector": {"matchExpressions": [pod]},
        })
    };
    let not_false = json!({"key": "mcpauth.dev/inject", "operator": "NotIn", "values": ["false"]});
    let asks = json!({"key": "mcpauth.dev/inject", "operator": "In", "values": ["true"]});
    serde_json::from_value(json!({"metadata": {"name": "mcp-auth"}, "webhooks": [
        webhook("namespace.inject.mcpauth.dev", "In", not_false),
        webhook("pod.inject.mcpauth.dev", "NotIn", asks),
    ]}))
    .unwrap()
}

fn labels(opted_in: bool) -> BTreeMap<String, String> {
    match opted_in {
        true => [(INJECTION_LABEL.to_owned(), "enabled".to_owned())].into(),
        false => BTreeMap::new(),
    }
}

fn explained(pod: &Pod, opted_in: bool) -> Explanation {
    let (webhook, labels) = (webhook(), labels(opted_in));
    let selector = json!({"matchLabels": {"app.kubernetes.io/name": "litellm"}});
    explain(
        pod,
        &Surroundings {
            resources: &[resource(selector)],
            namespace_labels: Some(&labels),
            webhook: Webhook::Found(&webhook),
        },
    )
}

#[test]
fn a_namespace_that_has_not_opted_in_is_named_with_the_commands_that_mend_it() {
    let explanation = explained(&pod(|_| {}), false);
    assert_eq!(explanation.sidecar, PodState::Missing);
    assert_eq!(
        explanation.reason,
        "the namespace llm has not opted in to injection"
    );
    assert_eq!(
        explanation.way_out.as_deref(),
        Some(
            "kubectl label namespace llm mcpauth.dev/injection=enabled, then kubectl rollout restart \
             deployment/litellm -n llm"
        )
    );
}

#[test]
fn a_pod_that_asks_for_the_sidecar_itself_needs_no_opted_in_namespace() {
    let asks = pod(|pod| pod["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true"));
    let explanation = explained(&asks, false);
    assert!(
        explanation.reason.contains("if it were created now"),
        "{explanation:?}"
    );
}

#[test]
fn a_pod_that_is_older_than_the_opting_in_is_to_be_restarted() {
    let explanation = explained(&pod(|_| {}), true);
    assert_eq!(explanation.sidecar, PodState::Missing);
    assert_eq!(
        explanation.way_out.as_deref(),
        Some("kubectl rollout restart deployment/litellm -n llm")
    );
    assert_eq!(explanation.servers[0].cookies, ["session_id"]);
}

#[test]
fn a_pod_that_cannot_be_injected_is_explained_as_the_webhook_would() {
    let own_image = pod(|pod| pod["spec"]["containers"][0]["image"] = json!("registry.example.com/litellm"));
    let explanation = explained(&own_image, true);
    assert_eq!(explanation.sidecar, PodState::Missing);
    assert!(
        explanation.reason.starts_with("it cannot be injected: "),
        "{explanation:?}"
    );
    assert!(
        explanation.reason.contains("mcpauth.dev/config-path"),
        "{explanation:?}"
    );
}

#[test]
fn a_pod_that_needs_no_sidecar_is_no_fault() {
    let opted_out = pod(|pod| pod["metadata"]["labels"]["mcpauth.dev/inject"] = json!("false"));
    let job = pod(|pod| pod["metadata"]["ownerReferences"][0]["kind"] = json!("Job"));
    let other = pod(|pod| pod["metadata"]["labels"] = json!({"app": "web"}));
    for (pod, decision) in [(opted_out, "OptedOut"), (job, "Job"), (other, "NotSelected")] {
        let explanation = explained(&pod, true);
        assert_eq!(explanation.sidecar, PodState::NotNeeded, "{decision}");
        assert_eq!(explanation.decision, decision);
    }
}

#[test]
fn an_injected_pod_shows_its_ports_and_what_it_did_not_know_when_it_started() {
    let injected = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "mcpauth.dev/injected": "0.1.0",
            "mcpauth.dev/warnings": "HTTPS_PROXY does not apply to protected MCP servers",
        });
        pod["spec"]["initContainers"] = json!([{
            "name": "mcpauth-sidecar", "image": "sidecar:0.1.0",
            "env": [
                {"name": "MCPAUTH_INBOUND", "value": "0.0.0.0:4000"},
                {"name": "MCPAUTH_LITELLM", "value": "127.0.0.1:16480"},
                {"name": "MCPAUTH_OUTBOUND", "value": "127.0.0.1:16481"},
                {"name": "MCPAUTH_HEALTH", "value": "0.0.0.0:16482"},
                {"name": "MCPAUTH_ROUTES", "value": "[]"},
            ],
        }]);
        pod["status"] = json!({"initContainerStatuses": [{
            "name": "mcpauth-sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 1,
        }]});
    });
    let explanation = explained(&injected, true);
    assert_eq!(explanation.sidecar, PodState::Injected);
    assert_eq!(explanation.servers[0].known_at_admission, Some(false));
    insta::assert_snapshot!(anstream::adapter::strip_str(&render(&explanation)).to_string());
}
