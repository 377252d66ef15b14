//! The sidecar in a pod: from its arguments to everything that runs, until SIGTERM. A native sidecar gets it
//! only after LiteLLM has ended, so there is nothing left to wait for by then. Nothing else ends the process:
//! repeated exits would have the kubelet kill a healthy LiteLLM, whose probes pass through here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mcp_auth_protocol::pod::env;
use mcp_auth_protocol::sync::{Pod, Report};
use mcp_auth_protocol::timeouts::LITELLM_CONNECT;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::args::{Keepalive, Serve};
use crate::control::context_checks::ContextChecks;
use crate::control::controller::{ControlSettings, Controller, Metrics, report};
use crate::control::drain::Drain;
use crate::control::exchange_client::{self, OperatorTokenExchanger};
use crate::control::litellm::Litellm;
use crate::control::litellm_config::mirror::Mirror;
use crate::control::litellm_config::static_headers::StaticHeaders;
use crate::control::outbound_secret::OutboundSecret;
use crate::control::probes::{self, Health, RenderedMetrics, Started};
use crate::control::proc_net::{PROC_NET, retry};
use crate::control::shared_folder;
use crate::control::start_problems::StartProblems;
use crate::control::sync_client::{OperatorCa, SyncClient, TcpConnector, Timing};
use crate::log::DroppedLines;
use crate::proxy::audit::{AuditLog, Destinations, Output};
use crate::proxy::fingerprint::Fingerprinter;
use crate::proxy::inbound::LitellmServer;
use crate::proxy::metrics as data_path;
use crate::proxy::otlp::{Exporter, resource};
use crate::run::{Control, DataPathState, Proxies, WORKERS, Wiring};
use crate::server::resource_limits::{memory_limit, raise_open_files};
use crate::server::{Bounds, Sockets};

/// Longest time that the end waits for the audit lines of the last calls.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn serve(args: Serve, dropped_lines: DroppedLines) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = args.pod_namespace,
        pod = args.pod_name,
        "starting"
    );
    let (memory_limit, open_files) = (memory_limit(), raise_open_files());
    let bounds = Bounds::within(memory_limit, open_files);
    info!(
        memory_limit,
        open_files,
        connections = bounds.connections,
        memory = bounds.memory,
        "bounds of each half"
    );
    let mut registry = Registry::default();
    dropped_lines.register(&mut registry);
    let metrics = data_path::Metrics::new(&mut registry);
    let pod = Pod {
        namespace: args.pod_namespace.clone(),
        name: args.pod_name.clone(),
        uid: args.pod_uid.clone(),
    };
    let audit_log = AuditLog::start(
        &pod,
        destinations(&args, &pod, &metrics),
        Fingerprinter::new(),
        metrics.clone(),
    );
    tokio::select! {
        never = run(args, bounds, pod, registry, metrics, audit_log.clone()) => match never {},
        () = received(&mut terminate) => info!("SIGTERM: leaving"),
        () = received(&mut interrupt) => info!("SIGINT: leaving"),
    }
    if !audit_log.flush(AUDIT_FLUSH_TIMEOUT) {
        warn!("audit lines of the last calls may be missing: the output takes no more");
    }
    Ok(())
}

/// Where lines of the audit log and spans go. A collector that cannot be called costs these and nothing else.
fn destinations(args: &Serve, pod: &Pod, metrics: &data_path::Metrics) -> Destinations {
    let (lines, spans) = (args.audit_log.clone(), args.otlp.traces());
    if lines != Output::Otlp && !spans {
        return lines.into();
    }
    let headers = std::env::var(env::OTLP_HEADERS).ok();
    let resource = resource("mcp-auth-sidecar", &pod.namespace, &pod.name, &pod.uid);
    let exporter = match args.otlp.settings(headers.as_deref(), resource) {
        Ok(settings) => Exporter::start(settings, metrics.clone()).map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    let exporter = exporter.inspect_err(|error| error!(%error, "no OpenTelemetry collector can be called"));
    Destinations {
        lines,
        exporter: exporter.ok(),
        spans,
    }
}

async fn run(
    args: Serve,
    mut bounds: Bounds,
    pod: Pod,
    mut registry: Registry,
    data_path_metrics: data_path::Metrics,
    audit_log: AuditLog,
) -> Infallible {
    let Serve {
        inbound,
        outbound,
        health,
        litellm,
        litellm_keepalive_seconds,
        keepalive_seconds,
        forwarded_allow_ips,
        tool_prefix_separator,
        routes,
        original_config,
        config_mirror,
        config_mount_points,
        overlay,
        shared_folder,
        operator,
        operator_ca,
        token_file,
        pod_namespace: _,
        pod_name: _,
        pod_uid,
        start_timeout,
        audit_log: _,
        otlp: _,
        drain: drain_time,
    } = args;
    let stated = |keepalive: Option<Keepalive>| keepalive.and_then(|keepalive| keepalive.0);
    let litellm_keep_alive = stated(litellm_keepalive_seconds);
    if let Some(keep_alive) = stated(keepalive_seconds).or(litellm_keep_alive) {
        bounds.keep_alive = keep_alive;
    }
    let tool_prefix_separator = tool_prefix_separator.into_boxed_str();
    let metrics = Metrics::new(&mut registry);
    let drain = Drain::default();
    let started = Started::default();
    let litellm = litellm.map(|address| Litellm {
        address,
        ours: inbound.into_iter().chain([outbound, health]).collect(),
        timeout: LITELLM_CONNECT,
        proc_net: Some(PathBuf::from(PROC_NET)),
    });
    let context_checks = ContextChecks::default();
    let start_problems = StartProblems::default();
    // A probe that is refused costs a whole period, so this comes before everything that takes time.
    let answers = Health {
        started: started.clone(),
        litellm: litellm.clone(),
        drain: drain.clone(),
        drain_time,
        pod_uid,
        registry,
        rendered: RenderedMetrics::default(),
        context_checks: context_checks.clone(),
    };
    tokio::spawn(probes::serve(health, Arc::new(answers), start_problems.clone()));
    if let Some(folder) = &shared_folder {
        let sync_client = SyncClient {
            endpoint: operator.clone(),
            // Nothing is read in a folder that may be another's.
            operator_ca: OperatorCa::new(&operator_ca),
            token_file: token_file.clone(),
            timing: Timing::default(),
            connector: TcpConnector,
        };
        shared_folder_made(folder, sync_client, report(pod.clone())).await;
    }
    let reports = watch::Sender::new(report(pod.clone()));
    let operator_ca = OperatorCa::resume(&operator_ca, overlay.parent().unwrap_or(Path::new(".")));
    let exchange = OperatorTokenExchanger::new(
        operator.clone(),
        operator_ca.clone(),
        token_file.clone(),
        pod,
        exchange_client::Timing::default(),
        TcpConnector,
    );
    let static_headers = StaticHeaders::resume(overlay.parent().unwrap_or(Path::new(".")));
    let outbound_secret = OutboundSecret::resume(&overlay);
    let proxies = Proxies::new(Wiring {
        litellm: inbound.and(litellm.as_ref()).map(|litellm| {
            let server = LitellmServer::from(litellm.address);
            LitellmServer {
                keep_alive: litellm_keep_alive.unwrap_or(server.keep_alive),
                tool_prefix_separator: tool_prefix_separator.clone(),
                ..server
            }
        }),
        trusted_proxies: forwarded_allow_ips,
        drain,
        outbound_secret: outbound_secret.clone(),
        reports: reports.clone(),
        exchange: Arc::new(exchange),
        metrics: data_path_metrics,
        audit_log,
        static_headers: static_headers.clone(),
        decoding_memory: bounds.decoding,
        // Half of what the bounds leave for what is not counted to the byte.
        tunnel_memory: bounds.memory / 8,
        context_checks,
    });
    let data_path = proxies.state();

    let settings = ControlSettings {
        mirror: config_mirror
            .zip(original_config.as_deref())
            .map(|(root, original)| Mirror::new(&root, original, config_mount_points)),
        original: original_config,
        overlay,
        outbound,
        outbound_secret,
        inbound: inbound.is_some(),
        auth_blocks: false,
        static_headers,
        tool_prefix_separator,
    };
    let controller = Controller::new(settings, routes.0, data_path, reports.clone(), metrics);
    let control = Control::new(controller, reports, litellm, started, start_timeout)
        .with_start_problems(start_problems.clone());
    tokio::spawn(serve_proxies(
        proxies,
        bounds,
        (inbound, outbound),
        control.users_may_connect(),
        start_problems,
    ));
    let sync_client = SyncClient {
        endpoint: operator,
        operator_ca,
        token_file,
        timing: Timing::default(),
        connector: TcpConnector,
    };
    on_own_thread(control, sync_client).await
}

/// Returns when the folder is made. Until then the operator is told what is in the way, by a stream that takes nothing over.
async fn shared_folder_made(folder: &Path, sync_client: SyncClient<TcpConnector>, first_report: Report) {
    let reports = watch::Sender::new(first_report);
    let made = shared_folder::made(folder, |problem| {
        reports.send_modify(|report| report.problems = vec![problem]);
    });
    let mut told = reports.subscribe();
    let telling = async {
        // Not where there is nothing to tell. The sender lives as long as this.
        let _ = told.changed().await;
        sync_client.run(&reports, drop).await
    };
    tokio::select! {
        biased;
        () = made => {}
        never = telling => match never {},
    }
}

/// The controller reads files, among them the user's configuration on whatever volume it lies, and a read may hang: that
/// holds up neither probes nor users.
async fn on_own_thread(control: Control<DataPathState>, sync_client: SyncClient<TcpConnector>) -> Infallible {
    let running = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::io::Result::Ok(runtime.block_on(control.run(sync_client)))
    });
    match running.await {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => error!(%error, "the controller's thread cannot be started"),
        // As if it had happened here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
    std::future::pending().await
}

/// Both ports are bound as soon as they are free. Users can connect while LiteLLM listens.
async fn serve_proxies(
    proxies: Proxies,
    bounds: Bounds,
    (inbound, outbound): (Option<SocketAddr>, SocketAddr),
    users_may_connect: watch::Receiver<bool>,
    start_problems: StartProblems,
) {
    let bind = || Sockets::bind(inbound, outbound, WORKERS);
    let sockets = retry(
        "the data path",
        inbound.unwrap_or(outbound),
        &start_problems,
        bind,
    )
    .await;
    match proxies.start(sockets.while_open(users_may_connect), bounds) {
        // They serve until the process ends.
        Ok(_workers) => std::future::pending().await,
        Err(error) => error!(%error, "the data path's threads cannot be started"),
    }
}

/// A stream of signals that has ended will bring none, which is no reason to leave.
async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}
