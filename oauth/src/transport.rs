//! HTTP transport to the token endpoint: a built request goes out, a complete answer or a fault comes back.
//! Bounded in time and size, follows no redirect, and keeps no connection, since hours pass between two
//! requests.

pub(crate) mod body_shape;
pub(crate) mod client_certificate;
pub(crate) mod connect_error;
mod tls;

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Request, StatusCode};
use jiff::Timestamp;
use mcp_auth_http_auth::{Challenge, clock_offset};
use reqwest::{Response, redirect, retry};
use rustls::AlertDescription;
use url::Url;

use crate::destinations::Destinations;
use crate::egress_proxy::EgressProxy;
use crate::redact::Redactor;
use crate::ssrf::{AddressPolicy, AddressScope, ForbiddenAddressError, GuardedResolver, UnresolvedHostError};
use crate::{Error, RetryAfter};
use client_certificate::Certificate;
use connect_error::ConnectError;
pub use tls::check_authority_keys;

/// Longest nonce kept, in bytes.
const MAX_NONCE_LEN: usize = 1024;

/// What some servers write before their JSON, and readers may pass over (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Bounds of one token request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    /// Until the whole answer is there.
    pub deadline: Duration,
    /// Longest answer in bytes.
    pub body: usize,
}

/// Where requests may go.
#[derive(Clone, Debug)]
pub(crate) struct TransportRules {
    /// Whether plain http is allowed.
    pub allow_http: bool,
    /// Whether anything may be reached by TLS.
    pub encrypted: bool,
    pub addresses: AddressPolicy,
    pub destinations: Destinations,
    pub egress_proxy: Option<EgressProxy>,
}

#[derive(Clone, Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    addresses: AddressPolicy,
    destinations: Destinations,
    egress_proxy: Option<EgressProxy>,
    limits: Limits,
}

/// A complete answer. No `Debug`: the body may hold a token.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub content_type: Option<String>,
    pub retry_after: Option<RetryAfter>,
    /// The server's time.
    pub date: Option<Timestamp>,
    /// Where a redirect leads. The rest of the address is not kept: it may repeat what was sent.
    pub location_host: Option<String>,
    /// The nonce for the next DPoP proof.
    pub dpop_nonce: Option<String>,
    /// The error of a challenge: what some answers say in `WWW-Authenticate` alone.
    pub challenge_error: Option<String>,
    pub body: Vec<u8>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            body: 1024 * 1024,
        }
    }
}

impl Transport {
    /// Trusts the authorities of the system and those of `ca_bundle` (PEM), and shows `certificate` to who
    /// asks for one.
    pub fn new(
        rules: TransportRules,
        ca_bundle: Option<&str>,
        certificate: Option<&Certificate>,
        limits: Limits,
    ) -> Result<Self, Error> {
        let tls = tls::client_config(ca_bundle, rules.encrypted, certificate)?;
        let builder = reqwest::Client::builder()
            .user_agent(concat!("mcp-auth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .timeout(limits.deadline)
            .https_only(!rules.allow_http)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            // One request a connection, so HTTP/2 has nothing to offer, and proxies and servers that offer it
            // and fail at it are no rarity.
            .http1_only()
            // None but the ones that are stated here.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .dns_resolver(GuardedResolver::new(
                rules.addresses.clone(),
                rules.destinations.addresses.scope(),
                rules.egress_proxy.iter().flat_map(EgressProxy::hosts),
                match &rules.egress_proxy {
                    Some(proxy) if proxy.is_of_resource() => rules.destinations.addresses.scope(),
                    _ => AddressScope::Any,
                },
            ));
        let proxies = rules.egress_proxy.iter().flat_map(EgressProxy::to_reqwest);
        let builder = proxies.fold(builder, reqwest::ClientBuilder::proxy);
        let http = builder.tls_backend_preconfigured(tls).build();
        let http = http.expect("all that can be wrong with a client's configuration is checked before");
        Ok(Self {
            http,
            addresses: rules.addresses,
            destinations: rules.destinations,
            egress_proxy: rules.egress_proxy,
            limits,
        })
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub async fn send(&self, request: Request<Vec<u8>>) -> Result<Answer, Error> {
        let response = self.execute(request).await?;
        let mut answer = Answer {
            status: response.status(),
            content_type: text(response.headers(), CONTENT_TYPE),
            retry_after: RetryAfter::from_headers(response.status(), response.headers()),
            date: clock_offset::date(response.headers()),
            location_host: text(response.headers(), LOCATION)
                .and_then(|location| response.url().join(&location).ok())
                .and_then(|location| location.host_str().map(str::to_owned)),
            dpop_nonce: text(response.headers(), DPOP_NONCE).filter(|nonce| is_nonce(nonce)),
            challenge_error: Challenge::from_headers(response.headers())
                .and_then(|challenge| challenge.error),
            body: Vec::new(),
        };
        answer.body = self.body(response).await?;
        Ok(answer)
    }

    /// Status and headers of an answer, whose body is not read.
    pub async fn probe(&self, request: Request<Vec<u8>>) -> Result<(StatusCode, HeaderMap), Error> {
        let response = self.execute(request).await?;
        Ok((response.status(), response.headers().clone()))
    }

    async fn execute(&self, request: Request<Vec<u8>>) -> Result<Response, Error> {
        let mut request = reqwest::Request::try_from(request).map_err(|_| Error::InvalidUrl {
            problem: "cannot be requested",
        })?;
        // Without it a server may compress as it likes (RFC 9110 section 12.5.3).
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, identity);
        self.destinations
            .check(request.url())
            .map_err(|forbidden| Error::Connect(ConnectError::ForbiddenByPolicy(forbidden)))?;
        // An address in the URL is connected to without a resolver being asked.
        self.addresses
            .check_url(request.url())
            .map_err(|forbidden| Error::Connect(ConnectError::Forbidden(forbidden)))?;
        let is_proxied = self.is_proxied(request.url());
        self.http
            .execute(request)
            .await
            .map_err(|error| self.to_error(&error, is_proxied))
    }

    fn is_proxied(&self, url: &Url) -> bool {
        self.egress_proxy
            .as_ref()
            .is_some_and(|egress_proxy| egress_proxy.applies_to(url))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.to_error(&error, false))?
        {
            if body.len() + chunk.len() > self.limits.body {
                return Err(Error::TooLarge {
                    limit: self.limits.body,
                });
            }
            body.extend_from_slice(&chunk);
        }
        if body.starts_with(BYTE_ORDER_MARK) {
            body.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(body)
    }

    fn to_error(&self, error: &reqwest::Error, is_proxied: bool) -> Error {
        if error.is_timeout() {
            let limit = if error.is_connect() {
                self.limits.connect
            } else {
                self.limits.deadline
            };
            return Error::Timeout { limit };
        }
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = cause {
            if is_proxied && is_proxy_authentication(error) {
                return Error::Connect(ConnectError::ProxyAuthentication);
            }
            if let Some(fault) = connect_fault(error) {
                return Error::Connect(match fault {
                    // These speak of the proxy: it is the proxy that resolves and connects to the server.
                    ConnectError::Dns | ConnectError::Refused if is_proxied => ConnectError::Proxy,
                    fault => fault,
                });
            }
            cause = inner(error);
        }
        match (error.is_connect(), is_proxied) {
            (true, true) => Error::Connect(ConnectError::Proxy),
            (true, false) => Error::Connect(ConnectError::Other),
            (false, _) => Error::Interrupted,
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether a proxy answered CONNECT with 407. The type that says so is private to hyper-util, and its text is not.
fn is_proxy_authentication(error: &(dyn StdError + 'static)) -> bool {
    error.to_string() == "tunnel error: proxy authorization required"
}

fn connect_fault(error: &(dyn StdError + 'static)) -> Option<ConnectError> {
    if error.is::<UnresolvedHostError>() {
        return Some(ConnectError::Dns);
    }
    if let Some(forbidden) = error.downcast_ref::<ForbiddenAddressError>() {
        return Some(ConnectError::Forbidden(*forbidden));
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        // It speaks of certificates and names, but of nothing that was sent: the handshake comes first.
        let detail = Redactor::default().redact(&tls.to_string(), 200);
        return Some(match tls {
            rustls::Error::AlertReceived(alert) if is_of_certificate(*alert) => {
                ConnectError::ClientCertificate(detail)
            }
            _ => ConnectError::Tls(detail),
        });
    }
    let io = error.downcast_ref::<io::Error>()?;
    (io.kind() == io::ErrorKind::ConnectionRefused).then_some(ConnectError::Refused)
}

/// The next error inwards. An I/O error gives not the error that it wraps as its source but that one's
/// source, so the usual way would pass over it.
fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Whether a server says by this alert what is wrong with the certificate that it was shown, or was not.
fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // A signature does not verify: that of the certificate or one made by its key.
            | AlertDescription::DecryptError
    )
}

/// The characters of RFC 9449 section 8.1.
fn is_nonce(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NONCE_LEN
        && text
            .bytes()
            .all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}
