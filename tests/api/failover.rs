//! Replicas of the operator of a test's own, with a Lease of their own: what becomes of the lead.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::json;

const LEASE: &str = "failover";

#[tokio::test]
async fn a_lead_that_is_lost_ends_no_process_and_the_next_replica_takes_it() {
    let world = World::new("failover", false).await;
    let operator = Operator {
        namespace: world.namespace.clone(),
        watched_namespace: world.namespace.clone(),
        lease: LEASE.into(),
        certificate_secret: "failover-tls".into(),
        url: None,
        program: None,
        arguments: vec![ANY_ADDRESS.into()],
    };
    let mut first = operator.start("first", None, None).await;
    first.until_leads().await;
    let second = operator.start("second", None, None).await;
    assert!(!second.leads().await, "one leads");

    // Somebody else takes the lease, and never renews it.
    let leases: Api<Lease> = world.api();
    let patch = json!({"spec": {"holderIdentity": "somebody"}});
    leases
        .patch(LEASE, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until(
        "the first to stop leading",
        async || first.leads().await,
        |leads| !leads,
    )
    .await;
    assert!(first.is_running(), "it goes on reviewing pods");
    assert!(first.get("/healthz").await.is_some() && first.get("/readyz").await.is_some());
    let holder = async || {
        let spec = leases.get(LEASE).await.unwrap().spec.unwrap();
        spec.holder_identity.unwrap_or_default()
    };
    let is_ours = |holder: &String| holder == "first" || holder == "second";
    let leader = until("one of both to hold the lease again", holder, is_ours).await;

    // A crash, and a graceful end.
    let (mut crashing, mut other) = match leader == "first" {
        true => (first, second),
        false => (second, first),
    };
    crashing.until_leads().await;
    crashing.kill().await;
    other.until_leads().await;
    let third = operator.start("third", None, None).await;
    assert!(other.terminate().await, "it ended in order");
    third.until_leads().await;
}
