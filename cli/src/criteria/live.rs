//! What runs: LiteLLM's containers beside the workloads that they come from, and what LiteLLM and each MCP server answer,
//! with the token and without it.

mod calls;
mod containers;
mod user_call;

pub use calls::{Call, CallOutcome, DirectCall, NotCalled};
pub use containers::LiteLlmPod;
#[cfg(test)]
pub use user_call::Sent;
pub use user_call::UserCall;

use crate::cluster::Cluster;
use crate::error::CliError;
use crate::inventory::Inventory;
use crate::litellm_key::KeySource;

#[derive(Clone, Debug, Default)]
pub struct LiveFacts {
    /// Of pods with a sidecar.
    pub pods: Vec<LiteLlmPod>,
    /// One of each resource.
    pub calls: Vec<Call>,
}

pub async fn live_facts(
    cluster: &Cluster,
    inventory: &Inventory,
    key: &KeySource,
    skip_calls: bool,
) -> Result<LiveFacts, CliError> {
    let pods = containers::pods(cluster, inventory).await?;
    Ok(LiveFacts {
        calls: calls::calls(cluster, inventory, &pods, key, skip_calls).await?,
        pods: pods.into_iter().map(|(facts, _)| facts).collect(),
    })
}
