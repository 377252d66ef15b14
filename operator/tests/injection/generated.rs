//! Pods by a generator that combines wrappers, ports, probes, volumes and other webhooks. Whatever comes of it: a pod is
//! untouched, or LiteLLM runs with its own configuration and is reached through the sidecar alone. What LiteLLM is
//! started with is found by starting it: the container's command is run, with stand-ins for LiteLLM and for what
//! wraps it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::api_server::admitted;
use crate::input::{Input, SIDECAR, list, route, sidecar};

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
        "uvicorn" => (
            Some(words(&["uvicorn", "litellm.proxy.proxy_server:app"])),
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
    ]);
    let is_uvicorn = wrapper == "uvicorn";
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
        if is_uvicorn || choices.one(&[true, false]) {
            env.push(json!({"name": "CONFIG_FILE_PATH", "value": path}));
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
    Generated {
        pod: json!({"metadata": {"generateName": "litellm-", "labels": labels}, "spec": spec}),
        port,
        config,
        later: choices.one(&["nothing", "a container", "a wrapper", "probes lost", "a volume"]),
    }
}

/// What another webhook makes of the pod.
fn change_later(pod: &mut Value, later: &str) {
    let is_litellm = |container: &Value| ["litellm", "proxy"].iter().any(|name| container["name"] == *name);
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

/// Programs that stand in for LiteLLM and for wrappers. Each wrapper drops its own words and runs the rest.
fn stand_ins(folder: &Path) {
    let dump = "printf '%s\\0' \"${0##*/}\" \"$@\" > \"$DUMP\"\n";
    let run_rest =
        "while [ $# -gt 0 ]; do case $1 in run|--|-*) shift;; *) break;; esac; done\nexec \"$@\"\n";
    let programs = [("litellm", dump), ("uvicorn", dump)];
    let wrappers = ["tini", "ddtrace-run", "uv", "vault-env", "doppler", "own-tool"];
    let wrappers = wrappers.map(|name| (name, run_rest));
    for (name, script) in programs.into_iter().chain(wrappers) {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// What a container starts: the words of the last program.
fn started(container: &Value, folder: &Path) -> Vec<String> {
    let env = variables(container);
    let text = |word: &Value| expand(word.as_str().unwrap(), &env);
    let mut words: Vec<String> = match container.get("command") {
        Some(_) => list(container, "command").iter().map(text).collect(),
        None => vec!["litellm".to_owned()],
    };
    words.extend(list(container, "args").iter().map(text));
    let dump = folder.join("dump");
    let _ = fs::remove_file(&dump);
    let status = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
        .env("DUMP", &dump)
        .envs(&env)
        .status()
        .unwrap();
    assert!(status.success(), "{words:?}");
    let dumped = fs::read_to_string(&dump).unwrap();
    dumped.split_terminator('\0').map(str::to_owned).collect()
}

fn variables(container: &Value) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for entry in list(container, "env") {
        let name = entry["name"].as_str().unwrap().to_owned();
        if let Some(value) = entry["value"].as_str() {
            let value = expand(value, &variables);
            variables.insert(name, value);
        }
    }
    variables
}

/// `$(NAME)`, as the kubelet replaces it.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("$({name})"), value)
    })
}

/// The last value of an option, as both LiteLLM's and uvicorn's parsers take it.
fn option(words: &[String], name: &str) -> Option<String> {
    let with_equals = format!("{name}=");
    let mut found = None;
    for (index, word) in words.iter().enumerate() {
        if word == name {
            found = words.get(index + 1).cloned();
        } else if let Some(value) = word.strip_prefix(&with_equals) {
            found = Some(value.to_owned());
        }
    }
    found
}

fn variable(container: &Value, name: &str) -> Option<String> {
    variables(container).remove(name)
}

/// The container that LiteLLM runs in is the one that changed.
fn litellm_container(pod: &Value, number: u64) -> &Value {
    let is_litellm = |container: &&Value| ["litellm", "proxy"].iter().any(|name| container["name"] == *name);
    let containers = list(&pod["spec"], "containers");
    containers
        .iter()
        .find(is_litellm)
        .unwrap_or_else(|| panic!("pod {number} has no LiteLLM"))
}

fn assert_runs_behind_the_sidecar(number: u64, generated: &Generated, pod: &Value, folder: &Path) {
    let context = || format!("pod {number}: {pod:#}");
    let container = litellm_container(pod, number);
    let words = started(container, folder);
    let is_uvicorn = words[0] == "uvicorn";

    let ours: BTreeMap<&str, &str> = list(sidecar(pod), "env")
        .iter()
        .filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)))
        .collect();
    // Options come before the environment, which uvicorn does not read.
    let environment = |name| variable(container, name).filter(|_| !is_uvicorn);
    let host = option(&words, "--host").or_else(|| environment("HOST"));
    let port = option(&words, "--port").or_else(|| environment("PORT"));
    let listens = format!("{}:{}", host.unwrap_or_default(), port.unwrap_or_default());
    assert!(listens.starts_with("127.0.0.1:"), "{listens} {}", context());
    assert_eq!(ours["MCPAUTH_LITELLM"], listens, "{}", context());
    let inbound = ours["MCPAUTH_INBOUND"];
    let users = inbound.rsplit_once(':').unwrap().1;
    assert_eq!(users, generated.port.to_string(), "{}", context());

    // CONFIG_FILE_PATH comes before --config.
    let read = variable(container, "CONFIG_FILE_PATH").or_else(|| option(&words, "--config"));
    let read = read.unwrap_or_else(|| panic!("no configuration: {}", context()));
    let mount = list(container, "volumeMounts").iter().find(|mount| {
        let at = mount["mountPath"].as_str().unwrap();
        at == read || read.starts_with(&format!("{at}/"))
    });
    let mount = mount.unwrap_or_else(|| panic!("{read} is not mounted: {}", context()));
    let is_ours = mount["name"].as_str().unwrap().starts_with("mcpauth-");
    assert!(is_ours, "{read} is not the wrapper: {}", context());
    let wrapper = pod["metadata"]["annotations"]["mcpauth.dev/wrapper"]
        .as_str()
        .unwrap();
    match &generated.config {
        Some(own) => {
            assert_eq!(
                wrapper.matches(own.as_str()).count(),
                1,
                "{wrapper} {}",
                context()
            );
            assert!(
                wrapper.find(own.as_str()) < wrapper.find("overlay.yaml"),
                "{}",
                context()
            );
            assert_eq!(ours["MCPAUTH_ORIGINAL_CONFIG"], own, "{}", context());
            assert_is_mounted(own, container, pod, &context);
            assert_is_mounted(own, sidecar(pod), pod, &context);
        }
        None => assert!(!ours.contains_key("MCPAUTH_ORIGINAL_CONFIG"), "{}", context()),
    }
}

/// The user's own volume, or one that holds its sources, has the path.
fn assert_is_mounted(path: &str, container: &Value, pod: &Value, context: &dyn Fn() -> String) {
    let holds = |mount: &&Value| {
        let at = mount["mountPath"].as_str().unwrap();
        let volume = list(&pod["spec"], "volumes")
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        let is_of_user = volume["name"] == "config" || volume.to_string().contains(CONFIG_MAP);
        is_of_user && (at == path || path.starts_with(&format!("{at}/")))
    };
    assert!(
        list(container, "volumeMounts").iter().any(|mount| holds(&mount)),
        "{path} {}",
        context()
    );
}

#[test]
fn three_hundred_pods_are_untouched_or_litellm_runs_with_its_configuration_behind_the_sidecar() {
    let folder = tempfile::tempdir().unwrap();
    stand_ins(folder.path());
    let (mut injected, mut untouched) = (0, BTreeMap::<&'static str, usize>::new());
    for number in 0..PODS {
        let generated = generate(number);
        let input = Input {
            name: format!("generated {number}"),
            pod: generated.pod.clone(),
            routes: vec![route("echo")],
            image_pull_secrets: Vec::new(),
            settings: serde_json::Map::new(),
        };
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
            assert_runs_behind_the_sidecar(number, &generated, &pod, folder.path());
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
}
