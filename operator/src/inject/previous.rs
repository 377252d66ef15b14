//! The previous injection of a pod, read back from its sidecar. The API server invokes a webhook again after
//! other webhooks have changed the pod, and a pod template may hold a copy of an injected pod: both must come
//! out as after one injection.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, VolumeMount};
use mcp_auth_protocol::pod::{CONFIG_FOLDER, MIRROR, SHARED_FOLDERS, env};

use super::command_line::{command_words, flag};
use super::config::WrapperOption;
use super::environment::{Environment, VariableValue};
use super::reserved::{CONFIG_VOLUME, FOLDER_VOLUME, SIDECAR, TOKEN_VOLUME, WRAPPER_ELSEWHERE, WRAPPER_FILE};
use super::shell_script::simple_commands;

/// What the previous injection decided.
#[derive(Debug)]
pub(super) struct PreviousInjection {
    /// Index of the sidecar in `spec.initContainers`.
    pub index: usize,
    pub inbound: Option<String>,
    pub litellm: Option<u16>,
    pub outbound: Option<u16>,
    pub health: Option<u16>,
    /// Path of LiteLLM's own configuration.
    pub original: Option<String>,
    /// Whether the wrapper is in a mirror of the configuration's folder.
    pub has_mirror: bool,
    /// Folder of the overlay, where it is in shared memory.
    pub shared_folder: Option<String>,
    /// The sidecar's variable of this name.
    pub forwarded_allow_ips: Option<EnvVar>,
    mounts: Vec<VolumeMount>,
}

impl PreviousInjection {
    pub fn find(spec: &PodSpec) -> Option<Self> {
        let containers = spec.init_containers.as_deref()?;
        let index = containers
            .iter()
            .position(|container| container.name == SIDECAR)?;
        let environment = Environment::from_container(&containers[index]);
        let text = |name| match environment.get(name) {
            VariableValue::Literal(value) => Some(value),
            VariableValue::Absent | VariableValue::Hidden => None,
        };
        let port = |name| text(name)?.rsplit_once(':')?.1.parse().ok();
        Some(Self {
            index,
            inbound: text(env::INBOUND),
            litellm: port(env::LITELLM),
            outbound: port(env::OUTBOUND),
            health: port(env::HEALTH),
            original: text(env::ORIGINAL_CONFIG),
            has_mirror: environment.is_set(env::CONFIG_MIRROR),
            shared_folder: text(env::SHARED_FOLDER).filter(|path| is_shared_folder(path)),
            forwarded_allow_ips: containers[index]
                .env
                .iter()
                .flatten()
                .find(|entry| entry.name == env::FORWARDED_ALLOW_IPS)
                .cloned(),
            mounts: containers[index].volume_mounts.clone().unwrap_or_default(),
        })
    }

    /// Whether LiteLLM's container still has the arguments that moved LiteLLM, whatever stands before them.
    pub fn has_moved(&self, container: &Container) -> bool {
        let Some(port) = self.litellm else {
            return false;
        };
        let words = command_words(container, &Environment::from_container(container));
        let is_moved = |words: &[Option<String>]| is_moved(words, port);
        let mut texts = words.iter().flatten();
        is_moved(&words)
            || texts.any(|text| {
                simple_commands(text)
                    .iter()
                    .any(|command| is_moved(&command.words))
            })
    }

    /// How that injection told LiteLLM of the wrapper.
    pub fn wrapper_option(&self, container: &Container) -> WrapperOption {
        let mut words = container.command.iter().chain(&container.args).flatten();
        let mirror = format!("{CONFIG_FOLDER}/{MIRROR}");
        let wrappers = [WRAPPER_FILE, WRAPPER_ELSEWHERE, &mirror, SHARED_FOLDERS];
        let names_wrapper = |word: &String| wrappers.iter().any(|wrapper| word.contains(wrapper));
        match words.any(names_wrapper) {
            true => WrapperOption::Argument,
            false => WrapperOption::Variable,
        }
    }
}

/// Whether injection could have chosen the path: a name in the folder of such folders.
fn is_shared_folder(path: &str) -> bool {
    let name = path
        .strip_prefix(SHARED_FOLDERS)
        .and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_alphanumeric()))
}

/// Whether these words have LiteLLM listen on this port of 127.0.0.1.
pub(super) fn is_moved(words: &[Option<String>], port: u16) -> bool {
    let has = |name, value: &str| flag(words, &[name]).flatten().as_deref() == Some(value);
    has("--host", "127.0.0.1") && has("--port", &port.to_string())
}

/// LiteLLM's mounts as they would be without injection.
pub(super) fn original_mounts(
    container: &Container,
    previous: Option<&PreviousInjection>,
) -> Vec<VolumeMount> {
    let mounts = container.volume_mounts.iter().flatten();
    let Some(previous) = previous else {
        return mounts.cloned().collect();
    };
    let without_injection = |mount: &VolumeMount| match mount.name.as_str() {
        CONFIG_VOLUME | TOKEN_VOLUME => None,
        // The sidecar still mounts the user's volume there.
        FOLDER_VOLUME => {
            let users_mount = previous
                .mounts
                .iter()
                .find(|candidate| candidate.mount_path == mount.mount_path)?;
            Some(VolumeMount {
                name: users_mount.name.clone(),
                ..mount.clone()
            })
        }
        _ => Some(mount.clone()),
    };
    mounts.filter_map(without_injection).collect()
}
