//! The sidecar's container and its volumes.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, DownwardAPIVolumeSource, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, ObjectFieldSelector, Probe,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mcp_auth_protocol::pod::{
    AUDIENCE, IDENTITY_FOLDER, METRICS_PORT_NAME, PROGRAM, TOKEN_FILE, env, health,
};
use mcp_auth_protocol::timeouts::READINESS_PROBE_SECONDS;

use super::environment_entries::literal;
use super::overlay_folder::OverlayFolder;
use super::plan::Plan;
use super::reserved::{CONFIG_VOLUME, EMPTY_VOLUME, FOLDER_VOLUME, SIDECAR, TOKEN_VOLUME, WRAPPER_ITEM};
use super::settings::Settings;
use super::wrapper::{self, Placement};

/// Where the ServiceAccount admission plugin would mount the pod's API token.
const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i64 = 3600;
/// Seconds that the start may take besides the wait that it is allowed: pulled image or not, the container
/// runs when the first probe comes, but a busy node may run it slowly.
const START_MARGIN: i32 = 40;
/// Between two readiness probes, in seconds: a request costs little, a process of its own more.
const PROBE_PERIOD: i32 = 2;
const EXEC_PROBE_PERIOD: i32 = 5;
const LOG: &str = "MCPAUTH_LOG";

pub(super) fn container(plan: &Plan, settings: &Settings) -> Container {
    let wait = i32::try_from(plan.start_timeout_seconds).unwrap_or(i32::MAX);
    Container {
        name: SIDECAR.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(vec!["serve".to_owned()]),
        restart_policy: Some("Always".to_owned()),
        env: Some(environment(plan, settings)),
        ports: Some(vec![metrics_port(plan)]),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(wait.saturating_add(START_MARGIN)),
            ..probe(plan, health::STARTUP)
        }),
        // No livenessProbe: a restart of the sidecar costs LiteLLM its own probes.
        readiness_probe: Some(Probe {
            period_seconds: Some(if plan.has_mesh {
                EXEC_PROBE_PERIOD
            } else {
                PROBE_PERIOD
            }),
            timeout_seconds: Some(READINESS_PROBE_SECONDS),
            ..probe(plan, health::READY)
        }),
        resources: Some(plan.resources.clone()),
        security_context: Some(plan.security_context.clone()),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(exec(&["drain"])),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        volume_mounts: Some(mounts(plan)),
        ..Container::default()
    }
}

pub(super) fn volumes(plan: &Plan) -> Vec<Volume> {
    let token = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.to_owned(),
    };
    let token = VolumeProjection {
        service_account_token: Some(token),
        ..VolumeProjection::default()
    };
    let (token_sources, folder) = match &plan.wrapper.placement {
        Placement::Folder { volume, .. } => (vec![token], Some(volume.clone())),
        Placement::Mirror => (vec![token], None),
        Placement::File | Placement::FileElsewhere => (vec![token, wrapper::projection(WRAPPER_ITEM)], None),
    };
    let folder_volume = |volume| Volume {
        name: FOLDER_VOLUME.to_owned(),
        projected: Some(volume),
        ..Volume::default()
    };
    let memory = EmptyDirVolumeSource {
        medium: Some("Memory".to_owned()),
        size_limit: Some(Quantity("4Mi".to_owned())),
    };
    let config = (plan.folder == OverlayFolder::Volume).then(|| Volume {
        name: CONFIG_VOLUME.to_owned(),
        empty_dir: Some(memory),
        ..Volume::default()
    });
    let empty = Volume {
        name: EMPTY_VOLUME.to_owned(),
        // No emptyDir, which policies on the size of volumes would count.
        downward_api: Some(DownwardAPIVolumeSource::default()),
        ..Volume::default()
    };
    let token = Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(token_sources),
            default_mode: None,
        }),
        ..Volume::default()
    };
    config
        .into_iter()
        .chain([empty, token])
        .chain(folder.map(folder_volume))
        .collect()
}

/// Prometheus finds only what is declared. The other ports are not: the one of LiteLLM's users keeps the name that LiteLLM's container
/// gives it, and the others are on loopback.
fn metrics_port(plan: &Plan) -> ContainerPort {
    ContainerPort {
        name: Some(METRICS_PORT_NAME.to_owned()),
        container_port: i32::from(plan.ports.health.port()),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn environment(plan: &Plan, settings: &Settings) -> Vec<EnvVar> {
    let ports = &plan.ports;
    let mut variables = Vec::new();
    if let Some(inbound) = ports.inbound {
        variables.push(literal(env::INBOUND, &inbound.to_string()));
        variables.push(literal(env::LITELLM, &format!("127.0.0.1:{}", ports.litellm)));
        variables.extend(plan.forwarded_allow_ips.clone());
        variables.extend(plan.keepalive.clone());
    }
    variables.extend(plan.tool_prefix_separator.clone());
    variables.push(literal(env::OUTBOUND, &format!("127.0.0.1:{}", ports.outbound)));
    variables.push(literal(env::HEALTH, &ports.health.to_string()));
    variables.push(literal(env::ROUTES, &plan.routes));
    if let Some(original) = &plan.original {
        variables.push(literal(env::ORIGINAL_CONFIG, original));
    }
    if plan.wrapper.placement == Placement::Mirror {
        variables.push(literal(env::CONFIG_MIRROR, &plan.folder.mirror()));
        if !plan.wrapper.mount_points.is_empty() {
            variables.push(literal(
                env::CONFIG_MOUNT_POINTS,
                &plan.wrapper.mount_points.join(":"),
            ));
        }
    }
    if let OverlayFolder::SharedMemory { path, .. } = &plan.folder {
        variables.push(literal(env::SHARED_FOLDER, path));
    }
    variables.extend([
        literal(env::OVERLAY, &plan.folder.overlay()),
        literal(env::OPERATOR, &settings.operator.url),
        literal(env::OPERATOR_CA, &settings.operator.ca),
        literal(env::TOKEN_FILE, &format!("{IDENTITY_FOLDER}/{TOKEN_FILE}")),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_UID, "metadata.uid"),
        literal(
            env::START_TIMEOUT_SECONDS,
            &plan.start_timeout_seconds.to_string(),
        ),
        literal(env::DRAIN_SECONDS, &settings.drain_seconds.to_string()),
        literal(LOG, &settings.log),
    ]);
    variables.extend(plan.audit.variables.clone());
    variables
}

fn mounts(plan: &Plan) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let of_overlay = match &plan.folder {
        OverlayFolder::Volume => Some(mount(CONFIG_VOLUME, plan.folder.path(), None)),
        OverlayFolder::SharedMemory { mount, .. } => mount.clone(),
    };
    let ours = [
        mount(TOKEN_VOLUME, IDENTITY_FOLDER, Some(true)),
        mount(EMPTY_VOLUME, API_TOKEN_FOLDER, Some(true)),
    ];
    of_overlay
        .into_iter()
        .chain(ours)
        .chain(plan.audit.mount.clone())
        .chain(plan.wrapper.originals.iter().cloned())
        .collect()
}

/// By HTTP, or by a program in the container where the proxy of a mesh would refuse the kubelet's request.
fn probe(plan: &Plan, path: &str) -> Probe {
    if plan.has_mesh {
        return Probe {
            exec: Some(exec(&["probe", path])),
            timeout_seconds: Some(READINESS_PROBE_SECONDS),
            ..Probe::default()
        };
    }
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(i32::from(plan.ports.health.port())),
        ..HTTPGetAction::default()
    };
    Probe {
        http_get: Some(get),
        ..Probe::default()
    }
}

/// The sidecar's own program, asking the sidecar.
fn exec(arguments: &[&str]) -> ExecAction {
    let words = std::iter::once(PROGRAM).chain(arguments.iter().copied());
    ExecAction {
        command: Some(words.map(str::to_owned).collect()),
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector {
        field_path: path.to_owned(),
        api_version: None,
    };
    let source = EnvVarSource {
        field_ref: Some(field_ref),
        ..EnvVarSource::default()
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(source),
    }
}
