//! The operator's listeners: TLS for the webhook and the sidecars, plain HTTP for probes and metrics.

mod handshakes;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures::TryFutureExt;
use futures::future::Either;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::server::NoServerSessionStorage;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::certificates::Certificates;
use crate::connection_bounds::{ConnectionBounds, ConnectionLimits, Place};
use crate::liveness::{Liveness, Stuck};
use crate::metrics::Metrics;
use handshakes::{Handshakes, Protocol, spoken};

/// A client that has not shown itself to speak TLS within this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first request, whatever version of HTTP it begins in.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Each further one's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// The whole body of a request that is answered at once; a sidecar's stream has none.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at once: a sidecar has one for each user's token that it waits for.
const MAX_STREAMS: u32 = 256;
/// Header and first line of a request over HTTP/1.1, in bytes, and what is read ahead of a body. hyper's own bound is 400 kB, which
/// anybody could leave unfinished on each connection. Over HTTP/2 the headers of a request are bounded by hyper, to 16 KiB.
const MAX_BUFFER: usize = 64 * 1024;
/// What a peer may send of the bodies of one HTTP/2 request, and of one connection, before it is read: hyper's own bound is 1 MiB of
/// each, for whoever connects.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Connections in total, and of one that takes many. Beyond a bound a new one is closed at once. An API server has a few by which it
/// shows no token; a sidecar has one for its stream, one for users' tokens, and for a moment those that it had before.
const MAX_CONNECTIONS: ConnectionLimits = ConnectionLimits {
    total: 20_000,
    without_request: 4_000,
    unauthenticated_by_address: 200,
    by_pod: 16,
    not_entitled: 2_000,
};
/// Of the probes and metrics, which the kubelet and Prometheus ask for, and of published keys: nobody shows a token there.
const MAX_PLAIN_CONNECTIONS: ConnectionLimits = ConnectionLimits {
    total: 2_000,
    without_request: 1_000,
    unauthenticated_by_address: 50,
    by_pod: 0,
    not_entitled: 0,
};
/// Connections that wait to be accepted, as far as the system allows it: where a replica has gone, thousands of sidecars
/// come to another at the same moment, and what has no room there is tried again after a second and more.
const BACKLOG: u32 = 8192;
/// A peer whose node has vanished acknowledges nothing: its connection ends when what was sent to it, be it a heartbeat or the
/// kernel's own question, has waited for so long. HTTP/2 pings would tell the same, and wake this process for each connection.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);
/// When the kernel asks a peer that nothing was sent to, and how long it then waits before it asks again.
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(20);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
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
    // Connections live for half an hour, and the next is to another replica: a session is never resumed.
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = bind(address)?;
    info!(%address, "serving webhook and sidecars");
    let (close, closing) = watch::channel(false);
    let bounds = ConnectionBounds::new(MAX_CONNECTIONS);
    let handshakes = Handshakes::default();
    let mut last_call = std::pin::pin!(async {
        stopped(&mut stop).await;
        tokio::time::sleep(LINGER).await;
    });
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&listener, &bounds) => accepted,
            () = &mut last_call => break,
        };
        let (acceptor, router, closing) = (acceptor.clone(), router.clone(), closing.clone());
        let handshakes = handshakes.clone();
        tokio::spawn(async move {
            let closed = place.closed();
            let handshake = async {
                spoken(&stream).await?;
                handshakes.in_turn(acceptor.accept(stream)).await
            };
            let handshake = async {
                tokio::select! {
                    spoken = handshake => spoken,
                    () = closed => Err(gave_way()),
                }
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                // As a task of its own, since what the handshake took would be part of this one until the end.
                Ok(Ok(stream)) => {
                    let protocol = Protocol::agreed_by(stream.get_ref().1.alpn_protocol());
                    drop(tokio::spawn(connection(stream, protocol, place, router, closing)));
                }
                Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                Err(_) => debug!("TLS handshake took too long"),
            }
        });
    }
    drop((listener, closing));
    close.send_replace(true);
    // A connection holds its receiver until it has ended.
    if tokio::time::timeout(DRAIN_TIMEOUT, close.closed()).await.is_err() {
        debug!("streams were cut off");
    }
    Ok(())
}

/// `[::]` takes IPv4 as well, and is `0.0.0.0` where the node has no IPv6.
fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match listen(address) {
        Err(error) if without_ipv6(address, &error) => {
            listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    };
    bound.with_context(|| format!("listening on {address}"))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether the address cannot be listened on because the node has no IPv6 (EAFNOSUPPORT), or no address of it
/// (EADDRNOTAVAIL).
fn without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED && matches!(error.raw_os_error(), Some(97 | 99))
}

/// The next connection that there is room for.
async fn accept(listener: &TcpListener, bounds: &ConnectionBounds) -> (TcpStream, Place) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match bounds.enter(peer.ip()) {
                Some(place) => {
                    if let Err(error) = prepare(&stream) {
                        debug!(%peer, %error, "a connection could not be prepared");
                    }
                    return (stream, place);
                }
                None => debug!(%peer, "a connection was closed: there are too many"),
            },
            Err(error) => {
                // Most often too many open files: a pause lets some of them close.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_TIME)
        .with_interval(KEEP_ALIVE_INTERVAL)
        .with_retries(2);
    socket.set_tcp_keepalive(&keep_alive)?;
    // Other systems have no such bound, and no operator in production.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
    Ok(())
}

/// An error means that the sender was dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Of a connection whose place a newcomer has.
fn gave_way() -> io::Error {
    io::Error::other("it gave way to another one")
}

/// Serves one connection, if its first request comes in time, and unless it has to give way.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Protocol,
    place: Place,
    router: Router,
    closing: watch::Receiver<bool>,
) {
    let requested = Arc::new(Notify::new());
    let closed = place.closed();
    let served = requests(stream, protocol, place, router, closing, Arc::clone(&requested));
    let no_request = async move {
        let first = requested.notified();
        if tokio::time::timeout(FIRST_REQUEST_TIMEOUT, first).await.is_ok() {
            drop(requested);
            std::future::pending::<()>().await;
        }
        debug!("a connection was closed: no request came in time");
    };
    tokio::select! {
        result = served => if let Err(error) = result {
            debug!(error, "a connection ended with an error");
        },
        () = no_request => {}
        () = closed => debug!("a connection was closed: it gave way to another one"),
    }
}

/// Answers the requests of a connection, and tells `requested` of the first. No `async fn`, whose future would hold each
/// of these parts twice. Each request has the connection's place among its extensions, for a stream that leaves HTTP.
fn requests(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Protocol,
    place: Place,
    router: Router,
    closing: watch::Receiver<bool>,
    requested: Arc<Notify>,
) -> impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send {
    let service = TowerToHyperService::new(router);
    // The place is free again when the connection ends, and with it this.
    let place = Arc::new(place);
    let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
        place.has_request();
        // Kept for whoever waits later, once.
        requested.notify_one();
        request.extensions_mut().insert(Arc::clone(&place));
        service.call(request)
    });
    let stream = TokioIo::new(stream);
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .max_buf_size(MAX_BUFFER)
                .header_read_timeout(HEADER_TIMEOUT);
            let connection = Box::pin(builder.serve_connection(stream, service).with_upgrades());
            let connection = until_closed(connection, closing, |connection| connection.graceful_shutdown());
            Either::Left(connection.err_into())
        }
        Protocol::Unknown => {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .max_buf_size(MAX_BUFFER)
                .header_read_timeout(HEADER_TIMEOUT);
            builder
                .http2()
                .max_concurrent_streams(MAX_STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            let connection = builder.serve_connection_with_upgrades(stream, service);
            let connection = Box::pin(connection.into_owned());
            let connection = until_closed(connection, closing, |connection| connection.graceful_shutdown());
            Either::Right(connection)
        }
    }
}

/// Serves until the connection ends; from the word to close on, what is under way alone.
async fn until_closed<C: Future>(
    mut connection: Pin<Box<C>>,
    mut closing: watch::Receiver<bool>,
    close: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopped(&mut closing) => {}
    }
    close(connection.as_mut());
    connection.await
}

/// A body that is no use to anybody.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum BodyError {
    #[error("it is longer than {0} bytes, or broke off")]
    TooLongOrBroken(usize),
    #[error("it was not there within {} s", BODY_TIMEOUT.as_secs())]
    Slow,
}

/// A whole body, within bounds of size and time.
pub async fn read_body(body: Body, max_bytes: usize) -> Result<Bytes, BodyError> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(BodyError::TooLongOrBroken(max_bytes)),
        Err(_) => Err(BodyError::Slow),
    }
}

/// What the probes tell.
#[derive(Clone)]
pub struct Health {
    pub metrics: Metrics,
    /// Whether every task of the operator moves.
    pub liveness: Liveness,
    /// Whether the API server has answered since the start: nothing else begins before.
    pub api_server_answers: watch::Receiver<bool>,
    /// Whether resources have been listed, so that the webhook decides by what there is.
    pub listed: watch::Receiver<bool>,
    /// Whether the API server trusts the webhook.
    pub trusted: watch::Receiver<bool>,
    /// Whether this replica leads, or knows the tokens of the one that does.
    pub knows_tokens: watch::Receiver<bool>,
    /// Until when a replica that does not is not ready: one that cannot follow still reviews pods.
    pub knowing_until: watch::Receiver<Instant>,
    /// Whether this replica is stopping.
    pub closed: watch::Receiver<bool>,
}

/// Serves probes and metrics in plain HTTP. Whoever takes the places keeps out neither the kubelet, which comes from its node's address and
/// would end this process, nor who is in the pod itself.
pub async fn serve_health(address: SocketAddr, health: Health, node: Option<IpAddr>) -> anyhow::Result<()> {
    let mut preferred = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    preferred.extend(node);
    let bounds = ConnectionBounds::new(MAX_PLAIN_CONNECTIONS).preferring(&preferred);
    serve_within(bounds, address, health_router(health)).await
}

/// Serves in plain HTTP what few ask for, and none for long.
pub async fn serve_plain(address: SocketAddr, router: Router) -> anyhow::Result<()> {
    serve_within(ConnectionBounds::new(MAX_PLAIN_CONNECTIONS), address, router).await
}

async fn serve_within(bounds: ConnectionBounds, address: SocketAddr, router: Router) -> anyhow::Result<()> {
    let listener = bind(address)?;
    // Nothing waits for these to end.
    let (_never, closing) = watch::channel(false);
    loop {
        let (stream, place) = accept(&listener, &bounds).await;
        let (router, closing) = (router.clone(), closing.clone());
        tokio::spawn(connection(stream, Protocol::Unknown, place, router, closing));
    }
}

fn health_router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// Fails where a restart helps, and nowhere else: not while the API server is away.
async fn live(State(health): State<Health>) -> (StatusCode, String) {
    match health.liveness.stuck() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(Stuck { task, since }) => {
            error!(task, seconds = since.as_secs(), "a task is stuck");
            let message = format!("{task} has not moved for {} s", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    let unready = |why| (StatusCode::SERVICE_UNAVAILABLE, why);
    if *health.closed.borrow() {
        unready("stopping")
    } else if !*health.api_server_answers.borrow() {
        unready("the API server has not answered yet")
    } else if !*health.listed.borrow() {
        unready("the resources have not been listed yet")
    } else if !*health.trusted.borrow() {
        unready("the API server does not trust the webhook yet")
    } else if !*health.knows_tokens.borrow() && Instant::now() < *health.knowing_until.borrow() {
        unready("this replica neither leads nor follows yet")
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

#[cfg(test)]
mod tests;
