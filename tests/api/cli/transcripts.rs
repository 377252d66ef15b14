//! Transcripts of each command, where all is well and where it is not: `docs/cli-transcripts.md` is what they print
//! against the real API server. `MCPAUTH_TEST_WRITE_TRANSCRIPTS=1 make test-api TEST=transcripts` writes it anew.

mod faults;
mod helm_test;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Pod;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::kubelet::Kubelet;
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, merge, oauth2, resource};
use mcp_auth_tests::setting;
use mcp_auth_tests::world::World;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::criteria::{INBOUND, RunningPod, serving_pod, tools};
use super::logs::call;
use super::stand_ins::{KEY, McpServer};
use super::unusable_clusters::empty_cluster;
use super::{Printed, file, kubeconfig, litellm, path, run, token_without_rights};
use crate::CERTIFICATE_SECRET;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli-transcripts.md");
const WRITE: &str = "MCPAUTH_TEST_WRITE_TRANSCRIPTS";
const NAMESPACE: &str = "llm";

const INTRODUCTION: &str = "\
# Transcripts of kubectl mcp-auth

What each command of [cli.md](cli.md) prints. A test makes this file against a real API server, OAuth2 server and webhook, and
fails where it is not what the commands print; the pods are objects that no kubelet runs, with a real sidecar beside a LiteLLM that
is a script. Ports, times and numbers of requests are always the same ones here. `litellm-key` is a file with LiteLLM's key. The operator of the tests runs outside of the cluster, which is why `doctor` finds no
Deployment of it.

";

/// What differs between two runs, and what stands for it. A table keeps its columns.
static VARIABLE: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let patterns = [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-29T12:00:00Z"),
        (
            r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}",
            "Sun Nov 29 12:00:00 2026",
        ),
        (
            r"127\.0\.0\.1:(1[0-57-9]\d{3}|16[0-35-9]\d{2}|164[0-79]\d|[2-9]\d{3,4}|1)\b",
            "127.0.0.1:PORT",
        ),
        (r"\(in [^)]*\)", "(in 10m)"),
        (r"\b\d+ days", "89 days"),
        (r"\b(?:10m|[1-9]m(?: \d+s)?) +", "10m"),
        (r"/[^ ]*/mcp-auth-cli-\d+-", ""),
        (r"\(request [0-9a-f]{16}\)", "(request 9c1185a5c5e9fc54)"),
    ];
    let patterns = patterns.into_iter();
    patterns
        .map(|(pattern, stands)| (Regex::new(pattern).unwrap(), stands))
        .collect()
});

fn normalized(text: &str) -> String {
    VARIABLE.iter().fold(text.to_owned(), |text, (pattern, stands)| {
        let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
            // A cell keeps the width of its column.
            match found[0].ends_with(' ') {
                true => format!("{stands:<0$}", found[0].len()),
                false => (*stands).to_owned(),
            }
        });
        replaced.into_owned()
    })
}

/// A section of the document.
fn section(title: &str, command: &str, printed: &Printed) -> String {
    let mut text = format!("### {title}\n\n    $ kubectl mcp-auth {command}\n");
    for line in normalized(&format!("{}{}", printed.out, printed.err)).lines() {
        match line.trim_end() {
            "" => text.push('\n'),
            line => writeln!(text, "    {line}").unwrap(),
        }
    }
    if printed.code != 0 {
        writeln!(text, "    $ echo $?\n    {}", printed.code).unwrap();
    }
    text.push('\n');
    text
}

/// A command as it is run and as it is written down.
async fn transcript(title: &str, arguments: &[&str], shown: &str) -> String {
    section(title, shown, &run(arguments).await)
}

async fn doctor(namespace: &str) -> Printed {
    doctor_with(namespace, &[]).await
}

async fn doctor_with(namespace: &str, more: &[&str]) -> Printed {
    let operator = setting("MCPAUTH_TEST_OPERATOR_NAMESPACE");
    let arguments = ["doctor", "-n", namespace, "--operator-namespace", &operator];
    run(&[&arguments[..], more].concat()).await
}

/// Everything as it should be, in the namespace `llm`.
async fn healthy() -> (World, Kubelet, McpServer, RunningPod) {
    let world = World::new(NAMESPACE, true).await;
    let kubelet = Kubelet::start(&world.client, NAMESPACE).await;
    let server = McpServer::start().await;
    tools(&world, &server).await;
    let pod = serving_pod(&world, &kubelet).await;
    let container = format!("{NAMESPACE}/{}/mcpauth-sidecar", pod.name);
    for (second, user) in [
        (
            "01.104250",
            json!({"id": "ada", "source": "header:x-user", "verified": false}),
        ),
        ("02.731100", json!({"fingerprint": "5e884898da280471"})),
    ] {
        let line = call(NAMESPACE, &pod.name, second, "tools", user);
        kubelet.write(&container, &format!("2026-11-29T17:50:{second}000Z"), &line);
    }
    (world, kubelet, server, pod)
}

async fn well(pod: &str, (world, kubelet): (&World, &Kubelet)) -> String {
    let deployment = file("deployment.yaml", include_str!("manifests/deployment.yaml"));
    let resources = file("mcpserverauth.yaml", include_str!("manifests/mcpserverauth.yaml"));
    let configuration = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/testdata/litellm.yaml");
    let values = file("values.yaml", include_str!("manifests/values.yaml"));
    let (deployment, resources, values) = (path(&deployment), path(&resources), path(&values));
    let mut text = "## Where all is well\n\n".to_owned();
    text += &transcript("status", &["status", "-n", NAMESPACE], "status -n llm").await;
    let key = file("litellm-key", KEY);
    let with_key = ["--litellm-key-file", path(&key)];
    let shown = "doctor -n llm --litellm-key-file litellm-key";
    text += &section("doctor", shown, &doctor_with(NAMESPACE, &with_key).await);
    text += &transcript(
        "doctor --criteria without LiteLLM's key",
        &["doctor", "--criteria", "-n", NAMESPACE],
        "doctor --criteria -n llm",
    )
    .await;
    text += &transcript(
        "doctor --criteria",
        &["doctor", "--criteria", "-n", NAMESPACE, with_key[0], with_key[1]],
        "doctor --criteria -n llm --litellm-key-file litellm-key",
    )
    .await;
    text += &helm_test::helm_test(world, kubelet).await;
    let shown = format!("explain {pod} -n llm");
    text += &transcript("explain", &["explain", pod, "-n", NAMESPACE], &shown).await;
    text += &transcript(
        "token",
        &["token", "tools", "-n", NAMESPACE],
        "token tools -n llm",
    )
    .await;
    text += &transcript(
        "logs",
        &["logs", "--audit", "-n", NAMESPACE],
        "logs --audit -n llm",
    )
    .await;
    text += &transcript(
        "render",
        &[
            "render",
            "-f",
            deployment,
            "--resources",
            resources,
            "--values",
            values,
        ],
        "render -f deployment.yaml --resources mcpserverauth.yaml --values values.yaml",
    )
    .await;
    text += &transcript(
        "import litellm",
        &["import", "litellm", configuration],
        "import litellm config.yaml",
    )
    .await;
    text
}

/// A set-up with one fault.
struct Broken {
    namespace: &'static str,
    title: &'static str,
    world: World,
}

impl Broken {
    async fn new(namespace: &'static str, title: &'static str, opted_in: bool) -> Self {
        let world = World::new(namespace, opted_in).await;
        Self {
            namespace,
            title,
            world,
        }
    }

    async fn apply(&self, with: Value) {
        let mut tools = resource("tools", "tools", oauth2(&oauth::token_url()));
        merge(&mut tools, with);
        self.world.apply(&tools).await.unwrap();
    }

    async fn secret(&self) {
        self.world.secret(SECRET, "client-secret", &oauth::secret()).await;
    }

    /// A LiteLLM that comes after the operator has seen the resource: a pod that comes before is not selected.
    async fn pod(&self) {
        self.world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        self.world.create::<Pod>(litellm("litellm-0")).await.unwrap();
    }

    async fn until(self, type_: &str, reason: &str) -> Self {
        self.world.condition("tools", type_, "False", reason).await;
        self
    }
}

/// Ten set-ups, and what keeps each of them broken in the way that it is.
async fn broken_setups() -> Vec<Broken> {
    let nothing = || json!({});
    let mut all = Vec::new();

    let setup = Broken::new("missing-secret", "A Secret that is not there", true).await;
    setup.apply(nothing()).await;
    all.push(setup.until(conditions::READY, reasons::SECRET_NOT_FOUND).await);

    let setup = Broken::new("missing-key", "A Secret without the key", true).await;
    setup
        .world
        .secret(SECRET, "password", "a-value-under-another-key")
        .await;
    setup.apply(nothing()).await;
    all.push(
        setup
            .until(conditions::READY, reasons::SECRET_KEY_NOT_FOUND)
            .await,
    );

    let setup = Broken::new("empty-secret", "A Secret that was not filled in", true).await;
    setup.world.secret(SECRET, "client-secret", "").await;
    setup.apply(nothing()).await;
    all.push(setup.until(conditions::READY, reasons::SECRET_INVALID).await);

    let setup = Broken::new(
        "wrong-secret",
        "A client secret that the authorization server refuses",
        true,
    )
    .await;
    setup
        .world
        .secret(SECRET, "client-secret", "not-the-secret-of-this-client")
        .await;
    setup.apply(nothing()).await;
    all.push(setup.until(conditions::READY, reasons::REQUEST_FAILED).await);

    let setup = Broken::new(
        "server-away",
        "An authorization server that does not answer",
        true,
    )
    .await;
    setup.secret().await;
    let away = json!({"spec": {"oauth2": {"tokenUrl": "http://127.0.0.1:1/token"}}});
    setup.apply(away).await;
    all.push(setup.until(conditions::READY, reasons::REQUEST_FAILED).await);

    let setup = Broken::new("not-opted-in", "A namespace that has not opted in", false).await;
    setup.secret().await;
    setup.apply(nothing()).await;
    setup.pod().await;
    all.push(setup.until(conditions::READY, reasons::PODS_NOT_INJECTED).await);

    let setup = Broken::new("no-pods", "A selector that matches no pod", true).await;
    setup.secret().await;
    setup
        .apply(json!({"spec": {"podSelector": {"matchLabels": {"app": "lite-llm"}}}}))
        .await;
    setup.pod().await;
    all.push(setup.until(conditions::READY, reasons::NO_PODS_SELECTED).await);

    let setup = Broken::new("sidecar-away", "A sidecar that is not connected", true).await;
    setup.secret().await;
    setup.apply(nothing()).await;
    setup.pod().await;
    all.push(setup.until(conditions::READY, reasons::SIDECARS_BEHIND).await);

    let setup = Broken::new("one-name-twice", "Two resources for one server", true).await;
    setup.secret().await;
    setup
        .world
        .apply(&resource("older", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    setup.apply(nothing()).await;
    all.push(setup.until(conditions::READY, reasons::CONFLICT).await);
    all
}

/// `doctor` for a LiteLLM that does not answer in its pod; what its sidecar reported is in order.
async fn broken_call() -> (World, Kubelet, McpServer, RunningPod) {
    let world = World::new("litellm-away", true).await;
    let kubelet = Kubelet::start(&world.client, "litellm-away").await;
    let server = McpServer::start().await;
    tools(&world, &server).await;
    let pod = serving_pod(&world, &kubelet).await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    kubelet.forward(&format!("litellm-away/{}", pod.name), INBOUND, closed);
    (world, kubelet, server, pod)
}

/// Without what is in order: lines of tables that say ok, and what belongs to them.
fn only_what_is_wrong(printed: Printed) -> Printed {
    let mut kept = Vec::new();
    let mut below_ok = false;
    for line in printed.out.lines() {
        let is_indented = line.starts_with("                 ");
        below_ok = line.starts_with("ok ") || (below_ok && is_indented);
        if !below_ok {
            kept.push(line);
        }
    }
    Printed {
        out: kept.join("\n"),
        ..printed
    }
}

async fn wrong() -> String {
    let setups = broken_setups().await;
    let call = broken_call().await;
    let mut text = "## doctor, where something is broken\n\nLines that say `ok` are left out.\n\n".to_owned();
    for setup in &setups {
        let shown = format!("doctor -n {}", setup.namespace);
        text += &section(
            setup.title,
            &shown,
            &only_what_is_wrong(doctor(setup.namespace).await),
        );
    }
    let key = file("litellm-key", KEY);
    let printed = doctor_with(&call.0.namespace, &["--litellm-key-file", path(&key)]).await;
    text += &section(
        "A LiteLLM that does not answer in its pod",
        "doctor -n litellm-away --litellm-key-file litellm-key",
        &only_what_is_wrong(printed),
    );
    let printed = only_what_is_wrong(doctor("no-such-namespace").await);
    text += &section(
        "A namespace that is not there",
        "doctor -n no-such-namespace",
        &printed,
    );
    text + &faults::other_commands().await
}

async fn unusable() -> String {
    let world = World::new("no-rights", false).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let clusters = [
        (
            "No rights",
            kubeconfig("transcript-rights", None, &token_without_rights(&world).await),
        ),
        (
            "Credentials that the cluster does not take",
            kubeconfig("transcript-unknown", None, "n0-such-t0ken"),
        ),
        (
            "No mcp-auth",
            kubeconfig("transcript-empty", Some(&empty_cluster("").await), "x"),
        ),
        (
            "An mcp-auth of another version",
            kubeconfig("transcript-other", Some(&empty_cluster("v1beta1").await), "x"),
        ),
        ("No answer", kubeconfig("transcript-silent", Some(&silent), "x")),
        (
            "No cluster",
            kubeconfig("transcript-closed", Some("http://127.0.0.1:1"), "x"),
        ),
    ];
    let mut text = "## Where the cluster cannot be used\n\n".to_owned();
    for (title, kubeconfig) in &clusters {
        let arguments = ["status", "-n", "no-rights", "--kubeconfig", kubeconfig];
        text += &transcript(title, &arguments, "status -n no-rights").await;
    }
    text
}

#[tokio::test]
async fn the_transcripts_are_what_the_commands_print() {
    let (world, kubelet, _server, pod) = healthy().await;
    let _present = CERTIFICATE_SECRET.read().await;
    let document = [
        INTRODUCTION.to_owned(),
        well(&pod.name, (&world, &kubelet)).await,
        wrong().await,
        unusable().await,
    ]
    .concat();
    let document = format!("{}\n", document.trim_end());
    let path = PathBuf::from(DOCUMENT);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &document).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = document.lines().zip(written.lines());
    let different = lines.enumerate().find(|(_, (now, written))| now != written);
    assert!(
        document == written,
        "docs/cli-transcripts.md is stale: run `{WRITE}=1 make test-api TEST=transcripts`; the first difference: {different:?}"
    );
}
