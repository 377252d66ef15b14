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
mod problem;
mod processes;
mod protected_server;
mod readiness;
mod resources;
mod servers;
mod settings;
mod supervise;
mod token_feed;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mcp_auth_sidecar::log::{DroppedLines, LossyWriter};
use tracing::{Level, warn};
use tracing_subscriber::filter::Targets;

use args::{Args, Command, LOG};

/// Longest time that the end waits for the last lines of the log.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // First of all, and in the supervisor too: LiteLLM and what it starts run as the same user.
    let forbidden = processes::forbid_inspection();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; without a terminal nobody reads either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let code = match args.command {
        Command::Exec(args) => logged(start_log(), || {
            if let Err(error) = forbidden {
                warn!(%error, "the kernel lets other processes of this user read the client secrets in this one");
            }
            exec::exec(args)
        }),
        Command::Check(args) => {
            // Its report says what there is to say.
            let log = std::env::var_os(LOG).and_then(|_| start_log());
            logged(log, || check::check(args))
        }
        Command::Supervise { cleanup, command } => supervise::supervise(&command, cleanup),
        Command::Launch { supervisor, command } => supervise::launch(supervisor, &command),
    };
    ExitCode::from(code)
}

/// Runs it, and writes the last lines of the log.
fn logged(log: Option<LossyWriter>, run: impl FnOnce() -> u8) -> u8 {
    let code = run();
    if let Some(log) = log {
        log.flush(LOG_FLUSH_TIMEOUT);
    }
    code
}

/// What writes the log, to be flushed at the end. Without it nothing is logged, which is no reason not to run.
fn start_log() -> Option<LossyWriter> {
    let filter = std::env::var(LOG).ok().and_then(|text| text.parse().ok());
    let filter: Targets = filter.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    mcp_auth_sidecar::log::start_log(filter, &DroppedLines::default()).ok()
}
