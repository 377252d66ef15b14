//! A sidecar's stream out of HTTP (`mcp_auth_protocol::sync::UPGRADE`), over a connection of a test's own.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// The operator's answer.
#[derive(Debug)]
pub enum Answer {
    /// From now on the connection carries lines alone.
    Stream(TokioIo<Upgraded>),
    /// Any other status, and the body.
    Refused(StatusCode, Bytes),
}

/// TLS as a sidecar's stream has it, trusting this authority (PEM) alone.
pub fn tls(authority: &str) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let mut tls = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection would have a cache of its own.
    tls.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(tls))
}

/// Asks for a stream with this body, which is the first report.
pub async fn open(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    token: &str,
    body: Bytes,
) -> hyper::Result<Answer> {
    let (mut requests, connection) = http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(sync::PATH)
        .header(HOST, host)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, sync::UPGRADE)
        .body(Full::new(body))
        .expect("a request");
    let response = requests.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        return Ok(Answer::Refused(
            status,
            response.into_body().collect().await?.to_bytes(),
        ));
    }
    Ok(Answer::Stream(TokioIo::new(hyper::upgrade::on(response).await?)))
}
