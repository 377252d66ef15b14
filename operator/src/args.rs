//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

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

    /// ServiceAccount of the operator, whose identity resources with WorkloadIdentity act by.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", default_value = "mcp-auth-operator")]
    pub service_account: String,

    /// Namespace whose resources may act by the operator's identity (WorkloadIdentity); repeatable. None: no
    /// namespace.
    #[arg(long = "workload-identity-namespace")]
    pub workload_identity_namespaces: Vec<String>,

    /// Where the webhook and the sidecars are served, over TLS.
    #[arg(long, default_value = "[::]:8443")]
    pub listen: SocketAddr,

    /// Where probes and metrics are served, in plain HTTP.
    #[arg(long, default_value = "[::]:8080")]
    pub listen_health: SocketAddr,

    /// URL that sidecars reach the operator by.
    #[arg(long)]
    pub operator_url: String,

    /// DNS name or IP address of the serving certificate; repeatable.
    #[arg(long = "serving-name", required = true)]
    pub serving_names: Vec<String>,

    /// Secret with the certificates; made if it does not exist.
    #[arg(long, default_value = "mcp-auth-operator-tls")]
    pub certificate_secret: String,

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

    /// JSON file with the settings of injected sidecars: image, resources, times.
    #[arg(long)]
    pub sidecar_settings: PathBuf,

    /// What is logged: a level, or directives such as `info,mcp_auth_operator=debug`.
    #[arg(long, env = "MCPAUTH_LOG", default_value = "info")]
    pub log: String,

    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}
