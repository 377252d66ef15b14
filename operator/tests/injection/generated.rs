//! Pods by a generator that combines wrappers, ports, probes, volumes, included files, shared memory and other webhooks. Whatever comes of it: a pod is
//! untouched, or LiteLLM runs with its own configuration and is reached through the sidecar alone.

use std::collections::BTreeMap;

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::api_server::admitted;
use crate::includes::Files;
use crate::input::{Input, SIDECAR, list, sidecar};
use crate::runs::{Original, StandIns};

const PODS: u64 = 300;
const CONFIG_MAP: &str = "litellm-config";

/// Chooses one of several by digits of a number, so that neighbours differ in everything.
struct Choices(u64);

impl Choices {
    fn of_pod(number: u64) -> Self {
        // SplitMix64.
        let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ (mixed >> 31))
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let count = of.len() as u64;
        let chosen = self.0 % count;
        self.0 /= count;
        of[usize::try_from(chosen).unwrap()].clone()
    }
}

/// A pod, and what is true of the LiteLLM in it before anything is injected.
struct Generated {
    pod: Value,
    port: u64,
    /// Path of its configuration, if it has one.
    config: Option<String>,
    /// What another webhook does after the first look.
    later: &'static str,
    /// What the mounts of the configuration show: by mount path, files and their text.
    files: BTreeMap<&'static str, Vec<(&'static str, String)>>,
}

/// What the configuration includes, and what the included files do. A module lies beside it.
fn files(includes: &str) -> Vec<(&'static str, String)> {
    let include = |paths: &[&str]| format!("include: {}\nmodel_list: []\n", json!(paths));
    let none = "model_list: []\n".to_owned();
    let config = match includes {
        "beside" => include(&["models.yaml"]),
        // From the folder of the root file, whichever file states it.
        "below" => include(&["parts/a.yaml", "parts/../models.yaml"]),
        "above" => include(&["../shared/b.yaml", "models.yaml"]),
        _ => none.clone(),
    };
    vec![
        ("config.yaml", config),
        ("models.yaml", none.clone()),
        ("parts/a.yaml", include(&["parts/c.yaml", "models.yaml"])),
        ("parts/c.yaml", none),
        ("hooks.py", String::new()),
    ]
}

/// LiteLLM's words, by how they are wrapped.
fn start(wrapper: &str, options: &[String]) -> (Option<Value>, Option<Value>) {
    let words = |words: &[&str]| json!(words);
    let joined = options.join(" ");
    match wrapper {
        // The official image's entrypoint.
        "image" => (None, Some(json!(options))),
        "litellm" => (Some(words(&["litellm"])), Some(json!(options))),
        "in command" => {
            let whole: Vec<String> = ["litellm".to_owned()]
                .into_iter()
                .chain(options.iter().cloned())
                .collect();
            (Some(json!(whole)), None)
        }
        "sh" => (Some(words(&["sh", "-c", &format!("litellm {joined}")])), None),
        "sh exec" => (
            Some(words(&[
                "/bin/sh",
                "-ec",
                &format!("umask 022; exec litellm {joined}"),
            ])),
            None,
        ),
        "sh twice" => (
            Some(words(&[
                "sh",
                "-c",
                &format!("litellm {joined} || litellm {joined}"),
            ])),
            None,
        ),
        "sh arguments" => (
            Some(words(&["sh", "-c", "exec litellm \"$@\"", "--"])),
            Some(json!(options)),
        ),
        "sh variable" => (
            Some(words(&[
                "sh",
                "-c",
                &format!("exec litellm {joined} $CONFIGURATION"),
            ])),
            None,
        ),
        "uv module" => (
            Some(words(&["uv", "run", "-m", "litellm.proxy.proxy_cli"])),
            Some(json!(options)),
        ),
        "uvicorn" => (
            Some(words(&["uvicorn", "litellm.proxy.proxy_server:app"])),
            Some(json!(options)),
        ),
        "granian" | "granian accepted" => (
            Some(words(&[
                "granian",
                "--interface",
                "asgi",
                "litellm.proxy.proxy_server:app",
            ])),
            Some(json!(options)),
        ),
        "gunicorn" => (
            Some(words(&["gunicorn", "-w", "2", "litellm.proxy.proxy_server:app"])),
            Some(json!(options)),
        ),
        wrapper => {
            let front: Vec<&str> = wrapper.split(' ').collect();
            let rest = ["litellm".to_owned()].into_iter().chain(options.iter().cloned());
            (Some(json!(front)), Some(json!(rest.collect::<Vec<_>>())))
        }
    }
}

fn generate(number: u64) -> Generated {
    let mut choices = Choices::of_pod(number);
    let wrapper = choices.one(&[
        "image",
        "image",
        "litellm",
        "litellm",
        "in command",
        "sh",
        "sh exec",
        "sh twice",
        "sh arguments",
        "uvicorn",
        "tini --",
        "ddtrace-run",
        "uv run --no-sync",
        "vault-env",
        "doppler run --",
        "own-tool --verbose --",
        "time -v",
        "uv module",
        "sh variable",
        "granian",
        "granian accepted",
        "gunicorn",
    ]);
    let is_uvicorn = ["uvicorn", "granian", "granian accepted", "gunicorn"].contains(&wrapper);
    let mut options: Vec<String> = Vec::new();
    let mut env: Vec<Value> = Vec::new();

    let port = match choices.one(&["none", "flag", "flag=", "env", "twice", "low"]) {
        "flag" => {
            options.extend(["--port".to_owned(), "4100".to_owned()]);
            4100
        }
        "flag=" => {
            options.push("--port=4200".to_owned());
            4200
        }
        "env" if !is_uvicorn => {
            env.push(json!({"name": "PORT", "value": "4300"}));
            4300
        }
        "twice" => {
            options.extend(["--port", "1", "--port", "4400"].map(str::to_owned));
            4400
        }
        "low" => {
            options.push("--port=80".to_owned());
            80
        }
        _ if is_uvicorn => 8000,
        _ => 4000,
    };
    let is_declared = choices.one(&[true, true, false]);
    match choices.one(&["none", "flag", "env", "none"]) {
        "flag" => options.push("--host=0.0.0.0".to_owned()),
        "env" if !is_uvicorn => env.push(json!({"name": "HOST", "value": "0.0.0.0"})),
        _ => {}
    }

    let mut volumes: Vec<Value> = Vec::new();
    let mut mounts: Vec<Value> = Vec::new();
    let source = choices.one(&["file", "folder", "projected", "claim", "none", "image"]);
    let path = "/etc/litellm/config.yaml";
    let of_map = json!({"name": CONFIG_MAP});
    match source {
        "file" => {
            volumes.push(json!({"name": "config", "configMap": of_map}));
            mounts.push(json!({"name": "config", "mountPath": path, "subPath": "config.yaml"}));
        }
        "folder" => {
            volumes.push(json!({"name": "config", "configMap": of_map}));
            mounts.push(json!({"name": "config", "mountPath": "/etc/litellm"}));
        }
        "projected" => {
            volumes.push(json!({"name": "config", "projected": {"sources": [{"configMap": of_map}]}}));
            mounts.push(json!({"name": "config", "mountPath": "/etc/litellm"}));
        }
        "claim" => {
            volumes.push(json!({"name": "config", "persistentVolumeClaim": {"claimName": "config"}}));
            mounts.push(json!({"name": "config", "mountPath": "/etc/litellm"}));
        }
        _ => {}
    }
    let mut config = None;
    if source != "none" {
        config = Some(path.to_owned());
        let named_by = choices.one(&["variable", "option", "variable", "short option"]);
        if wrapper == "sh variable" {
            env.push(json!({"name": "CONFIGURATION", "value": format!("--config={path}")}));
        } else if is_uvicorn || named_by == "variable" {
            env.push(json!({"name": "CONFIG_FILE_PATH", "value": path}));
        } else if named_by == "short option" {
            options.push(format!("-c{path}"));
        } else {
            options.extend(["--config".to_owned(), path.to_owned()]);
        }
    }
    // Without words the image's own arguments are used, `--port 4000`.
    let is_by_image = wrapper == "image" && options.is_empty();
    let port = if is_by_image { 4000 } else { port };
    let (command, args) = start(wrapper, &options);

    let declared = is_declared.then_some(port);
    let image = choices.one(&["ghcr.io/berriai/litellm:v1.85.1", "registry.corp/ai/gateway:1"]);
    let mut container = json!({
        "name": choices.one(&["litellm", "proxy"]), "image": image, "env": env, "volumeMounts": mounts,
    });
    for (key, words) in [("command", command), ("args", args)] {
        if let Some(words) = words {
            container[key] = words;
        }
    }
    if let Some(port) = declared {
        container["ports"] = json!([{"name": "http", "containerPort": port}]);
    }
    match choices.one(&["none", "named", "number", "tcp"]) {
        "named" if declared.is_some() => {
            container["readinessProbe"] = json!({"httpGet": {"path": "/health/readiness", "port": "http"}});
        }
        "number" => {
            container["livenessProbe"] = json!({"httpGet": {"path": "/health/liveliness", "port": port}});
        }
        "tcp" => container["readinessProbe"] = json!({"tcpSocket": {"port": port}}),
        _ => {}
    }

    // Most pods have none: one of any name may hide the configuration, so that a pod is left alone for nothing else.
    match choices.one(&[0_u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]) {
        0 | 1 => {
            container["envFrom"] = json!([{"prefix": "DB_", "secretRef": {"name": "database"}}]);
        }
        2 => container["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]),
        _ => {}
    }

    let mut spec = json!({"containers": [container], "volumes": volumes});
    match choices.one(&["none", "second", "native", "init"]) {
        "second" => {
            let other = json!({
                "name": "exporter", "image": "exporter", "ports": [{"name": "m", "containerPort": 16480}],
            });
            spec["containers"].as_array_mut().unwrap().insert(0, other);
        }
        "native" => {
            spec["initContainers"] =
                json!([{"name": "istio-proxy", "image": "istio", "restartPolicy": "Always"}]);
        }
        "init" => spec["initContainers"] = json!([{"name": "wait", "image": "busybox"}]),
        _ => {}
    }
    let mut labels = json!({"app.kubernetes.io/name": "litellm"});
    if choices.one(&[true, false, false]) {
        labels["mcpauth.dev/inject"] = json!("true");
    }
    let later = choices.one(&["nothing", "a container", "a wrapper", "probes lost", "a volume"]);
    let includes = choices.one(&["none", "beside", "below", "above"]);
    let spec_mounts = add_included(&mut spec, source, includes);
    let mut annotations = add_shared_memory(
        &mut spec,
        choices.one(&[
            "not",
            "not",
            "asked",
            "asked",
            "in memory",
            "on a disk",
            "hostIPC",
            "hostPID",
            "shareProcessNamespace",
        ]),
    );
    if wrapper == "granian accepted" {
        annotations["mcpauth.dev/client-addresses"] = json!("hidden");
    }
    Generated {
        pod: json!({"metadata": {"generateName": "litellm-", "labels": labels, "annotations": annotations}, "spec": spec}),
        port,
        config,
        later,
        files: spec_mounts,
    }
}

/// Mounts what is included beside a configuration that is mounted as a file, or above it. What each mount of the configuration
/// shows.
fn add_included(
    spec: &mut Value,
    source: &str,
    includes: &str,
) -> BTreeMap<&'static str, Vec<(&'static str, String)>> {
    let all = files(includes);
    let of = |name: &str| all.iter().find(|(path, _)| *path == name).unwrap().1.clone();
    let mut shown = BTreeMap::new();
    let mut added = Vec::new();
    match source {
        "file" => {
            shown.insert("/etc/litellm/config.yaml", vec![("", of("config.yaml"))]);
            shown.insert("/etc/litellm/models.yaml", vec![("", of("models.yaml"))]);
            let parts = [("a.yaml", of("parts/a.yaml")), ("c.yaml", of("parts/c.yaml"))];
            shown.insert("/etc/litellm/parts", parts.to_vec());
            added.push(
                json!({"name": "config", "mountPath": "/etc/litellm/models.yaml", "subPath": "models.yaml"}),
            );
            if includes == "below" {
                added.push(json!({"name": "parts", "mountPath": "/etc/litellm/parts"}));
            }
        }
        "folder" | "projected" | "claim" => drop(shown.insert("/etc/litellm", all)),
        _ => return shown,
    }
    if includes == "above" {
        shown.insert("/etc/shared", vec![("b.yaml", "model_list: []\n".to_owned())]);
        added.push(json!({"name": "shared", "mountPath": "/etc/shared"}));
    }
    for name in ["parts", "shared"] {
        if added.iter().any(|mount| mount["name"] == name) {
            let volume = json!({"name": name, "configMap": {"name": name}});
            spec["volumes"].as_array_mut().unwrap().push(volume);
        }
    }
    let mounts = litellm_mounts(spec);
    mounts.extend(added);
    shown
}

/// The annotation that asks for shared memory, and a volume of LiteLLM's own over it, or a field that shows others what lies in
/// it.
fn add_shared_memory(spec: &mut Value, shared_memory: &str) -> Value {
    let volume = match shared_memory {
        "not" => return json!({}),
        "in memory" => Some(json!({"name": "memory", "emptyDir": {"medium": "Memory"}})),
        "on a disk" => Some(json!({"name": "memory", "emptyDir": {}})),
        "asked" => None,
        field => {
            spec[field] = json!(true);
            None
        }
    };
    if let Some(volume) = volume {
        spec["volumes"].as_array_mut().unwrap().push(volume);
        litellm_mounts(spec).push(json!({"name": "memory", "mountPath": "/dev/shm"}));
    }
    json!({"mcpauth.dev/shared-memory": "true"})
}

fn litellm_mounts(spec: &mut Value) -> &mut Vec<Value> {
    let containers = spec["containers"].as_array_mut().unwrap();
    let litellm = containers.iter_mut().find(|container| is_litellm(container));
    litellm.unwrap()["volumeMounts"].as_array_mut().unwrap()
}

fn is_litellm(container: &Value) -> bool {
    ["litellm", "proxy"].iter().any(|name| container["name"] == *name)
}

/// What another webhook makes of the pod.
fn change_later(pod: &mut Value, later: &str) {
    let spec = &mut pod["spec"];
    match later {
        "a container" => spec["containers"].as_array_mut().unwrap().insert(
            0,
            json!({"name": "agent", "image": "agent", "ports": [{"containerPort": 16481}]}),
        ),
        "a wrapper" => {
            let containers = spec["containers"].as_array_mut().unwrap();
            let container = containers
                .iter_mut()
                .find(|container| is_litellm(container))
                .unwrap();
            // As bank-vaults does, which cannot wrap what only the image knows.
            if let Some(command) = container.get("command").cloned() {
                let words = [list(&json!({"c": command}), "c"), list(container, "args")].concat();
                container["command"] = json!(["vault-env"]);
                container["args"] = json!(words);
            }
        }
        "probes lost" => {
            for container in spec["initContainers"].as_array_mut().into_iter().flatten() {
                if container["name"] == SIDECAR {
                    container.as_object_mut().unwrap().remove("startupProbe");
                }
            }
        }
        "a volume" => spec["volumes"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "agent", "emptyDir": {}})),
        _ => {}
    }
}

#[test]
fn three_hundred_pods_are_untouched_or_litellm_runs_with_its_configuration_behind_the_sidecar() {
    let stand_ins = StandIns::new();
    let (mut injected, mut untouched) = (0, BTreeMap::<&'static str, usize>::new());
    let (mut with_includes, mut in_shared_memory) = (0, 0);
    for number in 0..PODS {
        let generated = generate(number);
        let input = Input::of_pod(&format!("generated {number}"), generated.pod.clone());
        let mut pod = admitted(&generated.pod);
        let asks = pod["metadata"]["labels"]["mcpauth.dev/inject"] == "true";
        // The first look, another webhook, and the second look.
        for look in 0..2 {
            let before = pod.clone();
            match input.decide(&pod) {
                Decision::Inject { patch, .. } => json_patch::patch(&mut pod, &patch).unwrap(),
                Decision::Skip { patch, .. } => {
                    json_patch::patch(&mut pod, &patch).unwrap();
                    assert_eq!(pod["spec"], before["spec"], "{}", input.name);
                }
                Decision::AllowWithoutSidecar { patch, .. } => {
                    json_patch::patch(&mut pod, &patch).unwrap();
                    assert_eq!(pod["spec"], before["spec"], "{}", input.name);
                }
                Decision::Deny { error, .. } => assert!(asks, "{}: {error}", input.name),
            }
            if look == 0 {
                change_later(&mut pod, generated.later);
                pod = admitted(&pod);
            }
        }
        let has_sidecar = list(&pod["spec"], "initContainers")
            .iter()
            .any(|container| container["name"] == SIDECAR);
        if has_sidecar {
            injected += 1;
            let original = Original {
                pod: &generated.pod,
                port: generated.port,
                config: generated.config.as_deref(),
            };
            stand_ins.assert_behind_the_sidecar(&input.name, &original, &pod);
            in_shared_memory += usize::from(sidecar(&pod).to_string().contains("MCPAUTH_SHARED_FOLDER"));
            if let Some(config) = &generated.config {
                let mut containers = list(&generated.pod["spec"], "containers").iter();
                let before = containers.find(|container| is_litellm(container)).unwrap();
                let files = Files::new(generated.files);
                with_includes +=
                    usize::from(files.assert_read_as_without_injection(&input.name, config, before, &pod));
            }
        } else {
            *untouched.entry(input.decide(&pod).reason()).or_default() += 1;
            let mut expected = admitted(&generated.pod);
            change_later(&mut expected, generated.later);
            assert_eq!(pod["spec"], admitted(&expected)["spec"], "{}", input.name);
        }
    }
    // Neither all nor none: both halves of the promise are looked at.
    let left: usize = untouched.values().sum();
    assert!(injected >= 150, "{injected} were injected, {untouched:?}");
    assert!(left >= 20 && untouched.len() >= 3, "{untouched:?}");
    assert!(
        with_includes >= 60 && in_shared_memory >= 40,
        "{with_includes} read the overlay beside their includes, {in_shared_memory} in shared memory"
    );
}
