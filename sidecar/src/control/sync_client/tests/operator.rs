//! An operator made of a TLS and an HTTP server over a pipe in memory. What it does is decided step by step
//! by the test. Also a log that keeps what is written to it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use mcp_auth_protocol::sync::{Credential, Route, Server, Transport, UserContext};

use super::super::*;

pub const SECRET: &str = "t0ken-0f-an-mcp-server";

pub type Down = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An authority, and a server that it has vouched for.
#[derive(Clone)]
pub struct Authority {
    pub pem: String,
    pub acceptor: TlsAcceptor,
}

/// Hands the other end of each pipe to the test.
pub struct Pipes(mpsc::UnboundedSender<(Instant, DuplexStream)>);

pub struct Operator {
    pub pipes: mpsc::UnboundedReceiver<(Instant, DuplexStream)>,
    pub reports: watch::Sender<Report>,
    pub applied: Arc<Mutex<Vec<Snapshot>>>,
    pub token_file: tempfile::NamedTempFile,
    sync_task: JoinHandle<Infallible>,
}

/// One request of the sidecar.
pub struct Call {
    pub at: Instant,
    pub request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
    server: JoinHandle<()>,
    up: (LinesCodec, BytesMut),
}

impl Authority {
    pub fn new() -> Self {
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
        // In the order of the operator's own.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            pem,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

impl Pipes {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<(Instant, DuplexStream)>) {
        let (sender, pipes) = mpsc::unbounded_channel();
        (Self(sender), pipes)
    }
}

impl Connector for Pipes {
    type Io = DuplexStream;

    async fn connect(&self, _: &Endpoint) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.0
            .send((Instant::now(), far))
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }
}

impl Operator {
    pub fn followed_with(operator_ca: &str) -> Self {
        let mut token_file = tempfile::NamedTempFile::new().unwrap();
        writeln!(token_file, "first-identity").unwrap();
        let (connector, pipes) = Pipes::new();
        let sync_client = SyncClient {
            endpoint: "https://operator.test:8443".parse().unwrap(),
            operator_ca: OperatorCa::new(operator_ca),
            token_file: token_file.path().to_owned(),
            timing: Timing::default(),
            connector,
        };
        let reports = watch::Sender::new(Report {
            version: "1.2.3".into(),
            ..Report::default()
        });
        let applied = Arc::new(Mutex::new(Vec::new()));
        let (to, taken) = (reports.clone(), applied.clone());
        let sync_task = tokio::spawn(async move {
            sync_client
                .run(&to, |snapshot| taken.lock().unwrap().push(snapshot))
                .await
        });
        Self {
            pipes,
            reports,
            applied,
            token_file,
            sync_task,
        }
    }

    /// The next connection, not yet spoken to.
    pub async fn pipe(&mut self) -> (Instant, DuplexStream) {
        self.pipes.recv().await.unwrap()
    }

    /// The next request.
    pub async fn call(&mut self, authority: &Authority) -> Call {
        let (at, pipe) = self.pipe().await;
        let Calls { mut calls, server } = serve(authority, pipe).await;
        let (request, answer) = calls.recv().await.unwrap();
        Call {
            at,
            request,
            answer,
            server,
            up: (LinesCodec::new(), BytesMut::new()),
        }
    }

    pub fn revisions(&self) -> Vec<String> {
        self.applied
            .lock()
            .unwrap()
            .iter()
            .map(|snapshot| snapshot.revision.clone())
            .collect()
    }
}

/// The requests of one connection.
pub struct Calls {
    calls: mpsc::Receiver<(Request<Incoming>, oneshot::Sender<Answer>)>,
    server: JoinHandle<()>,
}

impl Calls {
    /// The next request, and what answers it.
    pub async fn recv(&mut self) -> Option<(Request<Incoming>, impl FnOnce(u16, String) + use<>)> {
        let (request, answer) = self.calls.recv().await?;
        let answer = move |status: u16, body: String| {
            let body = http_body_util::Full::new(Bytes::from(body));
            let mut response = Response::new(BodyExt::boxed_unsync(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let _ = answer.send(response);
        };
        Some((request, answer))
    }

    pub fn cut(self) {
        self.server.abort();
    }
}

/// Speaks TLS and HTTP at the other end of a pipe.
pub async fn serve(authority: &Authority, pipe: DuplexStream) -> Calls {
    let tls = authority.acceptor.accept(pipe).await.unwrap();
    let (sender, calls) = mpsc::channel::<(Request<Incoming>, oneshot::Sender<Answer>)>(1);
    let service = hyper::service::service_fn(move |request| {
        let sender = sender.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let _ = sender.send((request, answer)).await;
            answered.await
        }
    });
    let executor = hyper_util::rt::TokioExecutor::new();
    let connection = hyper_util::server::conn::auto::Builder::new(executor)
        .serve_connection_with_upgrades(hyper_util::rt::TokioIo::new(tls), service)
        .into_owned();
    let server = tokio::spawn(async move {
        let _ = connection.await;
    });
    Calls { calls, server }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.sync_task.abort();
    }
}

/// A request answered with a stream.
pub struct Stream {
    down: Down,
    pieces: BoxStream<'static, Bytes>,
    up: (LinesCodec, BytesMut),
    server: JoinHandle<()>,
    /// What carries the lines out of HTTP.
    carrier: Option<JoinHandle<()>>,
}

impl Call {
    pub fn authorization(&self) -> &str {
        self.request.headers()[AUTHORIZATION].to_str().unwrap()
    }

    pub fn asks_for_upgrade(&self) -> bool {
        self.request
            .headers()
            .get(UPGRADE)
            .is_some_and(|protocol| protocol == sync::UPGRADE)
    }

    /// As an operator of this version does it.
    pub fn accept(mut self) -> Stream {
        if !self.asks_for_upgrade() {
            return self.accept_in_http();
        }
        let upgrade = hyper::upgrade::on(&mut self.request);
        let mut response = Response::new(http_body_util::Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response
            .headers_mut()
            .insert(UPGRADE, HeaderValue::from_static(sync::UPGRADE));
        let _ = self.answer.send(response);
        let (down, frames) = mpsc::channel(16);
        let (pieces, received) = mpsc::channel(16);
        let carrier = tokio::spawn(carry(self.request.into_body(), upgrade, frames, pieces));
        let received = stream::unfold(received, |mut received: mpsc::Receiver<_>| async {
            received.recv().await.map(|piece| (piece, received))
        });
        Stream {
            down,
            pieces: received.boxed(),
            up: self.up,
            server: self.server,
            carrier: Some(carrier),
        }
    }

    /// As an operator does it that knows of no upgrade: the stream ends where the request's body does.
    pub fn accept_in_http(self) -> Stream {
        let (down, frames) = mpsc::channel(16);
        let frames = stream::unfold(frames, |mut frames: mpsc::Receiver<_>| async {
            frames.recv().await.map(|frame| (frame, frames))
        });
        let _ = self
            .answer
            .send(Response::new(BodyExt::boxed_unsync(StreamBody::new(frames))));
        let pieces = self.request.into_body().into_data_stream();
        Stream {
            down,
            pieces: pieces.filter_map(async |piece| piece.ok()).boxed(),
            up: self.up,
            server: self.server,
            carrier: None,
        }
    }

    pub fn refuse(self, status: StatusCode, body: &str) -> JoinHandle<()> {
        let body = http_body_util::Full::new(Bytes::from(body.to_owned()));
        let mut response = Response::new(BodyExt::boxed_unsync(body));
        *response.status_mut() = status;
        let _ = self.answer.send(response);
        self.server
    }
}

impl Stream {
    pub async fn send(&self, line: &str) {
        assert!(
            self.send_part(format!("{line}\n").into()).await,
            "the stream goes on"
        );
    }

    /// Some bytes, whether they end a line or not. False once the sidecar has ended the stream.
    pub async fn send_part(&self, bytes: Vec<u8>) -> bool {
        self.down.send(Ok(Frame::data(Bytes::from(bytes)))).await.is_ok()
    }

    pub async fn snapshot(&self, revision: &str, operator_ca: &str) {
        self.send(&serde_json::to_string(&snapshot(revision, operator_ca)).unwrap())
            .await;
    }

    pub async fn report(&mut self) -> Report {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// The next line of the sidecar, whatever it is.
    pub async fn line(&mut self) -> String {
        loop {
            let (codec, buffer) = &mut self.up;
            if let Some(line) = codec.decode(buffer).unwrap() {
                return line;
            }
            buffer.extend_from_slice(&self.pieces.next().await.unwrap());
        }
    }

    pub fn cut(self) {
        self.server.abort();
        if let Some(carrier) = self.carrier {
            carrier.abort();
        }
    }
}

/// Carries lines both ways once HTTP has handed the connection over, until one side ends.
async fn carry(
    mut first: Incoming,
    upgrade: hyper::upgrade::OnUpgrade,
    mut frames: mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
    pieces: mpsc::Sender<Bytes>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    while let Some(frame) = first.frame().await {
        let _ = pieces.send(frame.unwrap().into_data().unwrap()).await;
    }
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
    let mut room = [0; 4096];
    loop {
        tokio::select! {
            read = reader.read(&mut room) => match read {
                Ok(length @ 1..) => drop(pieces.send(Bytes::copy_from_slice(&room[..length])).await),
                _ => return,
            },
            frame = frames.recv() => {
                let Some(Ok(frame)) = frame else { break };
                let written = writer.write_all(frame.data_ref().unwrap()).await;
                if written.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = writer.shutdown().await;
}

pub fn snapshot(revision: &str, operator_ca: &str) -> Snapshot {
    Snapshot {
        revision: revision.into(),
        operator_ca: operator_ca.into(),
        fingerprint_key: None,
        servers: vec![Server {
            route: Route {
                resource: "tools".into(),
                server: "tools".into(),
                url: "https://tools.example.com/mcp".into(),
                transport: Transport::StreamableHttp,
                http1_only: false,
                affinity_cookies: Vec::new(),
                answer_timeout_seconds: None,
                ca_bundle: None,
                cookies: vec![],
                headers: vec![],
                user_context: UserContext::Optional,
                exchange: None,
                credential_identity: String::new(),
                audit: None,
                litellm: None,
            },
            resource_uid: None,
            client_certificate: None,
            egress_proxy: None,
            addresses: None,
            declined: None,
            credential: Credential::Bearer {
                id: String::new(),
                token: SECRET.into(),
                proof_key: None,
                expires_at: None,
            },
        }],
        sent_at: None,
        capabilities: Vec::new(),
        unreadable: vec![],
    }
}

pub fn refusal(reason: &str) -> String {
    format!(r#"{{"reason":"{reason}","message":"the pod is not entitled"}}"#)
}

/// Everything that is logged on this thread, at every level.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn capture(&self) -> tracing::subscriber::DefaultGuard {
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
