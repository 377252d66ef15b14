//! `rig`: what stands around the proxies of the benchmark. Each command is one process, so that each can be
//! put on a processor of its own choice and its cost be told apart.

mod certificates;
mod clock;
mod copy;
mod load;
mod operator;
mod relay;
mod request;
mod serve;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes an authority and a certificate for localhost: ca.pem, server.pem, server.key.
    Certificates { folder: PathBuf },
    /// Streams the servers of a file to sidecars, as the operator does.
    Operator(operator::Args),
    /// Answers as an MCP server: plain HTTP on one port, TLS with HTTP/1.1 and HTTP/2 on another.
    Upstream(upstream::Args),
    /// Copies bytes from each LISTEN to its TARGET: the floor for a hop through another process.
    Copy {
        #[arg(required = true, value_name = "LISTEN=TARGET", value_parser = copy::pair)]
        pairs: Vec<(SocketAddr, SocketAddr)>,
    },
    /// Stands in for LiteLLM: passes what comes in to the sidecar's outbound half.
    Relay(relay::Args),
    /// Makes load, and prints what it met with as one line of JSON.
    Load(load::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Certificates { folder } => certificates::write(&folder),
        Command::Operator(args) => block_on(operator::run(args)),
        Command::Upstream(args) => block_on(upstream::run(args)),
        Command::Copy { pairs } => block_on(copy::run(pairs)),
        Command::Relay(args) => block_on(relay::run(args)),
        Command::Load(args) => load::run(args),
    }
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
