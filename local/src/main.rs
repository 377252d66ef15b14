//! `mcp-auth`: mcp-auth on one machine, without Kubernetes.
//!
//! [`exec`] runs LiteLLM as its child, with the sidecar's proxies in this process. [`servers`] reads which MCP
//! servers are authenticated to, from [`settings`], the [`auth_block`]s of LiteLLM's configuration and the
//! [`resources`] of a folder; [`token_feed`] keeps their tokens; [`embedded_sidecar`] is what runs around LiteLLM; [`litellm_command`] says how
//! LiteLLM is run instead; [`supervise`] sees to
//! it that LiteLLM never outlives us. [`check`] does all of that once, and says what does not work.

mod args;
mod auth_block;
mod check;
mod embedded_sidecar;
mod exec;
mod exit;
mod litellm_command;
mod litellm_process;
mod loopback_port;
mod processes;
mod protected_server;
mod readiness;
mod resources;
mod servers;
mod settings;
mod supervise;
mod token_feed;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use args::{Args, Command, LOG};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; without a terminal nobody reads either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let code = match args.command {
        Command::Exec(args) => {
            start_log();
            exec::exec(args)
        }
        Command::Check(args) => {
            // Its report says what there is to say.
            if std::env::var_os(LOG).is_some() {
                start_log();
            }
            check::check(args)
        }
        Command::Supervise { cleanup, command } => supervise::supervise(&command, cleanup),
        Command::Launch { supervisor, command } => supervise::launch(supervisor, &command),
    };
    ExitCode::from(code)
}

fn start_log() {
    let filter = std::env::var(LOG).ok().and_then(|text| text.parse().ok());
    let filter: Targets = filter.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    if stderr().is_terminal() {
        log.with(lines).init();
    } else {
        log.with(lines.json().flatten_event(true)).init();
    }
}
