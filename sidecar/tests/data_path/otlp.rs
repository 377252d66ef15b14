//! Audit lines and spans on their way to an OpenTelemetry collector, read by OpenTelemetry's own published messages.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::Audit;
use mcp_auth_sidecar::proxy::audit::{AuditLog, Destinations, Output};
use mcp_auth_sidecar::proxy::metrics::Metrics;
use mcp_auth_sidecar::proxy::otlp::{Exporter, OtlpArgs, Signal, resource};
use mcp_auth_sidecar::proxy::outbound::Limits;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue as Wrapped, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prometheus_client::registry::Registry;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::audit::{CALL, audited, validate};
use crate::scene::{Operator, Scripted, Sidecar, TEST_TIMEOUT, bytes, send, until, unused_address, whole};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector: what it was sent, and what it answers.
#[derive(Clone, Default)]
struct Collector {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    spans: Arc<Mutex<Vec<Bytes>>>,
    /// Its answers to the first requests; then it takes everything.
    answers: Arc<Mutex<Vec<(StatusCode, &'static str)>>>,
}

impl Collector {
    fn answering(answers: &[(StatusCode, &'static str)]) -> Self {
        let collector = Self::default();
        collector
            .answers
            .lock()
            .unwrap()
            .extend(answers.iter().rev().copied());
        collector
    }

    async fn start(&self) -> Scripted {
        let collector = self.clone();
        Scripted::start(move |request| collector.clone().answer(request)).await
    }

    async fn answer(self, request: Request<Incoming>) -> Response<crate::scene::Body> {
        let is_of_spans = request.uri().path().ends_with("/v1/traces");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let answer = self.answers.lock().unwrap().pop();
        let (status, text) = answer.unwrap_or((StatusCode::OK, "{}"));
        if status.is_success() {
            let taken = if is_of_spans { &self.spans } else { &self.bodies };
            taken.lock().unwrap().push(body);
        }
        let mut response = Response::new(whole(text));
        *response.status_mut() = status;
        response
    }

    /// Everything that it took.
    fn requests(&self) -> Vec<ExportLogsServiceRequest> {
        let bodies = self.bodies.lock().unwrap();
        let read = |body: &Bytes| serde_json::from_slice(body).expect("it is as OpenTelemetry publishes it");
        bodies.iter().map(read).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.spans.lock().unwrap();
        let read = |body: &Bytes| -> ExportTraceServiceRequest {
            serde_json::from_slice(body).expect("it is as OpenTelemetry publishes it")
        };
        let resources = bodies.iter().map(read).flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|spans| spans.scope_spans);
        scopes.flat_map(|spans| spans.spans).collect()
    }

    fn records(&self) -> Vec<LogRecord> {
        let requests = self.requests();
        let resources = requests.into_iter().flat_map(|request| request.resource_logs);
        let scopes = resources.flat_map(|logs| logs.scope_logs);
        scopes.flat_map(|logs| logs.log_records).collect()
    }
}

fn exporter(endpoint: &str, headers: Option<&str>, ca: Option<String>, metrics: &Metrics) -> Exporter {
    let args = OtlpArgs {
        otlp_endpoint: Some(endpoint.to_owned()),
        otlp_ca: ca,
        ..OtlpArgs::default()
    };
    let resource = resource("mcp-auth-sidecar", "llm", "litellm-0", "u");
    Exporter::start(args.settings(headers, resource).unwrap(), metrics.clone()).unwrap()
}

/// A sidecar whose audit log goes to a collector.
async fn sidecar(upstream: &Scripted, endpoint: &str, headers: Option<&str>) -> Sidecar {
    let url = format!("http://{}/mcp", upstream.address);
    Sidecar::with_audit_log(
        unused_address().await,
        &[audited(&url, Audit::default())],
        NonZeroUsize::MIN,
        Operator::default(),
        Limits::default(),
        |metrics| Destinations {
            lines: Output::Otlp,
            exporter: Some(exporter(endpoint, headers, None, metrics)),
            spans: false,
        },
    )
}

/// A sidecar whose calls are spans, and whose resource wants no audit lines.
fn traced(upstream: &Scripted, collector: &Scripted) -> Sidecar {
    let server = crate::scene::server(&format!("http://{}/mcp", upstream.address));
    Sidecar::with_audit_log(
        SocketAddr::from(([127, 0, 0, 1], 9)),
        &[server],
        NonZeroUsize::MIN,
        Operator::default(),
        Limits::default(),
        |metrics| Destinations {
            lines: Output::File("/dev/null".into()),
            exporter: Some(exporter(
                &format!("http://{}", collector.address),
                None,
                None,
                metrics,
            )),
            spans: true,
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of what the MCP server got: trace, parent and flags.
fn passed_on(request: &crate::scene::Seen) -> [String; 3] {
    let stated = request.headers["traceparent"].to_str().unwrap();
    let [version, parts @ ..] = <[&str; 4]>::try_from(stated.split('-').collect::<Vec<_>>()).unwrap();
    assert_eq!(version, "00");
    parts.map(str::to_owned)
}

async fn call(sidecar: &Sidecar) {
    let request =
        Request::post("/tools/mcp").header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let answer = send(sidecar.outbound, request, whole(CALL)).await;
    assert_eq!(answer.status(), 200);
    bytes(answer).await;
}

fn text(value: Option<&Wrapped>) -> &str {
    match value.and_then(|value| value.value.as_ref()) {
        Some(AnyValue::StringValue(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Wrapped> {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.as_ref())
}

const LINES: &str = "mcpauth_sidecar_audit_lines_total";
const QUEUE_FULL: &str = r#"mcpauth_sidecar_audit_lines_dropped_total{cause="queue_full"}"#;
const WRITE_FAILED: &str = r#"mcpauth_sidecar_audit_lines_dropped_total{cause="write_failed"}"#;

#[tokio::test]
async fn a_line_is_a_log_record_of_the_pod_with_its_trace_and_the_collector_knows_the_sender() {
    let (upstream, collector) = (Scripted::echo().await, Collector::default());
    let receiver = collector.start().await;
    let endpoint = format!("http://{}/behind/a/path/", receiver.address);
    let sidecar = sidecar(
        &upstream,
        &endpoint,
        Some("authorization=Bearer%20s3cret,x-scope-orgid=team"),
    )
    .await;
    call(&sidecar).await;
    assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);

    let request = receiver.only();
    assert_eq!(
        (&*request.method, &*request.target),
        ("POST", "/behind/a/path/v1/logs")
    );
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["authorization"], "Bearer s3cret");
    assert_eq!(request.headers["x-scope-orgid"], "team");

    let [request] = collector.requests().try_into().unwrap();
    let resource = request.resource_logs[0].resource.as_ref().unwrap();
    for (key, expected) in [
        ("service.name", "mcp-auth-sidecar"),
        ("k8s.pod.name", "litellm-0"),
        ("k8s.namespace.name", "llm"),
        ("service.instance.id", "u"),
    ] {
        assert_eq!(text(attribute(&resource.attributes, key)), expected);
    }
    let [record] = collector.records().try_into().unwrap();
    let line: Value = serde_json::from_str(text(record.body.as_ref())).unwrap();
    validate(&line);
    assert_eq!(
        (&line["tool"], &line["outcome"]),
        (&"search".into(), &"answered".into())
    );
    assert_eq!(hex(&record.trace_id), TRACE);
    let time: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
    let nanoseconds = jiff::Timestamp::from_nanosecond(record.time_unix_nano.into()).unwrap();
    assert!(
        nanoseconds.duration_since(time).as_millis() < 1,
        "{nanoseconds} and {time}"
    );
    assert!(record.observed_time_unix_nano >= record.time_unix_nano);
    assert_eq!(
        (&*record.event_name, record.severity_number),
        ("mcpauth.audit", 9)
    );
    assert_eq!(
        text(attribute(&record.attributes, "mcp.method.name")),
        "tools/call"
    );
    assert_eq!(text(attribute(&record.attributes, "gen_ai.tool.name")), "search");
    assert_eq!(
        attribute(&record.attributes, "http.response.status_code")
            .unwrap()
            .value,
        Some(AnyValue::IntValue(200))
    );
    assert_eq!(sidecar.metric(LINES), 1);
}

#[tokio::test]
async fn a_collector_that_is_overloaded_for_a_moment_gets_the_lines_later() {
    let (upstream, collector) = (
        Scripted::echo().await,
        Collector::answering(&[
            (StatusCode::SERVICE_UNAVAILABLE, "later"),
            (StatusCode::TOO_MANY_REQUESTS, ""),
        ]),
    );
    let receiver = collector.start().await;
    let sidecar = sidecar(&upstream, &format!("http://{}", receiver.address), None).await;
    call(&sidecar).await;
    until(|| collector.records().len() == 1).await;
    assert_eq!(receiver.seen().len(), 3);
    until(|| sidecar.metric(LINES) == 1).await;
    assert_eq!(sidecar.metric(WRITE_FAILED), 0);
}

#[tokio::test]
async fn what_a_collector_refuses_is_lost_counted_and_not_sent_again() {
    let (upstream, collector) = (
        Scripted::echo().await,
        Collector::answering(&[
            (StatusCode::UNAUTHORIZED, "who are you"),
            (StatusCode::OK, r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#),
        ]),
    );
    let receiver = collector.start().await;
    let sidecar = sidecar(&upstream, &format!("http://{}", receiver.address), None).await;
    for (requests, lost) in [(1, 1), (2, 2), (3, 2)] {
        call(&sidecar).await;
        assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);
        assert_eq!(receiver.seen().len(), requests);
        assert_eq!(sidecar.metric(WRITE_FAILED), lost);
    }
    assert_eq!(sidecar.metric(LINES), 1, "the one that was taken");
}

#[tokio::test]
async fn calls_are_answered_while_a_collector_is_away_and_a_flush_gives_up_in_time() {
    let upstream = Scripted::echo().await;
    // It takes the connection and never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let sidecar = sidecar(&upstream, &endpoint, None).await;
    for _ in 0..3 {
        call(&sidecar).await;
    }
    let log = sidecar.audit_log.clone();
    let flushed = tokio::task::spawn_blocking(move || log.flush(Duration::from_millis(100)));
    assert!(!flushed.await.unwrap(), "nobody has taken the lines");
    call(&sidecar).await;
    assert_eq!(upstream.seen().len(), 4);
    assert_eq!(sidecar.metric(LINES), 0);
}

#[tokio::test]
async fn nobody_takes_anything_and_memory_stays_bounded() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let exporter = exporter(
        &format!("http://{}", unused_address().await),
        None,
        None,
        &metrics,
    );
    for _ in 0..10_000 {
        exporter.push(Signal::Logs, br#"{"body":{"stringValue":"x"}}"#.to_vec());
    }
    let mut exposed = String::new();
    prometheus_client::encoding::text::encode(&mut exposed, &registry).unwrap();
    let dropped = exposed
        .lines()
        .find_map(|line| line.strip_prefix(QUEUE_FULL)?.trim().parse::<u64>().ok())
        .unwrap();
    // What the thread has taken already makes room for one batch.
    assert!(
        (10_000 - 4096 - 512..=10_000 - 4096).contains(&dropped),
        "{dropped}"
    );
}

#[tokio::test]
async fn a_collector_with_tls_is_verified_by_the_certificates_that_are_stated() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let (address, collector) = tls_collector(&certificate, &key).await;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let endpoint = format!("https://localhost:{}", address.port());
    let record = || br#"{"timeUnixNano":"1","body":{"stringValue":"x"}}"#.to_vec();

    let stranger = exporter(&endpoint, None, None, &metrics);
    stranger.push(Signal::Logs, record());
    assert!(flushed(&stranger, Exporter::flush).await, "it was given up");
    assert_eq!(collector.records().len(), 0);

    let trusting = exporter(&endpoint, None, Some(certificate.pem()), &metrics);
    trusting.push(Signal::Logs, record());
    assert!(flushed(&trusting, Exporter::flush).await);
    assert_eq!(collector.records().len(), 1);
}

/// Waits elsewhere: the collector answers on this thread.
async fn flushed<F: Clone + Send + 'static>(flushing: &F, flush: fn(&F, Duration) -> bool) -> bool {
    let flushing = flushing.clone();
    let flushed = tokio::task::spawn_blocking(move || flush(&flushing, TEST_TIMEOUT));
    flushed.await.unwrap()
}

async fn tls_collector(certificate: &rcgen::Certificate, key: &KeyPair) -> (SocketAddr, Collector) {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, collector) = (listener.local_addr().unwrap(), Collector::default());
    let answering = collector.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let collector = answering.clone();
            let service = service_fn(move |request| {
                let collector = collector.clone();
                async move { Ok::<_, std::convert::Infallible>(collector.answer(request).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (address, collector)
}

#[tokio::test]
async fn a_call_is_a_span_between_its_caller_and_the_mcp_server() {
    let (upstream, collector) = (Scripted::echo().await, Collector::default());
    let sidecar = traced(&upstream, &collector.start().await);
    let request = Request::post("/tools/mcp")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .header("tracestate", "vendor=1");
    let answer = send(sidecar.outbound, request, whole(CALL)).await;
    bytes(answer).await;
    assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);

    let [span] = collector.spans().try_into().unwrap();
    let seen = upstream.only();
    assert_eq!(
        passed_on(&seen),
        [TRACE.to_owned(), hex(&span.span_id), "01".to_owned()],
        "the span is the MCP server's parent"
    );
    assert_eq!(seen.headers["tracestate"], "vendor=1");
    assert_eq!(
        (hex(&span.trace_id), hex(&span.parent_span_id)),
        (TRACE.to_owned(), "00f067aa0ba902b7".to_owned())
    );
    assert_eq!(
        (&*span.name, &*span.trace_state),
        ("tools/call search", "vendor=1")
    );
    assert_eq!(span.kind, SpanKind::Client as i32);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    assert_eq!(span.status.unwrap().code, SpanStatus::Unset as i32);
    for (key, expected) in [
        ("mcpauth.server", "tools"),
        ("mcpauth.outcome", "answered"),
        ("mcp.method.name", "tools/call"),
        ("gen_ai.tool.name", "search"),
    ] {
        assert_eq!(text(attribute(&span.attributes, key)), expected);
    }
    assert_eq!(sidecar.metric("mcpauth_sidecar_spans_total"), 1);
    assert_eq!(sidecar.metric(LINES), 0, "the resource wants none");
}

#[tokio::test]
async fn a_trace_that_is_not_recorded_passes_as_it_is_and_makes_no_span() {
    let (upstream, collector) = (Scripted::echo().await, Collector::default());
    let sidecar = traced(&upstream, &collector.start().await);
    let stated = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let request = Request::post("/tools/mcp").header("traceparent", &stated);
    bytes(send(sidecar.outbound, request, whole(CALL)).await).await;
    assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);
    assert_eq!(upstream.only().headers["traceparent"], stated);
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn the_trace_is_that_of_the_message_or_begins_here() {
    let (upstream, collector) = (Scripted::echo().await, Collector::default());
    let sidecar = traced(&upstream, &collector.start().await);
    let of_litellm = format!(
        r#"{{"method":"tools/list","params":{{"_meta":{{"traceparent":"00-{TRACE}-00f067aa0ba902b7-01"}}}},"id":1}}"#
    );
    let request = Request::post("/tools/mcp");
    bytes(send(sidecar.outbound, request, whole(of_litellm)).await).await;
    // A trace state without a trace belongs to none.
    let request = Request::post("/tools/mcp").header("tracestate", "vendor=1");
    bytes(send(sidecar.outbound, request, whole(CALL)).await).await;
    assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);

    let spans = collector.spans();
    let [of_message, root] = [&spans[0], &spans[1]];
    assert_eq!(hex(&of_message.trace_id), TRACE);
    assert_eq!(hex(&of_message.parent_span_id), "00f067aa0ba902b7");
    assert!(root.parent_span_id.is_empty());
    let [first, second] = <[_; 2]>::try_from(upstream.seen()).unwrap();
    assert_eq!(
        passed_on(&first)[..2],
        [TRACE.to_owned(), hex(&of_message.span_id)]
    );
    assert_eq!(passed_on(&second)[..2], [hex(&root.trace_id), hex(&root.span_id)]);
    assert!(!second.headers.contains_key("tracestate"));
}

#[tokio::test]
async fn a_call_that_the_sidecar_refuses_is_a_span_that_says_why() {
    let (upstream, collector) = (Scripted::echo().await, Collector::default());
    let sidecar = traced(&upstream, &collector.start().await);
    let request =
        Request::post("/tools/elsewhere").header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let answer = send(sidecar.outbound, request, whole(CALL)).await;
    assert!(answer.status().is_client_error());
    bytes(answer).await;
    assert!(flushed(&sidecar.audit_log, AuditLog::flush).await);
    let [span] = collector.spans().try_into().unwrap();
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(span.status.unwrap().code, SpanStatus::Error as i32);
    assert_eq!(text(attribute(&span.attributes, "error.type")), "path_not_served");
    assert_eq!(upstream.seen().len(), 0);
}
