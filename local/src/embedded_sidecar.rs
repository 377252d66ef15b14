//! The sidecar in this process: its sockets and files, and its parts wired to the token sources of this process.

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::pod::{
    DEFAULT_FORWARDED_ALLOW_IPS, DEFAULT_TOOL_PREFIX_SEPARATOR, TOOL_PREFIX_SEPARATOR, env,
};
use mcp_auth_protocol::sync::Pod;
use mcp_auth_protocol::timeouts::LITELLM_CONNECT;
use mcp_auth_sidecar::control::context_checks::ContextChecks;
use mcp_auth_sidecar::control::controller::{ControlSettings, Controller, Metrics, report};
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::control::litellm::Litellm;
use mcp_auth_sidecar::control::litellm_config::mirror::Mirror;
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use mcp_auth_sidecar::control::probes::Started;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Destinations, Output};
use mcp_auth_sidecar::proxy::fingerprint::Fingerprinter;
use mcp_auth_sidecar::proxy::inbound::LitellmServer;
use mcp_auth_sidecar::proxy::inbound::client_address::TrustedProxies;
use mcp_auth_sidecar::proxy::metrics as data_path;
use mcp_auth_sidecar::proxy::otlp::{ExportSettings, Exporter, OtlpArgs, resource};
use mcp_auth_sidecar::run::{Control, DataPathState, Proxies, WORKERS, Wiring};
use mcp_auth_sidecar::server::{Bounds, Sockets, Workers};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::exit::ExitError;
use crate::litellm_command::wrapper_of_overlay;
use crate::loopback_port::ReservedPort;
use crate::metrics;
use crate::settings::Variables;
use crate::token_feed::TokenFeed;

/// Whose `X-Forwarded-` headers LiteLLM's server trusts.
const FORWARDED_ALLOW_IPS: &str = "FORWARDED_ALLOW_IPS";
/// Between two looks at whether LiteLLM may start.
const START_POLL: Duration = Duration::from_millis(20);
/// How long the last audit lines may take to be written.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long answers that have begun may take when LiteLLM has ended.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// Where audit lines go.
pub struct AuditDestination {
    pub lines: Output,
    /// The OpenTelemetry collector, for [`Output::Otlp`] and spans.
    pub collector: Option<ExportSettings>,
    pub spans: bool,
}

impl AuditDestination {
    pub fn new(lines: Output, otlp: &OtlpArgs, variables: &Variables) -> Result<Self, ExitError> {
        let collector = match lines == Output::Otlp || otlp.traces() {
            true => {
                let resource = resource("mcp-auth", "", "", "");
                let headers = variables.value_or_file(env::OTLP_HEADERS)?;
                Some(otlp.settings(headers.as_deref(), resource)?)
            }
            false => {
                if otlp.endpoint().is_some() {
                    warn!(
                        "--otlp-endpoint ({}) names a collector, and nothing goes there: --audit-log otlp sends audit \
                         lines to it, --tracing enabled sends spans",
                        env::OTLP_ENDPOINT
                    );
                }
                None
            }
        };
        Ok(Self {
            lines,
            collector,
            spans: otlp.traces(),
        })
    }
}

/// What is to be had before anything starts.
pub struct Ground {
    pub sockets: Sockets,
    pub litellm: ReservedPort,
    pub folder: TempDir,
    /// LiteLLM's configuration: its own, and the overlay.
    pub wrapper: PathBuf,
    overlay: PathBuf,
    mirror: Option<Mirror>,
    config: Option<PathBuf>,
    metrics: Option<TcpListener>,
}

impl Ground {
    /// `config`: LiteLLM's own configuration.
    /// `metrics`: where they are served.
    pub async fn prepare(
        listen: SocketAddr,
        config: Option<&Path>,
        audit_log: &Output,
        metrics: Option<SocketAddr>,
    ) -> Result<Self, ExitError> {
        if let (Output::File(file), Err(error)) = (audit_log, audit_log.check()) {
            return Err(ExitError::AuditLog {
                file: file.clone(),
                kind: error.kind(),
            });
        }
        let sockets = Sockets::bind(Some(listen), (Ipv4Addr::LOCALHOST, 0).into(), WORKERS);
        let sockets = sockets.map_err(|error| ExitError::Listen {
            address: listen,
            kind: error.kind(),
        })?;
        let metrics = match metrics {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.map_err(|error| ExitError::Metrics {
                    address,
                    kind: error.kind(),
                })?)
            }
            None => None,
        };
        let litellm = ReservedPort::choose()?;
        let no_folder = |error: io::Error| ExitError::Folder {
            folder: std::env::temp_dir(),
            kind: error.kind(),
        };
        let folder = tempfile::Builder::new()
            .prefix("mcp-auth-")
            // Whoever reads the overlay can call the MCP servers: it says what LiteLLM shows.
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(no_folder)?;
        let overlay = folder.path().join("overlay.yaml");
        let mirror = config.map(|config| Mirror::new(&folder.path().join("mirror"), config, Vec::new()));
        let wrapper = match &mirror {
            Some(mirror) => mirror.wrapper(),
            None => {
                let path = folder.path().join("config.yaml");
                std::fs::write(&path, wrapper_of_overlay(&overlay)).map_err(no_folder)?;
                path
            }
        };
        Ok(Self {
            sockets,
            litellm,
            folder,
            wrapper,
            overlay,
            mirror,
            config: config.map(Path::to_owned),
            metrics,
        })
    }

    /// Starts the proxies. The controller has to be run by the caller.
    pub fn start(
        self,
        feed: &TokenFeed,
        start_timeout: Duration,
        audit_log: AuditDestination,
        mut registry: Registry,
    ) -> Result<EmbeddedSidecar, ExitError> {
        feed.register_metrics(&mut registry);
        let controller_metrics = Metrics::new(&mut registry);
        let data_path_metrics = data_path::Metrics::new(&mut registry);
        let reports = watch::Sender::new(report(Pod::default()));
        let (drain, started) = (Drain::default(), Started::default());
        let exporter = audit_log
            .collector
            .map(|settings| Exporter::start(settings, data_path_metrics.clone()))
            .transpose()?;
        let destinations = Destinations {
            lines: audit_log.lines,
            exporter,
            spans: audit_log.spans,
        };
        let audit_log = AuditLog::start(
            &Pod::default(),
            destinations,
            Fingerprinter::new(),
            data_path_metrics.clone(),
        );
        let litellm = self.litellm.address;
        let outbound_secret = OutboundSecret::generate();
        let static_headers = StaticHeaders::resume(self.overlay.parent().unwrap_or(Path::new(".")));
        let bounds = Bounds::default();
        let proxies = Proxies::new(Wiring {
            litellm: Some(LitellmServer {
                tool_prefix_separator: tool_prefix_separator(),
                ..LitellmServer::from(litellm)
            }),
            trusted_proxies: trusted_proxies(),
            drain: drain.clone(),
            outbound_secret: outbound_secret.clone(),
            reports: reports.clone(),
            exchange: Arc::new(feed.clone()),
            metrics: data_path_metrics,
            audit_log: audit_log.clone(),
            static_headers: static_headers.clone(),
            decoding_memory: bounds.decoding,
            tunnel_memory: bounds.memory / 8,
            // `mcp-auth check` has an MCP server of its own, which tells more.
            context_checks: ContextChecks::default(),
        });
        let settings = ControlSettings {
            original: self.config,
            overlay: self.overlay,
            mirror: self.mirror,
            outbound: self.sockets.outbound(),
            outbound_secret: outbound_secret.clone(),
            inbound: true,
            auth_blocks: true,
            static_headers,
            tool_prefix_separator: tool_prefix_separator(),
        };
        let controller = Controller::new(
            settings,
            Vec::new(),
            proxies.state(),
            reports.clone(),
            controller_metrics,
        );
        let probe = Litellm {
            address: litellm,
            ours: Vec::new(),
            timeout: LITELLM_CONNECT,
            // Other programs of the machine listen too, which is none of our business.
            proc_net: None,
        };
        let control = Control::new(controller, reports, Some(probe), started.clone(), start_timeout);
        if let Some(listener) = self.metrics {
            tokio::spawn(metrics::serve(listener, registry));
        }
        let (inbound, outbound) = (self.sockets.inbound(), self.sockets.outbound());
        let workers = proxies
            .start(self.sockets, bounds)
            .map_err(|error| ExitError::System {
                what: "the proxies cannot be started",
                kind: error.kind(),
            })?;
        Ok(EmbeddedSidecar {
            control,
            drain,
            inbound: inbound.unwrap_or(litellm),
            outbound,
            outbound_secret,
            litellm,
            wrapper: self.wrapper,
            folder: self.folder,
            started,
            workers,
            audit_log,
            _litellm_port: self.litellm,
        })
    }
}

/// The sidecar, running.
pub struct EmbeddedSidecar {
    pub control: Control<DataPathState>,
    pub drain: Drain,
    /// Where users call.
    pub inbound: SocketAddr,
    /// Where LiteLLM calls MCP servers.
    pub outbound: SocketAddr,
    /// Shown there by LiteLLM, and by nobody else.
    pub outbound_secret: OutboundSecret,
    /// Where LiteLLM is to listen.
    pub litellm: SocketAddr,
    pub wrapper: PathBuf,
    pub folder: TempDir,
    started: Started,
    workers: Workers,
    audit_log: AuditLog,
    _litellm_port: ReservedPort,
}

impl EmbeddedSidecar {
    /// Waits until LiteLLM may start: its servers have tokens, or took too long.
    pub async fn until_litellm_may_start(&self) {
        // It is once: there is nothing else to wake up for then.
        while !self.started.is_set() {
            sleep(START_POLL).await;
        }
    }

    /// Lets answers that have begun come to their end.
    pub fn stop(self) {
        self.workers.stop(STOP_GRACE);
        self.workers.join();
        if !self.audit_log.flush(AUDIT_FLUSH_TIMEOUT) {
            warn!("audit lines of the last calls may be missing: the output takes no more");
        }
    }
}

/// As LiteLLM reads it, from the same environment.
fn tool_prefix_separator() -> Box<str> {
    let separator = std::env::var(TOOL_PREFIX_SEPARATOR);
    separator
        .as_deref()
        .unwrap_or(DEFAULT_TOOL_PREFIX_SEPARATOR)
        .into()
}

/// As LiteLLM's server reads its `FORWARDED_ALLOW_IPS`, which it has from the same environment.
fn trusted_proxies() -> TrustedProxies {
    let list = std::env::var(FORWARDED_ALLOW_IPS);
    let list = list.as_deref().unwrap_or(DEFAULT_FORWARDED_ALLOW_IPS);
    match list.parse() {
        Ok(trusted) => trusted,
        Err(never) => match never {},
    }
}
