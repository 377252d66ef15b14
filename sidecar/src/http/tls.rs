//! TLS towards MCP servers: the platform's roots, a route's own CA bundle and its client certificate.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use mcp_auth_http_auth::authority_key::{USABLE_KEYS, UnusableAuthority};
use mcp_auth_protocol::sync::ClientCertificate;
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, Der, PrivateKeyDer, ServerName, TrustAnchor};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name of HTTP/2 over TLS (RFC 9113 section 3.1).
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Reads the platform's roots once, and only when a route with TLS needs them.
#[derive(Default)]
pub struct TlsConfigs {
    platform: OnceLock<RootCertStore>,
    /// Most routes have neither CA bundle nor client certificate and share this.
    plain: OnceLock<Arc<ClientConfig>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    #[error("the CA bundle is not PEM")]
    NotPem,
    #[error("the CA bundle holds no certificate")]
    Empty,
    #[error("certificate {position} of the CA bundle is not usable as an authority")]
    NotAnAuthority { position: usize },
    #[error("nothing can be verified by the CA bundle: {0}; {USABLE_KEYS}")]
    NoUsableKey(UnusableAuthority),
    #[error("{0}")]
    ClientCertificate(#[from] ClientCertificateError),
}

/// Why a client certificate and its key cannot be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClientCertificateError {
    #[error("tls.crt holds no certificate in PEM")]
    Chain,
    #[error("tls.key holds no private key in PEM of the forms PKCS#8, PKCS#1 and SEC1")]
    Key,
    #[error("tls.key is not the key of the first certificate in tls.crt")]
    Mismatch,
    #[error(
        "tls.crt and tls.key cannot be used for TLS; RSA of 2048 bits or more, P-256, P-384 and Ed25519 can"
    )]
    Unsupported,
}

/// How the other side is verified: by a certificate for this name.
pub struct Tls {
    connector: TlsConnector,
    /// Does not offer HTTP/2.
    http1_connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self {
            http1_connector: Arc::new(http1_only(&config)).into(),
            connector: config.into(),
            name,
        }
    }

    /// `offer_http2`: otherwise HTTP/1.1 alone is offered.
    pub(super) async fn handshake<S>(&self, stream: S, offer_http2: bool) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = match offer_http2 {
            true => &self.connector,
            false => &self.http1_connector,
        };
        connector.connect(self.name.clone(), stream).await
    }
}

impl TlsConfigs {
    /// For a server whose certificate is verified against the platform's roots and, if any, `ca_bundle`, and
    /// that is shown `client_certificate`, if any.
    pub fn config(
        &self,
        ca_bundle: Option<&str>,
        client_certificate: Option<&ClientCertificate>,
    ) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let platform = self.platform.get_or_init(platform_roots);
        if ca_bundle.is_none() && client_certificate.is_none() {
            let plain = self
                .plain
                .get_or_init(|| Arc::new(without_client_auth(platform.clone())));
            return Ok(plain.clone());
        }
        let mut roots = platform.clone();
        if let Some(pem) = ca_bundle {
            add_ca_bundle(&mut roots, pem)?;
        }
        let config = match client_certificate {
            None => without_client_auth(roots),
            Some(pair) => with_client_auth(roots, pair)?,
        };
        Ok(Arc::new(config))
    }
}

/// Read on a thread of its own: what it takes for that, several times what stays, is free as a whole once the thread has
/// ended, and not in between what stays.
fn platform_roots() -> RootCertStore {
    let reading = thread::Builder::new().name("roots".to_owned());
    let read = || FlatRoots::of(&read_platform_roots().roots);
    let roots = match reading.spawn(read).map(thread::JoinHandle::join) {
        Ok(Ok(roots)) => roots,
        Ok(Err(_)) | Err(_) => read(),
    };
    roots.store()
}

fn read_platform_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (added, ignored) = roots.add_parsable_certificates(native.certs);
    if added == 0 || !native.errors.is_empty() {
        // Not fatal: every route may bring its own CA bundle.
        tracing::warn!(
            added,
            ignored,
            errors = native.errors.len(),
            "platform certificates incomplete"
        );
    }
    roots
}

/// Roots in one buffer, where each would have two or three of its own, and once more in the configuration of each server with a
/// CA bundle.
#[derive(Default)]
struct FlatRoots {
    bytes: Vec<u8>,
    /// Lengths of subject, key and name constraints.
    roots: Vec<(usize, usize, Option<usize>)>,
}

impl FlatRoots {
    fn of(roots: &[TrustAnchor<'_>]) -> Self {
        let mut flat = Self::default();
        for root in roots {
            let constraints = root.name_constraints.as_deref();
            flat.bytes.extend_from_slice(&root.subject);
            flat.bytes.extend_from_slice(&root.subject_public_key_info);
            flat.bytes.extend_from_slice(constraints.unwrap_or_default());
            let lengths = (root.subject.len(), root.subject_public_key_info.len());
            flat.roots
                .push((lengths.0, lengths.1, constraints.map(<[u8]>::len)));
        }
        flat
    }

    /// The buffer stays for as long as the process lives, as the platform's roots do.
    fn store(&self) -> RootCertStore {
        let mut rest: &'static [u8] = Box::leak(self.bytes.as_slice().into());
        let mut take = |length| {
            let (part, after) = rest.split_at(length);
            rest = after;
            Der::from_slice(part)
        };
        let roots = self.roots.iter().map(|(subject, key, constraints)| TrustAnchor {
            subject: take(*subject),
            subject_public_key_info: take(*key),
            name_constraints: constraints.map(&mut take),
        });
        RootCertStore {
            roots: roots.collect(),
        }
    }
}

/// The authorities of a CA bundle that are left out, as nothing can be verified by them.
pub fn unusable_authorities(pem: &str) -> Vec<UnusableAuthority> {
    let added = add_ca_bundle(&mut RootCertStore::empty(), pem);
    added.unwrap_or_default()
}

/// Returns those that are left out. Where that would be all of them, it is an error.
fn add_ca_bundle(roots: &mut RootCertStore, pem: &str) -> Result<Vec<UnusableAuthority>, TlsConfigError> {
    let (mut position, mut left_out) = (0, Vec::new());
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        position += 1;
        let certificate = certificate.map_err(|_| TlsConfigError::NotPem)?;
        roots
            .add(certificate)
            .map_err(|_| TlsConfigError::NotAnAuthority { position })?;
        let unusable = |root: &TrustAnchor<'_>| {
            UnusableAuthority::find(position, &root.subject, &root.subject_public_key_info)
        };
        if let Some(unusable) = roots.roots.last().and_then(unusable) {
            roots.roots.pop();
            left_out.push(unusable);
        }
    }
    match (position, left_out.first()) {
        (0, _) => Err(TlsConfigError::Empty),
        (all, Some(first)) if left_out.len() == all => Err(TlsConfigError::NoUsableKey(first.clone())),
        _ => Ok(left_out),
    }
}

fn without_client_auth(roots: RootCertStore) -> ClientConfig {
    with_alpn(builder(roots).with_no_client_auth())
}

fn with_client_auth(
    roots: RootCertStore,
    pair: &ClientCertificate,
) -> Result<ClientConfig, ClientCertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| ClientCertificateError::Chain)?;
    if chain.is_empty() {
        return Err(ClientCertificateError::Chain);
    }
    let key = PrivateKeyDer::from_pem_slice(pair.key.expose_secret().as_bytes())
        .map_err(|_| ClientCertificateError::Key)?;
    let config = builder(roots).with_client_auth_cert(chain, key);
    config.map(with_alpn).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ClientCertificateError::Mismatch,
        _ => ClientCertificateError::Unsupported,
    })
}

fn builder(roots: RootCertStore) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}

/// The same without HTTP/2.
pub fn http1_only(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    config
}

/// The server takes its choice; one that knows no ALPN speaks HTTP/1.1.
fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config
}

/// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp521r1`.
#[cfg(test)]
pub const P521_AUTHORITY: &str = include_str!("testdata/p521-authority.pem");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_in_one_buffer_are_the_same_roots() {
        let named =
            |subject: &'static [u8], key: &'static [u8], constraints: Option<&'static [u8]>| TrustAnchor {
                subject: subject.into(),
                subject_public_key_info: key.into(),
                name_constraints: constraints.map(Into::into),
            };
        let roots = [
            named(b"one", b"key of one", None),
            named(b"", b"k", Some(b"constraints")),
            named(b"three", b"", Some(b"")),
        ];
        assert_eq!(FlatRoots::of(&roots).store().roots, roots);
        assert_eq!(FlatRoots::of(&[]).store().roots, []);
        assert_eq!(platform_roots().roots, read_platform_roots().roots);
    }

    #[test]
    fn a_bundle_that_cannot_be_used_says_why() {
        let error = |pem: &str| {
            add_ca_bundle(&mut RootCertStore::empty(), pem)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("no certificate at all"),
            "the CA bundle holds no certificate"
        );
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 of the CA bundle is not usable as an authority"
        );
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\n?\n"),
            "the CA bundle is not PEM"
        );
    }

    #[test]
    fn a_bundle_of_which_nothing_can_be_verified_is_refused_by_the_name_of_the_curve() {
        let mut roots = RootCertStore::empty();
        let error = add_ca_bundle(&mut roots, P521_AUTHORITY).unwrap_err().to_string();
        assert!(
            error.contains("certificate 1") && error.contains("P-521") && error.contains("P-384"),
            "{error}"
        );
        let usable = rcgen::generate_simple_self_signed(vec!["ca".to_owned()])
            .unwrap()
            .cert
            .pem();
        let left_out = add_ca_bundle(&mut roots, &format!("{usable}{P521_AUTHORITY}")).unwrap();
        assert_eq!(roots.len(), 1, "the other one");
        let [left_out] = &left_out[..] else {
            panic!("{left_out:?}")
        };
        let text = left_out.to_string();
        assert!(text.contains("certificate 2") && text.contains("P-521"), "{text}");
    }

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:brainpoolP256r1`.
    const BRAINPOOL_AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgDCCASagAwIBAgIUHhaULp5Db/uJNnz7Er+oSMYsY+8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJYXV0aG9yaXR5MCAXDTI2MTEzMDIyNDMxNVoYDzIxMjYxMTA2
MjI0MzE1WjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwWjAUBgcqhkjOPQIBBgkrJAMD
AggBAQcDQgAEGDj6pQ5azTc1sVB/qKLh1Hon2Q1lhum6SMtD1k+9cwVBwEzkvLUB
2uS7fnD8beWSb3dJbSAN78Dk/bgRvS1RiaNTMFEwHQYDVR0OBBYEFEataUCV9faH
21Z/KhNYEeg5PYnNMB8GA1UdIwQYMBaAFEataUCV9faH21Z/KhNYEeg5PYnNMA8G
A1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAJirIA+5CYVshpDehsjT
u7+cTV4bR+CklAbDfDwT+f/dAiAUsw/3B9XVx7GFmcRB5sQFJIO8T1UffFXSU5oT
VStNfA==
-----END CERTIFICATE-----
";
    /// Made by `openssl req -x509 -newkey rsa:2048`.
    const RSA_AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIDCzCCAfOgAwIBAgIUKAp4WjZu37uNEXXT3RKLttga2aowDQYJKoZIhvcNAQEL
BQAwFDESMBAGA1UEAwwJYXV0aG9yaXR5MCAXDTI2MTEzMDIyNDMxNloYDzIxMjYx
MTA2MjI0MzE2WjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwggEiMA0GCSqGSIb3DQEB
AQUAA4IBDwAwggEKAoIBAQCyj/uilRZPJiqbLnKxYw8+fZjHbAF1qZ2WWhci5sVE
qkD5EDDz9YV7l9Y5OaVoaX9qcsYYUotPtGYgwcdA1nW8mAsFjCEBOl4ODoIm0Mb6
hVKY5q744T1v/WTRK+IMnql31DqgpNdwk26gd9yPlFH5+xx7G2McjnPUghQ6By+N
Ps6XRTHXZffiWYtX5o/F39syEL8QS/ftI83uNjj8rhmXxg6LEfxFVN2KvdD/wtq2
dCISKX80H5OSa5nIGN3dWGdXWjXbIWo+d9dhOkGVNmz7QfvLM9CoCUmE2YBkXNpJ
XtRh3uuSbu1xXXbdeDOG4RVGMjXcJADZHg0tlj4qYRL9AgMBAAGjUzBRMB0GA1Ud
DgQWBBRe5AlnC6DQme46VpyY8zeEVaDcUjAfBgNVHSMEGDAWgBRe5AlnC6DQme46
VpyY8zeEVaDcUjAPBgNVHRMBAf8EBTADAQH/MA0GCSqGSIb3DQEBCwUAA4IBAQCv
SETrdzneBFLx781V51pKYm85mJb7b+sEVxxi4lLqCgbpk+SU28FL65iQr7d43LIb
w0H0IGj3MiHWp86IhY4gOtGWZZ3xLbkLmGyNrX3lPABGf7r0FAENO/XXoGr3X1HA
/TNJGKicH0jvaiiFLXFMEJl4n4EqXUaYo8pKpw0CKbOAx1IqSKXzdxfaeXaUEPeG
RzmhOHmUikkg6a9FLN+Ojm1VvF2De3aNWsb/tfH4YjvvYvt+Dg+dKlSgr9kc2RX+
7ynNo1QayHRJrAitiCNzL8GRoTQh4nQ8+YXN6xAbLgJwESm2dtUNGl4qdpxcbCAK
H1im9wbUBHA+P/LNIdYI
-----END CERTIFICATE-----
";

    #[test]
    fn only_what_handshakes_can_be_verified_by_is_added() {
        let mut roots = RootCertStore::empty();
        let refused = add_ca_bundle(&mut roots, BRAINPOOL_AUTHORITY).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("brainpoolP256r1"), "{refused}");
        let bundle = format!("{BRAINPOOL_AUTHORITY}{RSA_AUTHORITY}{P521_AUTHORITY}");
        let left_out = add_ca_bundle(&mut roots, &bundle).unwrap();
        let positions: Vec<_> = left_out.iter().map(|authority| authority.position).collect();
        assert_eq!((roots.len(), positions), (1, vec![1, 3]));
    }

    #[test]
    fn a_client_certificate_that_cannot_be_shown_says_which_half_is_wrong() {
        let pair = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["sidecar".to_owned()]).unwrap();
            let chain = params.self_signed(&key).unwrap().pem();
            ClientCertificate {
                chain,
                key: key.serialize_pem().into(),
            }
        };
        let error = |pair: &ClientCertificate| {
            with_client_auth(RootCertStore::empty(), pair)
                .map(|_| ())
                .unwrap_err()
        };
        let good = pair();
        assert!(with_client_auth(RootCertStore::empty(), &good).is_ok());
        let with = |chain: &str, key: &str| ClientCertificate {
            chain: chain.to_owned(),
            key: key.to_owned().into(),
        };
        let key = good.key.expose_secret();
        assert_eq!(error(&with("", key)), ClientCertificateError::Chain);
        assert_eq!(error(&with("no PEM", key)), ClientCertificateError::Chain);
        assert_eq!(
            error(&with(&good.chain, &good.chain)),
            ClientCertificateError::Key
        );
        assert_eq!(error(&with(&good.chain, "")), ClientCertificateError::Key);
        assert_eq!(
            error(&with(&good.chain, pair().key.expose_secret())),
            ClientCertificateError::Mismatch
        );
        let not_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(error(&with(not_pem, key)), ClientCertificateError::Unsupported);
    }
}
