//! `mcp-auth`: parses, sets up logging, runs.

use std::io::{IsTerminal, stderr};

use clap::Parser;
use mcp_auth_sidecar::args::{Args, Command, LOG};
use mcp_auth_sidecar::serve::serve;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    if stderr().is_terminal() {
        log.init()
    } else {
        log.json().flatten_event(true).init()
    }
    // An error means that there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = match args.command {
        Command::Serve(args) => runtime.block_on(serve(*args)),
    };
    // Looking up a name may hang in a thread of its own, which is nothing to wait for.
    runtime.shutdown_background();
    result
}
