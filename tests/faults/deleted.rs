//! Resources that are deleted while no replica leads: their tokens are of no use any more.

use kube::api::Api;
use mcp_auth_crds::{McpServerAuth, McpServerAuthSpec};
use mcp_auth_tests::oauth;
use mcp_auth_tests::sidecar::Sidecar;
use mcp_auth_tests::wait::until;
use serde_json::json;

use crate::calls::call;
use crate::fleet::Fleet;

/// The leader is killed, and `tools` is deleted before another one leads. What it was.
async fn deleted_without_leader(fleet: &mut Fleet) -> McpServerAuthSpec {
    let resources: Api<McpServerAuth> = fleet.world.api();
    let spec = resources.get("tools").await.unwrap().spec;
    let mut leader = fleet.take_leader().await;
    leader.kill().await;
    fleet.lead_service().await;
    fleet.world.delete::<McpServerAuth>("tools").await;
    spec
}

async fn create(fleet: &Fleet, spec: &McpServerAuthSpec) {
    let object = json!({"apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth", "metadata": {"name": "tools"}, "spec": spec});
    fleet.world.create::<McpServerAuth>(object).await.unwrap();
}

/// Until a call by each sidecar is answered with this reason.
async fn until_refused(fleet: &Fleet, reason: &str) {
    let client = reqwest::Client::new();
    for endpoint in fleet.endpoints() {
        let called = async || call(&client, endpoint).await;
        until(reason, called, |answer| {
            answer.as_ref().is_err_and(|error| error.contains(reason))
        })
        .await
        .unwrap_err();
    }
}

async fn is_called_by_all(fleet: &Fleet) {
    let client = reqwest::Client::new();
    for endpoint in fleet.endpoints() {
        assert_eq!(call(&client, endpoint).await, Ok(()));
    }
}

#[tokio::test]
async fn the_token_of_a_resource_that_is_deleted_while_no_replica_leads_is_withdrawn_and_not_used() {
    let mut fleet = Fleet::start("deleted-resource").await;
    is_called_by_all(&fleet).await;
    let issued = oauth::issued(&fleet.client).await;
    let spec = deleted_without_leader(&mut fleet).await;
    until_refused(&fleet, "unknown_server").await;
    fleet.until_one_leads().await;

    // By the next leader neither a sidecar of before nor a new one has it.
    until_refused(&fleet, "unknown_server").await;
    let pod = fleet
        .world
        .pod("looks-again", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&fleet.world, &pod).await;
    assert!(sidecar.next().await.unwrap().servers.is_empty());
    assert_eq!(oauth::issued(&fleet.client).await, issued);

    create(&fleet, &spec).await;
    sidecar.until(|snapshot| !snapshot.servers.is_empty()).await;
    let issued_anew = async || oauth::issued(&fleet.client).await;
    until("a token of its own", issued_anew, |count| *count == issued + 1).await;
}

#[tokio::test]
async fn a_resource_that_is_created_anew_while_no_replica_leads_gets_a_token_of_its_own() {
    let mut fleet = Fleet::start("created-anew").await;
    is_called_by_all(&fleet).await;
    let issued = oauth::issued(&fleet.client).await;
    let spec = deleted_without_leader(&mut fleet).await;
    create(&fleet, &spec).await;
    until_refused(&fleet, "token_unavailable").await;
    assert!(
        !fleet.replicas[0].leads().await,
        "no replica leads yet, so that none asks for a token"
    );
    fleet.until_one_leads().await;
    fleet.until_synced(2).await;
    is_called_by_all(&fleet).await;
    assert_eq!(oauth::issued(&fleet.client).await, issued + 1);
}
