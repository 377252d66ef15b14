//! `mcp-auth-sidecar`: parses, sets up logging, runs.

use std::time::Duration;

use clap::Parser;
use mcp_auth_sidecar::args::{Args, Command, Drain, LOG, Probe, Serve};
use mcp_auth_sidecar::control::health_client;
use mcp_auth_sidecar::log::{DroppedLines, log_filter, start_log};
use mcp_auth_sidecar::serve::serve;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much longer than the drain itself its answer may take.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// Longest time that the end waits for the last lines of the log.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the answer to a probe; shorter than the kubelet's.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Serve(args) => run(*args),
        Command::Probe(Probe { path, health }) => Ok(health_client::get(health, &path, PROBE_TIMEOUT)?),
        Command::Drain(Drain {
            health,
            drain,
            pod_uid,
        }) => Ok(health_client::drain(health, &pod_uid, drain + DRAIN_MARGIN)?),
    }
}

fn run(args: Serve) -> anyhow::Result<()> {
    let directives = std::env::var(LOG).unwrap_or_default();
    let (filter, invalid) = log_filter(&directives);
    let dropped_lines = DroppedLines::default();
    let log = start_log(filter, &dropped_lines)?;
    if let Some(error) = invalid {
        tracing::warn!(%error, "{LOG} is neither a level nor directives such as mcp_auth=debug: logging at info");
    }
    // An error means that there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(args, dropped_lines));
    // Looking up a name may hang in a thread of its own, which is nothing to wait for.
    runtime.shutdown_background();
    log.flush(LOG_FLUSH_TIMEOUT);
    result
}
