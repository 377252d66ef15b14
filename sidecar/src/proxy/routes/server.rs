//! One MCP server: what the operator says of it, checked and made ready for requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};
use mcp_auth_protocol::sync::{
    self, ClientCertificate, Declined, Problem, Route, Subject, Transport, UserContext,
};
use rustls_pki_types::ServerName;
use url::{Host, Url};

use super::token::{InvalidToken, Token, carry_on};
use crate::http::connect::{Peer, Tls};
use crate::http::tls::{TlsConfigError, TlsConfigs};
use crate::http::upstream::Target;
use crate::proxy::error::Refusal;
use crate::proxy::metrics::Metrics;
use crate::proxy::user_context::Allowed;

/// Tools may run for minutes before they say anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// LiteLLM's own session in its user interface.
const LITELLM_COOKIE: &str = "token";

pub struct Server {
    /// First path segment on the outbound listener.
    pub name: Box<str>,
    /// Name of the `McpServerAuth`, for messages.
    pub resource: Box<str>,
    pub state: State,
}

pub enum State {
    Usable(Box<Usable>),
    /// The data cannot be used, so requests are answered with what is wrong.
    Unusable(Unusable),
}

/// Everything a request needs.
pub struct Usable {
    pub url: Url,
    /// `url` letter by letter as the operator has it, which knows it by that.
    pub stated_url: Box<str>,
    /// Path and query of `url`, ready to send: most requests go exactly there.
    pub endpoint: PathAndQuery,
    pub transport: Transport,
    pub user_context: UserContext,
    /// What of a user's request goes to the server.
    pub allowed: Allowed,
    /// What of a user's request is exchanged for a token of the user's own.
    pub exchange: Option<Subject>,
    /// What users' tokens are minted for; opaque.
    pub minted_for: Box<str>,
    pub credential: Credential,
    declined: Option<Declined>,
    pub(crate) target: Arc<Target>,
    /// What is allowed, and the subject of the exchange.
    sealed: Allowed,
    ca_bundle: Option<Box<str>>,
    client_certificate: Option<ClientCertificate>,
}

#[derive(Clone)]
pub enum Credential {
    Token(Arc<Token>),
    Unavailable {
        reason: Box<str>,
        message: Box<str>,
        keep: bool,
    },
}

/// What of a server's data cannot be used. Messages name the field, never its value where that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(
        "the URL is not an absolute http or https URL without user name and fragment, such as https://tools.example.com/mcp"
    )]
    Url,
    #[error("{0}")]
    CaBundle(TlsConfigError),
    #[error("spec.server.tls.clientCertificate: {0}")]
    ClientCertificate(TlsConfigError),
    #[error(
        "header {0:?} cannot be passed on as identity: it is a credential, belongs to the connection or the transport, or is no header name"
    )]
    Header(String),
    #[error("the cookie `token` is LiteLLM's own session and is never passed on")]
    Cookie,
    #[error("{0}")]
    Token(#[from] InvalidToken),
}

impl Unusable {
    /// Closed set, CamelCase, as in [`Problem`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url => "InvalidUrl",
            Self::CaBundle(_) => "InvalidCaBundle",
            Self::ClientCertificate(_) => "InvalidClientCertificate",
            Self::Header(_) => "InvalidHeaderName",
            Self::Cookie => "InvalidCookieName",
            Self::Token(_) => "InvalidToken",
        }
    }
}

/// Path, and query if there is one, by which LiteLLM reaches a server through the outbound listener: `None` where
/// the URL cannot be used.
pub fn outbound_path(route: &Route) -> Option<String> {
    let url = parse(&route.url)?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("/{}{}{query}", route.server, url.path()))
}

impl From<TlsConfigError> for Unusable {
    fn from(error: TlsConfigError) -> Self {
        match error {
            TlsConfigError::ClientCertificate(_) => Self::ClientCertificate(error),
            _ => Self::CaBundle(error),
        }
    }
}

impl Server {
    /// `before` is the server of this name so far.
    pub(super) fn build(
        server: &sync::Server,
        before: Option<&Server>,
        trust: &TlsConfigs,
        metrics: &Metrics,
        workers: usize,
    ) -> Self {
        let before = before.and_then(Server::usable);
        let state = match usable(server, before, trust, metrics, workers) {
            Ok(usable) => State::Usable(Box::new(usable)),
            Err(unusable) => State::Unusable(unusable),
        };
        let route = &server.route;
        Self {
            name: route.server.as_str().into(),
            resource: route.resource.as_str().into(),
            state,
        }
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        match &self.state {
            State::Usable(_) => None,
            State::Unusable(unusable) => Some(Problem {
                reason: unusable.reason().into(),
                message: format!("McpServerAuth {}: {unusable}", self.resource),
                server: Some(self.name.as_ref().to_owned()),
            }),
        }
    }

    pub(super) fn sealed(&self) -> Option<&Allowed> {
        self.usable().map(|usable| &usable.sealed)
    }

    pub(super) fn sweep(&self, worker: usize) {
        if let Some(usable) = self.usable() {
            usable.target.sweep(worker);
        }
    }

    pub fn usable(&self) -> Option<&Usable> {
        match &self.state {
            State::Usable(usable) => Some(usable),
            State::Unusable(_) => None,
        }
    }

    /// The same, or the answer to a request for a server that cannot be used.
    pub fn require_usable(&self) -> Result<&Usable, Refusal> {
        match &self.state {
            State::Usable(usable) => Ok(usable),
            State::Unusable(unusable) => Err(Refusal::RouteUnusable {
                resource: self.resource.clone(),
                message: unusable.to_string().into(),
            }),
        }
    }
}

impl Usable {
    /// The service's token, if there is one.
    pub fn token(&self) -> Option<&Arc<Token>> {
        match &self.credential {
            Credential::Token(token) => Some(token),
            Credential::Unavailable { .. } => None,
        }
    }

    /// What the operator says of a refusal of [`Usable::token`]: that there is no better one for now.
    pub fn declined(&self) -> Option<&Declined> {
        let token = self.token()?;
        let declined = self.declined.as_ref();
        declined.filter(|declined| *declined.token == *token.id)
    }
}

fn usable(
    server: &sync::Server,
    before: Option<&Usable>,
    trust: &TlsConfigs,
    metrics: &Metrics,
    workers: usize,
) -> Result<Usable, Unusable> {
    let route = &server.route;
    let url = parse(&route.url).ok_or(Unusable::Url)?;
    let endpoint = url[url::Position::BeforePath..url::Position::AfterQuery]
        .parse()
        .map_err(|_| Unusable::Url)?;
    let (allowed, sealed) = allowed(route)?;
    let credential = match credential(&server.credential, before, &url)? {
        Credential::Unavailable { keep: true, .. } if let Some(kept) = kept(before, &url) => kept,
        credential => credential,
    };
    let mut ca_bundle = route.ca_bundle.as_deref();
    let mut client_certificate = server.client_certificate.as_ref();
    // An operator that does not know the credential has not looked up either what the server is verified by.
    if let sync::Credential::Unavailable { keep: true, .. } = server.credential
        && let Some(before) = before.filter(|before| before.url == url)
        && (ca_bundle, client_certificate) == (None, None)
    {
        ca_bundle = before.ca_bundle.as_deref();
        client_certificate = before.client_certificate.as_ref();
    }
    let unchanged = |before: &&Usable| {
        before.url.origin() == url.origin()
            && before.ca_bundle.as_deref() == ca_bundle
            && before.client_certificate.as_ref() == client_certificate
    };
    let target = match before.filter(unchanged) {
        Some(before) => before.target.clone(),
        None => {
            let config = || trust.config(ca_bundle, client_certificate);
            Arc::new(target(&url, &route.server, config, metrics, workers)?)
        }
    };
    Ok(Usable {
        url,
        stated_url: route.url.as_str().into(),
        endpoint,
        transport: route.transport,
        user_context: route.user_context,
        allowed,
        exchange: route.exchange.clone(),
        minted_for: route.minted_for.as_str().into(),
        credential,
        declined: server.declined.clone(),
        target,
        sealed,
        ca_bundle: ca_bundle.map(Into::into),
        client_certificate: client_certificate.cloned(),
    })
}

/// The token that is in use for this very URL. Whether it has expired is looked at with each request.
fn kept(before: Option<&Usable>, url: &Url) -> Option<Credential> {
    let before = before.filter(|before| before.url == *url)?;
    before.token().cloned().map(Credential::Token)
}

fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// What goes to the server, and what is sealed: that, and the subject of the exchange.
fn allowed(route: &Route) -> Result<(Allowed, Allowed), Unusable> {
    let headers: Vec<HeaderName> = route
        .headers
        .iter()
        .map(identity_header)
        .collect::<Result<_, _>>()?;
    let cookies = || route.cookies.iter().map(String::as_str);
    let (subject_cookie, subject_header) = match &route.exchange {
        Some(Subject::Cookie(name)) => (Some(name.as_str()), None),
        Some(Subject::Header(name)) => (None, Some(identity_header(name)?)),
        None => (None, None),
    };
    if cookies().chain(subject_cookie).any(|name| name == LITELLM_COOKIE) {
        return Err(Unusable::Cookie);
    }
    let sealed = Allowed::new(
        cookies().chain(subject_cookie),
        headers.iter().cloned().chain(subject_header),
    );
    Ok((Allowed::new(cookies(), headers), sealed))
}

fn identity_header(text: &String) -> Result<HeaderName, Unusable> {
    let name = HeaderName::try_from(text).map_err(|_| Unusable::Header(text.clone()))?;
    let refused = DENIED_HEADERS.contains(&name.as_str())
        || DENIED_PREFIXES
            .iter()
            .any(|beginning| name.as_str().starts_with(beginning));
    match refused {
        true => Err(Unusable::Header(text.clone())),
        false => Ok(name),
    }
}

fn credential(
    credential: &sync::Credential,
    before: Option<&Usable>,
    url: &Url,
) -> Result<Credential, Unusable> {
    if let Some(token) = Token::of(credential)? {
        let before = before.filter(|before| before.url == *url);
        let token = carry_on(before.and_then(Usable::token), token);
        return Ok(Credential::Token(token));
    }
    match credential {
        sync::Credential::Unavailable {
            reason,
            message,
            keep,
        } => Ok(Credential::Unavailable {
            reason: reason.as_str().into(),
            message: message.as_str().into(),
            keep: *keep,
        }),
        sync::Credential::Bearer { .. } => Err(Unusable::Token(InvalidToken::Characters)),
    }
}

fn target(
    url: &Url,
    server: &str,
    config: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, TlsConfigError>,
    metrics: &Metrics,
    workers: usize,
) -> Result<Target, Unusable> {
    let port = url.port_or_known_default().ok_or(Unusable::Url)?;
    let host = url.host().ok_or(Unusable::Url)?;
    let name = match &host {
        Host::Domain(name) => ServerName::try_from((*name).to_owned()).map_err(|_| Unusable::Url)?,
        Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
        Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
    };
    let peer = match host {
        Host::Domain(name) => Peer::Name(name.into(), port),
        Host::Ipv4(address) => Peer::Address((address, port).into()),
        Host::Ipv6(address) => Peer::Address((address, port).into()),
    };
    let tls = match url.scheme() {
        "https" => Some(Tls {
            connector: config()?.into(),
            name,
        }),
        _ => None,
    };
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let authority = HeaderValue::from_str(authority).map_err(|_| Unusable::Url)?;
    Ok(Target::new(
        peer,
        tls,
        authority,
        Some(ANSWER_TIMEOUT),
        metrics.connects(server),
        workers,
    ))
}

#[cfg(test)]
mod tests;
