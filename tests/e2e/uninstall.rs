//! The release goes, LiteLLM stays.

use serde_json::json;

use crate::client::{client, url, whoami};
use crate::command::{helm, kubectl, run};
use crate::ground::{CRUMB, OPERATOR_NAMESPACE, RELEASE, ground};

#[tokio::test]
async fn uninstalling_leaves_litellm_serving_and_every_resource_in_place() {
    ground().await;
    helm(&["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait"])
        .await
        .ok();
    let answer = whoami(&url("litellm"), "tools", &format!("session_id={CRUMB}last")).await;
    assert_eq!(answer["cookies"], json!({"session_id": format!("{CRUMB}last")}));
    let stream = client(&url("litellm"), &["stream", "--seconds", "2"]).await;
    assert_eq!(stream["status"], 200, "{stream}");
    let kept = kubectl(&["get", "msa", "--output=name"]).await.ok();
    assert!(kept.contains("mcpserverauth.mcpauth.dev/tools"), "{kept}");
    let webhooks = run(
        "kubectl",
        &["get", "mutatingwebhookconfigurations", "--output=name"],
        "",
    )
    .await
    .ok();
    assert!(
        !webhooks.contains("mcp-auth"),
        "no webhook is left that would be asked in vain: {webhooks}"
    );
}
