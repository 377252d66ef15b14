//! `helm test`: Helm itself and what the chart has it make, on a node that runs the test's pod by starting its program here, with the
//! rights that the chart gives it.

use std::path::Path;
use std::process::Stdio;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use mcp_auth_tests::chart::{Case, chart, helm_programs};
use mcp_auth_tests::kubelet::Kubelet;
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::{LIMIT, until};
use mcp_auth_tests::world::World;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::super::stand_ins::KEY;
use super::super::{Printed, kubeconfig, path, run};
use super::{NAMESPACE, normalized};

const RELEASE: &str = "mcp-auth";
const POD: &str = "mcp-auth-test-1";
const ACCOUNT: &str = "mcp-auth-test";
/// What of the chart has to do with its tests. The operator of the others is there already.
const FILES: [&str; 6] = [
    "Chart.yaml",
    "values.yaml",
    "values.schema.json",
    "templates/_helpers.tpl",
    "templates/_validation.tpl",
    "templates/tests.yaml",
];

fn chart_of_tests() -> TempDir {
    let (source, folder) = (chart(), tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("templates")).unwrap();
    for file in FILES {
        std::fs::copy(Path::new(&source).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

async fn helm(arguments: &[&str], values: &str) -> Printed {
    let mut process = Command::new(&helm_programs()[0])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(values.as_bytes()).await.unwrap();
    drop(input);
    let ended = tokio::time::timeout(LIMIT, process.wait_with_output()).await;
    let output = ended.expect("Helm ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// The scheduler's and the kubelet's part.
async fn run_pod(system: &World, kubelet: &Kubelet) {
    let pods: Api<Pod> = system.api();
    let pod = until(
        "Helm to make the pod of the test",
        async || pods.get_opt(POD).await.unwrap(),
        Option::is_some,
    )
    .await
    .unwrap();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": POD},
        "target": {"apiVersion": "v1", "kind": "Node", "name": kubelet.node},
    });
    pods.create_subresource::<_, Status>("binding", POD, &PostParams::default(), &binding)
        .await
        .unwrap();

    let accounts: Api<ServiceAccount> = system.api();
    let request = TokenRequest::default();
    let answer = accounts
        .create_token_request(ACCOUNT, &PostParams::default(), &request)
        .await
        .unwrap();
    let token = answer.status.unwrap().token;
    let rights = kubeconfig("transcript-helm-test", None, &token);
    let container = &pod.spec.unwrap().containers[0];
    let arguments = container.args.clone().unwrap();
    let stated = arguments.iter().map(String::as_str);
    let arguments: Vec<&str> = stated.chain(["--kubeconfig", &rights]).collect();
    // The API server learns of rights a moment after they were given.
    let printed = until(
        "the criteria to be met",
        async || run(&arguments).await,
        |printed: &Printed| printed.code == 0,
    )
    .await;
    let log = format!("{}/{POD}/{}", system.namespace, container.name);
    for line in printed.out.lines() {
        kubelet.write(&log, "2026-11-29T17:50:03.000000Z", line);
    }
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status(POD, &PatchParams::default(), &Patch::Merge(&ended))
        .await
        .unwrap();
}

/// The section of the document.
pub async fn helm_test(world: &World, kubelet: &Kubelet) -> String {
    let system = World::in_namespace(&setting("MCPAUTH_TEST_OPERATOR_NAMESPACE")).await;
    world.secret("litellm", "master-key", KEY).await;
    let chart = chart_of_tests();
    let values = Case::with_values(json!({
        "watchNamespaces": [NAMESPACE],
        "helmTest": {"litellmKeySecret": {"name": "litellm"}},
    }));
    let place = ["--namespace", system.namespace.as_str()];
    let install = ["install", RELEASE, path(chart.path()), "--values", "-"];
    let installed = helm(&[&install[..], &place].concat(), &values.all_values().to_string()).await;
    assert_eq!(installed.code, 0, "{installed:?}");
    let test = ["test", RELEASE, "--logs", "--timeout", "120s"];
    let test = [&test[..], &place].concat();
    let (printed, ()) = tokio::join!(helm(&test, ""), run_pod(&system, kubelet));
    let removed = helm(&[&["uninstall", RELEASE], &place[..]].concat(), "").await;
    system.delete::<Pod>(POD).await;
    assert_eq!((printed.code, removed.code), (0, 0), "{printed:?} {removed:?}");

    let mut text =
        "### helm test\n\nHelm's own lines, and after them the log of the pod that it has run:\n\n"
            .to_owned();
    text += "    $ helm test mcp-auth --namespace mcp-auth-system --logs\n";
    for line in normalized(&printed.out)
        .replace(&system.namespace, "mcp-auth-system")
        .lines()
    {
        match line.trim_end() {
            "" => text.push('\n'),
            line => text += &format!("    {line}\n"),
        }
    }
    format!("{}\n\n", text.trim_end())
}
