//! A token endpoint on loopback that does what it is told, faults included, which a real one cannot be made
//! to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcp_auth_oauth::{Client, ClientAuthentication, Limits, Registration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use url::form_urlencoded;

/// What is done with a request once it is read.
#[derive(Clone)]
pub enum Step {
    /// Sends these bytes and closes.
    Send(Vec<u8>),
    /// Sends these bytes and then nothing, with the connection open.
    SendAndHang(Vec<u8>),
    /// Sends these bytes and then the letter x until the client has enough.
    SendEndlessly(Vec<u8>),
}

pub struct Server {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<String>,
}

impl Server {
    /// Does the same with every request.
    pub async fn start(step: Step) -> Self {
        Self::start_with(vec![step], None).await
    }

    /// Gives these answers in turn, and the last one from then on.
    pub async fn answering(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self::start_with(answers.into_iter().map(Step::Send).collect(), None).await
    }

    pub async fn start_tls(step: Step, acceptor: TlsAcceptor) -> Self {
        Self::start_with(vec![step], Some(acceptor)).await
    }

    async fn start_with(steps: Vec<Step>, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, requests) = mpsc::unbounded_channel();
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let turn = counter.fetch_add(1, Ordering::SeqCst).min(steps.len() - 1);
                let (step, seen, acceptor) = (steps[turn].clone(), seen.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, step, seen).await,
                        // A handshake that breaks off is what some tests are about. What the client has sent
                        // by then is read to its end, or else the connection's reset would overtake the
                        // server's alert.
                        Some(acceptor) => match acceptor.accept(stream).into_fallible().await {
                            Ok(stream) => serve(stream, step, seen).await,
                            Err((_, mut stream)) => {
                                let _ = stream.shutdown().await;
                                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                            }
                        },
                    }
                });
            }
        });
        Self {
            port,
            connections,
            requests,
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The next request as it was on the wire.
    pub async fn request(&mut self) -> String {
        self.requests.recv().await.unwrap()
    }

    /// The form of the next request, its head besides.
    pub async fn form(&mut self) -> (String, BTreeMap<String, String>) {
        let request = self.request().await;
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let form = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        (head.to_owned(), form)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    pub fn registration(&self, authentication: ClientAuthentication) -> Registration {
        Registration {
            allow_insecure_http: true,
            ..Registration::new(self.url(), "client", authentication)
        }
    }

    pub fn client(&self, authentication: ClientAuthentication, limits: Limits) -> Client {
        install_provider();
        Client::with_limits(self.registration(authentication), limits).unwrap()
    }
}

/// As the program's main does; tests of one program share it.
pub fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A complete answer.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

pub fn json(status: &str, body: &str) -> Vec<u8> {
    answer(status, "content-type: application/json\r\n", body)
}

/// The value of a header, by its name in lower case.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    })
}

async fn serve<S>(mut stream: S, step: Step, seen: mpsc::UnboundedSender<String>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(request) = read(&mut stream).await else {
        return;
    };
    // A test that does not look at requests has dropped the receiver.
    let _ = seen.send(request);
    let (Step::Send(bytes) | Step::SendAndHang(bytes) | Step::SendEndlessly(bytes)) = &step;
    if stream.write_all(bytes).await.is_err() {
        return;
    }
    match step {
        Step::Send(_) => {
            let _ = stream.shutdown().await;
        }
        Step::SendAndHang(_) => std::future::pending().await,
        Step::SendEndlessly(_) => while stream.write_all(&[b'x'; 8192]).await.is_ok() {},
    }
}

/// Head and body of one request; `None` if the client went away.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec())
                .unwrap()
                .to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
