//! Servers on loopback that answer by path, and that a test can change while they run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub enum Reply {
    Json(Value),
    /// Status line, header lines with their ends, body.
    Raw(&'static str, String, String),
    Hang,
    /// Head, and then the letter x until the client has enough.
    Endless,
    /// The connection is closed without an answer.
    Close,
}

/// Whatever has no reply is answered with 404.
pub struct Server {
    pub port: u16,
    /// Scheme and host.
    base: &'static str,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    replies: Mutex<HashMap<String, Reply>>,
    requests: Mutex<Vec<String>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Reached by TLS, as `localhost`.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::start_with(Some(acceptor)).await
    }

    async fn start_with(acceptor: Option<TlsAcceptor>) -> Self {
        // As the program's main does; tests of one program share it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner::default());
        let shared = Arc::clone(&inner);
        let base = match &acceptor {
            None => "http://127.0.0.1",
            Some(_) => "https://localhost",
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, shared).await,
                        // A handshake that the client breaks off is what some tests are about.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, base, inner }
    }

    /// An authorization server with metadata at the usual place.
    pub async fn authorization_server() -> Self {
        let server = Self::start().await;
        server.json(
            "/.well-known/oauth-authorization-server",
            server.metadata(&server.url("")),
        );
        server
    }

    /// An MCP server that names `issuer` in metadata at the place that its challenge names.
    pub async fn naming(issuer: &str) -> Self {
        let server = Self::start().await;
        server.unauthorized(&format!(
            r#"Bearer resource_metadata="{}""#,
            server.url("/metadata.json")
        ));
        server.name(issuer);
        server
    }

    pub fn name(&self, issuer: &str) {
        self.json("/metadata.json", self.resource(issuer));
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}:{}{path}", self.base, self.port)
    }

    pub fn metadata(&self, issuer: &str) -> Value {
        json!({"issuer": issuer, "token_endpoint": self.url("/token")})
    }

    pub fn resource(&self, issuer: &str) -> Value {
        json!({"resource": self.url("/mcp"), "authorization_servers": [issuer]})
    }

    pub fn set(&self, path: &str, reply: Reply) {
        self.inner.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub fn unset(&self, path: &str) {
        self.inner.replies.lock().unwrap().remove(path);
    }

    pub fn json(&self, path: &str, document: Value) {
        self.set(path, Reply::Json(document));
    }

    /// The challenge of `/mcp`.
    pub fn unauthorized(&self, challenge: &str) {
        let headers = format!("www-authenticate: {challenge}\r\n");
        self.set("/mcp", Reply::Raw("401 Unauthorized", headers, String::new()));
    }

    /// Methods and paths since the last call, in order.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.inner.requests.lock().unwrap())
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, inner: Arc<Inner>) {
    let Some(head) = head(&mut stream).await else {
        return;
    };
    let line = head.lines().next().unwrap();
    let (method, rest) = line.split_once(' ').unwrap();
    let path = rest.split_once(' ').unwrap().0;
    // Credentials go to token endpoints and nowhere else.
    let shows_some = head.to_ascii_lowercase().contains("authorization:");
    assert!(!shows_some || path.ends_with("/token"), "{head}");
    inner.requests.lock().unwrap().push(format!("{method} {path}"));
    let reply = inner.replies.lock().unwrap().get(path).cloned();
    let (status, headers, body) = match reply {
        Some(Reply::Json(document)) => (
            "200 OK",
            "content-type: application/json\r\n".into(),
            document.to_string(),
        ),
        Some(Reply::Raw(status, headers, body)) => (status, headers, body),
        Some(Reply::Hang) => return std::future::pending().await,
        Some(Reply::Close) => return,
        Some(Reply::Endless) => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
            let _ = stream.write_all(head).await;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
            return;
        }
        None => ("404 Not Found", String::new(), String::new()),
    };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Head of one request, whose body is read too; `None` if the client went away.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| {
                    line.strip_prefix("content-length: ")
                        .map(|length| length.parse().unwrap())
                })
                .unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(head);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
