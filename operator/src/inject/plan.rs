//! The plan of an injection: everything that is decided about a pod before its patch is written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, NodeSelectorTerm, Pod, PodSpec, ResourceRequirements, SecurityContext, Volume,
    VolumeMount,
};
use mcp_auth_protocol::pod::{TOOL_PREFIX_SEPARATOR, env};
use mcp_auth_protocol::sync::Route;

use super::audit_output::{self, AuditPlan};
use super::config::{
    WrapperOption, hidden_environment, is_in_bucket, may_replace_configuration, original_config_path,
    wrapper_option,
};
use super::environment::{Environment, VariableValue};
use super::environment_entries::copied;
use super::error::InjectionError;
use super::keepalive;
use super::mesh;
use super::namespace_limits::{self, Place};
use super::no_proxy;
use super::options::{PodOptions, StatedConfig, sidecar_resources};
use super::overlay_folder::{self, OverlayFolder, Surroundings};
use super::ports::{self, Ports};
use super::previous::{PreviousInjection, original_mounts};
use super::relocation::{check_can_move_litellm, check_not_asked_by_tls};
use super::reserved::{SIDECAR, is_above_reserved_paths, is_reserved_path, is_reserved_volume};
use super::role::{ArgumentsPlace, Invocation, Role, program};
use super::script_variables::{removal, sets_variable};
use super::security_context::security_context;
use super::settings::{RoutesInPod, Settings};
use super::shell_script::SimpleCommand;
use super::target::Target;
use super::trusted_proxies;
use super::wrapper::{self, Wrapper};
use super::written_files::writes_file;

#[derive(Debug)]
pub(super) struct Plan {
    /// Index of LiteLLM's container in `spec.containers`.
    pub target: usize,
    pub role: Role,
    pub arguments: ArgumentsPlace,
    /// LiteLLM's words without injection, or with those of a previous one.
    pub words: Vec<Option<String>>,
    pub ports: Ports,
    /// Path of LiteLLM's own configuration file; `None` where it has only its database.
    pub original: Option<String>,
    /// Where the sidecar writes the overlay.
    pub folder: OverlayFolder,
    pub wrapper: Wrapper,
    pub wrapper_option: WrapperOption,
    /// Why the folder is a volume although shared memory was asked for.
    pub shared_memory_unused: Option<String>,
    /// The routes as JSON, as many as fit.
    pub routes: String,
    /// How many did not fit.
    pub omitted_routes: usize,
    /// Whether none is written although there are some.
    pub withholds_routes: bool,
    pub start_timeout_seconds: u32,
    /// The proxies that LiteLLM trusts, for the sidecar.
    pub forwarded_allow_ips: Option<EnvVar>,
    /// What may bring LiteLLM another list of them, which the sidecar would not see.
    pub trusted_proxies_in_doubt: Option<String>,
    /// How long connections without a request are kept, for the sidecar.
    pub keepalive: Vec<EnvVar>,
    /// What LiteLLM puts between a server's name and that of its tool, for the sidecar.
    pub tool_prefix_separator: Option<EnvVar>,
    pub resources: ResourceRequirements,
    /// Where audit lines go, for the sidecar.
    pub audit: AuditPlan,
    /// Index that the sidecar gets in `spec.initContainers`.
    pub position: usize,
    pub security_context: SecurityContext,
    /// The proxy of a service mesh takes what the kubelet sends to the pod.
    pub has_mesh: bool,
    /// What may bring a configuration that LiteLLM reads before the one that the pod names.
    pub may_replace_configuration: Option<String>,
    /// The variable of the list of hosts without a proxy that the start command may replace by one without loopback.
    pub list_in_doubt: Option<&'static str>,
    pub previous: Option<PreviousInjection>,
}

/// A single environment variable of a process can hold 128 KiB on Linux.
const MAX_VARIABLE_BYTES: usize = 96 * 1024;
pub(super) fn plan(
    pod: &Pod,
    spec: &PodSpec,
    target: Target,
    options: &PodOptions,
    routes: &[Route],
    settings: &Settings,
) -> Result<Plan, InjectionError> {
    let container = &spec.containers[target.index];
    let environment = Environment::from_container(container);
    let previous = PreviousInjection::find(spec);
    let invocation = &target.invocation;
    check_pod(spec, container, previous.as_ref())?;
    if !target.is_known {
        return Err(InjectionError::UnknownCommand {
            container: container.name.clone(),
        });
    }
    if is_in_bucket(&environment) {
        return Err(InjectionError::ConfigInBucket);
    }
    // On the second look another webhook may have put a wrapper in front that is not known.
    if !options.outbound_only
        && !previous
            .as_ref()
            .is_some_and(|previous| previous.has_moved(container))
    {
        check_can_move_litellm(container, &environment, invocation, options)?;
    }
    check_script(container, &environment, invocation, previous.as_ref())?;
    let original = match (&options.config_path, &previous) {
        (Some(StatedConfig::File(path)), _) => Some(path.clone()),
        (Some(StatedConfig::None), _) => None,
        (None, Some(previous)) => previous.original.clone(),
        (None, None) => original_config_path(container, &environment, invocation)?,
    };
    let may_replace_configuration = match (&options.config_path, &previous, &original) {
        (None, None, Some(_)) => may_replace_configuration(&environment, invocation),
        _ => None,
    };
    let wrapper_option = match &previous {
        Some(previous) => previous.wrapper_option(container),
        None => wrapper_option(container, &environment, invocation)?,
    };
    if let (Some(path), None) = (&original, &previous) {
        check_not_written_by_script(container, &environment, path)?;
    }
    let overlay_folder::Place {
        folder,
        wrapper,
        wrapper_option,
        shared_memory_unused,
    } = overlay_folder::place(
        &Surroundings {
            spec,
            environment: &environment,
            invocation,
            mounts: &original_mounts(container, previous.as_ref()),
            previous: previous.as_ref(),
            folder_name: &settings.folder_name,
        },
        original.as_deref(),
        wrapper_option,
        options.shared_memory.unwrap_or(settings.shared_memory),
    )?;
    if let (Some(path), None) = (&original, &previous) {
        check_written_before(spec, container, &wrapper, path)?;
    }
    let position = sidecar_position(spec, &wrapper);
    let resources = sidecar_resources(pod, spec, settings)?;
    let resources = match previous {
        // Those that it has are not changed.
        Some(_) => resources.all,
        None => namespace_limits::fit(
            Place { spec, position },
            resources.all,
            resources.stated.as_ref(),
            &settings.namespace_limits,
        )?,
    };
    let ports = ports::choose(
        spec,
        container,
        &environment,
        invocation,
        options,
        previous.as_ref(),
    )?;
    if let (Some(inbound), None) = (ports.inbound, &previous) {
        check_not_asked_by_tls(container, inbound.port())?;
    }
    let withholds_routes = settings.routes_in_pod == RoutesInPod::Withheld && !routes.is_empty();
    let (routes, omitted_routes) = match withholds_routes {
        true => routes_json(&[]),
        false => routes_json(routes),
    };
    if settings.operator.ca.len() > MAX_VARIABLE_BYTES {
        return Err(InjectionError::CaTooLarge);
    }
    Ok(Plan {
        target: target.index,
        role: invocation.role,
        arguments: invocation.arguments,
        words: invocation.words.clone(),
        ports,
        original,
        position,
        folder,
        wrapper,
        wrapper_option,
        shared_memory_unused,
        routes,
        omitted_routes,
        withholds_routes,
        start_timeout_seconds: options
            .start_timeout_seconds
            .unwrap_or(settings.start_timeout_seconds),
        forwarded_allow_ips: match &previous {
            Some(previous) => previous.forwarded_allow_ips.clone(),
            None => trusted_proxies::sidecar_variable(container),
        },
        trusted_proxies_in_doubt: match (&previous, environment.get(trusted_proxies::FORWARDED_ALLOW_IPS)) {
            (None, VariableValue::Absent) => hidden_environment(&environment, invocation),
            _ => None,
        },
        resources,
        audit: audit_output::plan(spec, options, settings),
        keepalive: keepalive::sidecar_variables(container, options.keepalive_seconds),
        tool_prefix_separator: copied(container, TOOL_PREFIX_SEPARATOR, env::TOOL_PREFIX_SEPARATOR),
        security_context: security_context(spec, &settings.security_context, &options.security_context),
        has_mesh: mesh::takes_inbound_connections(pod, spec),
        may_replace_configuration,
        list_in_doubt: no_proxy::list_in_doubt(container, &environment, invocation),
        previous,
    })
}

/// Checks the whole pod, whichever container LiteLLM runs in.
fn check_pod(
    spec: &PodSpec,
    container: &Container,
    previous: Option<&PreviousInjection>,
) -> Result<(), InjectionError> {
    let selects_windows = |labels: &BTreeMap<String, String>| {
        labels
            .get("kubernetes.io/os")
            .is_some_and(|system| system == "windows")
    };
    if spec.os.as_ref().is_some_and(|system| system.name == "windows")
        || spec.node_selector.as_ref().is_some_and(selects_windows)
        || requires_windows(spec)
    {
        return Err(InjectionError::Windows);
    }
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
    let is_in_the_way = |mount: &&VolumeMount| {
        is_reserved_path(&mount.mount_path)
            || is_above_reserved_paths(&mount.mount_path) && wrapper::is_read_only(mount, spec)
    };
    let mut mounts = container.volume_mounts.iter().flatten();
    match mounts.find(is_in_the_way).map(|mount| &mount.mount_path) {
        Some(path) => reserved(format!("the mount at `{path}`")),
        None => Ok(()),
    }
}

/// Whether the pod's affinity leaves only nodes with Windows: one of its terms has to hold.
fn requires_windows(spec: &PodSpec) -> bool {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let is_windows = |term: &NodeSelectorTerm| {
        term.match_expressions.iter().flatten().any(|expression| {
            expression.key == "kubernetes.io/os"
                && expression.operator == "In"
                && expression.values.as_deref() == Some(&["windows".to_owned()])
        })
    };
    required.is_some_and(|selector| {
        let terms = &selector.node_selector_terms;
        !terms.is_empty() && terms.iter().all(is_windows)
    })
}

/// Checks that no script of LiteLLM's own container writes the configuration, which the sidecar reads before.
fn check_not_written_by_script(
    container: &Container,
    environment: &Environment,
    path: &str,
) -> Result<(), InjectionError> {
    let is_litellm =
        |command: &SimpleCommand| matches!(program(&command.words, environment).0, Role::LiteLlm(_));
    let mut words = container.command.iter().chain(&container.args).flatten();
    match words.any(|word| writes_file(word, path, &is_litellm)) {
        true => Err(InjectionError::ConfigWrittenAtStart {
            path: path.to_owned(),
            evidence: "its start script does".to_owned(),
        }),
        false => Ok(()),
    }
}

/// Checks that something else than LiteLLM's own container can fill the volume of the configuration: the sidecar reads it
/// before that container starts, and what it writes into the overlay then takes the place of LiteLLM's own servers.
fn check_written_before(
    spec: &PodSpec,
    container: &Container,
    wrapper: &Wrapper,
    path: &str,
) -> Result<(), InjectionError> {
    let Some(volume) = wrapper.originals.first().map(|mount| mount.name.as_str()) else {
        return Ok(());
    };
    let is_empty = |candidate: &Volume| {
        candidate.name == volume && (candidate.empty_dir.is_some() || candidate.ephemeral.is_some())
    };
    let mut others = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter(|other| other.name != container.name);
    let may_write = |other: &Container| {
        let mut mounts = other.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == volume && mount.read_only != Some(true))
    };
    if spec.volumes.iter().flatten().any(is_empty) && !others.any(may_write) {
        return Err(InjectionError::ConfigWrittenAtStart {
            path: path.to_owned(),
            evidence: format!("no other can write into the volume `{volume}`, which is empty at first"),
        });
    }
    Ok(())
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
        let writes =
            container.volume_mounts.iter().flatten().any(|mount| {
                mount.read_only != Some(true) && writable_volumes.contains(&mount.name.as_str())
            });
        mesh::is_native_proxy(container) || writes
    };
    let containers = spec.init_containers.as_deref().unwrap_or_default();
    let last = containers.iter().rposition(is_needed);
    last.map_or(0, |last| last + 1)
}

/// The routes that fit into a variable, and how many do not. Those come with the first snapshot, as the
/// certificates do, which would only fill the variable.
fn routes_json(routes: &[Route]) -> (String, usize) {
    let mut size = "[]".len();
    let fitting: Vec<Route> = routes
        .iter()
        .map(|route| Route {
            ca_bundle: None,
            ..route.clone()
        })
        .take_while(|route| {
            size += serde_json::to_string(route).map_or(usize::MAX / 2, |json| json.len() + 1);
            size <= MAX_VARIABLE_BYTES
        })
        .collect();
    let json = serde_json::to_string(&fitting).expect("routes are made of plain values");
    (json, routes.len() - fitting.len())
}

/// Checks that the start command neither sets nor unsets what injection sets: it would win, in silence.
fn check_script(
    container: &Container,
    environment: &Environment,
    invocation: &Invocation,
    previous: Option<&PreviousInjection>,
) -> Result<(), InjectionError> {
    let words = || container.command.iter().chain(&container.args).flatten();
    let names = ["CONFIG_FILE_PATH", "LITELLM_CONFIG_BUCKET_NAME"];
    let set = names
        .into_iter()
        .find(|name| words().any(|word| sets_variable(word, name)))
        // Where there is nothing to name the wrapper by, LiteLLM starts without it.
        .or_else(|| removal(container, environment, names[0]).map(|_| names[0]));
    // What another webhook brings after the first look, unseen, is no reason to give up what was injected.
    let lost = || match previous {
        Some(_) => None,
        None => no_proxy::lost_list(container, environment, invocation),
    };
    match set.or_else(lost) {
        Some(name) => Err(InjectionError::ScriptSetsConfig {
            container: container.name.clone(),
            name,
        }),
        None => Ok(()),
    }
}
