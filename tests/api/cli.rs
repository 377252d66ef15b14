//! `kubectl mcp-auth`, as a user runs it: the program itself against the API server.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, oauth2, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::wait::LIMIT;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

mod criteria;
mod logs;
mod proxies;
mod render;
mod stand_ins;
mod token;
mod transcripts;
mod unusable_clusters;

use crate::CERTIFICATE_SECRET;

/// What the program printed, and its exit code.
#[derive(Debug)]
struct Printed {
    code: i32,
    out: String,
    err: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(setting("MCPAUTH_TEST_CLI"));
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn run(arguments: &[&str]) -> Printed {
    let ended = tokio::time::timeout(LIMIT, command(arguments).output()).await;
    let output = ended.expect("it ends by itself").expect("it can be started");
    Printed {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A file of this test's own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mcp-auth-cli-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("the temporary folder can be written");
    path
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A kubeconfig that leads to this address; none: to the real API server, with this token.
fn kubeconfig(name: &str, server: Option<&str>, token: &str) -> String {
    let authority = PathBuf::from(setting("KUBECONFIG")).with_file_name("apiserver.crt");
    let real = std::env::var("KUBECONFIG").map(|path| std::fs::read_to_string(path).expect("it can be read"));
    let address = real
        .expect("it is set")
        .split('"')
        .nth(1)
        .expect("its server")
        .to_owned();
    let cluster = match server {
        Some(server) => json!({"server": server}),
        None => json!({"server": address, "certificate-authority": authority}),
    };
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    let path = file(name, &config.to_string());
    path.to_str().expect("text").to_owned()
}

/// Of a ServiceAccount that has no rights.
async fn token_without_rights(world: &World) -> String {
    let accounts: Api<ServiceAccount> = world.api();
    let request = TokenRequest::default();
    let token = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await
        .unwrap();
    token.status.unwrap().token
}

fn litellm(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "litellm"},
            "annotations": {"mcpauth.dev/config-path": "none"},
        },
        "spec": {
            "serviceAccountName": "default",
            "containers": [{
                "name": "litellm", "image": "litellm", "args": ["--port", "4000"],
                "ports": [{"containerPort": 4000}],
            }],
        },
    })
}

fn tools() -> Value {
    resource("tools", "tools", oauth2(&oauth::token_url()))
}

async fn doctor(namespace: &str) -> (Printed, Value) {
    let operator = setting("MCPAUTH_TEST_OPERATOR_NAMESPACE");
    let arguments = [
        "doctor",
        "-n",
        namespace,
        "--operator-namespace",
        &operator,
        "-o",
        "json",
    ];
    let printed = run(&arguments).await;
    let report = serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?} is JSON"));
    (printed, report)
}

/// Outcomes of a check, in the order of its findings.
fn outcomes<'a>(report: &'a Value, check: &str) -> Vec<&'a str> {
    let findings = report["findings"].as_array().expect("a list").iter();
    findings
        .filter(|finding| finding["check"] == check)
        .map(|finding| finding["outcome"].as_str().expect("a text"))
        .collect()
}

#[tokio::test]
async fn doctor_finds_everything_in_order_but_the_sidecar_that_nobody_runs() {
    let world = World::new("cli-doctor", true).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world.apply(&tools()).await.unwrap();
    // The webhook selects the pod by the resource, which the operator has then seen.
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    world.create::<Pod>(litellm("litellm-0")).await.unwrap();
    world
        .condition(
            "tools",
            conditions::SIDECARS_SYNCED,
            "False",
            reasons::SIDECARS_BEHIND,
        )
        .await;
    let _present = CERTIFICATE_SECRET.read().await;
    let (printed, report) = doctor("cli-doctor").await;
    for check in [
        "CustomResourceDefinition",
        "webhook configuration",
        "version",
        "certificates",
        "operator's rights",
        "namespace",
        "webhook call",
        "Secrets",
        "references",
        "token",
        "authorization server",
    ] {
        assert_eq!(outcomes(&report, check), ["Passed"], "{check}: {report:#}");
    }
    let first = &report["findings"][report["firstFault"].as_u64().expect("an index") as usize];
    assert_eq!(first["check"], "sidecars");
    assert_eq!(printed.code, 1);
    assert!(
        !printed.out.contains(&oauth::secret()),
        "a secret is not for printing"
    );
    let pods: Api<Pod> = world.api();
    let left = pods.list(&Default::default()).await.unwrap().items;
    assert_eq!(left.len(), 1, "the pod for show was not stored");
}

#[tokio::test]
async fn doctor_names_a_missing_secret_with_the_command_that_makes_it() {
    let world = World::new("cli-missing-secret", true).await;
    world.apply(&tools()).await.unwrap();
    world
        .condition("tools", conditions::READY, "False", reasons::SECRET_NOT_FOUND)
        .await;
    let operator = setting("MCPAUTH_TEST_OPERATOR_NAMESPACE");
    let _present = CERTIFICATE_SECRET.read().await;
    let printed = run(&[
        "doctor",
        "-n",
        "cli-missing-secret",
        "--operator-namespace",
        &operator,
    ])
    .await;
    assert_eq!(printed.code, 1, "{printed:?}");
    let fault = format!("First fault: Secrets cli-missing-secret/tools: Secret {SECRET}, named by");
    let way_out = format!("Way out: kubectl create secret generic {SECRET} -n cli-missing-secret");
    assert!(
        printed.out.contains(&fault) && printed.out.contains(&way_out),
        "{}",
        printed.out
    );
    assert!(!printed.out.contains('\u{1b}'), "no colours without a terminal");
}

#[tokio::test]
async fn status_and_explain_tell_of_pods_with_and_without_the_sidecar() {
    let world = World::new("cli-pods", false).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world.apply(&tools()).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    world.create::<Pod>(litellm("bare")).await.unwrap();
    let mut asks = litellm("asks");
    asks["metadata"]["labels"]["mcpauth.dev/inject"] = json!("true");
    world.create::<Pod>(asks).await.unwrap();

    let printed = run(&["status", "-n", "cli-pods", "-o", "json"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let report: Value = serde_json::from_str(&printed.out).unwrap();
    let pods: Vec<_> = report["pods"].as_array().unwrap().iter().collect();
    let states: Vec<_> = pods.iter().map(|pod| (&pod["name"], &pod["sidecar"])).collect();
    assert_eq!(
        states,
        [
            (&json!("asks"), &json!("Injected")),
            (&json!("bare"), &json!("Missing"))
        ]
    );
    assert!(
        report["servers"][0]["token"]["expiresInSeconds"]
            .as_i64()
            .unwrap()
            > 0,
        "{report}"
    );

    let printed = run(&["explain", "bare", "-n", "cli-pods"]).await;
    assert_eq!(printed.code, 1, "{printed:?}");
    assert!(
        printed.out.contains("has not opted in to injection"),
        "{}",
        printed.out
    );
    let printed = run(&["explain", "asks", "-n", "cli-pods"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(printed.out.contains("127.0.0.1:16481"), "{}", printed.out);
    let printed = run(&["explain", "nobody", "-n", "cli-pods"]).await;
    assert_eq!(printed.code, 6, "{printed:?}");
    assert!(
        printed
            .err
            .contains("there is no pod nobody in the namespace cli-pods"),
        "{}",
        printed.err
    );
}

#[tokio::test]
async fn a_watched_status_tells_of_a_resource_that_comes() {
    let world = World::new("cli-watch", false).await;
    let mut watching = command(&["status", "-n", "cli-watch", "--watch"]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let reads = async {
        let first = lines.next_line().await.unwrap().unwrap();
        assert_eq!(first, "No McpServerAuth resources in the namespace cli-watch.");
        world.apply(&tools()).await.unwrap();
        while !lines
            .next_line()
            .await
            .unwrap()
            .expect("it goes on")
            .starts_with("cli-watch   tools")
        {}
    };
    tokio::time::timeout(LIMIT, reads)
        .await
        .expect("the resource is told of");
    watching.kill().await.unwrap();
}

#[tokio::test]
async fn what_is_imported_from_a_litellm_configuration_can_be_applied() {
    let world = World::new("cli-import", false).await;
    let configuration = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/testdata/litellm.yaml");
    let printed = run(&["import", "litellm", configuration]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(
        printed.err.contains("warning: mcp_servers.keyed: left out"),
        "{}",
        printed.err
    );
    let objects = file("imported.yaml", &printed.out);
    let applied = Command::new("kubectl")
        .args(["apply", "--namespace", "cli-import", "--filename"])
        .arg(&objects)
        .output()
        .await
        .unwrap();
    assert!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    // A Secret that is not filled in is told as that, and no request is made with it.
    world
        .condition(
            "static-token",
            conditions::SECRETS_RESOLVED,
            "False",
            reasons::SECRET_INVALID,
        )
        .await;

    let printed = run(&["import", "litellm", "/nonexistent/config.yaml"]).await;
    assert_eq!(printed.code, 6);
    assert_eq!(
        printed.err,
        "error: /nonexistent/config.yaml: there is no such file\n"
    );
}

#[tokio::test]
async fn without_rights_the_missing_one_is_named() {
    let world = World::new("cli-rights", false).await;
    let token = token_without_rights(&world).await;
    let path = kubeconfig("no-rights", None, &token);
    let resources = "you may not list McpServerAuth resources in the namespace cli-rights";
    let pods = "you may not read pods in the namespace cli-rights";
    let commands: [(&[&str], &str); 5] = [
        (&["status"], resources),
        (&["doctor"], resources),
        (&["token", "tools"], resources),
        (&["explain", "litellm-0"], pods),
        (&["logs", "--audit"], resources),
    ];
    for (command, expected) in commands {
        let printed = run(&[command, &["-n", "cli-rights", "--kubeconfig", &path]].concat()).await;
        assert_eq!(printed.code, 4, "{printed:?}");
        assert!(printed.err.contains(expected), "{command:?}: {}", printed.err);
        assert_eq!(printed.err.lines().count(), 1, "{printed:?}");
    }
}
