//! An upgrade that takes namespaces out of `watchNamespaces`. The operator is run here with the arguments and the rights that the
//! chart gives it, since nothing here runs pods.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use serde_json::{Value, json};

use super::{apply, helm_with, kubectl, ok, run, text};

const RELEASE: &str = "leaving";
const OPERATOR: &str = "leaving-mcp-auth-operator";
const LEFT: &str = "--not-watched-namespace=left";
/// Longest wait for what has to come; this ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn an_upgrade_that_takes_a_namespace_out_leaves_no_resource_ready_there() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        for namespace in ["kept", "left"] {
            ready_resource(namespace);
        }
        installation.upgrade(&["kept"]);
        let mut operator = RunningOperator::start();
        let marked = until("the resource to be marked", || {
            Some(ready_condition("left")).filter(|ready| ready.1 == "NotWatched")
        });
        assert_eq!(marked.0, "Unknown");
        // What the operator serves it looks at itself: there is no Secret.
        until("the other resource to be looked at", || {
            Some(ready_condition("kept")).filter(|ready| ready.1 == "SecretNotFound")
        });

        operator.stop();
        // A replica of before the upgrade may have led in between: whoever begins to lead marks what is not.
        ready_resource("left");
        let mut operator = RunningOperator::start();
        until("the resource to be marked anew", || {
            Some(ready_condition("left")).filter(|ready| ready.1 == "NotWatched")
        });
        operator.stop();
        installation.remove();
    }
}

#[test]
fn what_is_left_to_the_operator_is_enough_to_mark_and_goes_with_the_next_upgrade() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        let told = installation.upgrade(&["kept"]);
        assert!(told.contains("serves left no more"), "{told}");
        assert_eq!(
            arguments("--not-watched-namespace="),
            ["--not-watched-namespace=left"]
        );
        assert_eq!(arguments("--watch-namespace="), ["--watch-namespace=kept"]);
        let may = |verb: &str, resource: &str, subresource: &str| {
            let account = format!("system:serviceaccount:{RELEASE}:{OPERATOR}");
            let asked = [
                "auth",
                "can-i",
                verb,
                resource,
                "--namespace",
                "left",
                "--as",
                &account,
            ];
            let of = ["--subresource", subresource];
            let of = if subresource.is_empty() { &[][..] } else { &of };
            text(&kubectl(&[&asked[..], of].concat()).stdout).trim() == "yes"
        };
        let msa = "mcpserverauths.mcpauth.dev";
        let marks = || [may("list", msa, ""), may("patch", msa, "status")];
        // The API server learns of rights a moment later.
        until("the rights that are left", || {
            (marks() == [true; 2] && !may("get", "secrets", "")).then_some(())
        });
        for (verb, resource) in [
            ("watch", msa),
            ("patch", msa),
            ("list", "pods"),
            ("create", "events.events.k8s.io"),
        ] {
            assert!(!may(verb, resource, ""), "{verb} {resource}");
        }

        installation.upgrade(&["kept"]);
        assert!(arguments("--not-watched-namespace=").is_empty());
        until("the end of these rights", || {
            (marks() == [false; 2]).then_some(())
        });
        installation.remove();
    }
}

#[test]
fn where_nothing_is_to_be_marked_an_upgrade_says_the_command_that_takes_back_what_statuses_say() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        let without = |watched: &[&str]| installation.preview_with(&unmarked(watched));
        let command = |text: &str| {
            let (_, command) = text.split_once("     kubectl get mcpserverauths --namespace left ")?;
            let (command, _) = command.split_once("'{\"status\":null}'")?;
            Some(format!(
                "kubectl get mcpserverauths --namespace left {command}'{{\"status\":null}}'"
            ))
        };
        assert_eq!(
            command(&without(&["kept", "left", "new"])),
            None,
            "nothing is left"
        );
        let said = command(&without(&["kept"])).expect("the command of the namespace that was left");
        // The second time there is nothing to take back.
        ready_resource("left");
        for _ in 0..2 {
            ok(run(Command::new("sh").args(["-c", &said]), ""));
        }
        let jsonpath = "--output=jsonpath={.items[*].status}";
        assert_eq!(ok(kubectl(&["get", "msa", "--namespace", "left", jsonpath])), "");

        installation.upgrade(&[]);
        let from_all = without(&["kept"]);
        assert!(
            from_all.contains("served every namespace before") && from_all.contains("--namespace NAMESPACE"),
            "{from_all}"
        );
        installation.remove();
    }
}

#[test]
fn nothing_is_marked_but_what_an_upgrade_takes_away() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        ready_resource("left");
        let rendered = |watched: &[&str]| installation.preview(watched);
        assert!(rendered(&["kept"]).contains(LEFT));
        for served in [&["kept", "left"][..], &["kept", "left", "new"], &[]] {
            assert!(
                !rendered(served).contains("--not-watched-namespace"),
                "{served:?} takes nothing away"
            );
        }
        let without = installation.preview_with(&unmarked(&["kept"]));
        assert!(!without.contains("--not-watched-namespace"), "{without}");

        let binding = "leaving-mcp-auth-operator-resources";
        ok(kubectl(&[
            "delete",
            "rolebinding",
            binding,
            "--namespace",
            "left",
        ]));
        assert!(
            !rendered(&["kept"]).contains(LEFT),
            "as where the namespace was deleted"
        );

        installation.upgrade(&[]);
        ready_resource("kept");
        let from_all = rendered(&["kept"]);
        let marked: Vec<&str> = from_all
            .lines()
            .filter(|line| line.contains("--not-watched-namespace="))
            .map(str::trim)
            .collect();
        assert_eq!(marked, [format!("- {LEFT}")], "those with resources");
        installation.upgrade(&["kept"]);
        ok(kubectl(&["get", "role", binding, "--namespace", "left"]));
        installation.remove();
    }
}

/// No namespace is emptied here, so that it is deleted for ever.
#[test]
fn an_upgrade_works_while_a_namespace_that_it_leaves_is_being_deleted() {
    for (number, helm) in helm_programs().iter().enumerate() {
        for from_all in [false, true] {
            let ending = format!("ending-{number}-{from_all}");
            ok(apply(
                &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ending}})],
                &[],
            ));
            let before = ["kept", "left", ending.as_str()];
            let installation = Installation::of(helm, if from_all { &[] } else { &before });
            for namespace in ["left", &ending] {
                ready_resource(namespace);
            }
            ok(kubectl(&["delete", "namespace", &ending, "--wait=false"]));
            installation.upgrade(&["kept"]);
            let marked = arguments("--not-watched-namespace=");
            assert!(marked.contains(&LEFT.to_owned()), "{marked:?}");
            // Nothing can be made there, and what is there can be changed.
            let of_ending = format!("--not-watched-namespace={ending}");
            assert_eq!(marked.contains(&of_ending), !from_all, "{marked:?}");
            installation.remove();
        }
    }
}

/// The chart in a namespace of the release's name.
struct Installation {
    helm: PathBuf,
}

impl Installation {
    fn of(helm: &Path, watched: &[&str]) -> Self {
        let namespaces = ["kept", "left", "new"];
        ok(apply(
            &namespaces
                .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})),
            &[],
        ));
        let arguments = [
            "install",
            RELEASE,
            &chart(),
            "--namespace",
            RELEASE,
            "--create-namespace",
        ];
        ok(helm_with(helm, &arguments, &values(watched)));
        ok(kubectl(&[
            "wait",
            "crd",
            "mcpserverauths.mcpauth.dev",
            "--for=condition=Established",
        ]));
        Self {
            helm: helm.to_owned(),
        }
    }

    /// What Helm says of it.
    fn upgrade(&self, watched: &[&str]) -> String {
        let chart = chart();
        let arguments = ["upgrade", RELEASE, &chart, "--namespace", RELEASE];
        ok(helm_with(&self.helm, &arguments, &values(watched)))
    }

    /// What an upgrade would make, by what is there.
    fn preview(&self, watched: &[&str]) -> String {
        self.preview_with(&values(watched))
    }

    fn preview_with(&self, values: &Value) -> String {
        let arguments = [
            "upgrade",
            RELEASE,
            &chart(),
            "--namespace",
            RELEASE,
            "--dry-run=server",
        ];
        ok(helm_with(&self.helm, &arguments, values))
    }

    fn remove(self) {
        ok(helm_with(
            &self.helm,
            &["uninstall", RELEASE, "--namespace", RELEASE],
            &Value::Null,
        ));
        ok(kubectl(&["delete", "crd", "mcpserverauths.mcpauth.dev"]));
    }
}

fn values(watched: &[&str]) -> Value {
    Case::with_values(json!({"watchNamespaces": watched})).all_values()
}

fn unmarked(watched: &[&str]) -> Value {
    Case::with_values(json!({"watchNamespaces": watched, "markNotWatched": false})).all_values()
}

/// The arguments of the operator that is installed, as far as they begin so.
fn arguments(beginning: &str) -> Vec<String> {
    let deployment = installed("deployment", OPERATOR);
    let all = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    let all = all.unwrap().iter().filter_map(Value::as_str);
    all.filter(|argument| argument.starts_with(beginning))
        .map(str::to_owned)
        .collect()
}

/// An object of the release.
fn installed(kind: &str, name: &str) -> Value {
    let found = ok(kubectl(&[
        "get",
        kind,
        name,
        "--namespace",
        RELEASE,
        "--output",
        "json",
    ]));
    serde_json::from_str(&found).unwrap()
}

/// A resource that an operator once found ready.
fn ready_resource(namespace: &str) {
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": namespace},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    });
    ok(apply(&[resource], &[]));
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "LiteLLM reaches tools",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {"conditions": [condition]}}).to_string();
    let patch = [
        "patch",
        "msa",
        "tools",
        "--subresource=status",
        "--type=merge",
        "--patch",
    ];
    ok(kubectl(
        &[&patch[..], &[&status, "--namespace", namespace]].concat(),
    ));
}

/// Status and reason.
fn ready_condition(namespace: &str) -> (String, String) {
    let found = ok(kubectl(&[
        "get",
        "msa",
        "tools",
        "--namespace",
        namespace,
        "--output",
        "json",
    ]));
    let found: Value = serde_json::from_str(&found).unwrap();
    let conditions = found["status"]["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap();
    let field = |name: &str| ready[name].as_str().unwrap().to_owned();
    (field("status"), field("reason"))
}

/// Waits for what has to come.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "no sign of {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The operator as the chart would have the kubelet start it, with the rights that the chart gives it.
struct RunningOperator {
    process: Child,
    folder: tempfile::TempDir,
}

impl RunningOperator {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let settings = installed("configmap", "leaving-mcp-auth-sidecar");
        let settings = file("sidecar.json", settings["data"]["sidecar.json"].as_str().unwrap());
        let token = ok(kubectl(&["create", "token", OPERATOR, "--namespace", RELEASE]));
        // Where in the pod something is, is elsewhere here.
        let of_the_pod = [
            "--listen",
            "--operator-url=",
            "--sidecar-settings=",
            "--replica-token-file=",
        ];
        let stated = arguments("--").into_iter();
        let stated = stated.filter(|argument| !of_the_pod.iter().any(|prefix| argument.starts_with(prefix)));
        let program = std::env::var_os("MCPAUTH_TEST_OPERATOR_BINARY").expect("tests/chart/run sets it");
        let process = Command::new(program)
            .args(stated)
            .args(["--listen=127.0.0.1:0", "--listen-health=127.0.0.1:0"])
            .arg("--operator-url=https://127.0.0.1:443")
            .arg(format!("--sidecar-settings={}", settings.display()))
            .env("KUBECONFIG", file("kubeconfig", &kubeconfig_with(token.trim())))
            .env("POD_NAMESPACE", RELEASE)
            .env("POD_NAME", "operator-0")
            .env("POD_SERVICE_ACCOUNT", OPERATOR)
            .stdout(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    /// As the kubelet does it, so that the lease is released.
    fn stop(&mut self) {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for RunningOperator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            let _ = std::io::stderr().write_all(log.unwrap_or_default().as_bytes());
        }
    }
}

/// The tests' own kubeconfig with a token in place of the administrator's.
fn kubeconfig_with(token: &str) -> String {
    let own = PathBuf::from(std::env::var_os("KUBECONFIG").expect("tests/chart/run sets it"));
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&own).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    let authority = &mut config["clusters"][0]["cluster"]["certificate-authority"];
    if let Some(name) = authority.as_str() {
        *authority = json!(own.with_file_name(name));
    }
    config.to_string()
}
