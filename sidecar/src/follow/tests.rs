//! Against an operator made of a TLS and an HTTP/2 server over a pipe in memory, with a clock that stands still
//! while anything is left to do. What the server does is decided step by step by the test.

use std::io::Write;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::ExposeSecret;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use mcp_auth_protocol::sync::{Credential, Route, Server, Transport, UserContext};

use super::*;

const SECRET: &str = "t0ken-0f-an-mcp-server";

type Down = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An authority, and a server that it has vouched for.
#[derive(Clone)]
struct Authority {
    pem: String,
    acceptor: TlsAcceptor,
}

/// Hands the other end of each pipe to the test.
struct Pipes(mpsc::UnboundedSender<(Instant, DuplexStream)>);

struct Operator {
    pipes: mpsc::UnboundedReceiver<(Instant, DuplexStream)>,
    reports: watch::Sender<Report>,
    applied: Arc<Mutex<Vec<Snapshot>>>,
    token_file: tempfile::NamedTempFile,
    follower: JoinHandle<Infallible>,
}

/// One request of the sidecar.
struct Call {
    at: Instant,
    request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
    server: JoinHandle<()>,
    up: Lines,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["operator.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], private)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            pem,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

impl Dial for Pipes {
    type Io = DuplexStream;

    async fn dial(&self, _: &Endpoint) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.0
            .send((Instant::now(), far))
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }
}

impl Operator {
    fn followed_with(operator_ca: &str) -> Self {
        let mut token_file = tempfile::NamedTempFile::new().unwrap();
        writeln!(token_file, "first-identity").unwrap();
        let (sender, pipes) = mpsc::unbounded_channel();
        let follow = Follow {
            endpoint: "https://operator.test:8443".parse().unwrap(),
            operator_ca: operator_ca.to_owned(),
            token_file: token_file.path().to_owned(),
            timing: Timing::default(),
            dial: Pipes(sender),
        };
        let reports = watch::Sender::new(Report {
            version: "1.2.3".into(),
            ..Report::default()
        });
        let applied = Arc::new(Mutex::new(Vec::new()));
        let (to, taken) = (reports.clone(), applied.clone());
        let follower = tokio::spawn(async move {
            follow
                .run(&to, |snapshot| taken.lock().unwrap().push(snapshot))
                .await
        });
        Self {
            pipes,
            reports,
            applied,
            token_file,
            follower,
        }
    }

    /// The next connection, not yet spoken to.
    async fn pipe(&mut self) -> (Instant, DuplexStream) {
        self.pipes.recv().await.unwrap()
    }

    /// The next request.
    async fn call(&mut self, authority: &Authority) -> Call {
        let (at, pipe) = self.pipe().await;
        let tls = authority.acceptor.accept(pipe).await.unwrap();
        let (sender, mut calls) = mpsc::channel::<(Request<Incoming>, oneshot::Sender<Answer>)>(1);
        let service = hyper::service::service_fn(move |request| {
            let sender = sender.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                let _ = sender.send((request, answer)).await;
                answered.await
            }
        });
        let executor = hyper_util::rt::TokioExecutor::new();
        let connection = hyper::server::conn::http2::Builder::new(executor)
            .serve_connection(hyper_util::rt::TokioIo::new(tls), service);
        let server = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (request, answer) = calls.recv().await.unwrap();
        Call {
            at,
            request,
            answer,
            server,
            up: Lines::new(1024 * 1024),
        }
    }

    fn revisions(&self) -> Vec<String> {
        self.applied
            .lock()
            .unwrap()
            .iter()
            .map(|snapshot| snapshot.revision.clone())
            .collect()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// A request answered with a stream.
struct Stream {
    down: Down,
    body: Incoming,
    up: Lines,
    server: JoinHandle<()>,
}

impl Call {
    fn authorization(&self) -> &str {
        self.request.headers()[AUTHORIZATION].to_str().unwrap()
    }

    fn accept(self) -> Stream {
        let (down, frames) = mpsc::channel(16);
        let frames = stream::unfold(frames, |mut frames: mpsc::Receiver<_>| async {
            frames.recv().await.map(|frame| (frame, frames))
        });
        let _ = self
            .answer
            .send(Response::new(BodyExt::boxed_unsync(StreamBody::new(frames))));
        Stream {
            down,
            body: self.request.into_body(),
            up: self.up,
            server: self.server,
        }
    }

    fn refuse(self, status: StatusCode, body: &str) -> JoinHandle<()> {
        let body = http_body_util::Full::new(Bytes::from(body.to_owned()));
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        *response.status_mut() = status;
        let _ = self.answer.send(response);
        self.server
    }
}

impl Stream {
    async fn send(&self, line: &str) {
        self.down
            .send(Ok(Frame::data(Bytes::from(format!("{line}\n")))))
            .await
            .unwrap();
    }

    async fn snapshot(&self, revision: &str, operator_ca: &str) {
        self.send(&serde_json::to_string(&snapshot(revision, operator_ca)).unwrap())
            .await;
    }

    async fn report(&mut self) -> Report {
        loop {
            if let Some(line) = self.up.next().unwrap() {
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = self.body.frame().await.unwrap().unwrap();
            self.up.push(frame.data_ref().unwrap());
        }
    }

    fn cut(self) {
        self.server.abort();
    }
}

fn snapshot(revision: &str, operator_ca: &str) -> Snapshot {
    Snapshot {
        revision: revision.into(),
        operator_ca: operator_ca.into(),
        servers: vec![Server {
            route: Route {
                resource: "tools".into(),
                server: "tools".into(),
                url: "https://tools.example.com/mcp".into(),
                transport: Transport::StreamableHttp,
                ca_bundle: None,
                cookies: vec![],
                headers: vec![],
                user_context: UserContext::Optional,
            },
            credential: Credential::Bearer {
                token: SECRET.into(),
                expires_at: None,
            },
        }],
    }
}

fn refusal(reason: &str) -> String {
    format!(r#"{{"reason":"{reason}","message":"the pod is not entitled"}}"#)
}

#[tokio::test(start_paused = true)]
async fn takes_each_snapshot_over_and_reports_it() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer first-identity");
    assert_eq!(
        (call.request.method(), call.request.uri().path()),
        (&Method::POST, sync::PATH)
    );
    let mut stream = call.accept();
    let first = stream.report().await;
    assert_eq!((first.version.as_str(), first.applied), ("1.2.3", None));

    stream.snapshot("r1", "").await;
    assert_eq!(stream.report().await.applied.as_deref(), Some("r1"));
    {
        let applied = operator.applied.lock().unwrap();
        let Credential::Bearer { token, .. } = &applied[0].servers[0].credential else {
            panic!()
        };
        assert_eq!(token.expose_secret(), SECRET);
    }

    operator
        .reports
        .send_modify(|report| report.restart_needed_for = vec!["tools".into()]);
    let changed = stream.report().await;
    assert_eq!(
        (changed.applied.as_deref(), changed.restart_needed_for),
        (Some("r1"), vec!["tools".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn comes_back_after_a_cut_with_the_token_of_the_day() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    std::fs::write(operator.token_file.path(), "second-identity").unwrap();
    stream.cut();

    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer second-identity");
    let report = call.accept().report().await;
    assert_eq!(
        report.applied.as_deref(),
        Some("r1"),
        "what is in use is said at once"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_longer_each_time_until_there_was_a_snapshot() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut last = None;
    let mut gaps = Vec::new();
    for _ in 0..12 {
        let (at, pipe) = operator.pipe().await;
        drop(pipe);
        gaps.extend(last.map(|last| at - last));
        last = Some(at);
    }
    for (gap, most) in gaps.iter().zip([
        250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000,
    ]) {
        let most = Duration::from_millis(most);
        // The timer of tokio counts whole milliseconds.
        assert!(
            most / 2 <= *gap && *gap <= most + Duration::from_millis(2),
            "{gaps:?}"
        );
    }

    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    let cut = Instant::now();
    stream.cut();
    let (again, _pipe) = operator.pipe().await;
    assert!(again - cut <= Duration::from_millis(252), "{:?}", again - cut);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_the_stream_and_silence_ends_it() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let call = operator.call(&authority).await;
    let began = call.at;
    let mut stream = call.accept();
    stream.report().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        stream.send("").await;
    }
    stream.snapshot("r1", "").await;
    stream.report().await;
    assert!(
        operator.pipes.try_recv().is_err(),
        "it is still the first connection"
    );
    let (again, _pipe) = operator.pipe().await;
    assert!(again - began >= Duration::from_secs(445), "{:?}", again - began);
    assert_eq!(operator.revisions(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_never_answers_is_left() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let (at, _silent_before_tls) = operator.pipe().await;
    let call = operator.call(&authority).await;
    assert!(call.at - at >= Timing::default().connect);
    let (again, _pipe) = operator.pipe().await;
    assert!(
        again - call.at >= Timing::default().silence,
        "nor does it wait for ever for the answer's head"
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_replaces_the_authority_for_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut operator = Operator::followed_with(&old.pem);
    let mut stream = operator.call(&old).await.accept();
    stream.report().await;
    stream.snapshot("r1", "no certificate at all").await;
    stream.report().await;
    stream.snapshot("r2", &new.pem).await;
    stream.report().await;
    stream.cut();

    let (_, pipe) = operator.pipe().await;
    assert!(
        old.acceptor.accept(pipe).await.is_err(),
        "the old authority is not trusted any more"
    );
    operator.call(&new).await.accept().report().await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_gets_no_token() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let mut operator = Operator::followed_with(&ours.pem);
    let (_, pipe) = operator.pipe().await;
    assert!(stranger.acceptor.accept(pipe).await.is_err());
    operator.call(&ours).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_no_snapshot_ends_the_stream() {
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    for line in ["no json", r#"{"revision":7}"#] {
        let mut stream = operator.call(&authority).await.accept();
        stream.report().await;
        stream.send(line).await;
    }
    operator.call(&authority).await;
    assert!(operator.revisions().is_empty());
}

/// Everything that is logged on this thread, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_once_and_again_when_it_changes() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut servers = Vec::new();
    for reason in ["NotEntitled", "NotEntitled", "NotEntitled", "PodGone"] {
        servers.push(
            operator
                .call(&authority)
                .await
                .refuse(StatusCode::FORBIDDEN, &refusal(reason)),
        );
    }
    servers.push(
        operator
            .call(&authority)
            .await
            .refuse(StatusCode::SERVICE_UNAVAILABLE, "<html>"),
    );
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;

    let text = log.text();
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        warnings[0].contains("403") && warnings[0].contains("NotEntitled: the pod is not entitled"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("PodGone"));
    assert!(warnings[2].contains("503") && warnings[2].contains("does not say why"));
    assert!(text.contains("connected to the operator again"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_token_file_is_named() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let path = operator.token_file.path().to_owned();
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    std::fs::write(&path, "late-identity").unwrap();
    let call = operator.call(&authority).await;
    assert_eq!(call.authorization(), "Bearer late-identity");
    let text = log.text();
    assert_eq!(text.matches("WARN").count(), 1, "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    std::fs::write(&path, "").unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_token_reaches_the_log() {
    let log = Log::default();
    let _guard = log.capture();
    let authority = Authority::new();
    let mut operator = Operator::followed_with(&authority.pem);
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.snapshot("r1", "").await;
    stream.report().await;
    // A token where another type is expected, which serde would quote.
    stream
        .send(&format!(
            r#"{{"revision":"r2","operatorCa":"","servers":"{SECRET}"}}"#
        ))
        .await;
    let mut stream = operator.call(&authority).await.accept();
    stream.report().await;
    stream.send(&format!(r#"{{"revision":"r3" "{SECRET}"#)).await;
    operator.call(&authority).await;

    let text = log.text();
    assert!(
        text.contains("StreamInvalid") && text.contains("DEBUG"),
        "the log is captured: {text}"
    );
    assert!(!text.contains(SECRET), "{text}");
    assert!(!text.contains("first-identity"), "{text}");
}

#[tokio::test]
async fn speaks_over_tcp() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint: Endpoint = format!("https://{address}").parse().unwrap();
    let (dialled, accepted) = tokio::join!(Tcp.dial(&endpoint), listener.accept());
    assert_eq!(dialled.unwrap().local_addr().unwrap(), accepted.unwrap().1);
}
