//! The sidecar in a pod: from its arguments to everything that runs, until SIGTERM. A native sidecar gets it
//! only after LiteLLM has ended, so there is nothing left to wait for by then. Nothing else ends the process:
//! repeated exits would have the kubelet kill a healthy LiteLLM, whose probes pass through here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mcp_auth_protocol::sync::{Pod, Problem, Report, Server};
use mcp_auth_protocol::timeouts::LITELLM_READINESS;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

use crate::args::Serve;
use crate::control::controller::{ControlSettings, Controller, DataPath, Metrics, report};
use crate::control::drain::Drain;
use crate::control::exchange_client::{self, OperatorTokenExchanger, TokenExchanger};
use crate::control::litellm::Litellm;
use crate::control::probes::{self, Health, Started};
use crate::control::proc_net::retry;
use crate::control::sync_client::{OperatorCa, SyncClient, TcpConnector, Timing};
use crate::proxy::audit::{AuditLog, Fingerprinter};
use crate::proxy::inbound::Inbound;
use crate::proxy::metrics as data_path;
use crate::proxy::outbound::{Limits, Outbound};
use crate::proxy::routes::Routes;
use crate::proxy::user_context::seal::Sealer;
use crate::server::{Sockets, Workers};

/// A pod's sidecar is given a fraction of a processor, and one worker fills a whole one.
const WORKERS: NonZeroUsize = NonZeroUsize::MIN;
/// Longest time that the end waits for the audit lines of the last calls.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two probes of LiteLLM.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Probes between two readings of the user's configuration, which may change while LiteLLM's container
/// restarts.
const PROBES_PER_CONFIG_READ: u32 = 5;

/// Runs until SIGTERM or SIGINT.
pub async fn serve(args: Serve) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = args.pod_namespace,
        pod = args.pod_name,
        "starting"
    );
    let mut registry = Registry::default();
    let metrics = data_path::Metrics::new(&mut registry);
    let pod = Pod {
        namespace: args.pod_namespace.clone(),
        name: args.pod_name.clone(),
        uid: args.pod_uid.clone(),
    };
    let audit_log = AuditLog::start(
        &pod,
        args.audit_log.clone(),
        Fingerprinter::new(),
        metrics.clone(),
    );
    tokio::select! {
        never = run(args, pod, registry, metrics, audit_log.clone()) => match never {},
        () = received(&mut terminate) => info!("SIGTERM: leaving"),
        () = received(&mut interrupt) => info!("SIGINT: leaving"),
    }
    if !audit_log.flush(AUDIT_FLUSH_TIMEOUT) {
        warn!("audit lines of the last calls may be missing: the output takes no more");
    }
    Ok(())
}

async fn run(
    args: Serve,
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
        routes,
        original_config,
        overlay,
        operator,
        operator_ca,
        token_file,
        pod_namespace: _,
        pod_name: _,
        pod_uid: _,
        start_timeout,
        audit_log: _,
        drain: drain_time,
    } = args;
    let metrics = Metrics::new(&mut registry);
    let drain = Drain::default();
    let started = Started::default();
    let litellm = litellm.map(|address| Litellm {
        address,
        ours: inbound.into_iter().chain([outbound, health]).collect(),
        timeout: LITELLM_READINESS,
        proc_net: PathBuf::from("/proc/net"),
    });
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
    let data_path = start_data_path(Wiring {
        inbound: inbound.zip(litellm.as_ref().map(|litellm| litellm.address)),
        outbound,
        drain: drain.clone(),
        reports: reports.clone(),
        exchange: Arc::new(exchange),
        metrics: data_path_metrics,
        audit_log,
    });
    // A probe that is refused costs a whole period, so this comes before everything that takes time.
    let answers = Health {
        started: started.clone(),
        litellm: litellm.clone(),
        drain,
        drain_time,
        registry,
    };
    tokio::spawn(probes::serve(health, Arc::new(answers)));

    let settings = ControlSettings {
        original: original_config,
        overlay,
        outbound,
        inbound: inbound.is_some(),
    };
    let control = RefCell::new(Controller::new(
        settings,
        routes.0,
        data_path,
        reports.clone(),
        metrics,
    ));
    let authenticated = Notify::new();
    let sync_client = SyncClient {
        endpoint: operator,
        operator_ca,
        token_file,
        timing: Timing::default(),
        connector: TcpConnector,
    };
    let syncing = sync_client.run(&reports, |snapshot| {
        let mut control = control.borrow_mut();
        control.take_over(snapshot);
        if control.is_authenticated() {
            authenticated.notify_one();
        }
    });
    let watching_litellm = async {
        release_start(&control, &authenticated, start_timeout).await;
        started.set();
        watch_litellm(&control, litellm.as_ref()).await
    };
    tokio::join!(syncing, watching_litellm).0
}

/// What the data path is started with.
pub struct Wiring {
    /// Where users' requests come in, and LiteLLM's own address; absent where only the outbound half is
    /// wanted.
    pub inbound: Option<(SocketAddr, SocketAddr)>,
    pub outbound: SocketAddr,
    pub drain: Drain,
    pub reports: watch::Sender<Report>,
    pub exchange: Arc<dyn TokenExchanger>,
    pub metrics: data_path::Metrics,
    pub audit_log: AuditLog,
}

/// Starts both halves of the data path, which listen as soon as their ports are free. The only place where
/// control and data path meet; what is returned takes over routes and credentials from then on.
fn start_data_path(wiring: Wiring) -> Routes {
    let Wiring {
        inbound,
        outbound,
        drain,
        reports,
        exchange,
        metrics,
        audit_log,
    } = wiring;
    let routes = Routes::new(WORKERS, metrics.clone(), reports);
    let sealer = Arc::new(Sealer::new());
    let limits = Limits::default();
    let fingerprinter = audit_log.fingerprinter();
    let outbound_half = Outbound::new(
        routes.clone(),
        sealer.clone(),
        exchange,
        limits,
        audit_log,
        metrics.clone(),
    );
    let inbound_half = inbound.map(|(_, litellm)| {
        Inbound::new(litellm, routes.clone(), sealer, fingerprinter, metrics, drain).into()
    });
    tokio::spawn(async move {
        let listen = inbound.map(|(listen, _)| listen);
        let bind = || Sockets::bind(listen, outbound, WORKERS);
        let sockets = retry("the data path", listen.unwrap_or(outbound), bind).await;
        match Workers::start(sockets, inbound_half, Arc::new(outbound_half)) {
            // They serve until the process ends.
            Ok(_workers) => std::future::pending().await,
            Err(error) => error!(%error, "the data path's threads cannot be started"),
        }
    });
    routes
}

impl DataPath for Routes {
    fn apply(&self, servers: &[Server]) -> Vec<Problem> {
        Self::apply(self, servers)
    }
}

/// Waits for tokens, but not for longer than LiteLLM's start may be held up, and puts the overlay in place.
async fn release_start<P: DataPath>(
    control: &RefCell<Controller<P>>,
    authenticated: &Notify,
    start_timeout: Duration,
) {
    if timeout(start_timeout, authenticated.notified()).await.is_err() {
        warn!(
            seconds = start_timeout.as_secs(),
            "not every server has a token yet; LiteLLM starts all the same and finds their tools later"
        );
    }
    loop {
        let in_place = control.borrow_mut().render();
        if in_place {
            return;
        }
        sleep(PROBE_INTERVAL).await;
    }
}

/// Keeps an eye on LiteLLM and on the user's configuration.
async fn watch_litellm<P: DataPath>(
    control: &RefCell<Controller<P>>,
    litellm: Option<&Litellm>,
) -> Infallible {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for _ in 0..PROBES_PER_CONFIG_READ {
            ticks.tick().await;
            if let Some(litellm) = litellm {
                let result = litellm.probe().await;
                control.borrow_mut().observe(&result);
            }
        }
        control.borrow_mut().render();
    }
}

/// A stream of signals that has ended will bring none, which is no reason to leave.
async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}
