//! `render`, as people run it: what it shows is what the webhook does, it can do without a cluster, and standard input will
//! do.

use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::SECRET;
use mcp_auth_tests::setting;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{command, file, kubeconfig, litellm, run, token_without_rights, tools};
use crate::CERTIFICATE_SECRET;

const MANIFESTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway, namespace: llm}
spec:
  template:
    metadata:
      labels: {app.kubernetes.io/name: litellm}
      annotations: {mcpauth.dev/config-path: none}
    spec:
      containers: [{name: litellm, image: litellm, args: [--port, '4000'], ports: [{containerPort: 4000}]}]
";
const RESOURCES: &str = "
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: tools, namespace: llm}
spec:
  server: {name: tools, url: https://tools.example.com/mcp}
  bearerToken: {secretKeyRef: {name: token, key: token}}
";

#[tokio::test]
async fn render_prints_a_diff_of_what_comes_by_standard_input_and_asks_no_cluster() {
    let resources = file("render-resources.yaml", RESOURCES);
    let resources = resources.to_str().unwrap();
    let mut rendering = command(&[
        "render",
        "-f",
        "-",
        "--resources",
        resources,
        "--offline",
        "--kubeconfig",
        "/nonexistent",
    ]);
    let mut rendering = rendering
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = rendering.stdin.take().unwrap();
    input.write_all(MANIFESTS.as_bytes()).await.unwrap();
    drop(input);
    let output = rendering.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.starts_with("# pod: llm/gateway-\n# decision: injected\n# reason: Injected\n"),
        "{text}"
    );
    assert!(text.contains("\n+") && text.contains("mcpauth-sidecar"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours without a terminal");
}

#[tokio::test]
async fn what_cannot_be_rendered_is_one_message() {
    let no_pod = file("render-no-pod.yaml", RESOURCES);
    let no_yaml = file("render-no-yaml.yaml", "a: [b");
    for (path, expected) in [
        (
            no_pod.to_str().unwrap(),
            "holds neither a Pod nor a workload with a pod template",
        ),
        (no_yaml.to_str().unwrap(), "is not YAML"),
        (
            "/nonexistent/pods.yaml",
            "/nonexistent/pods.yaml: there is no such file",
        ),
    ] {
        let printed = run(&["render", "-f", path]).await;
        assert_eq!(printed.code, 6, "{printed:?}");
        assert!(
            printed.err.starts_with("error: ") && printed.err.contains(expected),
            "{}",
            printed.err
        );
    }
}

/// The parts of a pod that injection writes, without the defaults that the API server adds to every pod.
fn injected_parts(pod: &Value) -> Value {
    let mut sidecar = pod["spec"]["initContainers"][0].clone();
    for variable in sidecar["env"].as_array_mut().unwrap() {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            field.as_object_mut().unwrap().remove("apiVersion");
        }
    }
    let litellm = &pod["spec"]["containers"][0];
    let annotations = pod["metadata"]["annotations"].as_object().unwrap();
    let ours = annotations
        .iter()
        .filter(|(key, _)| key.starts_with("mcpauth.dev/"));
    json!({
        "annotations": ours.collect::<std::collections::BTreeMap<_, _>>(),
        "image": sidecar["image"], "pull": sidecar["imagePullPolicy"], "resources": sidecar["resources"],
        "env": sidecar["env"], "args": litellm["args"], "litellm": litellm["env"],
    })
}

#[tokio::test]
async fn what_render_shows_is_what_the_webhook_makes_of_the_pod() {
    const NAMESPACE: &str = "cli-render";
    let world = World::new(NAMESPACE, true).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world.apply(&tools()).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let mut pod = litellm("litellm-0");
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let manifest = file("render-pod.yaml", &pod.to_string());
    let operator = setting("MCPAUTH_TEST_OPERATOR_NAMESPACE");
    let arguments = [
        "render",
        "-f",
        manifest.to_str().unwrap(),
        "-n",
        NAMESPACE,
        "--operator-namespace",
        &operator,
        "-o",
        "json",
    ];
    // Another test replaces the operator's authority for a while.
    let _present = CERTIFICATE_SECRET.read().await;
    let printed = run(&arguments).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert_eq!(printed.err, "", "all of it is of the cluster");
    let rendered: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(rendered[0]["reason"], "Injected", "{rendered}");

    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods: Api<Pod> = world.api();
    let made = pods
        .create(&dry_run, &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(injected_parts(&rendered[0]["after"]), injected_parts(&made));
}

#[tokio::test]
async fn a_namespace_that_has_not_opted_in_is_told_and_what_may_not_be_read_is_too() {
    const NAMESPACE: &str = "cli-render-out";
    let world = World::new(NAMESPACE, false).await;
    let manifests = MANIFESTS.replace("namespace: llm", &format!("namespace: {NAMESPACE}"));
    let resources = RESOURCES.replace("namespace: llm", &format!("namespace: {NAMESPACE}"));
    let manifests = file("render-out.yaml", &format!("{manifests}---{resources}"));
    let manifests = manifests.to_str().unwrap();
    let printed = run(&["render", "-f", manifests]).await;
    assert_eq!(printed.code, 1, "{printed:?}");
    let expected = format!(
        "# message: the namespace {NAMESPACE} has not opted in to injection: kubectl label namespace"
    );
    assert!(
        printed.out.contains("# reason: NotAsked\n") && printed.out.contains(&expected),
        "{}",
        printed.out
    );

    let path = kubeconfig("render-rights", None, &token_without_rights(&world).await);
    let printed = run(&["render", "-f", manifests, "--kubeconfig", &path]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(printed.out.contains("# decision: injected\n"), "{}", printed.out);
    for expected in [
        "note: the webhook configuration, by which the operator's settings are found, is not there or not for you to read",
        "note: you may not read the Namespace",
        "note: you may not list McpServerAuth resources in the namespace",
    ] {
        assert!(printed.err.contains(expected), "{expected}: {}", printed.err);
    }
}

#[tokio::test]
async fn a_cluster_that_is_named_and_does_not_answer_is_an_error_and_values_ask_none() {
    let manifests = file("render-named.yaml", &format!("{MANIFESTS}---{RESOURCES}"));
    let closed = kubeconfig("render-closed", Some("http://127.0.0.1:1"), "x");
    let named = [
        "render",
        "-f",
        manifests.to_str().unwrap(),
        "--kubeconfig",
        &closed,
    ];
    let printed = run(&named).await;
    assert_eq!(printed.code, 3, "{printed:?}");
    let values = file(
        "render-values.yaml",
        "sidecar: {image: {repository: registry.company.com/sidecar}}",
    );
    let printed = run(&[&named[..], &["--values", values.to_str().unwrap()]].concat()).await;
    assert_eq!((printed.code, printed.err.as_str()), (0, ""), "{printed:?}");
    assert!(
        printed.out.contains("registry.company.com/sidecar:"),
        "{}",
        printed.out
    );
}
