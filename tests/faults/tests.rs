//! One fault each.

use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::until;
use serde_json::json;
use tokio::process::Command;

use crate::fleet::Fleet;

#[tokio::test]
async fn a_crash_of_the_leader_fails_no_call_and_mints_nothing() {
    let mut fleet = Fleet::start("crash").await;
    let before = fleet.begin().await;
    let mut leader = fleet.take_leader().await;
    leader.kill().await;
    fleet.lead_service().await;
    // In the same pod, by whose name the lease is still held.
    fleet.start_replica(&leader.name).await;
    fleet.until_one_leads().await;
    assert!(fleet.replicas[0].leads().await, "the one that knows the tokens");
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "`kill -9` of the leader, whose container starts again",
            "SIGKILL to the process, and another with the same pod's name",
        )
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn a_pod_that_starts_while_no_replica_leads_gets_its_token() {
    let mut fleet = Fleet::start("starting").await;
    let issued = mcp_auth_tests::oauth::issued(&fleet.client).await;
    let mut leader = fleet.take_leader().await;
    leader.kill().await;
    fleet.lead_service().await;
    fleet.new_pod_is_served("litellm-new").await;
    assert!(!fleet.replicas[0].leads().await, "it was served by a follower");
    fleet.until_one_leads().await;
    fleet.until_synced(3).await;
    assert_eq!(mcp_auth_tests::oauth::issued(&fleet.client).await, issued);
}

#[tokio::test]
async fn a_graceful_end_of_the_leader_fails_no_call_and_mints_nothing() {
    let mut fleet = Fleet::start("graceful").await;
    let before = fleet.begin().await;
    let mut leader = fleet.take_leader().await;
    fleet.lead_service().await;
    assert!(leader.terminate().await, "it ended in order");
    fleet.until_one_leads().await;
    fleet.add_replica().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "the leader ends gracefully, as when its node is drained",
            "SIGTERM to the process, and another in its place; no node is drained",
        )
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn an_upgrade_that_replaces_each_replica_fails_no_call_and_mints_nothing() {
    let mut fleet = Fleet::start("upgrade").await;
    let before = fleet.begin().await;
    for _ in 0..2 {
        fleet.add_replica().await;
        fleet.until_followed().await;
        let mut old = match fleet.replicas[0].leads().await {
            true => fleet.take_leader().await,
            false => fleet.replicas.remove(0),
        };
        fleet.lead_service().await;
        assert!(old.terminate().await, "it ended in order");
        fleet.until_one_leads().await;
    }
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(before, "`helm upgrade`: every replica is replaced", "what an upgrade does to the Deployment's pods: a new process is ready, SIGTERM to an old one, twice; no Helm. `helm upgrade` itself, in a cluster: `an_upgrade_from_an_earlier_chart_and_a_rollout_at_once_lose_no_call_and_inject_the_next_pod`")
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn a_crash_of_all_replicas_fails_no_call() {
    let mut fleet = Fleet::start("all").await;
    let before = fleet.begin().await;
    let mut crashed = std::mem::take(&mut fleet.replicas);
    for replica in &mut crashed {
        replica.kill().await;
    }
    for replica in &crashed {
        fleet.start_replica(&replica.name).await;
    }
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let minted = async || mcp_auth_tests::oauth::issued(&fleet.client).await;
    until("a new token", minted, |issued| *issued > before.issued()).await;
    let row = fleet
        .finish(
            before,
            "`kill -9` of all replicas at once",
            "SIGKILL to both processes, and two with the same names",
        )
        .await;
    assert_eq!(row.minted, 1, "nobody knows the old one any more");
}

#[tokio::test]
async fn a_deleted_lease_changes_nothing() {
    let fleet = Fleet::start("deleted").await;
    let before = fleet.begin().await;
    let (leases, lease) = fleet.leases();
    leases.delete(&lease, &DeleteParams::default()).await.unwrap();
    let look = async || leases.get_opt(&lease).await.unwrap();
    until("the lease to be there again", look, Option::is_some).await;
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    let row = fleet
        .finish(before, "the lease is deleted", "the Lease is deleted by the API")
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn a_lease_that_somebody_takes_ends_the_lead_and_fails_no_call() {
    let fleet = Fleet::start("taken").await;
    let before = fleet.begin().await;
    let (leases, lease) = fleet.leases();
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": "somebody"}}));
    leases
        .patch(&lease, &PatchParams::default(), &patch)
        .await
        .unwrap();
    let leading = async || {
        let [first, second] = [fleet.replicas[0].leads().await, fleet.replicas[1].leads().await];
        first || second
    };
    until("the leader to stop", leading, |leading| !leading).await;
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "somebody takes the lease, and lets it run out",
            "another holder is written into the Lease by the API",
        )
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn an_api_server_that_is_away_for_a_minute_fails_no_call_and_mints_nothing() {
    let fleet = Fleet::start("away").await;
    let before = fleet.begin().await;
    signal_api_server("-STOP").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let leading = async || {
        let [first, second] = [fleet.replicas[0].leads().await, fleet.replicas[1].leads().await];
        first || second
    };
    until("the leader to stop by its own clock", leading, |leading| !leading).await;
    signal_api_server("-CONT").await;
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "the API server does not answer for 60 s",
            "SIGSTOP to kube-apiserver",
        )
        .await;
    assert_eq!(row.minted, 0);
}

#[tokio::test]
async fn a_replica_that_starts_while_the_api_server_is_away_waits_for_it() {
    let mut fleet = Fleet::start("cold").await;
    let before = fleet.begin().await;
    fleet.give_token("faults-cold-new").await;
    signal_api_server("-STOP").await;
    let mut replica = fleet.launch_replica("faults-cold-new").await;
    let alive = async || replica.get("/healthz").await;
    until("the probes to be answered", alive, Option::is_some).await;
    assert_eq!(replica.get("/readyz").await, None, "alive, and not ready");
    // It tries again: its first attempt is over, and so is its second one.
    let attempts = async || {
        let log = std::fs::read_to_string(replica.log.as_ref().unwrap()).unwrap();
        log.matches("the API server does not answer").count()
    };
    until("it to try again", attempts, |attempts| *attempts >= 2).await;
    assert!(
        replica.get("/healthz").await.is_some(),
        "it would be no better off for being restarted"
    );
    assert!(replica.is_running());
    signal_api_server("-CONT").await;
    replica.until_ready().await;
    fleet.take_in(replica).await;
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "a replica starts while the API server does not answer",
            "a third process starts after SIGSTOP to kube-apiserver",
        )
        .await;
    assert_eq!(row.minted, 0);
}

/// Each write waits for etcd, and so does a renewal of the Lease.
#[tokio::test]
async fn an_etcd_that_is_slow_for_a_minute_fails_no_call_and_mints_nothing() {
    let mut fleet = Fleet::start("etcd").await;
    let before = fleet.begin().await;
    slow_etcd(Duration::from_secs(60)).await;
    fleet.until_one_leads().await;
    fleet.until_followed().await;
    fleet.until_served().await;
    let row = fleet
        .finish(
            before,
            "etcd stands still for 1.5 s of each 1.75 s, for 60 s",
            "SIGSTOP and SIGCONT to etcd, again and again",
        )
        .await;
    assert_eq!(row.minted, 0);
    // Nor does a pod that starts meanwhile go without its token.
    let slow = tokio::spawn(slow_etcd(Duration::from_secs(600)));
    fleet.new_pod_is_served("litellm-new").await;
    slow.abort();
    let _ = slow.await;
    signal("MCPAUTH_TEST_ETCD_PROCESS", "-CONT").await;
}

async fn slow_etcd(time: Duration) {
    let began = tokio::time::Instant::now();
    while began.elapsed() < time {
        signal("MCPAUTH_TEST_ETCD_PROCESS", "-STOP").await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        signal("MCPAUTH_TEST_ETCD_PROCESS", "-CONT").await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn signal_api_server(signal: &str) {
    self::signal("MCPAUTH_TEST_API_SERVER_PROCESS", signal).await;
}

/// To the process that a setting names.
pub async fn signal(process: &str, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &setting(process)])
        .status()
        .await;
    assert!(status.unwrap().success());
}
