//! Whom the token request trusts: a token endpoint whose certificate a private authority signed.

use std::sync::Arc;

use mcp_auth_oauth::{Client, ClientAuthentication, ConnectError, Error, Registration, TokenRequest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::server::{self, Server, Step, json};

/// An authority's certificate, and an acceptor with a certificate of it for `name`.
pub fn authority(name: &str) -> (String, TlsAcceptor) {
    server::install_provider();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (issuer.pem(), TlsAcceptor::from(Arc::new(config)))
}

async fn request(port: u16, ca_bundle: String) -> Result<(), Error> {
    let registration = Registration {
        ca_bundle: Some(ca_bundle),
        ..Registration::new(
            format!("https://localhost:{port}/token"),
            "client",
            ClientAuthentication::SecretBasic("s3cret".into()),
        )
    };
    Client::new(registration)
        .unwrap()
        .request_token(&TokenRequest::default())
        .await
        .map(drop)
}

async fn start(acceptor: TlsAcceptor) -> Server {
    Server::start_tls(Step::Send(json("200 OK", r#"{"access_token":"t0p"}"#)), acceptor).await
}

#[tokio::test]
async fn an_authority_of_the_bundle_is_trusted() {
    let (pem, acceptor) = authority("localhost");
    let server = start(acceptor).await;
    request(server.port, pem).await.unwrap();
}

#[tokio::test]
async fn every_authority_of_the_bundle_is_trusted() {
    let (pem, acceptor) = authority("localhost");
    let server = start(acceptor).await;
    request(server.port, authority("localhost").0 + &pem)
        .await
        .unwrap();
}

#[tokio::test]
async fn another_authority_is_not_and_the_error_says_why() {
    let (_, acceptor) = authority("localhost");
    let server = start(acceptor).await;
    let error = request(server.port, authority("localhost").0).await.unwrap_err();
    assert_eq!(error.reason(), "ConnectTls");
    assert!(
        error
            .message()
            .contains("set caBundle if a private authority signed it"),
        "{}",
        error.message()
    );
    let Error::Connect(ConnectError::Tls(Some(detail))) = error else {
        panic!("{error:?}")
    };
    assert!(detail.contains("certificate"), "{detail}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let (pem, acceptor) = authority("elsewhere.example.com");
    let server = start(acceptor).await;
    assert_eq!(
        request(server.port, pem).await.unwrap_err().reason(),
        "ConnectTls"
    );
}
