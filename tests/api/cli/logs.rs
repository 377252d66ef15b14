//! `logs --audit`: what the sidecars of several pods wrote, by way of the API server and their kubelet.

use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use mcp_auth_tests::kubelet::Kubelet;
use mcp_auth_tests::wait::LIMIT;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{command, run};

const NAMESPACE: &str = "cli-logs";

async fn pod(world: &World, node: &str, name: &str) {
    let pod = json!({
        "metadata": {"name": name, "annotations": {"mcpauth.dev/injected": "by the test"}},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "default",
            "containers": [{"name": "litellm", "image": "litellm"}],
            "initContainers": [{"name": "mcpauth-sidecar", "image": "sidecar", "restartPolicy": "Always"}],
        },
    });
    world.create::<Pod>(pod).await.unwrap();
}

/// A line of the audit log, as the sidecar of this pod writes it.
pub fn call(namespace: &str, pod: &str, second: &str, server: &str, user: Value) -> String {
    let fields = json!({
        "time": format!("2026-11-29T17:50:{second}Z"), "namespace": namespace,
        "pod": pod, "server": server, "resource": server, "httpMethod": "POST", "method": "tools/call",
        "tool": "search", "user": user, "outcome": "answered", "status": 200, "durationMs": 12.5, "serverMs": 12.0,
        "requestBytes": 10, "responseBytes": 20, "replayed": false,
    });
    // The schema comes first in a line.
    fields
        .to_string()
        .replacen('{', r#"{"schema":"mcpauth.dev/audit/v1","#, 1)
}

fn write(kubelet: &Kubelet, pod: &str, second: &str, line: &str) {
    let container = format!("{NAMESPACE}/{pod}/mcpauth-sidecar");
    kubelet.write(&container, &format!("2026-11-29T17:50:{second}000Z"), line);
}

/// Pods of the lines of a table, or of JSON lines, in order.
fn pods(text: &str) -> Vec<String> {
    let pod = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(line) => line["pod"].as_str().unwrap().to_owned(),
        Err(_) => line.split_whitespace().nth(1).unwrap().to_owned(),
    };
    text.lines()
        .filter(|line| !line.starts_with("TIME"))
        .map(pod)
        .collect()
}

#[tokio::test]
async fn the_audit_lines_of_all_pods_are_merged_filtered_and_followed() {
    let world = World::new(NAMESPACE, false).await;
    let kubelet = Kubelet::start(&world.client, "cli-logs").await;
    for name in ["one", "two"] {
        pod(&world, &kubelet.node, name).await;
    }
    let ada = json!({"id": "ada", "source": "header:x-user", "verified": false});
    let unnamed = json!({"fingerprint": "5e884898da280471"});
    write(
        &kubelet,
        "one",
        "01.000001",
        &call(NAMESPACE, "one", "01.000001", "tools", ada.clone()),
    );
    write(
        &kubelet,
        "one",
        "02.000000",
        "INFO the sidecar's own log goes the same way",
    );
    write(
        &kubelet,
        "one",
        "03.000001",
        &call(NAMESPACE, "one", "03.000001", "files", unnamed),
    );
    write(
        &kubelet,
        "two",
        "02.000001",
        &call(NAMESPACE, "two", "02.000001", "tools", ada.clone()),
    );

    let printed = run(&["logs", "--audit", "-n", NAMESPACE]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert_eq!(pods(&printed.out), ["one", "two", "one"], "{}", printed.out);
    assert!(printed.out.starts_with("TIME "), "{}", printed.out);
    for cell in ["ada", "5e884898da280471", "tools/call", "search", "answered"] {
        assert!(printed.out.contains(cell), "{cell}: {}", printed.out);
    }
    let json = run(&["logs", "--audit", "-n", NAMESPACE, "-o", "json", "--tail", "2"]).await;
    assert_eq!(pods(&json.out), ["two", "one"]);
    let of_user = run(&["logs", "--audit", "-n", NAMESPACE, "--user", "5e884898da280471"]).await;
    assert_eq!(pods(&of_user.out), ["one"]);
    let of_server = run(&["logs", "--audit", "two", "-n", NAMESPACE, "--server", "tools"]).await;
    assert_eq!(pods(&of_server.out), ["two"]);
    let nothing = run(&["logs", "--audit", "-n", NAMESPACE, "--server", "other"]).await;
    assert_eq!((nothing.code, nothing.out.as_str()), (0, ""));
    assert!(
        nothing.err.contains("no call matches in the logs of 2 pods"),
        "{}",
        nothing.err
    );

    let mut following = command(&["logs", "--audit", "-n", NAMESPACE, "--follow", "-o", "json"]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await;
        let line = line.expect("a line comes").unwrap().expect("it goes on");
        serde_json::from_str::<Value>(&line).unwrap()["time"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for second in ["01.000001", "02.000001", "03.000001"] {
        assert!(next().await.contains(second));
    }
    write(
        &kubelet,
        "two",
        "04.000001",
        &call(NAMESPACE, "two", "04.000001", "tools", ada.clone()),
    );
    assert!(
        next().await.contains("04.000001"),
        "what was there is not sent twice"
    );
    pod(&world, &kubelet.node, "three").await;
    write(
        &kubelet,
        "three",
        "05.000001",
        &call(NAMESPACE, "three", "05.000001", "tools", ada),
    );
    assert!(
        next().await.contains("05.000001"),
        "a pod that comes later is followed too"
    );
    following.kill().await.unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_told_and_spoils_no_other() {
    let world = World::new("cli-logs-broken", false).await;
    let kubelet = Kubelet::start(&world.client, "cli-logs-broken").await;
    pod(&world, &kubelet.node, "here").await;
    // Its node does not exist.
    pod(&world, "no-such-node", "away").await;
    let container = "cli-logs-broken/here/mcpauth-sidecar";
    kubelet.write(
        container,
        "2026-11-29T17:50:01.000Z",
        &call(
            "cli-logs-broken",
            "here",
            "01.000001",
            "tools",
            json!({"id": "ada"}),
        ),
    );
    let printed = run(&["logs", "--audit", "-n", "cli-logs-broken"]).await;
    assert_eq!(printed.code, 1, "{printed:?}");
    assert_eq!(pods(&printed.out), ["here"]);
    assert!(
        printed
            .err
            .starts_with("warning: the log of the pod cli-logs-broken/away cannot be read: "),
        "{}",
        printed.err
    );

    let bare: Api<Pod> = world.api();
    let object = json!({
        "metadata": {"name": "bare"},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "litellm", "image": "litellm"}]},
    });
    bare.create(&Default::default(), &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
    for (pod, expected) in [
        (
            "bare",
            "there is no sidecar in the pod bare in the namespace cli-logs-broken",
        ),
        (
            "nobody",
            "there is no pod nobody in the namespace cli-logs-broken",
        ),
    ] {
        let printed = run(&["logs", "--audit", pod, "-n", "cli-logs-broken"]).await;
        assert_eq!(printed.code, 6, "{printed:?}");
        assert!(printed.err.contains(expected), "{}", printed.err);
    }
}
