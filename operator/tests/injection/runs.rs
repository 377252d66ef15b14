//! What LiteLLM of an injected pod is started with, found by starting it: the container's command is run, with stand-ins for
//! LiteLLM and for wrappers that this machine lacks. Shells, `env`, `timeout` and their like are the machine's own.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::input::{list, sidecar};

/// Programs that tell what they were started with and end.
const PROGRAMS: [&str; 7] = [
    "litellm",
    "docker/prod_entrypoint.sh",
    "uvicorn",
    "granian",
    "gunicorn",
    "python",
    "python3",
];
/// Each drops its own words and runs the rest.
const WRAPPERS: [&str; 13] = [
    "tini",
    "time",
    "dumb-init",
    "ddtrace-run",
    "uv",
    "uvx",
    "poetry",
    "pdm",
    "hatch",
    "vault-env",
    "doppler",
    "own-tool",
    "conda",
];
/// Each runs what stands behind the first dashes.
const WITH_DASHES: [&str; 4] = ["chamber", "infisical", "py-spy", "runuser"];
/// Options of wrappers whose value is the next word.
const WITH_VALUE: &str = "--from|--with|--python|--project|-p|-e|--rewrite|-r|-C|-n";

/// What is true of the LiteLLM in a pod before anything is injected.
pub struct Original<'a> {
    pub pod: &'a Value,
    pub port: u64,
    /// Path of its configuration, if it has one.
    pub config: Option<&'a str>,
}

/// Words and environment of the process that LiteLLM runs in.
struct Process {
    words: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// A folder with the stand-ins.
pub struct StandIns(TempDir);

impl StandIns {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tell = "here=$(cd \"${0%/*}\" && pwd); case $here in */docker) here=${here%/docker};; esac\n\
                    printf '%s\\0' \"${0##*/}\" \"$@\" > \"$here/words\"; env -0 > \"$here/environment\"\n";
        let run_rest = format!(
            "while [ $# -gt 0 ]; do case $1 in run|--) shift;; -m|--module) set -- python \"$@\"; break;; {WITH_VALUE}) shift 2;; -*) shift;; *) break;; esac; \
             done\nexec \"$@\"\n"
        );
        let programs = PROGRAMS.map(|name| (name, tell));
        let wrappers = WRAPPERS.map(|name| (name, run_rest.as_str()));
        let behind_dashes = "while [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";
        // Applets of busybox that are programs here.
        for (name, script) in programs
            .into_iter()
            .chain(wrappers)
            .chain(WITH_DASHES.map(|name| (name, behind_dashes)))
            .chain([("busybox", "exec \"$@\"\n")])
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a container's command, as the kubelet makes it.
    fn start(&self, container: &Value) -> Process {
        let env = variables(container);
        let text = |word: &Value| expand(word.as_str().unwrap(), &env);
        let mut words: Vec<String> = list(container, "command").iter().map(text).collect();
        if words.is_empty() {
            words.push("litellm".to_owned());
        }
        words.extend(list(container, "args").iter().map(text));
        for file in ["words", "environment"] {
            let _ = fs::remove_file(self.path(file));
        }
        let program = match words[0].contains('/') && !words[0].starts_with('/') {
            true => self.path(&words[0]),
            false => PathBuf::from(&words[0]),
        };
        let status = Command::new(program)
            .args(&words[1..])
            .current_dir(self.0.path())
            .env_clear()
            .envs(&env)
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()))
            .status()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert!(status.success(), "{words:?}");
        let told = |file: &str| -> Vec<String> {
            let text =
                fs::read_to_string(self.path(file)).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            text.split_terminator('\0').map(str::to_owned).collect()
        };
        let environment = told("environment").into_iter().filter_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Process {
            words: told("words"),
            environment: environment.collect(),
        }
    }

    /// That LiteLLM runs with its own configuration, and is reached through the sidecar alone.
    pub fn assert_behind_the_sidecar(&self, name: &str, original: &Original<'_>, pod: &Value) {
        let context = || format!("{name}: {pod:#}");
        let container = litellm_container(pod).unwrap_or_else(|| panic!("no LiteLLM: {}", context()));
        let process = self.start(container);
        let ours: BTreeMap<&str, &str> = list(sidecar(pod), "env")
            .iter()
            .filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)))
            .collect();

        if let Some(inbound) = ours.get("MCPAUTH_INBOUND") {
            assert_eq!(
                Some(&process.listens().as_str()),
                ours.get("MCPAUTH_LITELLM"),
                "{}",
                context()
            );
            let (host, port) = inbound.rsplit_once(':').unwrap();
            assert_eq!(port, original.port.to_string(), "{}", context());
            let mut containers = list(&original.pod["spec"], "containers").iter();
            let before = containers.find(|before| before["name"] == container["name"]);
            let before = before.unwrap();
            let host_before = self.start(before).host();
            // Neither wider nor narrower, unless the kubelet asks it, which it cannot on loopback: then the image says more than the pod.
            let is_probed = ["startupProbe", "livenessProbe", "readinessProbe"]
                .iter()
                .any(|probe| before[probe]["httpGet"].is_object() || before[probe]["tcpSocket"].is_object());
            let is_as_before = is_loopback(host) == is_loopback(&host_before);
            let is_wider = is_loopback(&host_before);
            assert!(
                is_as_before || is_wider && is_probed,
                "{host_before}: {}",
                context()
            );
        }
        let proxies = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        let has_proxy = proxies.iter().any(|name| process.environment.contains_key(*name));
        let no_proxy = process
            .environment
            .get("NO_PROXY")
            .or(process.environment.get("no_proxy"));
        assert!(
            !has_proxy || no_proxy.is_some_and(|list| list.split(',').any(|host| host.trim() == "127.0.0.1")),
            "{no_proxy:?} {}",
            context()
        );

        // CONFIG_FILE_PATH comes before --config.
        let by_variable = process.environment.get("CONFIG_FILE_PATH").cloned();
        let read = by_variable.or_else(|| option(&process.words, "--config"));
        let read = read.unwrap_or_else(|| panic!("no configuration: {}", context()));
        let shared = ours.get("MCPAUTH_SHARED_FOLDER");
        if let Some(folder) = shared {
            assert_shares_memory(folder, container, pod, &context);
        }
        if !shared.is_some_and(|folder| read.starts_with(*folder)) {
            let mount = serving_mount(container, &read);
            let mount = mount.unwrap_or_else(|| panic!("{read} is not mounted: {}", context()));
            let is_ours = mount["name"].as_str().unwrap().starts_with("mcpauth-");
            assert!(is_ours, "{read} is not the wrapper: {}", context());
        } else {
            // LiteLLM passes over a file of this variable that is not there, and starts without a configuration.
            assert_eq!(process.environment.get("CONFIG_FILE_PATH"), None, "{}", context());
        }
        if let Some(mirror) = ours.get("MCPAUTH_CONFIG_MIRROR") {
            // The sidecar writes the wrapper there, and links to what lies beside the configuration.
            let own = original
                .config
                .unwrap_or_else(|| panic!("nothing to mirror: {}", context()));
            assert_eq!(read, format!("{mirror}{own}"), "{}", context());
        } else {
            let wrapper = pod["metadata"]["annotations"]["mcpauth.dev/wrapper"].as_str();
            let included: Value = serde_saphyr::from_str(wrapper.unwrap()).unwrap();
            let overlay = ours["MCPAUTH_OVERLAY"];
            let expected: Vec<&str> = original.config.into_iter().chain([overlay]).collect();
            assert_eq!(included["include"], serde_json::json!(expected), "{}", context());
            let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            // LiteLLM 1.80.17 looks up relative includes and modules beside the wrapper alone.
            assert!(
                original.config.is_none_or(|own| folder(own) == folder(&read)),
                "{read} {}",
                context()
            );
        }
        let stated = ours
            .get("MCPAUTH_ORIGINAL_CONFIG")
            .map(|path| expand(path, &BTreeMap::new()));
        assert_eq!(stated.as_deref(), original.config, "{}", context());
        if let Some(path) = original.config {
            assert_shows_users_volume(path, container, pod, &context);
            assert_shows_users_volume(path, sidecar(pod), pod, &context);
        }
    }
}

impl Process {
    /// Host and port, by its options and else by the environment, which ASGI servers do not read.
    fn listens(&self) -> String {
        let environment = |name| {
            self.environment
                .get(name)
                .cloned()
                .filter(|_| self.server().is_none())
        };
        let port = option(&self.words, "--port").or_else(|| environment("PORT"));
        format!("{}:{}", self.host(), port.unwrap_or_default())
    }

    /// That of `--host`, or of the variable that the program reads, or the program's default.
    fn host(&self) -> String {
        let (variable, default) = match self.server() {
            Some("uvicorn") => ("UVICORN_HOST", "127.0.0.1"),
            Some(_) => ("GRANIAN_HOST", "127.0.0.1"),
            None => ("HOST", "0.0.0.0"),
        };
        let environment = || self.environment.get(variable).filter(|host| !host.is_empty());
        let host = option(&self.words, "--host").or_else(|| environment().cloned());
        host.unwrap_or_else(|| default.to_owned())
    }

    fn server(&self) -> Option<&'static str> {
        let is_named = |name: &&str| self.words.iter().any(|word| word.ends_with(name));
        ["uvicorn", "granian"].into_iter().find(is_named)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
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

/// `$(NAME)` and `$$`, as the kubelet replaces them (k8s.io/kubernetes/third_party/forked/golang/expansion).
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        let reference = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        rest = match (after.strip_prefix('$'), reference) {
            (Some(after), _) => {
                expanded.push('$');
                after
            }
            (None, Some((name, after))) => {
                match variables.get(name) {
                    Some(value) => expanded += value,
                    None => expanded += &format!("$({name})"),
                }
                after
            }
            (None, None) => {
                expanded.push('$');
                after
            }
        };
    }
    expanded + rest
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

/// The container that LiteLLM runs in alone mounts a volume of ours, or reads the wrapper in shared memory.
pub fn litellm_container(pod: &Value) -> Option<&Value> {
    let is_injected = |container: &&Value| {
        let mut mounts = list(container, "volumeMounts").iter();
        let mut words = ["command", "args"]
            .into_iter()
            .flat_map(|key| list(container, key));
        mounts.any(|mount| mount["name"].as_str().unwrap().starts_with("mcpauth-"))
            || words.any(|word| word.as_str().unwrap().contains("/dev/shm/mcpauth/"))
    };
    list(&pod["spec"], "containers").iter().find(is_injected)
}

/// Sidecar and LiteLLM see the same at the folder, and injection adds no emptyDir.
fn assert_shares_memory(folder: &str, container: &Value, pod: &Value, context: &dyn Fn() -> String) {
    let shown = |container: &Value| serving_mount(container, folder).map(|mount| mount["name"].clone());
    assert_eq!(shown(container), shown(sidecar(pod)), "{}", context());
    for field in ["hostIPC", "hostPID", "shareProcessNamespace"] {
        assert_ne!(pod["spec"][field], true, "{field}: {}", context());
    }
    let is_empty_dir_of_ours = |volume: &Value| {
        volume["name"].as_str().unwrap().starts_with("mcpauth-") && volume.get("emptyDir").is_some()
    };
    let mut volumes = list(&pod["spec"], "volumes").iter();
    assert!(!volumes.any(is_empty_dir_of_ours), "{}", context());
}

/// The mount that the kubelet would resolve the path to.
fn serving_mount<'a>(container: &'a Value, path: &str) -> Option<&'a Value> {
    let at = |mount: &Value| {
        mount["mountPath"]
            .as_str()
            .unwrap()
            .trim_end_matches('/')
            .to_owned()
    };
    let covers = |mount: &&Value| path == at(mount) || Path::new(path).starts_with(at(mount));
    let mounts = list(container, "volumeMounts").iter();
    mounts.filter(covers).max_by_key(|mount| at(mount).len())
}

/// What the path shows is a volume of the user's, or ours that has the sources of one.
fn assert_shows_users_volume(path: &str, container: &Value, pod: &Value, context: &dyn Fn() -> String) {
    let mount =
        serving_mount(container, path).unwrap_or_else(|| panic!("{path} is not mounted: {}", context()));
    let volume = list(&pod["spec"], "volumes")
        .iter()
        .find(|volume| volume["name"] == mount["name"])
        .unwrap();
    let name = volume["name"].as_str().unwrap();
    let has_sources = name == "mcpauth-folder"
        && list(&volume["projected"], "sources")
            .iter()
            .any(|source| source.get("downwardAPI").is_none());
    assert!(
        !name.starts_with("mcpauth-") || has_sources,
        "{path}: {}",
        context()
    );
}
