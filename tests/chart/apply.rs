//! The chart's objects before a real API server: every set of values in `cases` applied strictly, and a definition that changes
//! hands. tests/chart/run starts the API server.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod not_watched;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use serde_json::{Value, json};

/// Strictly: fields that the API server does not know, and fields that are there twice, are errors. That goes for objects of
/// cert-manager and the Prometheus operator too, whose definitions tests/chart/run installs.
#[test]
fn every_good_set_of_values_is_applied_strictly() {
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| !case.is_refused())
        .collect();
    let helm = &helm_programs()[0];
    let (mut applied, mut kinds, mut problems) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for case in &cases {
        let mut objects = case.rendered(helm).unwrap();
        kinds.extend(
            objects
                .iter()
                .map(|object| object["kind"].as_str().unwrap().to_owned()),
        );
        // What another set of values has made too is applied once.
        objects.retain(|object| applied.insert(object.to_string()));
        if objects.is_empty() {
            continue;
        }
        let namespaces: BTreeSet<&str> = objects
            .iter()
            .filter_map(|object| object["metadata"]["namespace"].as_str())
            .collect();
        let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let namespaces: Vec<Value> = namespaces.into_iter().map(namespace).collect();
        if !namespaces.is_empty() {
            ok(apply(&namespaces, &[]));
        }
        let output = apply(&objects, &["--dry-run=server"]);
        if !output.status.success() {
            problems.push(format!("{}: {}", case.name, text(&output.stderr)));
        }
    }
    for kind in [
        "Certificate",
        "Issuer",
        "ServiceMonitor",
        "PodMonitor",
        "PrometheusRule",
    ] {
        assert!(kinds.contains(kind), "no set of values makes a {kind}");
    }
    assert!(applied.len() > cases.len(), "only {} objects", applied.len());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The check above would find it.
#[test]
fn an_object_with_an_unknown_field_is_not_applied() {
    let mut objects = Case::with_values(json!({"crds": {"install": false}}))
        .rendered(&helm_programs()[0])
        .unwrap();
    objects.retain(|object| object["kind"] == "Deployment");
    objects[0]["metadata"]["namespace"] = json!("default");
    objects[0]["spec"]["template"]["spec"]["hostNetwrok"] = json!(true);
    let output = apply(&objects, &["--dry-run=server"]);
    assert!(
        text(&output.stderr).contains("hostNetwrok"),
        "{}",
        text(&output.stderr)
    );
}

/// As the chart's README says.
#[test]
fn a_release_of_another_name_takes_the_kept_definition_over() {
    for (number, helm) in helm_programs().iter().enumerate() {
        let (first, second) = (format!("first-{number}"), format!("second-{number}"));
        let case = Case::with_values(Value::Null);
        let install = |release: &str, options: &[&str]| {
            let chart = chart();
            let arguments = [
                "install",
                release,
                &chart,
                "--namespace",
                release,
                "--create-namespace",
            ];
            helm_with(helm, &[&arguments[..], options].concat(), &case.all_values())
        };
        ok(install(&first, &[]));
        ok(helm_with(
            helm,
            &["uninstall", &first, "--namespace", &first],
            &Value::Null,
        ));
        ok(kubectl(&["get", "crd", "mcpserverauths.mcpauth.dev"]));

        let refused = install(&second, &[]);
        assert!(
            text(&refused.stderr).contains("invalid ownership metadata"),
            "{}",
            text(&refused.stderr)
        );
        ok(install(&second, &["--take-ownership"]));
        let owner = "jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}";
        let owner = ok(kubectl(&[
            "get",
            "crd",
            "mcpserverauths.mcpauth.dev",
            "--output",
            owner,
        ]));
        assert_eq!(owner, second);
        ok(helm_with(
            helm,
            &["uninstall", &second, "--namespace", &second],
            &Value::Null,
        ));

        // The other way: the new owner is written into the definition beforehand.
        let third = format!("third-{number}");
        let (name, namespace) = (
            format!("meta.helm.sh/release-name={third}"),
            format!("meta.helm.sh/release-namespace={third}"),
        );
        let annotate = ["annotate", "crd", "mcpserverauths.mcpauth.dev", "--overwrite"];
        ok(kubectl(&[&annotate[..], &[&name, &namespace]].concat()));
        ok(install(&third, &[]));
        ok(helm_with(
            helm,
            &["uninstall", &third, "--namespace", &third],
            &Value::Null,
        ));
        ok(kubectl(&["delete", "crd", "mcpserverauths.mcpauth.dev"]));
    }
}

/// Here, because Helm 3 prints notes only where an API server answers.
#[test]
fn the_notes_name_the_namespace_the_port_and_what_is_left_to_do() {
    let values = json!({
        "watchNamespaces": ["llm", "llm-test"],
        "webhook": {"port": 9443, "failurePolicy": "Fail"},
        "rbac": {"create": false},
        "sidecar": {"imagePullSecrets": [{"name": "mirror"}]},
        "crds": {"install": false},
    });
    for helm in helm_programs() {
        let printed = notes(&helm, &Case::with_values(values.clone()));
        for told in [
            "kubectl label namespace llm mcpauth.dev/injection=enabled",
            "port 9443",
            "llm, llm-test",
            "pull secret mirror",
            "rbac.create is false",
            "webhook.failurePolicy is Fail",
            "crds.install is false",
        ] {
            assert!(printed.contains(told), "{told}: {printed}");
        }
        let printed = notes(
            &helm,
            &Case::with_values(json!({
                "rbac": {"secrets": "perNamespace"},
                "certificates": {"certManager": {"enabled": true}},
            })),
        );
        for told in [
            "--clusterrole=mcp-auth-operator-secrets",
            "--serviceaccount=mcp-auth-system:mcp-auth-operator --namespace=NAMESPACE",
            "the Secret mcp-auth-operator-serving",
        ] {
            assert!(printed.contains(told), "{told}: {printed}");
        }
        let printed = notes(&helm, &Case::with_values(Value::Null));
        assert!(
            printed.contains("namespace NAMESPACE mcpauth.dev/injection=enabled"),
            "{printed}"
        );
        for told in [
            "rbac.create",
            "rbac.secrets",
            "certManager",
            "crds.install",
            "pull secret",
            "failurePolicy",
        ] {
            assert!(!printed.contains(told), "{told}: {printed}");
        }
    }
}

/// What is said after an installation.
fn notes(helm: &Path, case: &Case) -> String {
    let arguments = [
        "install",
        &case.release,
        &chart(),
        "--namespace",
        &case.namespace,
        "--dry-run=client",
    ];
    let text = ok(helm_with(helm, &arguments, &case.all_values()));
    let (_, notes) = text.split_once("\nNOTES:\n").expect("Helm prints the notes");
    notes.to_owned()
}

fn apply(objects: &[Value], options: &[&str]) -> Output {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let arguments = ["apply", "--server-side", "--validate=strict", "--filename", "-"];
    run(
        Command::new("kubectl").args(arguments).args(options),
        &list.to_string(),
    )
}

fn kubectl(arguments: &[&str]) -> Output {
    run(Command::new("kubectl").args(arguments), "")
}

fn helm_with(helm: &Path, arguments: &[&str], values: &Value) -> Output {
    let mut command = Command::new(helm);
    command.args(arguments);
    if !values.is_null() {
        command.args(["--values", "-"]);
    }
    run(&mut command, &values.to_string())
}

fn run(command: &mut Command, input: &str) -> Output {
    // Without it the user's own cluster would be taken.
    assert!(
        std::env::var_os("KUBECONFIG").is_some(),
        "KUBECONFIG is not set: run this by `make test-chart`"
    );
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input has none to read.
    let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
    process.wait_with_output().unwrap()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
