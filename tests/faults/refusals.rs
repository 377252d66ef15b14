//! What becomes of pods is told by the replica that leads, whichever of them has reviewed the pod.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::admission_review::admission_review;
use mcp_auth_tests::replica::Replica;
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::sidecar::authority;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use reqwest::Client;
use serde_json::{Value, json};

use crate::fleet::Fleet;

/// A ReplicaSet, as the owner of pods.
async fn replica_set(world: &World, name: &str, hash: &str) -> Value {
    let labels = json!({"app": name});
    let made: ReplicaSet = world
        .create(json!({
            "metadata": {"name": format!("{name}-{hash}")},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "litellm", "image": "litellm"}]},
                },
            },
        }))
        .await
        .unwrap();
    json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": made.name_any(), "uid": made.uid(), "controller": true,
    }])
}

/// A pod that asks for the sidecar by its own label, and cannot be injected.
fn not_injectable(name: &str, owner: &Value) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "litellm", "pod-template-hash": "7c9", "mcpauth.dev/inject": "true",
            },
            "ownerReferences": owner,
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{
                "name": "litellm",
                "image": "ghcr.io/berriai/litellm",
                "args": ["--ssl_keyfile_path", "/tls/key"],
            }],
        },
    })
}

/// As the API server asks this replica, where the Service leads to it.
async fn review(world: &World, replica: &Replica, pod: &Value) -> Value {
    let client = Client::builder().tls_certs_only([authority(world).await]);
    let review = admission_review(&world.namespace, pod);
    let url = format!("https://{}/v1/inject", replica.address);
    let answer = client.build().unwrap().post(url).body(review.to_string()).send();
    serde_json::from_str(&answer.await.unwrap().text().await.unwrap()).unwrap()
}

/// The events with this reason about an object.
async fn events(world: &World, about: &str, reason: &str) -> Vec<Event> {
    let fields = ListParams::default().fields(&format!("regarding.name={about},reason={reason}"));
    world.api::<Event>().list(&fields).await.unwrap().items
}

async fn written(world: &World, about: &str, reason: &str) -> Vec<Event> {
    let found = async || events(world, about, reason).await;
    until(&format!("event {reason} about {about}"), found, |events| {
        !events.is_empty()
    })
    .await
}

#[tokio::test]
async fn what_becomes_of_pods_is_told_once_by_the_leader_whoever_reviewed_them() {
    let fleet = Fleet::start("refused").await;
    let world = &fleet.world;
    let (mut leader, mut follower) = (None, None);
    for replica in &fleet.replicas {
        match replica.leads().await {
            true => leader = Some(replica),
            false => follower = Some(replica),
        }
    }
    let (leader, follower) = (leader.expect("one leads"), follower.expect("the other follows"));

    // Both see these pods. By the time the later one is told, the earlier one would have been told twice.
    for name in ["first", "second"] {
        let owner = replica_set(world, name, "7c9").await;
        let mut pod = not_injectable(&format!("{name}-7c9-a"), &owner);
        // As the webhook marks it: the API server does not trust that of these replicas.
        let left_alone = json!({"mcpauth.dev/not-injected": "LiteLlmTls: LiteLLM serves TLS itself"});
        pod["metadata"]["annotations"] = left_alone;
        world.create::<Pod>(pod).await.unwrap();
        written(world, &format!("{name}-7c9"), "PodNotInjected").await;
    }
    let told = events(world, "first-7c9", "PodNotInjected").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].reporting_instance.as_deref(), Some(leader.name.as_str()));
    assert_eq!(told[0].series, None, "one replica tells");

    // The follower refuses, and the leader knows.
    let owner = replica_set(world, "rollout", "7c9").await;
    let refused = not_injectable("rollout-7c9-a", &owner);
    let answer = review(world, follower, &refused).await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
    let status = world
        .condition("tools", conditions::READY, "False", reasons::PODS_REFUSED)
        .await;
    let said = message(&status, conditions::READY);
    assert!(
        said.contains("Deployment rollout") && said.contains("--ssl_keyfile_path"),
        "{said}"
    );
    let told = written(world, "rollout-7c9", "PodRefused").await;
    assert_eq!(told[0].reporting_instance.as_deref(), Some(leader.name.as_str()));
}

/// A ReplicaSet tries again after a quarter of an hour at last: until then nobody but its replicas know what the operator refused.
#[tokio::test]
async fn what_the_leader_has_refused_is_told_on_by_the_next_leader_when_it_crashes() {
    let mut fleet = Fleet::start("refused-crash").await;
    let mut leader = fleet.take_leader().await;
    let owner = replica_set(&fleet.world, "rollout", "7c9").await;
    let refused = not_injectable("rollout-7c9-a", &owner);
    let answer = review(&fleet.world, &leader, &refused).await;
    assert_eq!(answer["response"]["allowed"], false, "{answer}");
    let said = async |name: &str| {
        let (type_, refused) = (conditions::SIDECARS_SYNCED, reasons::PODS_REFUSED);
        let status = fleet.world.condition(name, type_, "False", refused).await;
        let said = message(&status, type_);
        assert!(
            said.contains("Deployment rollout") && said.contains("--ssl_keyfile_path"),
            "{said}"
        );
    };
    said("tools").await;
    leader.kill().await;
    fleet.lead_service().await;
    fleet.replicas[0].until_leads().await;
    // A resource that no leader before has said anything of: only what the replicas told one another says it.
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    fleet
        .world
        .apply(&resource("later", "later", given))
        .await
        .unwrap();
    said("later").await;
    said("tools").await;
}
