//! The command line.

use std::convert::Infallible;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use mcp_auth_sidecar::proxy::audit::Output;
use mcp_auth_sidecar::proxy::otlp::OtlpArgs;

use crate::metrics;

/// What is logged, such as `info` or `mcp_auth_local=debug`.
pub const LOG: &str = "MCPAUTH_LOG";

const AFTER_HELP: &str = "\
Variables:
  MCP_OAUTH2_TOKEN_URL, MCP_OAUTH2_CLIENT_ID, MCP_OAUTH2_CLIENT_SECRET or MCP_OAUTH2_CLIENT_SECRET_FILE, MCP_OAUTH2_SCOPE,
  MCP_OAUTH2_AUDIENCE, MCP_OAUTH2_RESOURCE    the client for each MCP server that states none of its own
  LITELLM_MCP_AUTH_AUTO_PATCH=false           runs the command as it is, without mcp-auth
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY           the proxy that tokens are requested through
  MCPAUTH_OTLP_ENDPOINT, MCPAUTH_OTLP_CA, MCPAUTH_TRACING    as --otlp-endpoint, --otlp-ca and --tracing
  MCPAUTH_OTLP_HEADERS or MCPAUTH_OTLP_HEADERS_FILE    headers that authenticate to the collector, NAME=VALUE separated by commas
  MCPAUTH_LOG                                 what is logged, such as info or debug

Exit codes: LiteLLM's own, or with a line of mcp-auth: 64 the command line, 69 a port, 71 the system, 73 a file that cannot be
written, 78 the configuration, 126 and 127 the command; 1 of check: something does not hold. docs/one-machine.md has the rest.";

/// Gives the LiteLLM of this machine an authenticated way to MCP servers.
#[derive(Debug, Parser)]
#[command(name = "mcp-auth", version, after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs LiteLLM behind mcp-auth, which authenticates its calls of MCP servers: mcp-auth exec -- litellm --config config.yaml
    Exec(Exec),
    /// Tests this set-up from end to end, tokens, configuration and MCP servers: mcp-auth check -- litellm --config config.yaml
    Check(Check),
    /// Starts the command, and ends it when `exec` has gone. For `exec` itself.
    #[command(hide = true)]
    Supervise {
        /// The folder to remove when `exec` has gone.
        #[arg(long)]
        cleanup: Option<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Becomes the command, which ends when the supervisor does. For `supervise` itself.
    #[command(hide = true)]
    Launch {
        supervisor: i32,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub struct Exec {
    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// What is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,

    /// Longest time that LiteLLM may take to be ready.
    #[arg(long = "timeout-seconds", value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub timeout: Duration,

    /// Writes what LiteLLM prints to FILE. Default: it is discarded.
    #[arg(long, value_name = "FILE")]
    pub litellm_log: Option<PathBuf>,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// What `exec` and `check` both take. `check` reads where lines, spans and metrics go, and sends nothing there.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Where the audit log goes: `stdout`, `otlp`, or a FILE that lines are appended to.
    #[arg(long, value_name = "FILE", default_value = "stdout", value_parser = audit_log)]
    pub audit_log: Output,

    /// Where Prometheus finds the metrics, at /metrics: a PORT of loopback, or ADDRESS:PORT. Default: nowhere.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = metrics::address)]
    pub metrics: Option<SocketAddr>,

    #[command(flatten)]
    pub otlp: OtlpArgs,

    /// Longest time that LiteLLM's start waits for first tokens.
    #[arg(long = "start-timeout-seconds", value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub start_timeout: Duration,

    /// Folder with McpServerAuth resources, Secrets and ConfigMaps, as on Kubernetes.
    #[arg(long, value_name = "DIR")]
    pub resources: Option<PathBuf>,

    /// The command that starts LiteLLM, with its options.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn audit_log(text: &str) -> Result<Output, String> {
    match text.is_empty() {
        true => Err("must be stdout, otlp or the path of a file".to_owned()),
        false => text.parse().map_err(|never: Infallible| match never {}),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    seconds.map_err(|_| "must be whole seconds, such as 20".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_help_names_the_variables_and_the_exit_codes() {
        let help = Args::command().render_help().to_string();
        for expected in [
            "Gives the LiteLLM of this machine",
            "MCP_OAUTH2_CLIENT_SECRET_FILE",
            "MCPAUTH_LOG",
            "MCPAUTH_OTLP_ENDPOINT",
            "MCPAUTH_OTLP_HEADERS",
            "MCPAUTH_OTLP_CA",
            "MCPAUTH_TRACING",
            "78 the configuration",
        ] {
            assert!(help.contains(expected), "{expected}: {help}");
        }
    }

    #[test]
    fn options_behind_the_dashes_are_litellms() {
        let args = Args::try_parse_from(["mcp-auth", "exec", "--", "litellm", "--port", "4000"]).unwrap();
        let Command::Exec(exec) = args.command else {
            panic!("it is exec");
        };
        assert_eq!(exec.common.command, ["litellm", "--port", "4000"]);
        assert!(Args::try_parse_from(["mcp-auth", "exec"]).is_err());
    }

    #[test]
    fn the_options_of_exec_are_those_of_check_too() {
        let command = Args::command();
        let options = |name: &str| -> Vec<String> {
            let command = command.find_subcommand(name).unwrap();
            let options = command.get_arguments().filter_map(|option| option.get_long());
            options.map(str::to_owned).collect()
        };
        let of_check = options("check");
        assert!(options("exec").contains(&"audit-log".to_owned()));
        for option in options("exec") {
            assert!(of_check.contains(&option), "{option}");
        }
    }
}
