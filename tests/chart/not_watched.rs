//! An upgrade that takes namespaces out of `watchNamespaces`: what its Job would run is run here, as the Job's own
//! ServiceAccount, since nothing here runs pods.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mcp_auth_tests::chart::{Case, chart, helm_programs};
use serde_json::{Value, json};

use super::{apply, helm_with, kubectl, ok, run, text};

const RELEASE: &str = "leaving";
const JOB: &str = "leaving-mcp-auth-not-watched";
/// Longest wait for what has to come; this ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn an_upgrade_that_takes_a_namespace_out_leaves_no_resource_ready_there() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        for namespace in ["kept", "left"] {
            ready_resource(namespace);
        }
        let upgrade = installation.start_upgrade(&["kept"]);
        let job = until_found(&["get", "job", JOB, "--namespace", RELEASE, "--output", "json"]);
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let arguments: Vec<&str> = container["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|argument| argument.as_str().unwrap())
            .collect();
        assert_eq!(
            arguments,
            ["mark-not-watched", "--ignore-failures", "--namespace=left"]
        );

        let rights = kubeconfig_of_job();
        let elsewhere = operator(&rights, &["mark-not-watched", "--namespace=kept"]);
        assert!(
            !elsewhere.status.success(),
            "its rights end at the namespace that was left"
        );
        let marked = ok(operator(&rights, &arguments));
        assert!(
            marked.contains("left/tools: Ready is Unknown (NotWatched)"),
            "{marked}"
        );
        let again = ok(operator(&rights, &arguments));
        assert!(again.contains("nothing that has to be taken back"), "{again}");
        finish(&job, &json!({"succeeded": 1}), ["SuccessCriteriaMet", "Complete"]);
        ok(upgrade.wait_with_output().unwrap());

        let (status, reason) = ready_condition("left");
        assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "NotWatched"));
        assert_eq!(ready_condition("kept").0, "True");
        rights_are_gone_and_the_log_is_there();
        installation.remove();
    }
}

#[test]
fn without_the_job_an_upgrade_says_the_command_that_takes_back_what_statuses_say() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        let without = |watched: &[&str]| {
            let mut values = values(watched);
            values.as_object_mut().unwrap().remove("markNotWatched");
            installation.preview_with(&values)
        };
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

        ok(installation.start_upgrade(&[]).wait_with_output().unwrap());
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
        assert!(rendered(&["kept"]).contains("--namespace=left"));
        for served in [&["kept", "left"][..], &["kept", "left", "new"], &[]] {
            assert!(!rendered(served).contains(JOB), "{served:?} takes nothing away");
        }
        let mut without = values(&["kept"]);
        without.as_object_mut().unwrap().remove("markNotWatched");
        assert!(
            !installation.preview_with(&without).contains(JOB),
            "it is there for whoever wants it"
        );

        let binding = "leaving-mcp-auth-operator-resources";
        ok(kubectl(&[
            "delete",
            "rolebinding",
            binding,
            "--namespace",
            "left",
        ]));
        assert!(
            !rendered(&["kept"]).contains(JOB),
            "as where the namespace was deleted"
        );

        ok(installation.start_upgrade(&[]).wait_with_output().unwrap());
        ready_resource("kept");
        let from_all = rendered(&["kept"]);
        let (_, arguments) = from_all
            .split_once("- mark-not-watched")
            .expect("all were served before");
        let (arguments, _) = arguments.split_once("resources:").unwrap();
        let words: Vec<&str> = arguments.split_whitespace().filter(|word| *word != "-").collect();
        assert_eq!(words, ["--ignore-failures", "--namespace=left"]);
        installation.remove();
    }
}

#[test]
fn a_job_that_fails_keeps_its_log_and_no_rights() {
    for helm in helm_programs() {
        let installation = Installation::of(&helm, &["kept", "left"]);
        let upgrade = installation.start_upgrade(&["kept"]);
        let job = until_found(&["get", "job", JOB, "--namespace", RELEASE, "--output", "json"]);
        let spec = &job["spec"];
        assert!(
            spec["backoffLimit"].as_u64() > Some(0),
            "a drained node is no failure"
        );
        let seconds = spec["activeDeadlineSeconds"].as_u64().unwrap();
        assert!((60..300).contains(&seconds), "Helm waits for 300 s: {seconds}");
        finish(&job, &json!({"failed": 3}), ["FailureTarget", "Failed"]);
        let output = upgrade.wait_with_output().unwrap();
        assert!(!output.status.success(), "docs/tasks/upgrade.md says so");
        rights_are_gone_and_the_log_is_there();
        installation.remove();
    }
}

#[test]
fn the_job_runs_where_the_operator_runs_and_has_a_name_that_the_api_server_takes() {
    let name = format!("a{}", "b".repeat(51));
    let operator = json!({
        "podLabels": {"team": "platform"},
        "podAnnotations": {"policy": "exempt"},
        "priorityClassName": "important",
        "hostNetwork": true,
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    });
    for helm in helm_programs() {
        let installation = Installation::with(&helm, &["kept", "left"], &json!({"fullnameOverride": name}));
        let mut values = values(&["kept"]);
        values["fullnameOverride"] = json!(name);
        // Not the kubelet's, on the node's network.
        values["webhook"]["port"] = json!(10260);
        for (field, value) in operator.as_object().unwrap() {
            values["operator"][field] = value.clone();
        }
        let preview = installation.preview_with(&values);
        let document = preview
            .split("\n---\n")
            .find(|document| document.contains("- mark-not-watched"))
            .unwrap();
        let document = document.split("\nMANIFEST:").next().unwrap();
        let job: Value = serde_saphyr::from_str(document).unwrap();
        let length = job["metadata"]["name"].as_str().unwrap().len();
        assert!(length <= 52, "with room for the names of its pods: {length}");
        let (metadata, spec) = (
            &job["spec"]["template"]["metadata"],
            &job["spec"]["template"]["spec"],
        );
        assert_eq!(metadata["labels"]["team"], "platform");
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/component"], "not-watched",
            "no Service selects it"
        );
        assert_eq!(metadata["labels"]["sidecar.istio.io/inject"], "false");
        assert_eq!(metadata["annotations"]["policy"], "exempt");
        assert_eq!(spec["priorityClassName"], "important");
        assert_eq!(
            (&spec["hostNetwork"], &spec["dnsPolicy"]),
            (&json!(true), &json!("ClusterFirstWithHostNet"))
        );
        for field in ["tolerations", "affinity"] {
            assert_eq!(spec[field], operator[field], "{field}");
        }
        installation.remove();
    }
}

#[test]
fn nothing_is_made_in_a_namespace_that_is_being_deleted() {
    for (number, helm) in helm_programs().iter().enumerate() {
        let ending = format!("ending-{number}");
        ok(apply(
            &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ending}})],
            &[],
        ));
        let installation = Installation::of(helm, &["kept", "left", &ending]);
        let marked = format!("--namespace={ending}");
        assert!(installation.preview(&["kept"]).contains(&marked));
        // Nothing here ends it.
        ok(kubectl(&["delete", "namespace", &ending, "--wait=false"]));
        let preview = installation.preview(&["kept"]);
        assert!(!preview.contains(&marked));
        assert!(preview.contains("--namespace=left"));
        installation.remove();
    }
}

/// The chart in a namespace of the release's name.
struct Installation {
    helm: PathBuf,
}

impl Installation {
    fn of(helm: &Path, watched: &[&str]) -> Self {
        Self::with(helm, watched, &json!({}))
    }

    fn with(helm: &Path, watched: &[&str], besides: &Value) -> Self {
        let mut values = values(watched);
        for (name, value) in besides.as_object().unwrap() {
            values[name] = value.clone();
        }
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
        ok(helm_with(helm, &arguments, &values));
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

    fn start_upgrade(&self, watched: &[&str]) -> Child {
        let arguments = [
            "upgrade",
            RELEASE,
            &chart(),
            "--namespace",
            RELEASE,
            "--timeout",
            "180s",
        ];
        let mut helm = Command::new(&self.helm)
            .args(arguments)
            .args(["--values", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = helm.stdin.take().unwrap();
        input.write_all(values(watched).to_string().as_bytes()).unwrap();
        helm
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
    Case::with_values(json!({"watchNamespaces": watched, "markNotWatched": true})).all_values()
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

fn until_found(arguments: &[&str]) -> Value {
    let started = Instant::now();
    loop {
        let found = kubectl(arguments);
        if found.status.success() {
            return serde_json::from_slice(&found.stdout).unwrap();
        }
        assert!(started.elapsed() < DEADLINE, "{}", text(&found.stderr));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The tests' own kubeconfig with a token of the Job's ServiceAccount in place of the administrator's.
fn kubeconfig_of_job() -> PathBuf {
    let token = ok(kubectl(&["create", "token", JOB, "--namespace", RELEASE]));
    let own = PathBuf::from(std::env::var_os("KUBECONFIG").expect("tests/chart/run sets it"));
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&own).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    // Beside it, for the authority that it names.
    let path = own.with_file_name("kubeconfig-of-job");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn operator(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let program = std::env::var_os("MCPAUTH_TEST_OPERATOR_BINARY").expect("tests/chart/run sets it");
    Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap()
}

fn rights_are_gone_and_the_log_is_there() {
    let is_there = |object: &str, namespace: &str| {
        let found = kubectl(&["get", object, JOB, "--namespace", namespace]);
        assert!(
            found.status.success() || text(&found.stderr).contains("NotFound"),
            "{object}"
        );
        found.status.success()
    };
    assert!(is_there("job", RELEASE));
    for (object, namespace) in [
        ("serviceaccount", RELEASE),
        ("role", "left"),
        ("rolebinding", "left"),
    ] {
        assert!(!is_there(object, namespace), "{object}");
    }
    ok(kubectl(&["delete", "job", JOB, "--namespace", RELEASE]));
}

/// As the controller of Jobs does once the pod has ended: how many have, and the conditions of that.
fn finish(job: &Value, count: &Value, conditions: [&str; 2]) {
    let time = job["metadata"]["creationTimestamp"].as_str().unwrap();
    let conditions = conditions
        .map(|type_| json!({"type": type_, "status": "True", "lastTransitionTime": time, "reason": "Test"}));
    let mut status = json!({"startTime": time, "conditions": conditions});
    for (name, number) in count.as_object().unwrap() {
        status[name] = number.clone();
    }
    if conditions[1]["type"] == "Complete" {
        status["completionTime"] = json!(time);
    }
    let status = json!({"status": status});
    let patch = [
        "patch",
        "job",
        JOB,
        "--namespace",
        RELEASE,
        "--subresource=status",
        "--type=merge",
        "--patch",
    ];
    ok(kubectl(&[&patch[..], &[&status.to_string()]].concat()));
}
