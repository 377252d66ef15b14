//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, ValueEnum};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use mcp_auth_credentials::AdministratorPolicy;
use mcp_auth_oauth::{AllowedAddresses, Destinations, HostPattern, UserTokenQuotas};

use crate::inject_command::InjectArgs;
use crate::managed_keys::PublicUrl;
use crate::tenant_limits::TenantLimits;

/// What the program is asked to do: to run, unless a subcommand says otherwise.
#[derive(Debug)]
pub enum Command {
    Run(Box<Args>),
    Inject(InjectArgs),
}

impl Command {
    /// Parses the program's own arguments; prints what is wrong with them and ends where they cannot be used.
    pub fn parse() -> Self {
        Self::try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn try_parse_from(
        arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(arguments)?;
        match matches.subcommand() {
            Some((_, matches)) => InjectArgs::from_arg_matches(matches).map(Self::Inject),
            None => Args::from_arg_matches(&matches).map(|args| Self::Run(Box::new(args))),
        }
    }
}

/// The arguments of the operator are those of the program itself, so that manifests need no subcommand.
fn command() -> clap::Command {
    Args::command()
        .subcommand(InjectArgs::augment_args(clap::Command::new("inject")))
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
}

/// Gives LiteLLM Proxy an authenticated way to MCP servers: watches McpServerAuth resources, mints and renews
/// tokens, injects the sidecar into LiteLLM pods and streams routes and tokens to it.
#[derive(Debug, Parser)]
#[command(name = "mcp-auth-operator", version)]
pub struct Args {
    /// Namespace of the operator: of its lease and its certificates.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Name of this replica in the leader election.
    #[arg(long, env = "POD_NAME")]
    pub identity: String,

    /// Namespace whose resources are served; repeatable. None: every namespace.
    #[arg(
        long = "watch-namespace",
        env = "MCPAUTH_WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// Namespace that was served before and is no more; repeatable. The statuses of its resources are marked (`NotWatched`).
    #[arg(long = "not-watched-namespace")]
    pub not_watched_namespaces: Vec<String>,

    /// Namespace that the webhook never looks at, besides kube-system and kube-node-lease; repeatable. Statuses say so of pods
    /// without a sidecar there, and no workload is restarted for them.
    #[arg(long = "excluded-namespace")]
    pub excluded_namespaces: Vec<String>,

    /// Label selector, in JSON, of the only namespaces that the webhook looks at. Statuses say so as above.
    #[arg(long, value_parser = label_selector)]
    pub webhook_namespace_selector: Option<LabelSelector>,

    /// Label selector, in JSON, of the only pods that the webhook looks at. Statuses say so as above.
    #[arg(long, value_parser = label_selector)]
    pub webhook_object_selector: Option<LabelSelector>,

    /// ClusterRole that is bound in each namespace whose Secrets the operator may read, where it may not read them in all.
    /// The status of a resource then says how to bind it.
    #[arg(long)]
    pub secrets_cluster_role: Option<String>,

    /// ServiceAccount of the operator, by which its replicas know one another.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", default_value = "mcp-auth-operator")]
    pub service_account: String,

    /// Namespace whose resources may use WorkloadIdentity, by ServiceAccounts of the same namespace; repeatable. None:
    /// no namespace.
    #[arg(long = "workload-identity-namespace")]
    pub workload_identity_namespaces: Vec<String>,

    /// Audience that ServiceAccount tokens are requested for (WorkloadIdentity); repeatable. None: every audience but
    /// the API server's own, which is never taken.
    #[arg(long = "workload-identity-audience")]
    pub workload_identity_audiences: Vec<String>,

    #[command(flatten)]
    pub policy: PolicyArgs,

    /// Secret in the operator's namespace that keys are kept in which it makes for clients (`privateKeyJwt.managed`); made
    /// if it does not exist. Without it there are none.
    #[arg(long, requires = "listen_managed_keys")]
    pub managed_keys_secret: Option<String>,

    /// Where the public halves of these keys are served for authorization servers, in plain HTTP.
    #[arg(long, requires = "managed_keys_secret")]
    pub listen_managed_keys: Option<SocketAddr>,

    /// URL that authorization servers reach that by, as statuses state it. With https each client also has a client ID
    /// metadata document, whose URL may be its identifier.
    #[arg(long, requires = "managed_keys_secret")]
    pub managed_keys_url: Option<PublicUrl>,

    #[command(flatten)]
    pub limits: LimitArgs,

    /// Where the webhook and the sidecars are served, over TLS.
    #[arg(long, default_value = "[::]:8443")]
    pub listen: SocketAddr,

    /// Where probes and metrics are served, in plain HTTP.
    #[arg(long, default_value = "[::]:8080")]
    pub listen_health: SocketAddr,

    /// Address of this replica's pod, by which the others follow it while it leads. Without it they do not.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,

    /// Address of this replica's node, by which the kubelet probes it: at the health port it is always let in.
    #[arg(long, env = "NODE_IP")]
    pub node_ip: Option<IpAddr>,

    /// File with a ServiceAccount token of this replica's pod, for the audience `mcp-auth-operator`, by which it
    /// follows the replica that leads. Without it this replica follows none, and serves sidecars only while it
    /// leads.
    #[arg(long)]
    pub replica_token_file: Option<PathBuf>,

    /// URL that sidecars reach the operator by.
    #[arg(long)]
    pub operator_url: String,

    /// DNS name or IP address of the serving certificate; repeatable.
    #[arg(long = "serving-name", required = true)]
    pub serving_names: Vec<String>,

    /// Secret with the certificates; made if it does not exist.
    #[arg(long, default_value = "mcp-auth-operator-tls")]
    pub certificate_secret: String,

    /// Folder that this Secret is mounted at, where somebody else keeps it, such as cert-manager: `tls.crt`, `tls.key` and
    /// `ca.crt` are read there, again whenever they change, and neither the Secret nor the webhook configuration is
    /// written.
    #[arg(long)]
    pub certificate_folder: Option<PathBuf>,

    /// MutatingWebhookConfiguration that is made to trust the webhook.
    #[arg(long, default_value = "mcp-auth")]
    pub webhook_configuration: String,

    /// Lease of the leader election.
    #[arg(long, default_value = "mcp-auth-operator")]
    pub lease: String,

    /// Longest life of a sidecar's stream in seconds. The sidecar then connects again, with a fresh identity
    /// token.
    #[arg(long, default_value_t = 1800)]
    pub longest_stream_seconds: u64,

    /// A sidecar of which nothing was heard for this many seconds is asked whether it is there, and disconnected if it does not
    /// answer within 45 s.
    #[arg(long, default_value_t = 300)]
    pub longest_silence_seconds: u64,

    /// Whether workloads whose LiteLLM has to start again are restarted: never, for resources with `spec.restart:
    /// Automatic`, or for all but those with `Manual`.
    #[arg(long = "restart", value_enum, default_value_t = RestartMode::Never)]
    pub restart_mode: RestartMode,

    /// JSON file with the settings of injected sidecars: image, resources, times.
    #[arg(long)]
    pub sidecar_settings: PathBuf,

    /// What is logged: a level, which is that of the operator's own code, or directives such as `info,kube=debug`.
    #[arg(long, env = "MCPAUTH_LOG", default_value = "info")]
    pub log: String,

    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// What authors of resources may do. Each rule takes away from what they may otherwise.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyArgs {
    /// Uses only Secrets with the label `mcpauth.dev/allow: "true"`.
    #[arg(long)]
    pub require_secret_consent: bool,

    /// Host that token requests, discovery and fetches of keys may go to, or `*.DOMAIN` for all hosts below one;
    /// repeatable. None: every host.
    #[arg(long = "authorization-server-host")]
    pub authorization_server_hosts: Vec<HostPattern>,

    /// Host that MCP servers may be at, or `*.DOMAIN` for all hosts below one; repeatable. None: every host.
    #[arg(long = "mcp-server-host")]
    pub mcp_server_hosts: Vec<HostPattern>,

    /// At which addresses authorization servers and MCP servers may be. Link-local addresses never. Unless only public ones are
    /// allowed, an MCP server may be at loopback, which is that of LiteLLM's pod, where its URL says so.
    #[arg(long, value_enum, default_value_t = AddressesArg::NotLoopback)]
    pub allowed_addresses: AddressesArg,

    /// Forbids plain http for authorization servers and MCP servers, whatever a resource says.
    #[arg(long)]
    pub forbid_plain_http: bool,
}

/// How much a namespace may take, so that one tenant leaves enough to the others.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitArgs {
    /// McpServerAuth resources of a namespace that are served, the oldest first.
    #[arg(long, default_value = "500", value_parser = at_least_one)]
    pub max_resources_per_namespace: usize,

    /// McpServerAuth resources of all namespaces that are served, the oldest first.
    #[arg(long, default_value = "10000", value_parser = at_least_one)]
    pub max_resources: usize,

    /// Labels, expressions and values of expressions of a podSelector.
    #[arg(long, default_value = "256", value_parser = at_least_one)]
    pub max_selector_terms: usize,

    /// Parameters of oauth2.extraParameters and extraParametersFrom together.
    #[arg(long, default_value = "48", value_parser = at_least_one)]
    pub max_parameters: usize,

    /// Users' tokens that are kept for all resources of a namespace.
    #[arg(long, default_value = "10000", value_parser = at_least_one)]
    pub max_user_tokens_per_namespace: usize,

    /// Users' tokens that are kept for all namespaces.
    #[arg(long, default_value = "50000", value_parser = at_least_one)]
    pub max_user_tokens: usize,

    /// Events that are written in a namespace in a minute.
    #[arg(long, default_value = "120", value_parser = at_least_one)]
    pub max_events_per_namespace: usize,
}

impl LimitArgs {
    pub fn tenant_limits(&self) -> TenantLimits {
        TenantLimits {
            resources_per_namespace: self.max_resources_per_namespace,
            resources: self.max_resources,
            selector_terms: self.max_selector_terms,
            parameters: self.max_parameters,
        }
    }

    pub fn user_token_quotas(&self) -> UserTokenQuotas {
        UserTokenQuotas::new(self.max_user_tokens_per_namespace, self.max_user_tokens)
    }
}

fn label_selector(text: &str) -> Result<LabelSelector, String> {
    serde_json::from_str(text).map_err(|error| format!("must be a label selector in JSON: {error}"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("must be a whole number from 1 on".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum AddressesArg {
    Any,
    NotLoopback,
    Public,
}

impl PolicyArgs {
    pub fn to_policy(&self) -> AdministratorPolicy {
        let addresses = match self.allowed_addresses {
            AddressesArg::Any => AllowedAddresses::Any,
            AddressesArg::NotLoopback => AllowedAddresses::NotLoopback,
            AddressesArg::Public => AllowedAddresses::Public,
        };
        AdministratorPolicy {
            authorization_servers: Destinations {
                hosts: self.authorization_server_hosts.clone().into(),
                addresses,
                forbid_http: self.forbid_plain_http,
            },
            mcp_servers: Destinations {
                hosts: self.mcp_server_hosts.clone().into(),
                addresses,
                forbid_http: self.forbid_plain_http,
            },
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RestartMode {
    Never,
    OnRequest,
    Always,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_the_operator_runs_and_needs_its_arguments() {
        let run = [
            "mcp-auth-operator",
            "--namespace=n",
            "--identity=i",
            "--operator-url=https://o.n.svc:443",
            "--serving-name=o.n.svc",
            "--sidecar-settings=/s.json",
        ];
        assert!(matches!(Command::try_parse_from(run).unwrap(), Command::Run(args) if args.namespace == "n"));
        let error = Command::try_parse_from(&run[..3]).unwrap_err().to_string();
        assert!(error.contains("--operator-url"), "{error}");
    }

    #[test]
    fn a_limit_of_nothing_is_refused_and_named() {
        let run = |limit: &str| {
            let arguments = [
                "mcp-auth-operator",
                "--namespace=n",
                "--identity=i",
                "--operator-url=https://o.n.svc:443",
                "--serving-name=o.n.svc",
                "--sidecar-settings=/s.json",
                limit,
            ];
            Command::try_parse_from(arguments)
        };
        for limit in ["--max-resources=0", "--max-resources=-1", "--max-resources=many"] {
            let error = run(limit).unwrap_err().to_string();
            assert!(
                error.contains("--max-resources") && error.contains("from 1 on"),
                "{error}"
            );
        }
        let limited = run("--max-resources-per-namespace=7").unwrap();
        assert!(
            matches!(limited, Command::Run(args) if args.limits.tenant_limits().resources_per_namespace == 7)
        );
    }

    #[test]
    fn inject_needs_a_file_and_nothing_of_the_operator() {
        let inject = ["mcp-auth-operator", "inject", "--file", "-"];
        assert!(matches!(
            Command::try_parse_from(inject).unwrap(),
            Command::Inject(_)
        ));
        let error = Command::try_parse_from(&inject[..2]).unwrap_err().to_string();
        assert!(error.contains("--file"), "{error}");
    }
}
