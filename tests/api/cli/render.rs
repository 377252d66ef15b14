//! `render`, as people run it: it needs no cluster, and standard input will do.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::{command, file, run};

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
            "reading /nonexistent/pods.yaml: No such file",
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
