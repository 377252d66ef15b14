//! The plan of an injection: everything that is decided about a pod before its patch is written.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};
use mcp_auth_protocol::sync::Route;

use super::command_line::command_words;
use super::config::original_config_path;
use super::environment::Environment;
use super::error::InjectionError;
use super::options::PodOptions;
use super::ports::{self, Ports};
use super::previous::{PreviousInjection, original_mounts};
use super::reserved::{SIDECAR, is_reserved_path, is_reserved_volume};
use super::role::Role;
use super::settings::Settings;
use super::target::Target;
use super::trusted_proxies;
use super::wrapper::{self, Wrapper};

#[derive(Debug)]
pub(super) struct Plan {
    /// Index of LiteLLM's container in `spec.containers`.
    pub target: usize,
    pub role: Role,
    pub ports: Ports,
    /// Path of LiteLLM's own configuration file; `None` where it has only its database.
    pub original: Option<String>,
    pub wrapper: Wrapper,
    /// The routes as JSON.
    pub routes: String,
    pub start_timeout_seconds: u32,
    /// The proxies that LiteLLM trusts, for the sidecar.
    pub forwarded_allow_ips: Option<EnvVar>,
    /// Index that the sidecar gets in `spec.initContainers`.
    pub position: usize,
    /// The pod's own user is root, which our container must not be.
    pub runs_as_root: bool,
    pub previous: Option<PreviousInjection>,
}

/// A single environment variable of a process can hold 128 KiB on Linux.
const MAX_VARIABLE_BYTES: usize = 96 * 1024;
/// Native sidecars that carry the pod's traffic. Ours needs them to reach the operator.
const MESH_SIDECARS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

pub(super) fn plan(
    spec: &PodSpec,
    target: Target,
    options: &PodOptions,
    routes: &[Route],
    settings: &Settings,
) -> Result<Plan, InjectionError> {
    let container = &spec.containers[target.index];
    let environment = Environment::from_container(container);
    let previous = PreviousInjection::find(spec);
    check_pod(spec, container, previous.as_ref())?;
    if environment.is_set("LITELLM_CONFIG_BUCKET_NAME") {
        return Err(InjectionError::ConfigInBucket);
    }
    if !options.outbound_only {
        check_can_move_litellm(container, &environment, target.role, options)?;
    }
    let original = match (&options.config_path, &previous) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(previous)) => previous.original.clone(),
        (None, None) => original_config_path(container, &environment)?,
    };
    if original.is_none() && previous.is_none() && has_config_option_in_script(container, target.role) {
        return Err(InjectionError::HiddenConfigPath {
            container: container.name.clone(),
            source_of_path: "the shell script",
        });
    }
    let wrapper = wrapper::place_wrapper(
        original.as_deref(),
        &original_mounts(container, previous.as_ref()),
        spec,
    )?;
    let ports = ports::choose(spec, container, &environment, options, previous.as_ref())?;
    Ok(Plan {
        target: target.index,
        role: target.role,
        ports,
        original,
        position: sidecar_position(spec, &wrapper),
        wrapper,
        routes: routes_json(routes, settings)?,
        start_timeout_seconds: options
            .start_timeout_seconds
            .unwrap_or(settings.start_timeout_seconds),
        forwarded_allow_ips: match &previous {
            Some(previous) => previous.forwarded_allow_ips.clone(),
            None => trusted_proxies::sidecar_variable(container),
        },
        runs_as_root: spec
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user)
            == Some(0),
        previous,
    })
}

/// Checks the whole pod, whichever container LiteLLM runs in.
fn check_pod(
    spec: &PodSpec,
    container: &Container,
    previous: Option<&PreviousInjection>,
) -> Result<(), InjectionError> {
    if spec.host_network == Some(true) {
        return Err(InjectionError::HostNetwork);
    }
    let reserved = |what: String| Err(InjectionError::Reserved { what });
    if spec.containers.iter().any(|container| container.name == SIDECAR) {
        return reserved(format!("the container `{}`", SIDECAR));
    }
    if previous.is_some() {
        return Ok(());
    }
    if let Some(volume) = spec
        .volumes
        .iter()
        .flatten()
        .find(|volume| is_reserved_volume(&volume.name))
    {
        return reserved(format!("the volume `{}`", volume.name));
    }
    let mounts = container.volume_mounts.iter().flatten();
    match mounts
        .map(|mount| &mount.mount_path)
        .find(|path| is_reserved_path(path))
    {
        Some(path) => reserved(format!("the mount at `{path}`")),
        None => Ok(()),
    }
}

/// Checks that LiteLLM can be moved to another port: that is done by arguments, which have to reach LiteLLM,
/// and the sidecar speaks plain HTTP to it.
fn check_can_move_litellm(
    container: &Container,
    environment: &Environment,
    role: Role,
    options: &PodOptions,
) -> Result<(), InjectionError> {
    let name = || container.name.clone();
    match role {
        Role::Shell { .. } => return Err(InjectionError::ShellCommand { container: name() }),
        // An annotation that names the container states that its program passes arguments on.
        Role::Program if options.container.is_none() => {
            return Err(InjectionError::UnknownCommand { container: name() });
        }
        _ => {}
    }
    let variable = ["SSL_KEYFILE_PATH", "SSL_CERTFILE_PATH"]
        .into_iter()
        .find(|name| environment.is_set(name));
    if let Some(variable) = variable {
        return Err(InjectionError::LiteLlmTls {
            what: format!("the variable {variable}"),
        });
    }
    let words = command_words(container, environment);
    let argument = words
        .iter()
        .flatten()
        .find(|word| word.starts_with("--ssl_") || word.starts_with("--ssl-"));
    match argument.and_then(|argument| argument.split('=').next()) {
        Some(argument) => Err(InjectionError::LiteLlmTls {
            what: format!("the argument {argument}"),
        }),
        None => Ok(()),
    }
}

/// Whether a shell script passes `--config`: the variable that injection sets would override it, and LiteLLM
/// would start without the user's configuration.
fn has_config_option_in_script(container: &Container, role: Role) -> bool {
    let mut words = container.command.iter().chain(&container.args).flatten();
    matches!(role, Role::Shell { .. }) && words.any(|word| word.contains("--config"))
}

/// Index of the sidecar among the init containers. It comes first, so that init containers of the user can
/// call MCP servers through it; but after what it needs itself: the proxy of a service mesh, and init
/// containers that write the configuration it has to read.
fn sidecar_position(spec: &PodSpec, wrapper: &Wrapper) -> usize {
    let writable_volumes: Vec<&str> = wrapper
        .originals
        .iter()
        .map(|mount| mount.name.as_str())
        .filter(|name| wrapper::is_filled_in_the_pod(spec, name))
        .collect();
    let is_needed = |container: &Container| {
        let is_mesh = MESH_SIDECARS.contains(&container.name.as_str());
        let is_native = container.restart_policy.as_deref() == Some("Always");
        let writes =
            container.volume_mounts.iter().flatten().any(|mount| {
                mount.read_only != Some(true) && writable_volumes.contains(&mount.name.as_str())
            });
        (is_mesh && is_native) || writes
    };
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let last = containers.iter().rposition(is_needed);
    last.map_or(0, |last| last + 1)
}

fn routes_json(routes: &[Route], settings: &Settings) -> Result<String, InjectionError> {
    // Certificates come with the first snapshot; here they would only fill the variable.
    let routes: Vec<Route> = routes
        .iter()
        .map(|route| Route {
            ca_bundle: None,
            ..route.clone()
        })
        .collect();
    let json = serde_json::to_string(&routes).expect("routes are made of plain values");
    if json.len() > MAX_VARIABLE_BYTES {
        return Err(InjectionError::TooLarge {
            what: "the list of routes",
        });
    }
    if settings.operator.ca.len() > MAX_VARIABLE_BYTES {
        return Err(InjectionError::TooLarge {
            what: "the operator's CA bundle",
        });
    }
    Ok(json)
}
