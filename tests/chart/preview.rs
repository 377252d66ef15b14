//! What `mcp-auth-operator inject` reads of the chart's values, beside what Helm makes of them.

use std::path::Path;
use std::process::Command;

use mcp_auth_tests::chart::{Case, helm_programs};
use mcp_auth_tests::setting;
use serde_json::{Value, json};

/// A LiteLLM in this namespace, and a resource that selects it.
fn manifests(namespace: &str) -> String {
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    // The latter as a case's `webhook.objectSelector` wants.
    let all_labels = json!({"app.kubernetes.io/name": "litellm", "tier": "gateway"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gateway", "namespace": namespace},
        "spec": {"template": {
            "metadata": {"labels": all_labels, "annotations": {"mcpauth.dev/config-path": "none"}},
            "spec": {"containers": [{"name": "litellm", "image": "litellm", "args": ["--port", "4000"],
                "ports": [{"containerPort": 4000}]}]},
        }},
    });
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth", "metadata": {"name": "tools", "namespace": namespace},
        "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}, "podSelector": {"matchLabels": labels}},
    });
    json!({"kind": "List", "items": [deployment, resource]}).to_string()
}

fn inject(arguments: &[&str]) -> String {
    let output = Command::new(setting("MCPAUTH_TEST_OPERATOR_BINARY"))
        .arg("inject")
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn argument<'a>(objects: &'a [Value], beginning: &str) -> &'a str {
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .unwrap();
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap();
    let mut arguments = arguments.iter().filter_map(Value::as_str);
    arguments
        .find_map(|argument| argument.strip_prefix(beginning))
        .unwrap()
}

fn settings(objects: &[Value]) -> &str {
    let mut settings = objects
        .iter()
        .filter_map(|object| object["data"]["sidecar.json"].as_str());
    settings.next().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn inject_reads_the_values_as_the_chart_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let helm = &helm_programs()[0];
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| !case.is_refused())
        .collect();
    for case in &cases {
        let values = case.all_values();
        let namespace = values["watchNamespaces"][0].as_str().unwrap_or("llm");
        let objects = case.rendered(helm).unwrap();
        let pods = file("pods.json", &manifests(namespace));
        let values = file("values.json", &values.to_string());
        let settings = file("settings.json", settings(&objects));
        let by_values = [
            "--file",
            path(&pods),
            "--values",
            path(&values),
            "--release",
            &case.release,
            "--release-namespace",
            &case.namespace,
        ];
        let printed = inject(&by_values);
        assert!(
            printed.contains("# decision: injected\n"),
            "{}: {printed}",
            case.name
        );
        assert!(
            printed.contains(argument(&objects, "--operator-url=")),
            "{}: {printed}",
            case.name
        );
        // What Helm makes of `sidecar`, in its place.
        let by_settings = inject(&[&by_values[..], &["--sidecar-settings", path(&settings)]].concat());
        assert_eq!(printed, by_settings, "{}", case.name);
    }
}
