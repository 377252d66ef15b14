//! One replica leads: it alone mints tokens, writes status and serves sidecars.

use anyhow::Context as _;
use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api_server::CALL_TIMEOUT;

/// A leader that stops without releasing the lease is followed after this many seconds.
const DURATION_SECONDS: u64 = 15;
/// The leader renews this many seconds before the end.
const GRACE_SECONDS: u64 = 5;

/// Takes part in the election. The receiver tells whether this replica leads; dropping all receivers releases
/// the lease, and the task then ends.
pub async fn take_part(
    client: Client,
    namespace: &str,
    lease: &str,
    identity: &str,
) -> anyhow::Result<(
    watch::Receiver<bool>,
    JoinHandle<kube_lease_manager::Result<LeaseManager>>,
)> {
    let build = LeaseManagerBuilder::new(client, lease)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_field_manager(format!("mcp-auth-operator-{identity}"))
        .with_duration(DURATION_SECONDS)
        .with_grace(GRACE_SECONDS)
        .build();
    let manager = tokio::time::timeout(CALL_TIMEOUT, build)
        .await
        .context("the API server did not answer about the leader election lease")?
        .context("reading or creating the leader election lease")?;
    Ok(manager.watch().await)
}
