//! What runs: LiteLLM's containers beside the workloads that they come from, and one real `tools/list` of each server
//! through a pod, with and without the token.

mod calls;
mod containers;

pub use calls::{Call, CallOutcome, DirectCall};
pub use containers::LiteLlmPod;

use crate::cluster::Cluster;
use crate::error::CliError;
use crate::inventory::Inventory;

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
    skip_calls: bool,
) -> Result<LiveFacts, CliError> {
    let pods = containers::pods(cluster, inventory).await?;
    Ok(LiveFacts {
        calls: calls::calls(cluster, inventory, &pods, skip_calls).await?,
        pods: pods.into_iter().map(|(facts, _)| facts).collect(),
    })
}
