//! Warnings of an injection: what works, but perhaps not as the pod's owner expects. kubectl and controllers
//! show them, and they stand in an annotation of the pod.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::annotations::{self, annotation};
use super::client_addresses;
use super::environment::Environment;
use super::image::{Image, OLDEST_LITELLM};
use super::mesh;
use super::plan::Plan;
use super::ports;
use super::role::Role;
use super::settings::Settings;
use super::trusted_proxies::{self, FORWARDED_ALLOW_IPS};
use super::unknown_keys;
use super::warning::{SHARED_MEMORY_UNUSED, Warning, lasting};

pub(super) fn warnings(
    pod: &Pod,
    spec: &PodSpec,
    plan: &Plan,
    namespace: &str,
    settings: &Settings,
) -> Vec<Warning> {
    let container = &spec.containers[plan.target];
    let mut warnings = unknown_keys::warnings(pod);
    warnings.extend(of_routes(plan, namespace));
    let version = annotation(pod, annotations::INJECTED);
    if plan.previous.is_some() {
        if version.is_some_and(|version| version != settings.operator.version) {
            warnings.push(lasting(
                "CopiedSidecar",
                "the pod template holds a copy of a sidecar that another version injected; take \
                 mcpauth-sidecar and the volumes mcpauth-* out of it",
            ));
        }
    } else {
        warnings.extend(of_configuration(container, plan));
    }
    warnings.extend(of_environment(container, plan));
    warnings.extend(of_pod(spec, container, plan));
    let audit = plan.audit.problem.as_ref();
    warnings.extend(audit.map(|problem| lasting("AuditOutputUnusable", problem)));
    warnings.extend(plan.shared_memory_unused.iter().map(|why| {
        let message = format!("the overlay is in a volume although shared memory is asked for: {why}");
        lasting(SHARED_MEMORY_UNUSED, message)
    }));
    warnings
}

fn of_routes(plan: &Plan, namespace: &str) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if plan.withholds_routes {
        warnings.push(lasting(
            "RoutesWithheld",
            "no ReplicaSet, StatefulSet or DaemonSet of the namespace is known to make this pod, so that its servers are \
             not written into it: LiteLLM knows them at its start only if the operator answers by then",
        ));
    } else if plan.routes == "[]" && plan.omitted_routes == 0 {
        warnings.push(Warning {
            reason: "NoResource",
            message: format!("no McpServerAuth of the namespace {namespace} selects this pod yet"),
            is_lasting: false,
        });
    }
    if plan.omitted_routes > 0 {
        warnings.push(lasting(
            "RoutesOmitted",
            format!(
                "{} servers do not fit into the sidecar's environment: LiteLLM knows them at its start only if \
                 the operator answers by then",
                plan.omitted_routes
            ),
        ));
    }
    warnings
}

fn of_configuration(container: &Container, plan: &Plan) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let is_own_program = matches!(plan.role, Role::Program | Role::Shell | Role::Other);
    if is_own_program && plan.original.is_none() {
        warnings.push(lasting(
            "NoConfigSeen",
            format!(
                "LiteLLM reads no configuration file that its own start script names: state it in the \
                 annotation {}",
                annotations::CONFIG_PATH
            ),
        ));
    }
    if let Some(source) = &plan.may_replace_configuration {
        warnings.push(lasting(
            "ConfigMayBeReplaced",
            format!(
                "{source} may set CONFIG_FILE_PATH or a bucket, which LiteLLM reads before the file that the pod names: \
                 take it out there, and state the file in the annotation {}",
                annotations::CONFIG_PATH
            ),
        ));
    }
    if let Some(name) = plan.list_in_doubt {
        warnings.push(lasting(
            "NoProxyMayBeReplaced",
            format!(
                "the start script may take {name} away or set it to a list without 127.0.0.1, with which LiteLLM calls the \
                 sidecar by its proxy: write 127.0.0.1 into the list, or ${name} in front of it"
            ),
        ));
    }
    let has_words = container.command.is_some() || container.args.is_some();
    if plan.ports.inbound.is_some() && !has_words && !Image::of(container).is_official() {
        warnings.push(lasting(
            "ImageArguments",
            "the arguments of LiteLLM's image are replaced: repeat in `args` those that count",
        ));
    }
    if plan.ports.inbound.is_some()
        && let Some((server, advice)) = client_addresses::hiding(container, plan.role, &plan.words)
    {
        warnings.push(lasting(
            "ClientAddressesHidden",
            format!(
                "by {server} clients may be 127.0.0.1 (allowed_ips, hidden servers): {advice}; if only proxies \
                 reach the pod, use_x_forwarded_for: true, 127.0.0.1/32 in mcp_trusted_proxy_ranges; or {}: disabled",
                annotations::INBOUND
            ),
        ));
    }
    if plan.ports.inbound.is_some() && trusted_proxies::hides(container) {
        warnings.push(lasting(
            "TrustedProxiesHidden",
            format!(
                "a {FORWARDED_ALLOW_IPS} from envFrom is hidden by the one that injection adds: list it in `env` if \
                 there is one"
            ),
        ));
    }
    if plan.ports.inbound.is_some()
        && let Some(source) = &plan.trusted_proxies_in_doubt
    {
        warnings.push(lasting(
            "TrustedProxiesHidden",
            format!(
                "{source} may bring {FORWARDED_ALLOW_IPS}, which the sidecar does not see: LiteLLM may take all clients for \
                 127.0.0.1; list it in `env` if there is one"
            ),
        ));
    }
    warnings
}

fn of_environment(container: &Container, plan: &Plan) -> Vec<Warning> {
    let environment = Environment::from_container(container);
    let is_moved = plan.ports.inbound.is_some();
    let mut warnings = Vec::new();
    if let Some(name) = [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ]
    .iter()
    .find(|name| environment.is_set(name))
    {
        warnings.push(lasting(
            "EgressProxy",
            format!(
                "{name} does not apply to protected MCP servers: the sidecar calls them directly, or by the \
                 resource's egressProxy with usedBy: OperatorAndSidecars"
            ),
        ));
    }
    if is_moved && ports::has_metrics_port(&environment, &plan.words) {
        warnings.push(lasting(
            "MetricsOnLoopback",
            "LiteLLM's metrics port (PROMETHEUS_METRICS_PORT) listens on 127.0.0.1 now, as LiteLLM does: Prometheus cannot \
             reach it from outside",
        ));
    }
    if is_moved && environment.is_set("SEPARATE_HEALTH_APP") {
        warnings.push(lasting(
            "SeparateHealthApp",
            "probes of SEPARATE_HEALTH_APP do not go through the sidecar",
        ));
    }
    warnings
}

fn of_pod(spec: &PodSpec, container: &Container, plan: &Plan) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some(version) = Image::of(container)
        .version()
        .filter(|version| *version < OLDEST_LITELLM)
    {
        let text = |(major, minor, patch): (u32, u32, u32)| format!("{major}.{minor}.{patch}");
        warnings.push(lasting(
            "OldLiteLlm",
            format!(
                "LiteLLM {} is older than {}, the oldest that mcp-auth is tested with; take a newer image",
                text(version),
                text(OLDEST_LITELLM)
            ),
        ));
    }
    if mesh::starts_without_network(spec) && plan.start_timeout_seconds > 0 {
        warnings.push(lasting(
            "MeshStartsLater",
            format!(
                "the mesh's proxy starts after the sidecar, so LiteLLM waits {} s in vain: use native sidecars, let \
                 the operator's address past the mesh, or set {}: \"0\"",
                plan.start_timeout_seconds,
                annotations::START_TIMEOUT
            ),
        ));
    }
    let shared = [
        (spec.share_process_namespace, "shareProcessNamespace"),
        (spec.host_pid, "hostPID"),
    ];
    for (_, field) in shared.into_iter().filter(|(set, _)| *set == Some(true)) {
        warnings.push(lasting(
            "SharedProcesses",
            format!(
                "{field} shows the sidecar's process to others, and to those of the same user the tokens in \
                 its memory; take {field} off"
            ),
        ));
    }
    if let Some(port) = plan
        .ports
        .inbound
        .map(|address| address.port())
        .filter(|port| *port < 1024)
    {
        warnings.push(lasting(
            "LowPort",
            format!(
                "port {port} is below 1024: the sidecar, which is not root, needs a container runtime that \
                 allows it"
            ),
        ));
    }
    warnings
}
