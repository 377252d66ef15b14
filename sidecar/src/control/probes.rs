//! The health port: the kubelet's probes, the drain hook, the metrics, and context checks. Every client that reaches the
//! pod reaches it, so nothing here changes anything, except `/drain` and `/context-check`, which answer only who is in
//! the pod and knows its uid: this pod's own hook, and who may forward its ports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcp_auth_protocol::context_check::CheckValue;
use mcp_auth_protocol::pod::health;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::control::context_checks::ContextChecks;
use crate::control::drain::Drain;
use crate::control::health_connections::HealthConnections;
use crate::control::litellm::{Litellm, NotReady, ProbeResult};
use crate::control::proc_net::bind;
use crate::control::start_problems::StartProblems;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the metrics are rendered within a second, on the thread that answers probes; beyond, whoever asks gets the text of
/// before.
const MAX_RENDERED: u32 = 8;
/// A request here is one line and a few headers.
const MAX_HEADERS: usize = 8 * 1024;
const NOT_THE_HOOK: &str = "only the preStop hook of this pod's sidecar may drain it\n";
const NOT_IN_THE_POD: &str = "only who is in this pod, as by a forwarded port, and knows its uid may ask\n";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the answers are made from.
#[derive(Debug)]
pub struct Health {
    pub started: Started,
    /// Absent where LiteLLM's address is not known to the sidecar.
    pub litellm: Option<Litellm>,
    pub drain: Drain,
    pub drain_time: Duration,
    /// Known to the hook and to who may read the pod, and to nobody who only reaches the port.
    pub pod_uid: String,
    pub registry: Registry,
    pub rendered: RenderedMetrics,
    pub context_checks: ContextChecks,
}

/// The metrics as they were rendered last.
#[derive(Debug, Default)]
pub struct RenderedMetrics(Mutex<Rendered>);

#[derive(Debug, Default)]
struct Rendered {
    text: Bytes,
    /// Since when, and how often within the second that began then.
    since: Option<Instant>,
    times: u32,
}

/// Whether LiteLLM may start: set once, when the overlay is there.
#[derive(Clone, Debug, Default)]
pub struct Started(Arc<AtomicBool>);

impl Started {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens and answers, for ever.
pub async fn serve(address: SocketAddr, health: Arc<Health>, problems: StartProblems) {
    accept(bind("the health port", address, &problems).await, health).await;
}

async fn accept(listener: TcpListener, health: Arc<Health>) {
    let mut connections = HealthConnections::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that is gone already.
                debug!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (health, has_asked) = (health.clone(), Arc::new(AtomicBool::new(false)));
        let asks = has_asked.clone();
        let service = service_fn(move |request: Request<_>| {
            asks.store(true, Ordering::Relaxed);
            let health = health.clone();
            async move { Ok::<_, std::convert::Infallible>(health.answer(peer.ip(), &request).await) }
        });
        connections.make_room();
        let serving = tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "a connection to the health port failed");
            }
        });
        connections.add(peer.ip().to_canonical(), has_asked, serving.abort_handle());
        // What has been accepted is read before the next one is: a burst of many would end those at its beginning unread.
        yield_now().await;
    }
}

impl Health {
    async fn answer<B>(&self, peer: IpAddr, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            health::STARTUP => self.startup(),
            health::READY => self.ready().await,
            health::DRAIN if self.is_from_the_pod(peer, request) => self.drain().await,
            health::DRAIN => respond(StatusCode::FORBIDDEN, "text/plain", NOT_THE_HOOK),
            health::CONTEXT_CHECK if self.is_from_the_pod(peer, request) => self.context_check(request),
            health::CONTEXT_CHECK => respond(StatusCode::FORBIDDEN, "text/plain", NOT_IN_THE_POD),
            health::METRICS => self.metrics(),
            path => {
                let paths = [
                    health::STARTUP,
                    health::READY,
                    health::DRAIN,
                    health::CONTEXT_CHECK,
                    health::METRICS,
                ];
                let text = format!("no {path}; there is {}\n", paths.join(", "));
                respond(StatusCode::NOT_FOUND, "text/plain", text)
            }
        }
    }

    fn startup(&self) -> Response<Full<Bytes>> {
        if self.started.is_set() {
            return respond(StatusCode::OK, JSON, r#"{"started":true}"#);
        }
        unavailable(&NotReady {
            reason: "OverlayNotWritten",
            message: "waiting for routes and credentials, or for the overlay to be written".into(),
        })
    }

    /// Routes are loaded and LiteLLM's port accepts. Whether LiteLLM is ready is up to its own probes: the pod is
    /// as ready as it would be without the sidecar.
    async fn ready(&self) -> Response<Full<Bytes>> {
        if !self.started.is_set() {
            return self.startup();
        }
        let result = match &self.litellm {
            Some(litellm) => litellm.probe().await,
            None => ProbeResult::Listening {
                listener: 0,
                exposed: None,
            },
        };
        match result {
            ProbeResult::Listening { .. } => respond(StatusCode::OK, JSON, r#"{"ready":true}"#),
            ProbeResult::Down(why) => unavailable(&why),
        }
    }

    fn is_from_the_pod<B>(&self, peer: IpAddr, request: &Request<B>) -> bool {
        let uid = request.headers().get(health::POD_UID_HEADER);
        peer.to_canonical().is_loopback() && uid.is_some_and(|uid| uid.as_bytes() == self.pod_uid.as_bytes())
    }

    /// Meanwhile LiteLLM's own hook sleeps, so that by its SIGTERM no new request should come.
    async fn drain(&self) -> Response<Full<Bytes>> {
        if self.drain.start(self.drain_time) {
            info!(
                seconds = self.drain_time.as_secs(),
                "draining: the pod is about to end"
            );
        }
        self.drain.wait_for_end().await;
        respond(StatusCode::OK, JSON, r#"{"drained":true}"#)
    }

    fn context_check<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let stated = request.headers().get(health::CHECK_VALUE_HEADER);
        let stated = stated.map(|value| value.to_str().unwrap_or_default());
        match stated.unwrap_or_default().parse::<CheckValue>() {
            Ok(value) => {
                let sent = self.context_checks.ask(value);
                let text = serde_json::to_string(&sent).expect("texts and numbers are JSON");
                respond(StatusCode::OK, JSON, text)
            }
            Err(error) => {
                let text = format!("the header {} {error}\n", health::CHECK_VALUE_HEADER);
                respond(StatusCode::BAD_REQUEST, "text/plain", text)
            }
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.rendered.text(&self.registry) {
            Ok(text) => respond(StatusCode::OK, OPEN_METRICS, text),
            Err(_) => respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                "the metrics cannot be encoded\n",
            ),
        }
    }
}

impl RenderedMetrics {
    fn text(&self, registry: &Registry) -> Result<Bytes, std::fmt::Error> {
        let mut rendered = self.0.lock();
        let now = Instant::now();
        if rendered
            .since
            .is_none_or(|since| now - since >= Duration::from_secs(1))
        {
            (rendered.since, rendered.times) = (Some(now), 0);
        }
        if rendered.times < MAX_RENDERED {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry)?;
            rendered.times += 1;
            rendered.text = text.into();
        }
        Ok(rendered.text.clone())
    }
}

fn unavailable(why: &NotReady) -> Response<Full<Bytes>> {
    let text = serde_json::to_string(why).expect("two strings are JSON");
    respond(StatusCode::SERVICE_UNAVAILABLE, JSON, text)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn health(litellm: Option<Litellm>) -> Health {
        let mut registry = Registry::default();
        registry.register("calls", "Calls", Counter::<u64>::default());
        Health {
            started: Started::default(),
            litellm,
            drain: Drain::default(),
            drain_time: Duration::from_secs(5),
            pod_uid: "uid".into(),
            registry,
            rendered: RenderedMetrics::default(),
            context_checks: ContextChecks::default(),
        }
    }

    async fn get(health: &Health, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).header("mcpauth-pod-uid", "uid");
        let response = health.answer(LOOPBACK, &request.body(()).unwrap()).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn has_started_once_the_overlay_is_written() {
        let health = health(None);
        assert_eq!(get(&health, "/startup").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get(&health, "/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
        health.started.set();
        assert_eq!(get(&health, "/startup").await.0, StatusCode::OK);
        assert_eq!(get(&health, "/ready").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn says_why_it_is_not_ready() {
        // Bound, so that nothing else gets the port, and never listening.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let health = health(Some(Litellm {
            address,
            ours: vec![],
            timeout: Duration::from_secs(1),
            proc_net: Some("/proc/net".into()),
        }));
        health.started.set();
        let (status, body) = get(&health, "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let why: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(
            why["message"].as_str().unwrap().contains(&address.to_string()),
            "{why}"
        );
        assert_eq!(
            get(&health, "/startup").await.0,
            StatusCode::OK,
            "the start does not wait for LiteLLM"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_its_hook_gave_up_goes_on_to_its_end() {
        let health = health(None);
        let hook = tokio::time::timeout(Duration::from_secs(1), get(&health, "/drain")).await;
        assert!(hook.is_err(), "it takes five seconds");
        assert!(health.drain.is_draining());
        let began = tokio::time::Instant::now();
        let (first, second) = tokio::join!(get(&health, "/drain"), get(&health, "/drain"));
        assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
        assert_eq!(began.elapsed(), Duration::from_secs(4));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!health.drain.is_draining(), "the pod is still there");
    }

    #[tokio::test]
    async fn nobody_but_the_pods_own_hook_has_it_drain() {
        let health = health(None);
        let other_pod = IpAddr::from([10, 0, 0, 7]);
        let known = Request::get("/drain").header("mcpauth-pod-uid", "uid");
        let wrong = Request::get("/drain").header("mcpauth-pod-uid", "other");
        for (peer, request) in [
            (other_pod, known),
            (LOOPBACK, wrong),
            (LOOPBACK, Request::get("/drain")),
        ] {
            let answer = health.answer(peer, &request.body(()).unwrap()).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        }
        assert!(!health.drain.is_draining());
    }

    #[tokio::test]
    async fn a_context_check_is_told_to_who_is_in_the_pod_and_to_nobody_else() {
        let health = health(None);
        let value = CheckValue::new([7; 16]);
        let request = |uid: &str, value: &str| {
            let request = Request::get("/context-check").header("mcpauth-pod-uid", uid);
            request.header("mcpauth-check-value", value).body(()).unwrap()
        };
        let other_pod = IpAddr::from([10, 0, 0, 7]);
        for (peer, uid) in [(other_pod, "uid"), (LOOPBACK, "other"), (LOOPBACK, "")] {
            let answer = health.answer(peer, &request(uid, value.as_str())).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{peer} {uid}");
        }
        let of_a_user = health.answer(LOOPBACK, &request("uid", "ada")).await;
        assert_eq!(of_a_user.status(), StatusCode::BAD_REQUEST);
        let answer = health.answer(LOOPBACK, &request("uid", value.as_str())).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"requests":[]}"#);
    }

    #[tokio::test]
    async fn nothing_but_get_and_nothing_unknown() {
        let health = health(None);
        let post = health
            .answer(LOOPBACK, &Request::post("/drain").body(()).unwrap())
            .await;
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(!health.drain.is_draining());
        let (status, body) = get(&health, "/").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.contains("/metrics"));
    }

    #[tokio::test]
    async fn answers_over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(accept(listener, Arc::new(health(None))));
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains("calls_total 0"), "{answer}");
        }
        server.abort();
    }

    /// Of this address, with a request that is there already.
    async fn asking(address: SocketAddr, from: [u8; 4], path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(from), 0).into()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn probes_are_answered_among_bursts_of_strangers_who_ask_for_metrics() {
        const KUBELET: [u8; 4] = [127, 0, 0, 1];
        const STRANGER: [u8; 4] = [127, 0, 0, 2];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // All of them wait in the kernel when the first is accepted, and the probes stand before the strangers.
        let mut probes = Vec::new();
        for _ in 0..20 {
            probes.push(asking(address, KUBELET, "/startup").await);
        }
        let mut strangers = Vec::new();
        for _ in 0..80 {
            strangers.push(asking(address, STRANGER, "/metrics").await);
        }
        let started = health(None);
        started.started.set();
        let server = tokio::spawn(accept(listener, Arc::new(started)));
        let churn = [(); 4].map(|()| {
            tokio::spawn(async move {
                loop {
                    let mut stream = asking(address, STRANGER, "/metrics").await;
                    let _ = stream.read_to_string(&mut String::new()).await;
                }
            })
        });
        for _ in 0..20 {
            probes.push(asking(address, KUBELET, "/startup").await);
        }
        for mut probe in probes {
            let mut answer = String::new();
            probe.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
        }
        churn.iter().for_each(tokio::task::JoinHandle::abort);
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_that_are_asked_for_without_end_are_rendered_a_few_times_a_second() {
        let mut health = health(None);
        let calls = Counter::<u64>::default();
        health.registry.register("other", "Other", calls.clone());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            calls.inc();
            seen.insert(get(&health, "/metrics").await.1);
        }
        assert_eq!(seen.len(), MAX_RENDERED as usize);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(get(&health, "/metrics").await.1.contains("other_total 100"));
    }
}
