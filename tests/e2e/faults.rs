//! Pods that are injected and then do not do what they should: the status and the log say why, and other pods
//! are not affected.

use mcp_auth_crds::conditions::SIDECARS_SYNCED;
use mcp_auth_crds::reasons::SIDECAR_PROBLEM;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

use crate::client::{url, whoami};
use crate::command::{apply, kubectl};
use crate::ground::{CRUMB, ground, injected, manifest, of_kind, pods};
use crate::litellm::instance;

/// A LiteLLM of another name, changed, with a resource of its own.
struct Faulty(&'static str);

impl Faulty {
    async fn apply(&self, change: impl Fn(&mut Value)) {
        let name = self.0;
        self.delete().await;
        let mut resource = of_kind(&manifest("mcp-auth").await, "McpServerAuth");
        resource["metadata"]["name"] = json!(name);
        resource["spec"]["podSelector"] = json!({"matchLabels": {"app.kubernetes.io/instance": name}});
        let mut deployment = instance(&of_kind(&manifest("litellm").await, "Deployment"), name);
        for labels in [
            "/metadata/labels",
            "/spec/selector/matchLabels",
            "/spec/template/metadata/labels",
        ] {
            deployment.pointer_mut(labels).expect("labels")["app.kubernetes.io/name"] = json!("faulty");
        }
        change(&mut deployment["spec"]["template"]["spec"]);
        apply(&[resource, deployment]).await;
    }

    /// What the sidecar logs, once it says this.
    async fn logs(&self, text: &str) {
        let selector = format!("--selector=app.kubernetes.io/instance={}", self.0);
        until(
            &format!("the sidecar's log says {text}"),
            async || {
                kubectl(&["logs", &selector, "--container=mcpauth-sidecar", "--tail=-1"])
                    .await
                    .out
            },
            |log| log.contains(text),
        )
        .await;
    }

    /// What the resource says of its sidecars.
    async fn reports(&self, world: &World) -> String {
        let status = world
            .condition(self.0, SIDECARS_SYNCED, "False", SIDECAR_PROBLEM)
            .await;
        message(&status, SIDECARS_SYNCED)
    }

    async fn delete(&self) {
        let deployment = format!("deploy/{}", self.0);
        let resource = format!("msa/{}", self.0);
        let delete = [
            "delete",
            &deployment,
            &resource,
            "--ignore-not-found",
            "--cascade=foreground",
        ];
        kubectl(&[&delete[..], &["--grace-period=1"]].concat()).await.ok();
    }
}

/// Those who have done nothing wrong.
async fn others_are_undisturbed(world: &World) {
    for resource in ["tools", "legacy"] {
        world.condition(resource, "Ready", "True", "Ready").await;
    }
    let answer = whoami(
        &url("litellm"),
        "tools",
        &format!("session_id={CRUMB}undisturbed"),
    )
    .await;
    assert_eq!(answer["service"], "litellm");
}

#[tokio::test]
async fn a_configuration_that_is_no_yaml_is_named_with_the_way_out() {
    let world = ground().await;
    let faulty = Faulty("no-yaml");
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no-yaml"},
        "data": {"config.yaml": "mcp_servers: [unclosed\n"},
    });
    apply(&[config]).await;
    faulty
        .apply(|pod| pod["volumes"][0]["configMap"]["name"] = json!("no-yaml"))
        .await;
    let message = faulty.reports(&world).await;
    assert!(
        message.contains("/app/config/config.yaml"),
        "it names the file: {message}"
    );
    assert!(
        message.contains("no valid YAML at line"),
        "and the place: {message}"
    );
    faulty.logs("no valid YAML at line").await;
    others_are_undisturbed(&world).await;
    faulty.delete().await;
}

#[tokio::test]
async fn a_configuration_that_is_not_there_is_named_with_the_way_out() {
    let world = ground().await;
    let faulty = Faulty("no-config");
    faulty
        .apply(|pod| {
            pod["volumes"][0]["configMap"] = json!({"name": "not-there", "optional": true});
            pod["containers"][0]["volumeMounts"][0] = json!({"name": "config", "mountPath": "/app/config"});
        })
        .await;
    let message = faulty.reports(&world).await;
    assert!(
        message.contains("/app/config/config.yaml"),
        "it names the file: {message}"
    );
    assert!(
        message.contains("there is no such file; mount it"),
        "and the way out: {message}"
    );
    faulty.logs("there is no such file").await;
    others_are_undisturbed(&world).await;
    faulty.delete().await;
}

#[tokio::test]
async fn a_port_of_litellm_that_another_container_has_taken_is_named() {
    let world = ground().await;
    let faulty = Faulty("port-taken");
    faulty
        .apply(|pod| {
            let mut other = pod["containers"][0].clone();
            for field in [
                "ports",
                "env",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
                "volumeMounts",
            ] {
                other.as_object_mut().expect("a container").remove(field);
            }
            other["name"] = json!("other");
            // The port that LiteLLM is moved to, which this container has not declared.
            other["args"] = json!(["python3", "-m", "http.server", "16480"]);
            other["resources"] = json!({});
            let containers = pod["containers"].as_array_mut().expect("a list");
            // Started first, and up long before LiteLLM.
            containers.insert(0, other);
        })
        .await;
    let pods = until(
        "the pod is there",
        async || pods("port-taken").await,
        |pods| !pods.is_empty(),
    )
    .await;
    assert!(pods.iter().all(injected));
    let message = faulty.reports(&world).await;
    assert!(message.contains("16480"), "it names the port: {message}");
    others_are_undisturbed(&world).await;
    faulty.delete().await;
}
