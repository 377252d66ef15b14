//! LiteLLM is restarted where a resource asks for it: its pods are replaced once, and know the new server.

use mcp_auth_crds::conditions::SIDECARS_SYNCED;
use mcp_auth_crds::reasons::SYNCED;
use mcp_auth_tests::wait::until;
use serde_json::{Value, json};

use crate::command::{apply, get, kubectl};
use crate::ground::{finally, ground, manifest, of_kind, pods};
use crate::litellm;

const RESOURCE: &str = "late";

/// The Deployment, with how often its pod template has changed.
async fn deployment() -> Value {
    get(&["deployment/litellm"]).await
}

fn restarted_at(deployment: &Value) -> Option<&str> {
    deployment["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].as_str()
}

#[tokio::test]
async fn a_server_that_is_added_restarts_litellm_once_where_its_resource_asks_for_it() {
    let world = ground().await;
    litellm::ready("litellm").await;
    let name_of = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let before = deployment().await;
    let old: Vec<String> = pods("litellm").await.iter().map(name_of).collect();
    let mut resource = of_kind(&manifest("mcp-auth").await, "McpServerAuth");
    resource["metadata"]["name"] = json!(RESOURCE);
    resource["spec"]["server"]["name"] = json!(RESOURCE);
    resource["spec"]["restart"] = json!("Automatic");
    resource["spec"]["podSelector"] = json!({"matchLabels": {"app.kubernetes.io/instance": "litellm"}});
    let work = async {
        apply(&[resource.clone()]).await;
        until("the operator to restart the Deployment", deployment, |found| {
            restarted_at(found).is_some() && restarted_at(found) != restarted_at(&before)
        })
        .await;
        litellm::ready("litellm").await;
        world.condition(RESOURCE, SIDECARS_SYNCED, "True", SYNCED).await;
        let new: Vec<String> = pods("litellm").await.iter().map(name_of).collect();
        assert!(
            !new.is_empty() && new.iter().all(|pod| !old.contains(pod)),
            "{old:?} and {new:?}"
        );
        let after = deployment().await;
        let generation = |deployment: &Value| deployment["metadata"]["generation"].as_i64();
        assert_eq!(
            generation(&after),
            generation(&before).map(|before| before + 1),
            "once"
        );
        // What the operator wrote is its own: whoever applies the manifest again does not take it back.
        let applied = of_kind(&manifest("litellm").await, "Deployment");
        apply(&[litellm::shape(&[applied], "litellm")]).await;
        assert_eq!(restarted_at(&deployment().await), restarted_at(&after));
    };
    let clean_up = async {
        kubectl(&["delete", &format!("msa/{RESOURCE}"), "--ignore-not-found"])
            .await
            .ok();
        kubectl(&["rollout", "restart", "deploy/litellm"]).await.ok();
        litellm::ready("litellm").await;
    };
    finally(work, clean_up).await;
}
