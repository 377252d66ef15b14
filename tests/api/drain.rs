//! `kubectl drain` of a node with injected pods: kubectl itself, which looks at volumes before it evicts. No node runs them.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use mcp_auth_tests::resource::owned;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::injection::{container, has_sidecar, litellm, world};

const NODE: &str = "drained";

/// A pod of a workload on the node. `shared_memory` is the value of the annotation.
async fn pod_on_node(world: &World, name: &str, shared_memory: &str) -> Pod {
    let mut pod = litellm(name, container());
    pod["metadata"]["labels"]["app"] = json!(name);
    pod["metadata"]["annotations"] = json!({"mcpauth.dev/shared-memory": shared_memory});
    pod["spec"]["nodeName"] = json!(NODE);
    world.create(owned(world, pod).await).await.unwrap()
}

/// Whether kubectl would drain the node of the pods with this label, and what it says.
async fn drain(app: &str, more: &[&str]) -> (bool, String) {
    let selector = format!("--pod-selector=app={app}");
    let output = Command::new("kubectl")
        .args(["drain", NODE, "--dry-run=server", &selector])
        .args(more)
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn kubectl_drain_takes_a_pod_whose_overlay_is_in_shared_memory_and_refuses_one_with_a_volume() {
    let world = world("drain").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();

    let in_memory = pod_on_node(&world, "in-memory", "true").await;
    assert!(has_sidecar(&in_memory));
    let in_memory: Value = serde_json::to_value(in_memory).unwrap();
    let volumes = in_memory["spec"]["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().all(|volume| volume.get("emptyDir").is_none()),
        "{volumes:?}"
    );
    let (drains, said) = drain("in-memory", &[]).await;
    assert!(drains && said.contains("evicting pod drain/in-memory"), "{said}");

    assert!(has_sidecar(&pod_on_node(&world, "in-volume", "false").await));
    let (drains, said) = drain("in-volume", &[]).await;
    assert!(!drains && said.contains("local storage"), "{said}");
    let (drains, said) = drain("in-volume", &["--delete-emptydir-data"]).await;
    assert!(drains, "{said}");
}
