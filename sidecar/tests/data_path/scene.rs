//! The sidecar and those around it.

// Named, because other tests have this file from another folder.
#[path = "threads.rs"]
mod threads;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::{
    Credential, Pod, Problem, RejectedToken, Report, Route, Server, Transport, UserContext,
};
use mcp_auth_sidecar::control::drain::Drain;
use mcp_auth_sidecar::control::exchange_client::{TokenExchanger, UserTokenRequest, UserTokenResponse};
use mcp_auth_sidecar::control::litellm_config::static_headers::StaticHeaders;
use mcp_auth_sidecar::control::outbound_secret::OutboundSecret;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Destinations, Fingerprinter, Output};
use mcp_auth_sidecar::proxy::inbound::Inbound;
use mcp_auth_sidecar::proxy::inbound::client_address::TrustedProxies;
use mcp_auth_sidecar::proxy::metrics::Metrics;
use mcp_auth_sidecar::proxy::outbound::{Limits, Outbound};
use mcp_auth_sidecar::proxy::routes::Routes;
use mcp_auth_sidecar::proxy::user_context::seal::Sealer;
use mcp_auth_sidecar::server::{Sockets, Workers};
use prometheus_client::registry::Registry;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

pub type Body = BoxBody<Bytes, Infallible>;

/// Nothing in these tests takes nearly as long; it only keeps a failing test from hanging.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What LiteLLM shows the outbound half. The inbound half removes it.
pub const SECRET: &str = "dGhlIHNlY3JldCBvZiB0ZXN0cywgbm90IGZvciBwb2Q";
pub const SECRET_HEADER: &str = "mcpauth-outbound-secret";

pub struct Sidecar {
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    pub routes: Routes,
    pub drain: Drain,
    pub registry: Registry,
    pub reports: watch::Receiver<Report>,
    pub sealer: Arc<Sealer>,
    pub audit_log: AuditLog,
    pub static_headers: StaticHeaders,
    workers: Option<Workers>,
}

/// The operator, as far as it exchanges tokens for users: by the rule of the test.
#[derive(Clone)]
pub struct Operator {
    asked: Arc<Mutex<Vec<Asked>>>,
    rule: Rule,
}

type Rule = Arc<dyn Fn(Asked) -> UserTokenResponse + Send + Sync>;

/// What the operator was asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    pub server: String,
    pub url: String,
    pub subject: String,
    pub refused: Option<String>,
}

/// A server whose answers the test writes.
pub struct Scripted {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Seen>>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
}

impl Sidecar {
    pub fn start(litellm: SocketAddr, servers: &[Server]) -> Self {
        Self::with_workers(litellm, servers, NonZeroUsize::MIN)
    }

    pub fn with_workers(litellm: SocketAddr, servers: &[Server], workers: NonZeroUsize) -> Self {
        Self::with(litellm, servers, workers, Operator::default(), Limits::default())
    }

    /// With bounds of the test's own.
    pub async fn limited(servers: &[Server], limits: Limits) -> Self {
        let one = NonZeroUsize::MIN;
        Self::with(unused_address().await, servers, one, Operator::default(), limits)
    }

    pub fn with(
        litellm: SocketAddr,
        servers: &[Server],
        workers: NonZeroUsize,
        operator: Operator,
        limits: Limits,
    ) -> Self {
        Self::with_audit_log(litellm, servers, workers, operator, limits, |_| {
            Output::File("/dev/null".into()).into()
        })
    }

    pub fn with_audit_log(
        litellm: SocketAddr,
        servers: &[Server],
        workers: NonZeroUsize,
        operator: Operator,
        limits: Limits,
        destinations: impl FnOnce(&Metrics) -> Destinations,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let sender = watch::Sender::new(Report::default());
        let reports = sender.subscribe();
        let routes = Routes::new(workers, metrics.clone(), sender);
        assert_eq!(routes.apply(servers), []);
        let pod = Pod {
            namespace: "llm".into(),
            name: "litellm-0".into(),
            uid: "u".into(),
        };
        let audit_log = AuditLog::start(
            &pod,
            destinations(&metrics),
            Fingerprinter::new(),
            metrics.clone(),
        );
        let (sealer, drain) = (Arc::new(Sealer::new()), Drain::default());
        // Nothing is kept for a next process.
        let static_headers = StaticHeaders::resume(Path::new("/nonexistent"));
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sockets = Sockets::bind(Some(any), any, workers).unwrap();
        let (inbound, outbound) = (sockets.inbound().unwrap(), sockets.outbound());
        let in_half = Inbound::new(
            litellm,
            TrustedProxies::default(),
            routes.clone(),
            sealer.clone(),
            audit_log.fingerprinter(),
            metrics.clone(),
            drain.clone(),
        );
        let out_half = Outbound::new(
            routes.clone(),
            sealer.clone(),
            OutboundSecret::parse(SECRET).unwrap(),
            Arc::new(operator),
            limits,
            audit_log.clone(),
            metrics,
        )
        .with_static_headers(static_headers.clone());
        let workers = Workers::start(sockets, Some(Arc::new(in_half)), Arc::new(out_half)).unwrap();
        Self {
            inbound,
            outbound,
            routes,
            drain,
            registry,
            reports,
            sealer,
            audit_log,
            static_headers,
            workers: Some(workers),
        }
    }

    /// The tokens that are reported as refused, once there are any.
    pub async fn refused(&self) -> Vec<RejectedToken> {
        let mut reports = self.reports.clone();
        let seen = reports.wait_for(|report| !report.refused.is_empty());
        let seen = tokio::time::timeout(TEST_TIMEOUT, seen)
            .await
            .expect("a report in time");
        seen.unwrap().refused.clone()
    }

    /// Until so many requests wait for a token.
    pub async fn waiting(&self, number: u64) {
        until(|| self.metric("mcpauth_sidecar_waiting") == number).await;
    }

    pub fn stop(&self, grace: Duration) {
        self.workers.as_ref().unwrap().stop(grace);
    }

    pub fn join(mut self) {
        self.workers.take().unwrap().join();
    }

    /// Value of one line of the metrics.
    pub fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let found = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |value| value.parse().unwrap())
    }
}

impl Operator {
    pub fn by<A>(rule: impl Fn(Asked) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Result<Credential, Problem>> + Send + 'static,
    {
        Self {
            asked: Arc::default(),
            rule: Arc::new(move |asked| Box::pin(rule(asked))),
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self::by(async |asked: Asked| panic!("no token exchange is expected here: {asked:?}"))
    }
}

impl TokenExchanger for Operator {
    fn exchange(&self, ask: UserTokenRequest) -> UserTokenResponse {
        let asked = Asked {
            server: ask.server.into(),
            url: ask.url.into(),
            subject: ask.subject.expose_secret().to_owned(),
            refused: ask.refused.map(Into::into),
        };
        self.asked.lock().unwrap().push(asked.clone());
        (self.rule)(asked)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop(Duration::ZERO);
            threads::join(workers);
        }
    }
}

impl Scripted {
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Seen>>>::default());
        let scripted = Self {
            address,
            connections: connections.clone(),
            requests: requests.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (answer.clone(), requests.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    requests.lock().unwrap().push(Seen {
                        method: request.method().to_string(),
                        target: request.uri().to_string(),
                        headers: request.headers().clone(),
                    });
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection.with_upgrades());
            }
        });
        scripted
    }

    /// Answers every request with its body.
    pub async fn echo() -> Self {
        Self::start(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(whole(body))
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    /// The only request so far.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        let [only] = &seen[..] else {
            panic!("not exactly one request: {seen:#?}");
        };
        only.clone()
    }
}

/// What the test's server hands over next.
pub async fn received<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, receiver.recv())
        .await
        .unwrap_or_else(|_| panic!("no request has reached the server within {TEST_TIMEOUT:?}"))
        .expect("the server is there")
}

/// Looks again and again, but not for ever.
pub async fn until(holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, looking)
        .await
        .expect("it holds in time");
}

/// An address on which nothing listens. The socket stays bound while the process lives, so that no other test gets
/// the port.
pub async fn unused_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// The server `tools` at `url`, with the cookie `session_id` and the header `x-forwarded-user`.
pub fn server(url: &str) -> Server {
    Server {
        route: Route {
            resource: "tools-auth".into(),
            server: "tools".into(),
            url: url.into(),
            transport: Transport::StreamableHttp,
            http1_only: false,
            answer_timeout_seconds: None,
            ca_bundle: None,
            cookies: vec!["session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            user_context: UserContext::Optional,
            exchange: None,
            credential_identity: String::new(),
            audit: None,
            litellm: None,
        },
        client_certificate: None,
        declined: None,
        credential: Credential::Bearer {
            id: "1".into(),
            token: "service-token".into(),
            proof_key: None,
            expires_at: None,
        },
    }
}

/// A token that is named like its text.
pub fn bearer(token: &str) -> Credential {
    Credential::Bearer {
        id: token.into(),
        token: token.into(),
        proof_key: None,
        expires_at: None,
    }
}

pub fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A body that goes on as long as the sender lives.
pub fn streamed() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let frames = futures::stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<Bytes>| {
        let chunk = receiver.recv().await?;
        Some((Ok(Frame::data(chunk)), receiver))
    });
    (
        sender,
        BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(frames)))),
    )
}

/// A stream that only its owner polls may be shared between threads all the same.
struct SyncStream<S>(S);

impl<S: futures::Stream + Unpin> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        std::pin::Pin::new(&mut self.0).poll_next(cx)
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    tokio::time::timeout(TEST_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| panic!("{address} takes no connection within {TEST_TIMEOUT:?}"))
        .unwrap()
}

/// Sends a request over a connection of its own, as LiteLLM does. The host is the address.
pub async fn send(address: SocketAddr, request: http::request::Builder, body: Body) -> Response<Incoming> {
    send_as_stranger(address, request.header(SECRET_HEADER, SECRET), body).await
}

/// The same by something that is not LiteLLM.
pub async fn send_as_stranger(
    address: SocketAddr,
    request: http::request::Builder,
    body: Body,
) -> Response<Incoming> {
    let stream = connect(address).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = request.header("host", address.to_string()).body(body).unwrap();
    tokio::time::timeout(TEST_TIMEOUT, sender.send_request(request))
        .await
        .expect("an answer in time")
        .unwrap()
}

pub async fn get(address: SocketAddr, path: &str) -> Response<Incoming> {
    send(address, Request::get(path), whole("")).await
}

pub async fn post(address: SocketAddr, path: &str, body: &'static str) -> Response<Incoming> {
    let request = Request::post(path).header("content-type", "application/json");
    send(address, request, whole(body)).await
}

pub async fn bytes(response: Response<Incoming>) -> Bytes {
    tokio::time::timeout(TEST_TIMEOUT, response.into_body().collect())
        .await
        .expect("a body in time")
        .unwrap()
        .to_bytes()
}

pub async fn json(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

/// The request with LiteLLM's secret after each line `Host: localhost`.
pub fn as_litellm(request: &[u8]) -> Vec<u8> {
    const HOST: &[u8] = b"Host: localhost";
    let mut with_secret = Vec::new();
    let mut rest = request;
    while let Some(at) = rest.windows(HOST.len()).position(|window| window == HOST) {
        let (before, after) = rest.split_at(at + HOST.len());
        with_secret.extend_from_slice(before);
        for line_end in ["\r\n", "\n"] {
            if after.starts_with(line_end.as_bytes()) {
                with_secret.extend_from_slice(format!("{line_end}{SECRET_HEADER}: {SECRET}").as_bytes());
                break;
            }
        }
        rest = after;
    }
    with_secret.extend_from_slice(rest);
    with_secret
}

/// Sends these very bytes, with LiteLLM's secret where they say `Host: localhost`, and returns everything until the
/// other side closes.
pub async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&as_litellm(request)).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer))
        .await
        .expect("an end in time")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Everything up to the empty line after the headers.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            tokio::time::timeout(TEST_TIMEOUT, stream.read_u8())
                .await
                .expect("headers in time")
                .unwrap(),
        );
    }
    String::from_utf8(head).unwrap()
}

/// A frame of a WebSocket client with a text message of up to 125 bytes, masked as all of them are.
pub fn client_frame(text: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
    assert!(text.len() < 126, "the length of a longer one takes more bytes");
    let masked = text
        .bytes()
        .zip(MASK.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    let header = [0x81, 0x80 | text.len() as u8];
    header.into_iter().chain(MASK).chain(masked).collect()
}

/// Name and value of each header, sorted.
pub fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    all.sort();
    all
}
