//! The command line. Each flag of `serve` is also an environment variable, by which the injection webhook
//! sets it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mcp_auth_protocol::pod::{DEFAULT_FORWARDED_ALLOW_IPS, DEFAULT_TOOL_PREFIX_SEPARATOR, env};
use mcp_auth_protocol::sync::Route;

use crate::control::sync_client::Endpoint;
use crate::proxy::audit::Output;
use crate::proxy::inbound::client_address::TrustedProxies;
use crate::proxy::otlp::OtlpArgs;

/// What is logged, such as `debug`, which means this program's own code, or `info,h2=debug`.
pub const LOG: &str = "MCPAUTH_LOG";

/// Gives LiteLLM an authenticated way to MCP servers.
#[derive(Debug, Parser)]
#[command(name = "mcp-auth-sidecar", version, about)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs beside LiteLLM in a pod, where the injection webhook has put it.
    Serve(Box<Serve>),
    /// Asks the sidecar that runs in this container, for the kubelet: ends with 0 if the answer is good.
    Probe(Probe),
    /// Tells the sidecar that runs in this container that its pod is about to end, and waits while it drains.
    Drain(Drain),
}

#[derive(Clone, Debug, clap::Args)]
pub struct Probe {
    /// Path on the health port, such as /ready.
    pub path: String,

    /// ADDRESS:PORT of the health port.
    #[arg(long, env = env::HEALTH)]
    pub health: SocketAddr,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Drain {
    /// ADDRESS:PORT of the health port.
    #[arg(long, env = env::HEALTH)]
    pub health: SocketAddr,

    /// Time that the sidecar drains for.
    #[arg(long = "drain-seconds", env = env::DRAIN_SECONDS, value_name = "SECONDS", default_value = "5",
          value_parser = seconds)]
    pub drain: Duration,

    /// Uid of this pod, by which the sidecar knows that it is its own hook that asks.
    #[arg(long, env = env::POD_UID, value_name = "UID")]
    pub pod_uid: String,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    /// ADDRESS:PORT that LiteLLM used to own; without it users' requests do not pass through the sidecar.
    #[arg(long, env = env::INBOUND, requires = "litellm")]
    pub inbound: Option<SocketAddr>,

    /// Loopback ADDRESS:PORT that LiteLLM's MCP client calls.
    #[arg(long, env = env::OUTBOUND)]
    pub outbound: SocketAddr,

    /// ADDRESS:PORT of the probes, the drain hook and the metrics.
    #[arg(long, env = env::HEALTH)]
    pub health: SocketAddr,

    /// Loopback ADDRESS:PORT that LiteLLM was moved to; needed with --inbound.
    #[arg(long, env = env::LITELLM)]
    pub litellm: Option<SocketAddr>,

    /// Time for which LiteLLM's server keeps connections without a request (`--keepalive_timeout`, KEEPALIVE_TIMEOUT).
    /// Where it is not stated or no number, that of LiteLLM's server without the option, 5 seconds.
    #[arg(long, env = env::LITELLM_KEEPALIVE_SECONDS, value_name = "SECONDS", value_parser = lenient_seconds)]
    pub litellm_keepalive_seconds: Option<Keepalive>,

    /// Time for which users' connections without a request are kept. Where it is not stated or no number, LiteLLM's if
    /// that is stated, else 650 seconds: longer than load balancers keep theirs.
    #[arg(long, env = env::KEEPALIVE_SECONDS, value_name = "SECONDS", value_parser = lenient_seconds)]
    pub keepalive_seconds: Option<Keepalive>,

    /// Proxies in front of this pod whose `X-Forwarded-` headers LiteLLM's server is to trust: addresses and networks
    /// separated by commas, or `*`.
    #[arg(long, env = env::FORWARDED_ALLOW_IPS, value_name = "ADDRESSES",
          default_value = DEFAULT_FORWARDED_ALLOW_IPS)]
    pub forwarded_allow_ips: TrustedProxies,

    /// What LiteLLM puts between a server's name and that of its tool (MCP_TOOL_PREFIX_SEPARATOR).
    #[arg(long, env = env::TOOL_PREFIX_SEPARATOR, value_name = "TEXT", allow_hyphen_values = true,
          default_value = DEFAULT_TOOL_PREFIX_SEPARATOR)]
    pub tool_prefix_separator: String,

    /// JSON array of the routes known at admission.
    #[arg(long, env = env::ROUTES, default_value = "[]", hide_env_values = true)]
    pub routes: Routes,

    /// LiteLLM's own configuration file; left out if its configuration is in its database.
    #[arg(long, env = env::ORIGINAL_CONFIG, value_name = "FILE")]
    pub original_config: Option<PathBuf>,

    /// Folder to be made for LiteLLM, in which the wrapper configuration lies at the path of --original-config, beside
    /// links to what lies beside that; left out where LiteLLM finds the wrapper beside its own configuration.
    #[arg(long, env = env::CONFIG_MIRROR, value_name = "FOLDER", requires = "original_config")]
    pub config_mirror: Option<PathBuf>,

    /// Names in the folder of --original-config at which LiteLLM's container has mounts of its own, separated by `:`.
    #[arg(long, env = env::CONFIG_MOUNT_POINTS, value_name = "NAMES", value_delimiter = ':', requires = "config_mirror")]
    pub config_mount_points: Vec<OsString>,

    /// The overlay configuration to write for LiteLLM.
    #[arg(long, env = env::OVERLAY, value_name = "FILE")]
    pub overlay: PathBuf,

    /// Folder of --overlay to be made in memory that other containers of the pod share; left out where a volume is mounted there.
    #[arg(long, env = env::SHARED_FOLDER, value_name = "FOLDER")]
    pub shared_folder: Option<PathBuf>,

    /// https://HOST:PORT of the operator.
    #[arg(long, env = env::OPERATOR, value_name = "URL")]
    pub operator: Endpoint,

    /// PEM certificates to verify the operator by.
    #[arg(
        long,
        env = env::OPERATOR_CA,
        value_name = "PEM",
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    pub operator_ca: String,

    /// File with the ServiceAccount token that the operator knows this pod by.
    #[arg(long, env = env::TOKEN_FILE, value_name = "FILE")]
    pub token_file: PathBuf,

    /// Namespace of this pod.
    #[arg(long, env = env::POD_NAMESPACE, value_name = "NAME")]
    pub pod_namespace: String,

    /// Name of this pod.
    #[arg(long, env = env::POD_NAME, value_name = "NAME")]
    pub pod_name: String,

    /// Uid of this pod.
    #[arg(long, env = env::POD_UID, value_name = "UID")]
    pub pod_uid: String,

    /// Longest time that LiteLLM's start waits for routes and first tokens.
    #[arg(long = "start-timeout-seconds", env = env::START_TIMEOUT_SECONDS, value_name = "SECONDS",
          default_value = "20", value_parser = seconds)]
    pub start_timeout: Duration,

    /// Where the audit log goes: `stdout`, `otlp`, or a FILE that lines are appended to.
    #[arg(long, env = env::AUDIT_LOG, value_name = "FILE", default_value = "stdout")]
    pub audit_log: Output,

    #[command(flatten)]
    pub otlp: OtlpArgs,

    /// Time that LiteLLM's drain hook takes, for its clients to find another pod.
    #[arg(long = "drain-seconds", env = env::DRAIN_SECONDS, value_name = "SECONDS", default_value = "5",
          value_parser = seconds)]
    pub drain: Duration,
}

/// A JSON array of routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes(pub Vec<Route>);

impl FromStr for Routes {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}

/// A time that may come from a Secret or ConfigMap that nobody has seen before: one that is no number must not keep
/// LiteLLM's pod from starting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive(pub Option<Duration>);

fn lenient_seconds(text: &str) -> Result<Keepalive, Infallible> {
    let seconds = text.trim().parse().ok().filter(|seconds| *seconds > 0);
    Ok(Keepalive(seconds.map(Duration::from_secs)))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| "must be whole seconds, such as 20".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const NEEDED: [&str; 20] = [
        "mcp-auth-sidecar",
        "serve",
        "--outbound=127.0.0.1:16481",
        "--health=0.0.0.0:16482",
        "--overlay=/o.yaml",
        "--operator=https://mcp-auth.mcp-auth.svc:8443",
        "--operator-ca",
        "-----BEGIN CERTIFICATE-----",
        "--token-file",
        "/token",
        "--pod-namespace",
        "n",
        "--pod-name",
        "p",
        "--pod-uid",
        "u",
        "--litellm",
        "127.0.0.1:16480",
        "--routes",
        r#"[{"resource":"a","server":"a","url":"https://a.example.com/mcp","transport":"Sse"}]"#,
    ];

    fn parse(more: &[&str]) -> Result<Serve, clap::Error> {
        match Args::try_parse_from(NEEDED.iter().chain(more))?.command {
            Command::Serve(serve) => Ok(*serve),
            other => panic!("not serve: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_become_types() {
        let serve = parse(&[]).unwrap();
        assert_eq!(serve.routes.0[0].server, "a");
        assert_eq!(
            (serve.start_timeout, serve.drain),
            (Duration::from_secs(20), Duration::from_secs(5))
        );
        assert_eq!(serve.inbound, None);
        assert_eq!(
            parse(&["--drain-seconds", "7"]).unwrap().drain,
            Duration::from_secs(7)
        );
    }

    #[test]
    fn a_time_that_only_the_pod_knows_may_be_no_number() {
        let serve = parse(&["--keepalive-seconds", "soon", "--litellm-keepalive-seconds", "75"]).unwrap();
        assert_eq!(serve.keepalive_seconds, Some(Keepalive(None)));
        assert_eq!(
            serve.litellm_keepalive_seconds,
            Some(Keepalive(Some(Duration::from_secs(75))))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (flags, expected) in [
            (["--start-timeout-seconds", "2.5"], "whole seconds"),
            (["--inbound", "4000"], "--inbound"),
        ] {
            let error = parse(&flags).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = Args::try_parse_from(["mcp-auth-sidecar", "serve"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--outbound"), "{error}");
    }
}
