//! `mcp-auth-operator inject`, as people run it: decision, reason and the patched pod, without a cluster.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway, namespace: llm}
spec:
  template:
    metadata:
      labels: {app.kubernetes.io/name: litellm}
    spec:
      containers:
      - name: litellm
        image: ghcr.io/berriai/litellm:v1.90.0
        args: [--config, /etc/litellm/config.yaml]
        ports: [{containerPort: 4000}]
        volumeMounts: [{name: config, mountPath: /etc/litellm/config.yaml, subPath: config.yaml}]
      volumes: [{name: config, configMap: {name: litellm}}]
---
apiVersion: v1
kind: Service
metadata: {name: gateway}
";
const RESOURCES: &str = "
apiVersion: v1
kind: Secret
metadata: {name: tools-oauth, namespace: llm}
---
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: tools, namespace: llm}
spec:
  server: {name: tools, url: https://tools.example.com/mcp}
  bearerToken: {secretKeyRef: {name: token, key: token}}
";

struct Run {
    code: Option<i32>,
    out: String,
    error: String,
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn inject(arguments: &[&str], input: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mcp-auth-operator"))
        .arg("inject")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_deployment_on_standard_input_comes_out_as_its_injected_pod() {
    let folder = tempfile::tempdir().unwrap();
    let resources = file(&folder, "msa.yaml", RESOURCES);
    let run = inject(
        &["--file", "-", "--resources", resources.to_str().unwrap()],
        DEPLOYMENT,
    );
    assert_eq!(run.code, Some(0), "{}", run.error);
    assert!(run.out.contains("# pod: llm/gateway-\n"), "{}", run.out);
    assert!(run.out.contains("# decision: injected\n"), "{}", run.out);
    let pod: Value = serde_saphyr::from_str(&run.out).unwrap();
    assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(sidecar["name"], "mcpauth-sidecar");
    assert!(
        sidecar.to_string().contains("https://tools.example.com/mcp"),
        "{sidecar}"
    );
}

#[test]
fn the_charts_values_count_and_what_they_leave_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let values = file(
        &folder,
        "values.yaml",
        "sidecar: {image: {repository: registry.company.com/sidecar}, drainSeconds: 9}\nwatchNamespaces: [llm]",
    );
    let manifests = format!("{DEPLOYMENT}---{RESOURCES}");
    let values = [
        "--file",
        "-",
        "--values",
        values.to_str().unwrap(),
        "--release",
        "auth",
    ];
    let run = inject(&values, &manifests);
    assert_eq!((run.code, run.error.as_str()), (Some(0), ""));
    for expected in [
        "registry.company.com/sidecar:",
        "https://auth-mcp-auth-operator.mcp-auth-system.svc:443",
        "memory: 24Mi",
    ] {
        assert!(run.out.contains(expected), "{expected}: {}", run.out);
    }
    let elsewhere = manifests.replace("namespace: llm", "namespace: other");
    let run = inject(&values, &elsewhere);
    assert!(
        run.out.contains("# reason: NotAsked\n# message: watchNamespaces"),
        "{}",
        run.out
    );
    let run = inject(&["--file", "-"], &manifests);
    assert!(
        run.error
            .contains("note: the values state no sidecar.image.repository"),
        "{}",
        run.error
    );
}

#[test]
fn a_pod_that_no_workload_makes_hears_of_no_route_as_in_its_review() {
    let pod = "
---
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: llm, labels: {app.kubernetes.io/name: litellm}, annotations: {mcpauth.dev/config-path: none}}
spec: {containers: [{name: litellm, image: litellm, args: [--port, '4000'], ports: [{containerPort: 4000}]}]}
";
    let run = inject(&["--file", "-"], &format!("{RESOURCES}{pod}"));
    assert!(run.out.contains("# decision: injected\n"), "{}", run.out);
    assert!(!run.out.contains("tools.example.com"), "{}", run.out);
}

#[test]
fn a_workload_of_another_controller_is_taken_by_its_pod_template() {
    let folder = tempfile::tempdir().unwrap();
    let resources = file(&folder, "resources.yaml", RESOURCES);
    let workload = DEPLOYMENT.replace("kind: Deployment", "kind: CloneSet");
    let arguments = ["--file", "-", "--resources", resources.to_str().unwrap()];
    let run = inject(&arguments, &workload);
    assert!(
        run.out.contains("# reason: Injected"),
        "{} {}",
        run.out,
        run.error
    );
    assert!(run.out.contains("# warning: RoutesWithheld"), "{}", run.out);
    assert_eq!(
        run.out.matches("# pod: ").count(),
        1,
        "the Service is none: {}",
        run.out
    );
}

#[test]
fn a_pod_that_no_resource_selects_is_skipped_and_unchanged() {
    let run = inject(&["--file", "-"], DEPLOYMENT);
    assert_eq!(run.code, Some(0), "{}", run.error);
    assert!(
        run.out.contains("# decision: skipped\n# reason: NotSelected\n"),
        "{}",
        run.out
    );
    let pod: Value = serde_saphyr::from_str(&run.out).unwrap();
    assert!(pod["spec"].get("initContainers").is_none());
}

#[test]
fn a_pod_that_would_be_refused_says_why_by_the_exit_status_too() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"mcpauth.dev/inject": "true"}},
        "spec": {"containers": [{"name": "web", "command": ["python", "-c", "pass"]}]},
    });
    let run = inject(&["--file", "-"], &pod.to_string());
    assert_eq!(run.code, Some(1), "{}", run.error);
    assert!(
        run.out.contains("# decision: refused\n# reason: NoTarget\n"),
        "{}",
        run.out
    );
    assert!(run.out.contains("mcpauth.dev/container"), "{}", run.out);
}

#[test]
fn input_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = file(
        &folder,
        "broken.yaml",
        "kind: Secret\nstringData: {password: s3cret\n",
    );
    let service = file(&folder, "service.yaml", "kind: Service\nmetadata: {name: a}\n");
    let wrong = file(
        &folder,
        "wrong.yaml",
        "kind: McpServerAuth\nmetadata: {name: tools}\nspec: {server: {}}\n",
    );
    let settings = file(
        &folder,
        "settings.json",
        r#"{"image": "i", "resources": {"limits": {"cpu": "abc"}}}"#,
    );
    let values = file(&folder, "values.yaml", "sidecar: {image: sidecar}");
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    for (arguments, expected) in [
        (
            vec!["--file".into(), text(&broken)],
            "broken.yaml is not YAML: see line ",
        ),
        (
            vec!["--file".into(), text(&service)],
            "neither a Pod nor a workload",
        ),
        (vec!["--file".into(), "/does/not/exist".into()], "/does/not/exist"),
        (
            vec!["--file".into(), "-".into(), "--resources".into(), "-".into()],
            "more than one of --file, --resources and --values",
        ),
        (
            vec!["--file".into(), "-".into(), "--resources".into(), text(&wrong)],
            "McpServerAuth tools",
        ),
        (
            vec!["--file".into(), "-".into(), "--resources".into(), text(&service)],
            "holds no McpServerAuth",
        ),
        (
            vec![
                "--file".into(),
                "-".into(),
                "--sidecar-settings".into(),
                text(&settings),
            ],
            "limits.cpu",
        ),
        (
            vec!["--file".into(), "-".into(), "--values".into(), text(&values)],
            "the chart's values: sidecar.image: invalid type",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = inject(&arguments, DEPLOYMENT);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.out);
        assert!(run.error.contains(expected), "{arguments:?}: {}", run.error);
        assert!(!run.error.contains("s3cret"), "{}", run.error);
        assert!(run.out.is_empty(), "{}", run.out);
    }
}

#[test]
fn modes_are_octal_as_kubectl_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let resources = file(&folder, "resources.yaml", RESOURCES);
    let deployment = DEPLOYMENT
        .replace(
            "configMap: {name: litellm}",
            "configMap: {name: litellm, defaultMode: 0444}",
        )
        .replace("/config.yaml, subPath: config.yaml", "");
    let file = file(&folder, "deployment.yaml", &deployment);
    let run = inject(
        &[
            "--file",
            file.to_str().unwrap(),
            "--resources",
            resources.to_str().unwrap(),
        ],
        "",
    );
    assert_eq!(run.code, Some(0), "{}", run.error);
    // The folder is made anew, with the mode that its volume had.
    assert!(run.out.contains("defaultMode: 292"), "{}", run.out);
    assert!(!run.out.contains("444"), "{}", run.out);
}
