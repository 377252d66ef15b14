//! The webhook, as the API server calls it.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_tests::resource::{owned, resource};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

pub fn litellm(name: &str, container: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "litellm"}},
        "spec": {
            "serviceAccountName": "default",
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": "litellm"}}],
        },
    })
}

pub fn container() -> Value {
    json!({
        "name": "litellm",
        "image": "litellm",
        "args": ["--config", "/etc/litellm/config.yaml"],
        "ports": [{"name": "http", "containerPort": 4000}],
        "volumeMounts": [{
            "name": "config",
            "mountPath": "/etc/litellm/config.yaml",
            "subPath": "config.yaml",
        }],
    })
}

/// A namespace with a resource; the webhook is asked once it knows of it.
pub async fn world(namespace: &str) -> World {
    let world = World::new(namespace, true).await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    // The operator speaks of a resource once it has seen it.
    until(
        "the resource is seen",
        async || world.status("tools").await,
        |status| status.observed_generation.is_some(),
    )
    .await;
    world
}

pub fn has_sidecar(pod: &Pod) -> bool {
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    containers
        .map(|container| &*container.name)
        .any(|name| name == "mcpauth-sidecar")
}

#[tokio::test]
async fn a_litellm_pod_gets_the_sidecar_through_the_api_server() {
    let world = world("injection-litellm").await;
    let pod: Pod = world
        .create(owned(&world, litellm("litellm-0", container())).await)
        .await
        .unwrap();
    assert!(has_sidecar(&pod));
    let spec = pod.spec.unwrap();
    let args = spec.containers[0].args.clone().unwrap();
    assert_eq!(
        args[..4],
        ["--config", "/etc/litellm/config.yaml", "--host", "127.0.0.1"]
    );
    let sidecar = serde_json::to_string(&spec.init_containers.unwrap()[0]).unwrap();
    assert!(
        sidecar.contains("tools.example.com") && sidecar.contains("BEGIN CERTIFICATE"),
        "{sidecar}"
    );
}

#[tokio::test]
async fn a_pod_that_no_workload_makes_gets_the_sidecar_without_the_routes_and_is_told() {
    let world = world("injection-no-owner").await;
    let pod: Pod = world.create(litellm("litellm-0", container())).await.unwrap();
    assert!(has_sidecar(&pod));
    assert!(!serde_json::to_string(&pod).unwrap().contains("tools.example.com"));
    let warnings = pod.metadata.annotations.unwrap_or_default()["mcpauth.dev/warnings"].clone();
    assert!(warnings.contains("RoutesWithheld"), "{warnings}");
}

#[tokio::test]
async fn the_annotations_of_a_pod_send_its_audit_lines_and_spans_to_a_collector() {
    let world = world("injection-collector").await;
    let mut pod = litellm("litellm-0", container());
    pod["metadata"]["annotations"] = json!({
        "mcpauth.dev/audit-output": "otlp",
        "mcpauth.dev/tracing": "enabled",
        "mcpauth.dev/otlp-endpoint": "http://collector.monitoring:4318",
        // There is none: nothing keeps the pod from starting.
        "mcpauth.dev/otlp-headers-secret": "collector/headers",
    });
    let pod: Pod = world.create(pod).await.unwrap();
    let sidecar = &pod.spec.unwrap().init_containers.unwrap()[0];
    let variable = |name: &str| {
        let mut variables = sidecar.env.iter().flatten();
        variables.find(|variable| variable.name == name).unwrap().clone()
    };
    for (name, expected) in [
        ("MCPAUTH_AUDIT_LOG", "otlp"),
        ("MCPAUTH_TRACING", "enabled"),
        ("MCPAUTH_OTLP_ENDPOINT", "http://collector.monitoring:4318"),
    ] {
        assert_eq!(variable(name).value.as_deref(), Some(expected), "{name}");
    }
    let source = variable("MCPAUTH_OTLP_HEADERS").value_from.unwrap();
    let secret = source.secret_key_ref.unwrap();
    assert_eq!(
        (&*secret.name, &*secret.key, secret.optional),
        ("collector", "headers", Some(true))
    );

    let mut wrong = litellm("litellm-1", container());
    wrong["metadata"]["annotations"] =
        json!({"mcpauth.dev/otlp-endpoint": "http://ada:s3cret@collector:4318"});
    let wrong: Pod = world.create(wrong).await.unwrap();
    assert!(!has_sidecar(&wrong));
    let told = &wrong.metadata.annotations.unwrap()["mcpauth.dev/not-injected"];
    assert!(
        told.contains("mcpauth.dev/otlp-endpoint") && !told.contains("s3cret"),
        "{told}"
    );
}

#[tokio::test]
async fn other_applications_of_the_namespace_are_left_alone() {
    let world = world("injection-others").await;
    let mut other = litellm("postgres-0", json!({"name": "postgres", "image": "postgres"}));
    other["metadata"]["labels"] = json!({"app.kubernetes.io/name": "postgres"});
    let pod: Pod = world.create(other).await.unwrap();
    assert!(!has_sidecar(&pod));
}

#[tokio::test]
async fn a_pod_can_ask_for_itself_and_the_webhook_survives_a_reset_of_its_configuration() {
    let world = World::new("injection-no-opt-in", false).await;
    let pod: Pod = world.create(litellm("litellm-0", container())).await.unwrap();
    assert!(!has_sidecar(&pod));
    let mut asking = litellm("litellm-1", container());
    asking["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
    let pod: Pod = world.create(asking.clone()).await.unwrap();
    assert!(has_sidecar(&pod));

    // An upgrade of the chart may take the trust away. Only this test's webhook: others run beside it.
    let api: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let read = async || api.get("mcp-auth").await.unwrap();
    let trusted = |configuration: &MutatingWebhookConfiguration| {
        let mut webhooks = configuration.webhooks.iter().flatten();
        webhooks.all(|webhook| {
            webhook
                .client_config
                .ca_bundle
                .as_ref()
                .is_some_and(|bundle| !bundle.0.is_empty())
        })
    };
    let webhooks = read().await.webhooks.unwrap();
    let index = webhooks
        .iter()
        .position(|webhook| webhook.name == "pod.inject.mcpauth.dev")
        .unwrap();
    let reset = json!([{"op": "remove", "path": format!("/webhooks/{index}/clientConfig/caBundle")}]);
    let reset: Patch<()> = Patch::Json(serde_json::from_value(reset).unwrap());
    api.patch("mcp-auth", &PatchParams::default(), &reset)
        .await
        .unwrap();
    until("trust again", read, trusted).await;
    asking["metadata"]["name"] = json!("litellm-2");
    let pod: Pod = world.create(asking).await.unwrap();
    assert!(has_sidecar(&pod));
}

#[tokio::test]
async fn what_cannot_be_injected_starts_as_it_is_unless_the_pod_itself_asks_for_the_sidecar() {
    let world = world("injection-refusals").await;
    let mut baked = container();
    baked["volumeMounts"] = json!([]);
    let mut shell = container();
    shell["command"] = json!(["sh", "-c", "litellm --config /a.yaml || litellm"]);
    let mut no_port = container();
    no_port["ports"] = json!([]);
    no_port["args"] = json!(["--config", "/etc/litellm/config.yaml", "--port", "$(LATER)"]);
    for (name, container, expected) in [
        ("baked", baked, "mount"),
        ("shell", shell, "by a shell"),
        ("no-port", no_port, "mcpauth.dev/port"),
    ] {
        let mut asking = litellm(name, container.clone());
        asking["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
        let refusal = world
            .create::<Pod>(asking)
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("mcp-auth") && refusal.contains(expected),
            "{name}: {refusal}"
        );

        let left_alone = litellm(&format!("{name}-left-alone"), container);
        let pod: Pod = world.create(left_alone).await.unwrap();
        assert!(!has_sidecar(&pod), "{name} passes uninjected");
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let told = annotations
            .get("mcpauth.dev/not-injected")
            .cloned()
            .unwrap_or_default();
        assert!(told.contains(expected), "{name}: {told}");
    }
}
