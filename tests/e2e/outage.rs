//! The operator is away: users go on, new pods of LiteLLM start, and nothing is called without a token.

use mcp_auth_tests::wait::{KUBECTL_LIMIT, until};
use serde_json::{Value, json};

use crate::client::{client, url, whoami};
use crate::command::{apply, get, kubectl};
use crate::ground::{CRUMB, ground, pods, without_operator};

/// Calls an MCP server the way LiteLLM does, from its container, by its overlay, and prints status and body.
const AS_LITELLM: &str = r#"
import json, urllib.error, urllib.request, yaml
tools = yaml.safe_load(open("/var/run/mcpauth/config/overlay.yaml"))["mcp_servers"]["tools"]
message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **tools["static_headers"]}
request = urllib.request.Request(tools["url"], json.dumps(message).encode(), headers)
try:
    answer = urllib.request.urlopen(request, timeout=300)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps({"status": answer.status, "body": answer.read().decode()}))
"#;

/// The pod that runs, once more under another name. It is injected already, so that it needs no webhook.
async fn copy_of_litellm(name: &str) -> Value {
    let mut pod = pods("litellm").await.pop().expect("LiteLLM runs");
    let annotations = pod["metadata"]["annotations"].clone();
    pod["metadata"] = json!({
        "name": name, "annotations": annotations,
        // Users of the other LiteLLM are not to be led here.
        "labels": {"app.kubernetes.io/name": "litellm", "app.kubernetes.io/instance": name},
    });
    let object = pod.as_object_mut().expect("a pod");
    object.remove("status");
    object["spec"].as_object_mut().expect("a spec").remove("nodeName");
    pod
}

#[tokio::test]
async fn while_the_operator_is_away_calls_go_on_with_the_tokens_that_are_there() {
    ground().await;
    without_operator(async {
        for shape in ["litellm"] {
            let cookies = format!("session_id={CRUMB}outage");
            let answer = whoami(&url(shape), "tools", &cookies).await;
            assert_eq!(answer["service"], "litellm");
            assert_eq!(answer["cookies"], json!({"session_id": format!("{CRUMB}outage")}));
        }
    })
    .await;
}

#[tokio::test]
async fn litellm_starts_without_the_operator_and_finds_its_tools_when_the_operator_is_back() {
    ground().await;
    kubectl(&["delete", "pod/orphan", "--ignore-not-found"])
        .await
        .ok();
    let orphan = copy_of_litellm("orphan").await;
    without_operator(async {
        apply(&[orphan]).await;
        // Twenty seconds of waiting for the operator at most, and LiteLLM's own time.
        kubectl(&["wait", "pod/orphan", "--for=condition=Ready", KUBECTL_LIMIT])
            .await
            .ok();
        let said = kubectl(&[
            "exec",
            "orphan",
            "--container=proxy",
            "--",
            "python3",
            "-c",
            AS_LITELLM,
        ])
        .await
        .ok();
        let answer: Value = serde_json::from_str(&said).expect("the program prints JSON");
        assert_eq!(answer["status"], 503, "{answer}");
        let body: Value = serde_json::from_str(answer["body"].as_str().expect("text")).expect("JSON-RPC");
        assert_eq!(body["id"], 7, "{body}");
        let message = body["error"]["message"].as_str().expect("an error");
        assert!(
            message.contains("McpServerAuth tools"),
            "it names the resource: {message}"
        );

        let stream = client(&orphan_url().await, &["stream", "--seconds", "2"]).await;
        assert_eq!(stream["status"], 200, "LiteLLM itself serves: {stream}");
    })
    .await;
    let litellm = orphan_url().await;
    let cookie = format!("session_id={CRUMB}back");
    let call = ["call", "--cookie", &cookie];
    let answer = until(
        "the tools work",
        async || client(&litellm, &call).await["answer"].clone(),
        Value::is_object,
    )
    .await;
    assert_eq!(answer["service"], "litellm");
    assert_eq!(answer["cookies"], json!({"session_id": format!("{CRUMB}back")}));
    let pod = get(&["pod/orphan"]).await;
    for statuses in ["containerStatuses", "initContainerStatuses"] {
        for status in pod["status"][statuses].as_array().expect("a list") {
            assert_eq!(status["restartCount"], 0, "nothing was restarted: {status}");
        }
    }
    kubectl(&["delete", "pod/orphan"]).await.ok();
}

async fn orphan_url() -> String {
    let pod = get(&["pod/orphan"]).await;
    format!(
        "http://{}:4000",
        pod["status"]["podIP"].as_str().expect("an address")
    )
}
