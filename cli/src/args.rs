//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cluster::ClusterOptions;

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
    /// Servers, tokens, sidecars, and pods without one, at a glance.
    Status(StatusArgs),
    /// Checks an installation from the CustomResourceDefinition to the sidecars; names the first fault and the way out.
    Doctor(DoctorArgs),
    /// Why a pod has the sidecar or has none, and which servers and ports it has.
    Explain(ExplainArgs),
    /// McpServerAuth resources from what another program is configured with.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Prints the completion script of a shell.
    Completion {
        /// Which shell.
        shell: CompletionShell,
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

    /// Prints for programs instead of for people.
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

    /// Prints for programs instead of for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,

    /// Namespace of the operator. Default: where the webhook configuration leads to.
    #[arg(long, value_name = "NAME")]
    pub operator_namespace: Option<String>,

    /// Does not have the API server call the webhook for a pod that is created for show (dry run).
    #[arg(long)]
    pub skip_webhook_call: bool,

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

    /// Prints for programs instead of for people.
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
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

impl From<CompletionShell> for Shell {
    fn from(shell: CompletionShell) -> Self {
        match shell {
            CompletionShell::Bash => Self::Bash,
            CompletionShell::Zsh => Self::Zsh,
            CompletionShell::Fish => Self::Fish,
        }
    }
}

impl From<ClusterArgs> for ClusterOptions {
    fn from(args: ClusterArgs) -> Self {
        Self {
            kubeconfig: args.kubeconfig,
            context: args.context,
        }
    }
}
