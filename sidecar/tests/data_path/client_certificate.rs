//! TLS client certificates, shown to an MCP server that requires one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::{ClientCertificate, Credential, Server};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;

use crate::scene::{Sidecar, bytes, json, post, server, unused_address, whole};

/// An authority that both sides trust, and a server that says whose certificate it was shown.
struct Mutual {
    port: u16,
    authority: Issuer<'static, KeyPair>,
    pem: String,
    connections: Arc<AtomicUsize>,
}

impl Mutual {
    async fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let authority = Issuer::new(params, key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mutual = Self {
            port: listener.local_addr().unwrap().port(),
            authority,
            pem: certificate.pem(),
            connections: Arc::default(),
        };
        let acceptor = mutual.acceptor(certificate.der());
        let connections = mutual.connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let service = service_fn(move |_: Request<Incoming>| {
                    let shown = shown.clone();
                    async move { Ok::<_, Infallible>(Response::new(whole(shown))) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        mutual
    }

    fn acceptor(&self, authority: &CertificateDer<'static>) -> tokio_rustls::TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let (certificate, key) = self.vouch_for("localhost");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }

    fn vouch_for(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.authority).unwrap(), key)
    }

    /// A pair, and the certificate as the server sees it.
    fn pair(&self, name: &str) -> (ClientCertificate, Vec<u8>) {
        let (certificate, key) = self.vouch_for(name);
        let pair = ClientCertificate {
            chain: certificate.pem(),
            key: key.serialize_pem().into(),
        };
        (pair, certificate.der().to_vec())
    }

    fn tools(&self, pair: Option<ClientCertificate>) -> Server {
        let mut tools = server(&format!("https://localhost:{}/mcp", self.port));
        tools.route.ca_bundle = Some(self.pem.clone());
        tools.client_certificate = pair;
        tools
    }
}

#[tokio::test]
async fn the_certificate_is_shown_and_a_new_one_needs_no_restart() {
    let mutual = Mutual::start().await;
    let ((first, first_seen), (second, second_seen)) = (mutual.pair("first"), mutual.pair("second"));
    let sidecar = Sidecar::start(unused_address().await, &[mutual.tools(Some(first))]);
    let ask = async || bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await;
    assert_eq!(ask().await, first_seen);
    assert_eq!(ask().await, first_seen);
    assert_eq!(mutual.connections.load(Ordering::SeqCst), 1);
    sidecar.routes.apply(&[mutual.tools(Some(second.clone()))]);
    assert_eq!(ask().await, second_seen, "not over a connection of the old one");
    sidecar.routes.apply(&[mutual.tools(Some(second))]);
    assert_eq!(ask().await, second_seen);
    assert_eq!(mutual.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_operator_that_was_restarted_leaves_tls_as_it_was_with_the_token() {
    let mutual = Mutual::start().await;
    let (pair, seen) = mutual.pair("first");
    let sidecar = Sidecar::start(unused_address().await, &[mutual.tools(Some(pair))]);
    let mut restarted = mutual.tools(None);
    restarted.route.ca_bundle = None;
    restarted.credential = Credential::Unavailable {
        reason: "Pending".into(),
        message: "the operator has just started".into(),
        keep: true,
    };
    assert_eq!(sidecar.routes.apply(&[restarted]), []);
    // The first connection is opened only now.
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(bytes(answer).await, seen);
}

#[tokio::test]
async fn without_the_certificate_the_server_lets_nobody_in() {
    let mutual = Mutual::start().await;
    let sidecar = Sidecar::start(unused_address().await, &[mutual.tools(None)]);
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(mutual.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_a_problem_that_names_the_field_and_shows_no_key() {
    let mutual = Mutual::start().await;
    let (mut pair, _) = mutual.pair("first");
    pair.key = mutual.pair("second").0.key;
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let problems = sidecar.routes.apply(&[mutual.tools(Some(pair))]);
    assert_eq!(problems[0].reason, "InvalidClientCertificate");
    assert!(
        problems[0].message.contains("spec.server.tls.clientCertificate"),
        "{problems:?}"
    );
    assert!(!problems[0].message.contains("PRIVATE"), "{problems:?}");
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = json(answer).await;
    assert_eq!(body["error"]["code"], -32052);
    assert!(
        body["error"]["message"].to_string().contains("clientCertificate"),
        "{body}"
    );
}
