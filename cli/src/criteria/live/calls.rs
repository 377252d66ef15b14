//! One `tools/list` of each server, through a pod that its resource selects; and the same first request without a
//! token, from here, which a protected server has to refuse. A sidecar that lets only LiteLLM call refuses the
//! first attempt and is not called again: what it reports of LiteLLM's own requests stands for that.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, Transport, conditions};
use mcp_auth_operator::entitled;
use mcp_auth_protocol::reachability::Reachability;
use serde_json::json;
use url::Url;

use super::LiteLlmPod;
use crate::cluster::{Cluster, innermost};
use crate::error::CliError;
use crate::explain::{container, ports};
use crate::inventory::{Inventory, pod_meta};
use crate::mcp_call::{McpCallError, PodAddress, ToolList, initialize, list_tools};
use crate::status::condition;

/// Most servers that are called.
const MAX_CALLS: usize = 20;
/// Longest wait for a server that is called without a token.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub namespace: String,
    pub resource: String,
    pub outcome: CallOutcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CallOutcome {
    Listed {
        pod: String,
        tools: ToolList,
        direct: DirectCall,
    },
    /// LiteLLM's own requests were answered, as the sidecars report.
    Reported {
        message: String,
        direct: DirectCall,
    },
    Failed {
        pod: String,
        problem: String,
    },
    /// Nothing was called, and why.
    NotMade(String),
}

/// What the server says to a request without a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DirectCall {
    Refused(u16),
    /// The server is open.
    Answered(u16),
    /// It cannot be reached from here.
    NotReached(String),
}

pub async fn calls(
    cluster: &Cluster,
    inventory: &Inventory,
    pods: &[(LiteLlmPod, Pod)],
    skip: bool,
) -> Result<Vec<Call>, CliError> {
    let mut calls = Vec::new();
    for (index, resource) in inventory.resources.iter().enumerate() {
        let outcome = match (skip, index < MAX_CALLS) {
            (true, _) => CallOutcome::NotMade("--skip-calls".to_owned()),
            (false, false) => CallOutcome::NotMade(format!("only the first {MAX_CALLS} servers are called")),
            (false, true) => call(cluster, inventory, resource, pods).await?,
        };
        calls.push(Call {
            namespace: resource.namespace().unwrap_or_default(),
            resource: resource.name_any(),
            outcome,
        });
    }
    Ok(calls)
}

async fn call(
    cluster: &Cluster,
    inventory: &Inventory,
    resource: &Arc<McpServerAuth>,
    pods: &[(LiteLlmPod, Pod)],
) -> Result<CallOutcome, CliError> {
    let not_made = |why: &str| Ok(CallOutcome::NotMade(why.to_owned()));
    let server = &resource.spec.server;
    if server.transport == Transport::Sse {
        return not_made("servers with transport SSE are not called by this program");
    }
    let Ok(url) = Url::parse(&server.url) else {
        return not_made("spec.server.url cannot be read");
    };
    let addresses = addresses(inventory, resource, pods);
    let Some(first) = addresses.first() else {
        return not_made("no pod that it selects has a sidecar that is ready");
    };
    for address in &addresses {
        let pod = address.pod.clone();
        return Ok(
            match list_tools(cluster, address, &server.name, url.path()).await {
                Ok(tools) => CallOutcome::Listed {
                    pod,
                    tools,
                    direct: direct(&url).await,
                },
                // During an upgrade there may be one of a release that lets everybody call.
                Err(McpCallError::CallerNotAllowed) => continue,
                Err(McpCallError::Cluster(error @ CliError::Forbidden { .. })) => {
                    CallOutcome::NotMade(error.to_string())
                }
                Err(McpCallError::Cluster(error)) if !matches!(error, CliError::Api { .. }) => {
                    return Err(error);
                }
                Err(error) => CallOutcome::Failed {
                    pod,
                    problem: error.to_string(),
                },
            },
        );
    }
    Ok(reported(resource, first.pod.clone(), &url).await)
}

/// Of the pods that this resource selects and whose sidecar is ready the first of each version.
fn addresses(inventory: &Inventory, resource: &McpServerAuth, pods: &[(LiteLlmPod, Pod)]) -> Vec<PodAddress> {
    let mut versions = Vec::new();
    let mut found = Vec::new();
    for (_, pod) in pods {
        let Some(address) = address(inventory, resource, pod) else {
            continue;
        };
        let version = container(pod).and_then(|container| container.version);
        if !versions.contains(&version) {
            versions.push(version);
            found.push(address);
        }
    }
    found
}

/// What the operator says that sidecars have learned from LiteLLM's requests, which had the token.
#[derive(Debug, Eq, PartialEq)]
enum SidecarReport {
    Answered(String),
    Failing(String),
    Unknown(String),
}

fn sidecar_report(resource: &McpServerAuth) -> SidecarReport {
    let Some(reachable) = condition(resource, conditions::SERVER_REACHABLE) else {
        return SidecarReport::Unknown(
            "the sidecar lets only LiteLLM call, and its operator says nothing of the server".to_owned(),
        );
    };
    if reachable.status == "False" {
        return SidecarReport::Failing(reachable.message.clone());
    }
    if reachable.reason != Reachability::Answered.reason() {
        return SidecarReport::Unknown(reachable.message.clone());
    }
    // A server that refuses the token answers too.
    match condition(resource, conditions::READY).filter(|ready| ready.status != "True") {
        Some(ready) => SidecarReport::Failing(ready.message.clone()),
        None => SidecarReport::Answered(reachable.message.clone()),
    }
}

async fn reported(resource: &McpServerAuth, pod: String, url: &Url) -> CallOutcome {
    match sidecar_report(resource) {
        SidecarReport::Answered(message) => CallOutcome::Reported {
            message,
            direct: direct(url).await,
        },
        SidecarReport::Failing(problem) => CallOutcome::Failed { pod, problem },
        SidecarReport::Unknown(why) => CallOutcome::NotMade(why),
    }
}

/// The sidecar's outbound port, if this resource selects the pod and its sidecar is ready.
fn address(inventory: &Inventory, resource: &McpServerAuth, pod: &Pod) -> Option<PodAddress> {
    let namespace = pod.namespace()?;
    let meta = pod_meta(pod);
    let is_selected = entitled(&inventory.in_namespace(&namespace), meta.labels())
        .iter()
        .any(|entitled| entitled.metadata.uid == resource.metadata.uid);
    if !is_selected || !container(pod)?.ready {
        return None;
    }
    let outbound = ports(pod)?.outbound?;
    Some(PodAddress {
        namespace,
        pod: pod.name_any(),
        port: outbound.rsplit_once(':')?.1.parse().ok()?,
    })
}

/// The first request of a session, without a token. Certificates of a private authority are not known here: such a
/// server counts as not reached.
async fn direct(url: &Url) -> DirectCall {
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize()});
    let client = reqwest::Client::builder()
        .timeout(DIRECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let answer = async {
        let request = client?
            .post(url.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(message.to_string());
        request.send().await
    };
    match answer.await {
        Ok(answer) if answer.status().is_success() => DirectCall::Answered(answer.status().as_u16()),
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 403) => {
            DirectCall::Refused(answer.status().as_u16())
        }
        Ok(answer) => DirectCall::NotReached(format!("it answers {}", answer.status().as_u16())),
        Err(error) => DirectCall::NotReached(innermost(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(ready: &str, reachable: Option<(&str, &str)>) -> McpServerAuth {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({"type": type_, "status": status, "reason": reason, "message": format!("{type_} is {status}"),
                "lastTransitionTime": "2026-11-29T00:00:00Z"})
        };
        let mut found = vec![condition("Ready", ready, "Ready")];
        found.extend(reachable.map(|(status, reason)| condition("ServerReachable", status, reason)));
        let value = json!({
            "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "llm"},
            "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "tools", "key": "token"}}},
            "status": {"conditions": found},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn litellm_s_own_requests_show_what_a_call_of_ours_would() {
        let said = |ready, reachable| sidecar_report(&resource(ready, reachable));
        assert_eq!(
            said("True", Some(("True", "Answered"))),
            SidecarReport::Answered("ServerReachable is True".to_owned())
        );
        assert_eq!(
            said("True", Some(("False", "ConnectionFailed"))),
            SidecarReport::Failing("ServerReachable is False".to_owned())
        );
        assert_eq!(
            said("False", Some(("True", "Answered"))),
            SidecarReport::Failing("Ready is False".to_owned())
        );
        for unknown in [
            None,
            Some(("True", "Connected")),
            Some(("Unknown", "NotContacted")),
        ] {
            assert!(
                matches!(said("True", unknown), SidecarReport::Unknown(_)),
                "{unknown:?}"
            );
        }
    }
}
