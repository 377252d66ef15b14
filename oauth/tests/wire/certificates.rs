//! The client certificate in the TLS handshake: what the server sees, and what comes of a wrong one.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth::{
    Client, ClientAuthentication, ClientCertificate, Clock, Error, Registration, TokenRequest,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use crate::TOKEN;
use crate::server::{self, Server, Step, header, json};

/// An authority of its own, for clients and for the server.
struct Ground(CertifiedIssuer<'static, KeyPair>);

impl Ground {
    fn new(name: &str) -> Self {
        server::install_provider();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A client certificate that ends with this year.
    fn certificate(&self, algorithm: &'static SignatureAlgorithm, year: i32) -> ClientCertificate {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(year, 12, 31);
        ClientCertificate {
            chain: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem().into(),
        }
    }

    /// A server that takes certificates of `clients` only.
    async fn server(&self, clients: &Ground, versions: &[&'static SupportedProtocolVersion]) -> Server {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(clients.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let config = ServerConfig::builder_with_protocol_versions(versions)
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        Server::start_tls(
            Step::Send(json("200 OK", TOKEN)),
            TlsAcceptor::from(Arc::new(config)),
        )
        .await
    }

    fn client(&self, port: u16, authentication: ClientAuthentication) -> Result<Client, Error> {
        Client::new(Registration {
            ca_bundle: Some(self.0.pem()),
            ..Registration::new(
                format!("https://localhost:{port}/token"),
                "client",
                authentication,
            )
        })
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

async fn ask(client: &Client) -> Result<(), Error> {
    client.request_token(&TokenRequest::default()).await.map(drop)
}

/// The error of a pair that is refused before anything is asked.
fn problem(chain: &str, key: &str) -> String {
    let certificate = ClientCertificate {
        chain: chain.into(),
        key: key.into(),
    };
    let error = Ground::new("a")
        .client(1, ClientAuthentication::Tls(certificate))
        .unwrap_err();
    assert_eq!(error.reason(), "InvalidCertificate");
    assert!(
        error
            .message()
            .starts_with("clientAuthentication.certificateRef ")
    );
    error.message()
}

fn text(certificate: &ClientCertificate) -> &str {
    secrecy::ExposeSecret::expose_secret(&certificate.key)
}

#[tokio::test]
async fn a_certificate_is_shown_beside_any_other_method() {
    let ground = Ground::new("a");
    let mut server = ground.server(&ground, BOTH).await;
    let registration = Registration {
        ca_bundle: Some(ground.0.pem()),
        certificate: Some(ground.certificate(&PKCS_ECDSA_P256_SHA256, 4000)),
        ..Registration::new(
            format!("https://localhost:{}/token", server.port),
            "client",
            ClientAuthentication::SecretPost("s3cret".into()),
        )
    };
    ask(&Client::new(registration.clone()).unwrap()).await.unwrap();
    assert_eq!(server.form().await.1["client_secret"], "s3cret");
    // It is what the server wanted.
    let without = Registration {
        certificate: None,
        ..registration
    };
    let error = ask(&Client::new(without).unwrap()).await.unwrap_err();
    assert_eq!(error.reason(), "ConnectClientCertificate");
}

#[tokio::test]
async fn the_certificate_says_who_the_client_is_and_the_form_its_name() {
    let ground = Ground::new("a");
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        for version in BOTH {
            let mut server = ground.server(&ground, &[version]).await;
            let certificate = ground.certificate(algorithm, 4000);
            let client = ground
                .client(server.port, ClientAuthentication::Tls(certificate))
                .unwrap();
            ask(&client).await.unwrap();
            let (head, form) = server.form().await;
            assert_eq!(header(&head, "authorization"), None);
            assert_eq!(form["client_id"], "client");
            assert_eq!(form.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_certificate_that_the_server_does_not_trust_is_told_as_such() {
    let ground = Ground::new("a");
    // A server that knows an authority of the same name looks at the signature.
    for (other, version) in [
        (Ground::new("b"), BOTH[0]),
        (Ground::new("b"), BOTH[1]),
        (Ground::new("a"), BOTH[0]),
        (Ground::new("a"), BOTH[1]),
    ] {
        let server = ground.server(&ground, &[version]).await;
        let certificate = other.certificate(&PKCS_ECDSA_P256_SHA256, 4000);
        let client = ground
            .client(server.port, ClientAuthentication::Tls(certificate))
            .unwrap();
        let error = ask(&client).await.unwrap_err();
        assert_eq!(error.reason(), "ConnectClientCertificate", "{error:?}");
        assert!(
            error.message().contains("clientAuthentication.certificateRef"),
            "{}",
            error.message()
        );
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_a_client_without_one_is_told_with_the_way_out() {
    let ground = Ground::new("a");
    let server = ground.server(&ground, BOTH).await;
    let client = ground
        .client(server.port, ClientAuthentication::SecretBasic("s3cret".into()))
        .unwrap();
    let error = ask(&client).await.unwrap_err();
    assert_eq!(error.reason(), "ConnectClientCertificate");
    assert!(error.message().contains("TlsClientAuth"), "{}", error.message());
}

#[tokio::test]
async fn an_expired_certificate_is_told_and_never_shown() {
    let ground = Ground::new("a");
    let server = ground.server(&ground, BOTH).await;
    let certificate = ground.certificate(&PKCS_ECDSA_P256_SHA256, 4000);
    let client = |now: &str| {
        ground
            .client(server.port, ClientAuthentication::Tls(certificate.clone()))
            .unwrap()
            .with_clock(Clock::starting_at(now.parse().unwrap()))
    };
    ask(&client("4000-12-30T23:59:50Z")).await.unwrap();
    let error = ask(&client("4001-01-01T00:00:00Z")).await.unwrap_err();
    let at: Timestamp = "4000-12-31T00:00:00Z".parse().unwrap();
    assert_eq!(error, Error::CertificateExpired { at });
    assert!(
        error.message().starts_with(
            "clientAuthentication.certificateRef holds a certificate that expired at 4000-12-31T00:00:00Z"
        ),
        "{}",
        error.message()
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn without_tls_there_is_no_certificate_to_show_and_nothing_is_sent() {
    let ground = Ground::new("a");
    let server = Server::answering([json("200 OK", TOKEN)]).await;
    let certificate = ground.certificate(&PKCS_ECDSA_P256_SHA256, 4000);
    let client = Client::new(server.registration(ClientAuthentication::Tls(certificate))).unwrap();
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.reason(), server.connections()), ("InvalidUrl", 0));
}

#[test]
fn each_mistake_in_the_pair_is_told_by_its_name() {
    let ground = Ground::new("a");
    let [good, other] = [4000, 4000].map(|year| ground.certificate(&PKCS_ECDSA_P256_SHA256, year));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----";
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
    let p521 = include_str!("../../src/jose/signing_key/testdata/p521.pem");
    let junk = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    for (chain, key, words) in [
        ("", text(&good), "holds no certificate"),
        (text(&good), text(&good), "holds no certificate"),
        (broken, text(&good), "holds a chain that is no PEM"),
        (empty, text(&good), "that is not X.509"),
        (&good.chain, "", "holds no private key in PEM"),
        (&good.chain, &good.chain, "holds no private key in PEM"),
        (&good.chain, encrypted, "holds an encrypted key"),
        (&good.chain, junk, "holds a key that TLS cannot sign with"),
        (&good.chain, p521, "EC P-256, EC P-384 and Ed25519 keys can"),
        (&good.chain, text(&other), "do not belong together"),
    ] {
        let problem = problem(chain, key);
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn debug_output_never_holds_the_key() {
    let ground = Ground::new("a");
    let certificate = ground.certificate(&PKCS_ECDSA_P256_SHA256, 4000);
    let body: String = text(&certificate)
        .lines()
        .filter(|line| !line.contains("-----"))
        .collect();
    let client = ground.client(1, ClientAuthentication::Tls(certificate)).unwrap();
    let seen = format!("{client:?}");
    let bytes = body.as_bytes();
    // The first bytes of all such keys are the same, and so say nothing.
    let leaks = bytes[48..]
        .windows(8)
        .any(|piece| seen.contains(std::str::from_utf8(piece).unwrap()));
    assert!(!leaks, "{seen}");
}
