use std::path::PathBuf;

use mcp_auth_operator::{ChartArgs, ChartSettings};

use super::*;

const TEMPLATE: &str = "
    metadata: {labels: {app.kubernetes.io/name: litellm}}
    spec:
      containers:
      - name: litellm
        image: ghcr.io/berriai/litellm:v1.90.0
        args: [--config, /etc/litellm/config.yaml]
        ports: [{containerPort: 4000}]
        volumeMounts: [{name: config, mountPath: /etc/litellm}]
      volumes: [{name: config, configMap: {name: litellm}}]
";
const RESOURCE: &str = "
---
apiVersion: mcpauth.dev/v1alpha1
kind: McpServerAuth
metadata: {name: tools, namespace: llm}
spec:
  server: {name: tools, url: https://tools.example.com/mcp}
  bearerToken: {secretKeyRef: {name: token, key: token}}
";

fn workload(kind: &str, template: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: gateway, namespace: llm}}\nspec:\n  template:{template}"
    )
}

fn previews_of(text: &str) -> Vec<Preview> {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("manifests.yaml");
    std::fs::write(&file, text).unwrap();
    let chart = ChartSettings::read(&ChartArgs {
        values: Vec::new(),
        release: "mcp-auth".to_owned(),
        release_namespace: "mcp-auth-system".to_owned(),
        sidecar_settings: None,
    });
    let installation = Installation {
        settings: &chart.unwrap().settings,
        not_asked: &|_| None,
    };
    previews(&Manifests::read(&file, &[], "llm").unwrap(), &installation).unwrap()
}

fn diff(preview: &Preview) -> String {
    anstream::adapter::strip_str(&render(preview)).to_string()
}

#[test]
fn every_workload_is_shown_with_what_is_added_and_nothing_else() {
    let kinds = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"];
    for kind in kinds {
        let previews = previews_of(&format!("{}{RESOURCE}", workload(kind, TEMPLATE)));
        let text = diff(&previews[0]);
        assert!(
            text.starts_with("# pod: llm/gateway-\n# decision: injected\n"),
            "{kind}: {text}"
        );
        assert!(text.contains("+    name: mcpauth-sidecar\n"), "{kind}: {text}");
        assert!(
            text.contains("--- llm/gateway- as written\n+++ llm/gateway- as injected\n@@ -"),
            "{text}"
        );
        assert!(
            !text.contains("\n-    image: "),
            "LiteLLM's image is not touched: {text}"
        );
    }
}

/// What a diff makes of a text: unchanged lines have to be where the diff says.
fn apply(before: &str, diff: &str) -> String {
    let before: Vec<&str> = before.lines().collect();
    let (mut after, mut at) = (Vec::new(), 0);
    for line in diff.lines().skip_while(|line| !line.starts_with("@@")) {
        if let Some(header) = line.strip_prefix("@@ -") {
            let start = header.split([',', ' ']).next().unwrap().parse::<usize>().unwrap() - 1;
            after.extend(&before[at..start]);
            at = start;
            continue;
        }
        let (sign, text) = line.split_at(1);
        if sign != "+" {
            assert_eq!(before[at], text);
            at += 1;
        }
        if sign != "-" {
            after.push(text);
        }
    }
    after.extend(&before[at..]);
    after.join("\n") + "\n"
}

#[test]
fn the_diff_leads_from_the_pod_as_written_to_the_pod_as_injected() {
    let previews = previews_of(&format!("{}{RESOURCE}", workload("Deployment", TEMPLATE)));
    let yaml = |value: &Value| serde_saphyr::to_string(value).unwrap();
    let patched = apply(&yaml(&previews[0].before), &diff(&previews[0]));
    assert_eq!(patched, yaml(previews[0].after.as_ref().unwrap()));
}

#[test]
fn pods_and_lists_are_read_and_what_is_not_injected_has_a_reason_and_no_diff() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: llm}\nspec: {containers: [{name: web, image: nginx}]}\n";
    assert_eq!(
        diff(&previews_of(pod)[0]),
        "# pod: llm/web\n# decision: skipped\n# reason: NotSelected\n"
    );
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {containers: []}}\n";
    let names: Vec<String> = previews_of(list).into_iter().map(|preview| preview.pod).collect();
    assert_eq!(names, ["llm/a", "llm/b"]);
}

#[test]
fn a_refused_pod_has_a_message_instead_of_a_diff() {
    let template = TEMPLATE
        .replace("litellm}}", "litellm, mcpauth.dev/inject: \"true\"}}")
        .replace(
            "        volumeMounts: [{name: config, mountPath: /etc/litellm}]\n",
            "",
        );
    let previews = previews_of(&format!("{}{RESOURCE}", workload("Deployment", &template)));
    let text = diff(&previews[0]);
    assert!(
        text.contains("# decision: refused\n") && text.contains("# message: "),
        "{text}"
    );
    assert!(!text.contains("@@") && previews[0].after.is_none(), "{text}");
}
