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
mod metrics;
mod problem;
mod processes;
mod protected_server;
mod readiness;
mod resources;
mod servers;
mod settings;
mod supervise;
mod token_feed;

use std::env::VarError;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};
use mcp_auth_sidecar::log::{DroppedLines, LossyWriter, log_filter};
use tracing::warn;

use args::{Args, Command, LOG};
use exit::ExitError;

/// Longest time that the end waits for the last lines of the log.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // First of all, and in the supervisor too: LiteLLM and what it starts run as the same user.
    let forbidden = processes::forbid_inspection();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(mut error) => {
            let forgets_dashes =
                error.kind() == ErrorKind::UnknownArgument && !std::env::args_os().any(|word| word == "--");
            if forgets_dashes {
                // It would have the option passed on without the command that it belongs to.
                error.remove(ContextKind::Suggested);
            }
            // Help and version are no errors; without a terminal nobody reads either.
            let _ = error.print();
            if forgets_dashes {
                let is_check = std::env::args_os().nth(1).is_some_and(|word| word == "check");
                let command = if is_check { "check" } else { "exec" };
                let _ = writeln!(
                    io::stderr(),
                    "\nThe command stands behind `--`: mcp-auth {command} -- litellm --config config.yaml"
                );
            }
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let code = match args.command {
        Command::Exec(args) => logged(start_log(), |dropped_lines| {
            if let Err(error) = forbidden {
                warn!(%error, "the kernel lets other processes of this user read the client secrets in this one");
            }
            exec::exec(args, dropped_lines)
        }),
        Command::Check(args) => {
            // Its report says what there is to say.
            let log = match std::env::var_os(LOG) {
                Some(_) => start_log(),
                None => Ok(Log::default()),
            };
            logged(log, |_| check::check(args))
        }
        Command::Supervise { cleanup, command } => supervise::supervise(&command, cleanup),
        Command::Launch { supervisor, command } => supervise::launch(supervisor, &command),
    };
    ExitCode::from(code)
}

/// What writes the log, to be flushed at the end. Where it cannot be started nothing is logged, which is no reason not
/// to run.
#[derive(Default)]
struct Log {
    writer: Option<LossyWriter>,
    dropped_lines: DroppedLines,
}

/// Runs it, and writes the last lines of the log.
fn logged(log: Result<Log, ExitError>, run: impl FnOnce(&DroppedLines) -> u8) -> u8 {
    let log = match log {
        Ok(log) => log,
        Err(error) => return exit::report(&error),
    };
    let code = run(&log.dropped_lines);
    if let Some(writer) = log.writer {
        writer.flush(LOG_FLUSH_TIMEOUT);
    }
    code
}

fn start_log() -> Result<Log, ExitError> {
    let directives = match std::env::var(LOG) {
        Ok(directives) => directives,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(_)) => return Err(ExitError::Log),
    };
    let (filter, None) = log_filter(&directives) else {
        return Err(ExitError::Log);
    };
    let dropped_lines = DroppedLines::default();
    Ok(Log {
        writer: mcp_auth_sidecar::log::start_log(filter, &dropped_lines).ok(),
        dropped_lines,
    })
}
