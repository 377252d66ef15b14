//! The operator's listeners: TLS for the webhook and the sidecars, plain HTTP for probes and metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::certificates::Certificates;
use crate::metrics::Metrics;

/// A client that has not shown itself to speak TLS within this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A sidecar's node that vanished is noticed by HTTP/2 pings.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Requests still running this long after the stop are cut off: streams to sidecars never end by themselves,
/// and they come back to another replica.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// After the word to close, connections are still taken for this long: the API server goes on calling a
/// webhook until every node has heard that its pod is not ready.
const LINGER: Duration = Duration::from_secs(5);

/// Serves over TLS until `stop` says so.
pub async fn serve_tls(
    address: SocketAddr,
    certificates: Certificates,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    info!(%address, "serving webhook and sidecars");
    let graceful = GracefulShutdown::new();
    let mut last_call = std::pin::pin!(async {
        stopped(&mut stop).await;
        tokio::time::sleep(LINGER).await;
    });
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most often too many open files: a pause lets some of them close.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut last_call => break,
        };
        tokio::spawn(connection(
            stream,
            acceptor.clone(),
            router.clone(),
            graceful.watcher(),
        ));
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        debug!("streams were cut off");
    }
    Ok(())
}

/// An error means that the sender was dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(served.into_owned()).await {
        debug!(error, "a connection ended with an error");
    }
}

/// What the probes tell.
#[derive(Clone)]
pub struct Health {
    pub metrics: Metrics,
    /// Whether resources have been listed, so that the webhook decides by what there is.
    pub listed: watch::Receiver<bool>,
    /// Whether the API server trusts the webhook.
    pub trusted: watch::Receiver<bool>,
    /// Whether this replica is stopping.
    pub closed: watch::Receiver<bool>,
}

/// Serves probes and metrics in plain HTTP.
pub async fn serve_health(address: SocketAddr, health: Health) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router).await.context("serving probes")
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    let unready = |why| (StatusCode::SERVICE_UNAVAILABLE, why);
    if *health.closed.borrow() {
        unready("stopping")
    } else if !*health.listed.borrow() {
        unready("the resources have not been listed yet")
    } else if !*health.trusted.borrow() {
        unready("the API server does not trust the webhook yet")
    } else {
        (StatusCode::OK, "ok")
    }
}

async fn metrics(State(health): State<Health>) -> ([(http::HeaderName, &'static str); 1], String) {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(http::header::CONTENT_TYPE, content_type)],
        health.metrics.encode(),
    )
}
