//! The release is upgraded from an earlier chart, of one replica at another port, while users call.

use std::path::PathBuf;
use std::time::Duration;

use mcp_auth_tests::setting;
use mcp_auth_tests::wait::{KUBECTL_LIMIT, until};
use mcp_auth_tests::world::World;
use serde_json::Value;

use crate::client::{calls_while, url, whoami};
use crate::command::{get, kubectl, run};
use crate::ground::{
    CRUMB, OPERATOR, OPERATOR_NAMESPACE, finally, ground, injected, install, install_chart, pods,
};
use crate::litellm;
use crate::timeline::Timeline;

/// How long users call before the upgrade, and after its end.
const AROUND: Duration = Duration::from_secs(15);

#[tokio::test]
async fn an_upgrade_from_an_earlier_chart_and_a_rollout_at_once_lose_no_call_and_inject_the_next_pod() {
    let earlier = PathBuf::from(setting("MCPAUTH_TEST_EARLIER_CHART"));
    // A clone without history has no earlier chart, which the script around the tests says, and which ends `.ci/run` there.
    if !earlier.join("Chart.yaml").exists() {
        return;
    }
    let world = ground().await;
    // The definition of this commit stays: fields that resources have would be lost with an earlier one. Values that came
    // later are none to the earlier chart.
    let upgraded = async {
        install_chart(
            &earlier,
            &["--set", "crds.install=false", "--skip-schema-validation"],
        )
        .await;
        until_synced().await;
        assert_eq!(operator_replicas().await, 1, "the earlier chart has one replica");
        upgrade_under_load(&world).await;
    };
    finally(upgraded, install()).await;
}

async fn upgrade_under_load(world: &World) {
    let litellm = url("litellm");
    let timeline = Timeline::watch(world);
    let upgrade = async {
        tokio::time::sleep(AROUND).await;
        install().await;
        // At once, as pipelines do: nothing is waited for between the upgrade and the restart that brings the newest sidecar.
        kubectl(&["rollout", "restart", "deploy/litellm"]).await.ok();
        litellm::ready("litellm").await;
        until_synced().await;
        tokio::time::sleep(AROUND).await;
    };
    let (load, ()) = calls_while(&litellm, upgrade).await;
    let account = timeline.account().await;
    let sidecar = [
        "logs",
        "deploy/litellm",
        "--container=mcpauth-sidecar",
        "--tail=40",
    ];
    let sidecar = kubectl(&sidecar).await.out;
    assert!(load["sent"].as_u64() > Some(50), "the load went on: {load}");
    assert_eq!(load["failed"], 0, "{load}\n{account}\n{sidecar}");
    assert_eq!(operator_replicas().await, 2);

    // The pods of that rollout are injected by the new operator, and have its tokens.
    assert!(pods("litellm").await.iter().all(injected));
    let answer = whoami(&litellm, "tools", &format!("session_id={CRUMB}upgraded")).await;
    assert_eq!(answer["cookies"]["session_id"], format!("{CRUMB}upgraded"));
}

/// Waits until the operator runs and LiteLLM's sidecars have come to it.
async fn until_synced() {
    let rollout = [
        "--namespace",
        OPERATOR_NAMESPACE,
        "rollout",
        "status",
        OPERATOR,
        KUBECTL_LIMIT,
    ];
    run("kubectl", &rollout, "").await.ok();
    let synced = async || get(&["msa/tools"]).await["status"]["conditions"].clone();
    let is_synced = |conditions: &Value| {
        let conditions = conditions.as_array().into_iter().flatten();
        conditions
            .filter(|condition| condition["type"] == "SidecarsSynced")
            .any(|condition| condition["status"] == "True")
    };
    until("the sidecars to be synced", synced, is_synced).await;
}

async fn operator_replicas() -> u64 {
    let deployment = [
        "--namespace",
        OPERATOR_NAMESPACE,
        "get",
        OPERATOR,
        "--output",
        "json",
    ];
    let said = run("kubectl", &deployment, "").await.ok();
    let deployment: Value = serde_json::from_str(&said).expect("kubectl prints JSON");
    deployment["spec"]["replicas"].as_u64().expect("a number")
}
