//! One `tools/list` of each server, through a pod that its resource selects; and the same first request without a
//! token, from here, which a protected server has to refuse.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, Transport};
use mcp_auth_operator::entitled;
use serde_json::json;
use url::Url;

use super::LiteLlmPod;
use crate::cluster::{Cluster, innermost};
use crate::error::CliError;
use crate::explain::{container, ports};
use crate::inventory::{Inventory, pod_meta};
use crate::mcp_call::{McpCallError, PodAddress, ToolList, initialize, list_tools};

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
    let Some(address) = pods.iter().find_map(|(_, pod)| address(inventory, resource, pod)) else {
        return not_made("no pod that it selects has a sidecar that is ready");
    };
    let pod = address.pod.clone();
    Ok(
        match list_tools(cluster, &address, &server.name, url.path()).await {
            Ok(tools) => CallOutcome::Listed {
                pod,
                tools,
                direct: direct(&url).await,
            },
            Err(McpCallError::Cluster(error @ CliError::Forbidden { .. })) => {
                CallOutcome::NotMade(error.to_string())
            }
            Err(McpCallError::Cluster(error)) if !matches!(error, CliError::Api { .. }) => return Err(error),
            Err(error) => CallOutcome::Failed {
                pod,
                problem: error.to_string(),
            },
        },
    )
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
