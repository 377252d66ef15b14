//! Warnings of an injection: what works, but perhaps not as the pod's owner expects. kubectl and controllers
//! show them.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::annotations::{self, annotation};
use super::environment::{Environment, VariableValue};
use super::plan::Plan;
use super::role::Role;
use super::settings::Settings;
use super::trusted_proxies::FORWARDED_ALLOW_IPS;

pub(super) fn warnings(
    pod: &Pod,
    container: &Container,
    plan: &Plan,
    namespace: &str,
    settings: &Settings,
) -> Vec<String> {
    let environment = Environment::from_container(container);
    let version = annotation(pod, annotations::INJECTED);
    let is_first = plan.previous.is_none();
    let is_moved = plan.ports.inbound.is_some();
    let mut warnings = Vec::new();
    if plan.routes == "[]" {
        warnings.push(format!(
            "no McpServerAuth of the namespace {namespace} selects this pod yet"
        ));
    }
    if !is_first && version.is_some_and(|version| version != settings.operator.version) {
        warnings.push(
            "the pod template holds a copy of a sidecar that another version injected; take mcpauth-sidecar \
             and the volumes mcpauth-* out of it"
                .to_owned(),
        );
    }
    if is_first && environment.has_hidden_names {
        if plan.original.is_none() {
            warnings.push(format!(
                "envFrom may hide CONFIG_FILE_PATH: if LiteLLM has a configuration file, state it in the \
                 annotation {}",
                annotations::CONFIG_PATH
            ));
        }
        if ["NO_PROXY", "no_proxy"]
            .iter()
            .all(|name| environment.get(name) == VariableValue::Absent)
        {
            warnings.push(
                "a NO_PROXY from envFrom is hidden by the one that injection adds: list it in `env` if there \
                 is one"
                    .to_owned(),
            );
        }
    }
    if is_first
        && is_moved
        && environment.has_hidden_names
        && environment.get(FORWARDED_ALLOW_IPS) == VariableValue::Absent
    {
        warnings.push(format!(
            "a {FORWARDED_ALLOW_IPS} from envFrom is hidden by the one that injection adds: list it in `env` if there is \
             one"
        ));
    }
    let is_own_program = matches!(plan.role, Role::Program | Role::Shell { .. } | Role::Other);
    if is_first && is_own_program && plan.original.is_none() {
        warnings.push(format!(
            "LiteLLM reads no configuration file that its own start script names: state it in the \
             annotation {}",
            annotations::CONFIG_PATH
        ));
    }
    let has_words = container.command.is_some() || container.args.is_some();
    if is_first && is_moved && !has_words && plan.original.is_none() {
        warnings.push(
            "the arguments of LiteLLM's image are replaced: if they name a configuration file, repeat them \
             in `args`"
                .to_owned(),
        );
    }
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
        warnings.push(format!(
            "{name} does not apply to protected MCP servers: the sidecar calls them directly"
        ));
    }
    if is_moved && environment.is_set("PROMETHEUS_METRICS_PORT") {
        warnings.push(
            "PROMETHEUS_METRICS_PORT listens on 127.0.0.1 now, as LiteLLM does: Prometheus cannot reach it \
             from outside"
                .to_owned(),
        );
    }
    if is_moved && environment.is_set("SEPARATE_HEALTH_APP") {
        warnings.push("probes of SEPARATE_HEALTH_APP do not go through the sidecar".to_owned());
    }
    if let Some(port) = plan
        .ports
        .inbound
        .map(|address| address.port())
        .filter(|port| *port < 1024)
    {
        warnings.push(format!(
            "port {port} is below 1024: the sidecar, which is not root, needs a container runtime that \
             allows it"
        ));
    }
    warnings
}
