//! Connections to the operator: TLS that trusts the operator's own authority and no other, and on it HTTP/1.1 for the
//! stream, or HTTP/2 for exchanges, many of which share a connection.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use super::error::SyncError;
use crate::control::litellm_config::write::write;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";
const HTTPS_PORT: u16 = 443;
/// File with the newest certificates, in the folder of the overlay: that outlives the sidecar's container, and
/// LiteLLM cannot write to it.
const OPERATOR_CA_FILE: &str = "operator-ca.pem";

/// `https://HOST:PORT` of the operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    authority: Authority,
    name: ServerName<'static>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "must be https://HOST or https://HOST:PORT and nothing more, such as https://mcp-auth.mcp-auth.svc:8443"
)]
pub struct EndpointError;

/// PEM certificates to verify the operator by, until a snapshot says otherwise. All clones are one.
#[derive(Clone, Debug)]
pub struct OperatorCa(Arc<OperatorCaInner>);

#[derive(Debug)]
struct OperatorCaInner {
    current: RwLock<Arc<str>>,
    /// Where a restarted container finds what its predecessor was told.
    file: Option<PathBuf>,
}

/// How bytes get to the operator. A seam for tests, which have no network.
pub trait Connector: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn connect(&self, endpoint: &Endpoint) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

#[derive(Clone, Copy, Debug)]
pub struct TcpConnector;

/// For many requests at once. Closed when dropped.
pub struct Connection {
    pub sender: http2::SendRequest<Body>,
    driver: JoinHandle<()>,
}

/// For one request, whose body and whose answer both go on, in HTTP/1.1 or out of it. The operator has one of each sidecar, and
/// HTTP/2 would take it twice the memory to carry a single stream. Closed when dropped, unless it has left HTTP.
pub struct StreamConnection {
    pub sender: http1::SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl OperatorCa {
    pub fn new(pem: &str) -> Self {
        Self::with_file(pem, None)
    }

    /// What an earlier process of this pod was told, or else the certificates of the pod's admission.
    pub fn resume(admission_pem: &str, folder: &Path) -> Self {
        let file = folder.join(OPERATOR_CA_FILE);
        // Whatever is wrong with the file, the pod begins as it was admitted.
        let told = std::fs::read_to_string(&file)
            .ok()
            .filter(|pem| operator_tls_config(pem).is_ok());
        Self::with_file(told.as_deref().unwrap_or(admission_pem), Some(file))
    }

    fn with_file(pem: &str, file: Option<PathBuf>) -> Self {
        Self(Arc::new(OperatorCaInner {
            current: RwLock::new(pem.into()),
            file,
        }))
    }

    pub fn get(&self) -> Arc<str> {
        self.0.current.read().clone()
    }

    pub fn replace(&self, pem: &str) {
        *self.0.current.write() = pem.into();
        if let Some(file) = &self.0.file
            && let Err(error) = write(file, pem)
        {
            warn!(%error, "a restart of the sidecar will forget the operator's newest certificates");
        }
    }
}

impl Endpoint {
    pub fn host(&self) -> &str {
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(HTTPS_PORT)
    }

    /// For requests that do not have it in their URI.
    pub fn host_header(&self) -> HeaderValue {
        HeaderValue::from_str(self.authority.as_str()).expect("an authority has no other letters")
    }

    pub fn uri(&self, path: &'static str) -> Uri {
        let mut parts = Uri::from_static(path).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        Uri::from_parts(parts).expect("a scheme, an authority and a path are a URI")
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError)?;
        let bare = uri.scheme() == Some(&Scheme::HTTPS) && uri.path() == "/" && uri.query().is_none();
        let authority = uri
            .authority()
            .filter(|authority| bare && !authority.as_str().contains('@'));
        let authority = authority.ok_or(EndpointError)?.clone();
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self {
            authority,
            name: ServerName::try_from(host).map_err(|_| EndpointError)?,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority)
    }
}

impl Connector for TcpConnector {
    type Io = TcpStream;

    async fn connect(&self, endpoint: &Endpoint) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Connection {
    /// `ping`: how long a request waits until the peer is asked whether it lives, and how long it may take to
    /// say so.
    pub async fn open(
        connector: &impl Connector,
        endpoint: &Endpoint,
        operator_ca: &str,
        ping: Duration,
    ) -> Result<Self, SyncError> {
        let tls = connect_tls(connector, endpoint, operator_ca, HTTP2).await?;
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(ping)
            .keep_alive_timeout(ping);
        let (sender, connection) = http2.handshake(TokioIo::new(tls)).await?;
        // Its errors reach the request and the body, too, which say more about them.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }
}

impl StreamConnection {
    pub async fn open(
        connector: &impl Connector,
        endpoint: &Endpoint,
        operator_ca: &str,
    ) -> Result<Self, SyncError> {
        let tls = connect_tls(connector, endpoint, operator_ca, HTTP1).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let connection = connection.with_upgrades();
        // Its errors reach the request and the body, too, which say more about them.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Drop for StreamConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn connect_tls<D: Connector>(
    connector: &D,
    endpoint: &Endpoint,
    operator_ca: &str,
    protocol: &[u8],
) -> Result<TlsStream<D::Io>, SyncError> {
    let mut tls_config = operator_tls_config(operator_ca)?;
    tls_config.alpn_protocols = vec![protocol.to_vec()];
    let address = endpoint.to_string();
    let io = connector
        .connect(endpoint)
        .await
        .map_err(|error| SyncError::Unreachable {
            address: address.clone(),
            error,
        })?;
    TlsConnector::from(Arc::new(tls_config))
        .connect(endpoint.name.clone(), io)
        .await
        .map_err(|error| SyncError::Tls { address, error })
}

/// What verifies the operator by these PEM certificates and by nothing else.
pub fn operator_tls_config(operator_ca: &str) -> Result<ClientConfig, SyncError> {
    let invalid = |error: &dyn fmt::Display| SyncError::OperatorCaInvalid(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(operator_ca.as_bytes()) {
        roots
            .add(certificate.map_err(|error| invalid(&error))?)
            .map_err(|error| invalid(&error))?;
    }
    if roots.is_empty() {
        return Err(invalid(&"there is none"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::sync_client::testing::Authority;

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        let endpoint: Endpoint = "https://mcp-auth.mcp-auth.svc:8443".parse().unwrap();
        assert_eq!(
            (endpoint.host(), endpoint.port()),
            ("mcp-auth.mcp-auth.svc", 8443)
        );
        assert_eq!(
            endpoint.uri("/v1/sync"),
            "https://mcp-auth.mcp-auth.svc:8443/v1/sync"
        );
        assert_eq!(endpoint.host_header(), "mcp-auth.mcp-auth.svc:8443");
        let endpoint: Endpoint = "https://[::1]".parse().unwrap();
        assert_eq!((endpoint.host(), endpoint.port()), ("::1", 443));
        for text in [
            "http://a:1",
            "a:1",
            "https://a/path",
            "https://a?b",
            "https://u@a",
            "https://",
            "",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_certificates_are_no_trust() {
        assert_eq!(operator_tls_config("").unwrap_err().reason(), "OperatorCaInvalid");
        let not_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(
            operator_tls_config(not_pem).unwrap_err().reason(),
            "OperatorCaInvalid"
        );
    }

    #[test]
    fn a_restarted_container_trusts_what_its_predecessor_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let (admission, newer) = (Authority::new(), Authority::new());
        let first = OperatorCa::resume(&admission.pem, folder.path());
        assert_eq!(&*first.get(), admission.pem);
        first.replace(&newer.pem);
        assert_eq!(
            &*OperatorCa::resume(&admission.pem, folder.path()).get(),
            newer.pem
        );

        std::fs::write(folder.path().join(OPERATOR_CA_FILE), "torn").unwrap();
        assert_eq!(
            &*OperatorCa::resume(&admission.pem, folder.path()).get(),
            admission.pem
        );
    }
}
