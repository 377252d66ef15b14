//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use mcp_auth_operator::ChartArgs;

use crate::cluster::ClusterOptions;
use crate::litellm_key::SecretKey;

/// Says how mcp-auth does in a cluster, what is wrong, and what to do about it.
///
/// It only reads. It asks the API server with your own rights; what you may not read, it says so and goes on
/// without.
#[derive(Debug, Parser)]
#[command(name = "kubectl-mcp_auth", bin_name = "kubectl mcp-auth", version)]
pub struct Args {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct ClusterArgs {
    /// Kubeconfig to use. Default: KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig. Default: its current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows MCP servers, their tokens, and which LiteLLM pods have the sidecar.
    Status(StatusArgs),
    /// Checks the whole installation; reports the first problem and how to fix it.
    Doctor(DoctorArgs),
    /// Why a pod has the sidecar or has none, and which servers and ports it has.
    Explain(ExplainArgs),
    /// Shows type, expiry, scope and claims of a server's token, never the token itself.
    Token(TokenArgs),
    /// Who called what: the audit log of the sidecars, merged by time.
    Logs(LogsArgs),
    /// Shows as a diff what injection would change in the pods of a file (dry run).
    ///
    /// Settings, resources and namespaces are those of the cluster. Where there is none, or --values, --sidecar-settings or
    /// --offline is given, the chart's values count, and the resources in files. What could not be read
    /// from the cluster is reported on standard error.
    Render(RenderArgs),
    /// McpServerAuth resources from what another program is configured with.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Prints what completes this program's command line, for a shell or for kubectl.
    ///
    /// `kubectl` is for `kubectl mcp-auth` wherever kubectl's own completion is on (since version 1.26): put it as an executable
    /// file kubectl_complete-mcp_auth on the PATH. The scripts of the shells are for the program's own name, kubectl-mcp_auth.
    Completion {
        /// What is to complete it.
        #[arg(value_name = "FOR")]
        completer: Completer,
    },
    /// What the last word can be, in the form in which kubectl asks its plugins (cobra's).
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete {
        /// The words after `kubectl mcp-auth`, the last of which may be empty.
        #[arg(last = true)]
        words: Vec<String>,
    },
}

#[derive(Clone, Debug, ClapArgs)]
pub struct ScopeArgs {
    /// Namespace to look at. Default: that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Looks at all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    Json,
    Yaml,
}

#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    #[command(flatten)]
    pub scope: ScopeArgs,

    /// Output format for scripts.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,

    /// Looks again every two seconds and prints what has changed, until it is interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub scope: ScopeArgs,

    /// Output format for scripts.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,

    /// Namespace of the operator. Default: where the webhook configuration leads to.
    #[arg(long, value_name = "NAME")]
    pub operator_namespace: Option<String>,

    /// Skips the test of the webhook, which creates a pod as a dry run.
    #[arg(long)]
    pub skip_webhook_call: bool,

    /// Prints the five success criteria alone, and looks at no more than they need.
    #[arg(long)]
    pub criteria: bool,

    /// File with a key of LiteLLM. With it LiteLLM is called as a user calls it, by one `tools/list` for each MCP server, and it is
    /// checked that the user's cookies and headers arrive.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all_namespaces", "litellm_key_secret", "skip_calls"])]
    pub litellm_key_file: Option<PathBuf>,

    /// The same key from a Secret in LiteLLM's namespace.
    #[arg(long, value_name = "NAME/KEY", conflicts_with = "skip_calls")]
    pub litellm_key_secret: Option<SecretKey>,

    /// Calls neither LiteLLM nor an MCP server.
    #[arg(long)]
    pub skip_calls: bool,

    /// Makes no connections from this machine to authorization servers.
    #[arg(long)]
    pub skip_authorization_servers: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ExplainArgs {
    /// The pod.
    pub pod: String,

    /// Namespace of the pod. Default: that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Output format for scripts.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

#[derive(Debug, ClapArgs)]
pub struct TokenArgs {
    /// LiteLLM's name of the server, or the name of its McpServerAuth.
    pub server: String,

    /// Namespace of the McpServerAuth. Default: that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Output format for scripts.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    /// Only this pod. Default: every pod that has the sidecar.
    #[arg(conflicts_with = "all_namespaces")]
    pub pod: Option<String>,

    /// The audit log, which is the only one so far: `kubectl logs POD -c mcpauth-sidecar` has the sidecar's own.
    #[arg(long, required = true)]
    pub audit: bool,

    #[command(flatten)]
    pub scope: ScopeArgs,

    /// Only calls to this server: LiteLLM's name of it, or the name of its McpServerAuth.
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,

    /// Only calls of this user: the id or the fingerprint in the line, or the fingerprint of the client's key.
    #[arg(long, value_name = "FINGERPRINT")]
    pub user: Option<String>,

    /// Only calls of the last seconds, minutes or hours, such as 90s, 15m or 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,

    /// How many calls are shown at most, the newest of all pods.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub tail: usize,

    /// Goes on with calls as they end, also of pods that come later, until it is interrupted.
    #[arg(short, long)]
    pub follow: bool,

    /// Prints the lines as they were written, one JSON object each.
    #[arg(short, long, value_enum)]
    pub output: Option<LineFormat>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LineFormat {
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct RenderArgs {
    /// YAML or JSON with pods, or with Deployments, StatefulSets, DaemonSets or other workloads whose pod template is
    /// taken, also in lists; `-` is standard input. It may hold McpServerAuth resources too.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,

    /// YAML or JSON with McpServerAuth resources; repeatable. One replaces the resource of the same name in the
    /// cluster. Pods that no resource selects get no sidecar.
    #[arg(long, value_name = "FILE")]
    pub resources: Vec<PathBuf>,

    /// Namespace of objects that state none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub namespace: String,

    /// Asks no cluster.
    #[arg(long)]
    pub offline: bool,

    /// Namespace of the operator, which has its settings. Default: where the webhook configuration leads to.
    #[arg(long, value_name = "NAME")]
    pub operator_namespace: Option<String>,

    #[command(flatten)]
    pub chart: ChartArgs,

    /// Prints decision, reason and the pod before and after as JSON or YAML instead of a diff.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// From a LiteLLM configuration: `import litellm config.yaml | kubectl apply -f -`.
    ///
    /// Prints an McpServerAuth for each entry of mcp_servers that authenticates itself to its server, and the
    /// Secrets that they need with empty values to fill in. Needs no cluster. What cannot be carried over is
    /// told on standard error.
    Litellm(ImportLiteLlmArgs),
}

#[derive(Debug, ClapArgs)]
pub struct ImportLiteLlmArgs {
    /// LiteLLM's configuration file.
    pub file: PathBuf,

    /// Namespace to write into the objects. Default: none, so that kubectl's own counts.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Completer {
    Bash,
    Zsh,
    Fish,
    Kubectl,
}

impl From<ClusterArgs> for ClusterOptions {
    fn from(args: ClusterArgs) -> Self {
        Self {
            kubeconfig: args.kubeconfig,
            context: args.context,
        }
    }
}

/// `90s`, `15m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "must be a number of seconds, minutes or hours, such as 90s, 15m or 2h".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(expected()),
    };
    let number = text[..text.len() - unit.len_utf8()].parse::<u32>();
    let seconds = u64::from(number.map_err(|_| expected())?) * factor;
    match seconds {
        0 => Err(expected()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
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
    fn durations_are_read_and_others_named() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "s", "5", "0m", "-1s", "1d", "1.5h", "5\u{fc}"] {
            assert!(duration(text).unwrap_err().contains("15m"), "{text}");
        }
    }
}
