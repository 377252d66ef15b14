//! One replica leads: it alone mints tokens, writes status and serves sidecars.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api_server::CALL_TIMEOUT;

/// A leader that stops without releasing the lease is followed after this many seconds.
const DURATION_SECONDS: u64 = 15;
/// The leader renews this many seconds before the end.
const GRACE_SECONDS: u64 = 5;
/// Longest silence of the API server in a call about the lease, so that a renewal that gets no answer is
/// tried again before the lease ends.
const READ_TIMEOUT: Duration = Duration::from_secs(GRACE_SECONDS - 1);

/// Takes part in the election. The receiver tells whether this replica leads; dropping all receivers releases
/// the lease, and the task then ends. The election has a client of its own, since it alone watches nothing
/// and can have a deadline for each answer.
pub async fn take_part(
    mut config: Config,
    namespace: &str,
    lease: &str,
    identity: &str,
) -> anyhow::Result<(
    watch::Receiver<bool>,
    JoinHandle<kube_lease_manager::Result<LeaseManager>>,
)> {
    config.read_timeout = Some(READ_TIMEOUT);
    let client = Client::try_from(config).context("configuring the Kubernetes client of the election")?;
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn each_call_about_the_lease_ends_though_the_api_server_keeps_silent() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let config = Config::new(url.parse().unwrap());
        let error = take_part(config, "mcp-auth", "leader", "replica-1")
            .await
            .err()
            .unwrap();
        // The deadline of the call itself, and not that of the whole of `take_part`.
        assert_eq!(error.to_string(), "reading or creating the leader election lease");
    }
}
