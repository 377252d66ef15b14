//! An MCP server that answers every call and records what arrived: the headers, and over TLS the certificate that was
//! shown.

use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::wait::until;
use crate::{authority, setting, web};

/// Longest request that is read.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    head: String,
    /// DER of the certificate that the caller showed.
    pub certificate: Option<Vec<u8>>,
}

impl Call {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        web::header(&self.head, name)
    }

    /// The token of the Authorization header, with this scheme.
    pub fn token(&self, scheme: &str) -> Option<String> {
        let (found, token) = self.header("authorization")?.split_once(' ')?;
        (found == scheme).then(|| token.to_owned())
    }
}

pub struct Recorder {
    pub url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    task: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    pub async fn start() -> Self {
        Self::listening("http", None, None).await
    }

    /// One that names its authorization server to whoever calls without a token (RFC 9728).
    pub async fn protected(issuer: &str) -> Self {
        Self::listening("http", None, Some(issuer.to_owned())).await
    }

    /// By https, with a certificate of the authority, and demanding one of the caller that the authority has signed.
    pub async fn demanding_certificates() -> Self {
        let file = |name: &str| format!("{}/{name}", setting("MCPAUTH_TEST_AUTHORITY"));
        let mut roots = RootCertStore::empty();
        let bundle = authority::bundle();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots
                .add(certificate.expect("PEM"))
                .expect("the authority's certificate");
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .expect("a verifier");
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file("server.crt"))
            .expect("a certificate")
            .collect();
        let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("a key");
        let settings = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.expect("PEM"), key)
            .expect("they belong together");
        Self::listening("https", Some(TlsAcceptor::from(Arc::new(settings))), None).await
    }

    async fn listening(scheme: &str, tls: Option<TlsAcceptor>, issuer: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = format!("{scheme}://{}", listener.local_addr().expect("it listens"));
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let shared = Shared {
            origin: origin.clone(),
            issuer,
            calls: calls.clone(),
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tls.clone(), shared.clone()));
            }
        });
        Self {
            url: format!("{origin}/mcp"),
            calls,
            task,
        }
    }

    /// The last call with a token of this scheme, once there is one.
    pub async fn last(&self, scheme: &str) -> Call {
        let last = async || {
            let calls = self.calls.lock().expect("no test panics meanwhile");
            calls
                .iter()
                .rev()
                .find(|call| call.token(scheme).is_some())
                .cloned()
        };
        until("a call with a token", last, Option::is_some)
            .await
            .expect("it was there")
    }
}

#[derive(Clone)]
struct Shared {
    origin: String,
    issuer: Option<String>,
    calls: Arc<Mutex<Vec<Call>>>,
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Shared) {
    let Some(acceptor) = tls else {
        return answer(stream, None, shared).await;
    };
    // One without a certificate is turned away by the handshake.
    if let Ok(stream) = acceptor.accept(stream).await {
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(|all| all.first()).map(|der| der.to_vec());
        answer(stream, certificate, shared).await;
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    certificate: Option<Vec<u8>>,
    shared: Shared,
) {
    let mut request = Vec::new();
    let head = loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let call = Call {
                head: head.to_owned(),
                certificate: certificate.clone(),
            };
            let length = call.header("content-length").and_then(|text| text.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break head.to_owned();
            }
        }
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 && request.len() < MAX_REQUEST_BYTES => {}
            _ => return,
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let call = Call { head, certificate };
    let (status, headers, body) = match &shared.issuer {
        Some(issuer) if path.starts_with("/.well-known/oauth-protected-resource") => {
            let metadata = serde_json::json!({
                "resource": format!("{}/mcp", shared.origin),
                "authorization_servers": [issuer],
            });
            ("200 OK", String::new(), metadata.to_string())
        }
        Some(_) if call.header("authorization").is_none() => {
            let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", shared.origin);
            let challenge = format!("www-authenticate: Bearer resource_metadata=\"{metadata}\"\r\n");
            ("401 Unauthorized", challenge, "{}".to_owned())
        }
        _ => {
            shared.calls.lock().expect("no test panics meanwhile").push(call);
            ("200 OK", String::new(), ANSWER.to_owned())
        }
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // Who asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
