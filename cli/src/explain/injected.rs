//! What the sidecar's container in an injected pod says: its ports, the servers that were known at admission,
//! and how it runs.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use mcp_auth_operator::inject::{SIDECAR, annotations};
use mcp_auth_protocol::pod::env;
use mcp_auth_protocol::sync::Route;
use serde::Serialize;

/// Addresses that the sidecar listens on and calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Where users' requests arrive, on the port that LiteLLM had; none with `mcpauth.dev/inbound: disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<String>,
    /// Where LiteLLM listens now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub litellm: Option<String>,
    /// Where LiteLLM reaches MCP servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<String>,
    /// Probes, drain and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarContainer {
    /// Version of mcp-auth that injected it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub ready: bool,
    pub restarts: i32,
    /// Why it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// LiteLLM's own configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub litellm_configuration: Option<String>,
}

pub fn container(pod: &Pod) -> Option<SidecarContainer> {
    let container = sidecar(pod)?;
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref());
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status.name == SIDECAR);
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    Some(SidecarContainer {
        version: pod.annotations().get(annotations::INJECTED).cloned(),
        image: container.image.clone(),
        ready: status.is_some_and(|status| status.ready),
        restarts: status.map_or(0, |status| status.restart_count),
        waiting,
        litellm_configuration: variable(container, env::ORIGINAL_CONFIG),
    })
}

pub fn ports(pod: &Pod) -> Option<Ports> {
    let container = sidecar(pod)?;
    Some(Ports {
        inbound: variable(container, env::INBOUND),
        litellm: variable(container, env::LITELLM),
        outbound: variable(container, env::OUTBOUND),
        health: variable(container, env::HEALTH),
    })
}

/// Names of the servers that the pod was created with.
pub fn servers_at_admission(pod: &Pod) -> Option<Vec<String>> {
    let routes: Vec<Route> = serde_json::from_str(&variable(sidecar(pod)?, env::ROUTES)?).ok()?;
    Some(routes.into_iter().map(|route| route.server).collect())
}

/// What the webhook warned of when the pod was created, a line each.
pub fn warnings(pod: &Pod) -> Vec<String> {
    let text = pod.annotations().get(annotations::WARNINGS);
    text.map(|text| text.lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

fn sidecar(pod: &Pod) -> Option<&Container> {
    let containers = pod.spec.as_ref()?.init_containers.as_deref()?;
    containers.iter().find(|container| container.name == SIDECAR)
}

fn variable(container: &Container, name: &str) -> Option<String> {
    let variables = container.env.as_deref()?;
    variables
        .iter()
        .find(|variable| variable.name == name)?
        .value
        .clone()
}
