//! One MCP server: what the operator says of it, checked and made ready for requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::{self, Problem, Route, Transport, UserContext};
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use url::{Host, Url};

use crate::context::Allowed;
use crate::dial::{Peer, Tls};
use crate::metrics::Metrics;
use crate::trust::{Trust, TrustError};
use crate::upstream::Target;

/// Tools may run for minutes before they say anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// LiteLLM's own session in its user interface.
const LITELLM_COOKIE: &str = "token";

/// Headers that are never a user's identity, whoever lists them: they are credentials, belong to the connection,
/// to the transport, or are ours.
const NEVER_IDENTITY: [&str; 26] = [
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "ocp-apim-subscription-key",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-goog-api-key",
    "x-litellm-api-key",
    "x-mcp-auth",
    "proxy-authenticate",
];

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
    /// Path and query of `url`, ready to send: most requests go exactly there.
    pub endpoint: PathAndQuery,
    pub transport: Transport,
    pub user_context: UserContext,
    pub allowed: Allowed,
    pub credential: Credential,
    pub(crate) target: Arc<Target>,
    ca_bundle: Option<Box<str>>,
}

#[derive(Clone)]
pub enum Credential {
    /// Value of `Authorization`, marked sensitive, and when it ends in Unix seconds.
    Bearer {
        authorization: HeaderValue,
        expires_at: Option<i64>,
    },
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
    CaBundle(#[from] TrustError),
    #[error(
        "header {0:?} cannot be passed on as identity: it is a credential, belongs to the connection or the transport, or is no header name"
    )]
    Header(String),
    #[error("the cookie `token` is LiteLLM's own session and is never passed on")]
    Cookie,
    #[error("the token is empty or holds characters that a header cannot carry; look at what issued it")]
    Token,
}

impl Unusable {
    /// Closed set, CamelCase, as in [`Problem`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url => "InvalidUrl",
            Self::CaBundle(_) => "InvalidCaBundle",
            Self::Header(_) => "InvalidHeaderName",
            Self::Cookie => "InvalidCookieName",
            Self::Token => "InvalidToken",
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

impl Server {
    /// `before` is the server of this name so far.
    pub(super) fn build(
        server: &sync::Server,
        before: Option<&Server>,
        trust: &Trust,
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

    pub(super) fn allowed(&self) -> Option<&Allowed> {
        self.usable().map(|usable| &usable.allowed)
    }

    pub(super) fn sweep(&self, worker: usize) {
        if let Some(usable) = self.usable() {
            usable.target.sweep(worker);
        }
    }

    fn usable(&self) -> Option<&Usable> {
        match &self.state {
            State::Usable(usable) => Some(usable),
            State::Unusable(_) => None,
        }
    }
}

fn usable(
    server: &sync::Server,
    before: Option<&Usable>,
    trust: &Trust,
    metrics: &Metrics,
    workers: usize,
) -> Result<Usable, Unusable> {
    let route = &server.route;
    let url = parse(&route.url).ok_or(Unusable::Url)?;
    let endpoint = url[url::Position::BeforePath..url::Position::AfterQuery]
        .parse()
        .map_err(|_| Unusable::Url)?;
    let allowed = allowed(route)?;
    let credential = match credential(&server.credential)? {
        Credential::Unavailable { keep: true, .. } if let Some(kept) = kept(before, &url) => kept,
        credential => credential,
    };
    let ca_bundle = route.ca_bundle.as_deref();
    let unchanged =
        |before: &&Usable| before.url.origin() == url.origin() && before.ca_bundle.as_deref() == ca_bundle;
    let target = match before.filter(unchanged) {
        Some(before) => before.target.clone(),
        None => Arc::new(target(&url, &route.server, ca_bundle, trust, metrics, workers)?),
    };
    Ok(Usable {
        url,
        endpoint,
        transport: route.transport,
        user_context: route.user_context,
        allowed,
        credential,
        target,
        ca_bundle: ca_bundle.map(Into::into),
    })
}

/// The bearer token that is in use for this very URL. Whether it has expired is looked at with each request.
fn kept(before: Option<&Usable>, url: &Url) -> Option<Credential> {
    let before = before.filter(|before| before.url == *url)?;
    matches!(before.credential, Credential::Bearer { .. }).then(|| before.credential.clone())
}

fn parse(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

fn allowed(route: &Route) -> Result<Allowed, Unusable> {
    if route.cookies.iter().any(|name| name == LITELLM_COOKIE) {
        return Err(Unusable::Cookie);
    }
    let identity = |text: &String| {
        let name = HeaderName::try_from(text).map_err(|_| Unusable::Header(text.clone()))?;
        let refused = NEVER_IDENTITY.contains(&name.as_str())
            || name.as_str().starts_with("mcp-")
            || name.as_str().starts_with("mcpauth-")
            || name.as_str() == CONTEXT_HEADER;
        if refused {
            Err(Unusable::Header(text.clone()))
        } else {
            Ok(name)
        }
    };
    let headers: Vec<HeaderName> = route.headers.iter().map(identity).collect::<Result<_, _>>()?;
    Ok(Allowed::new(route.cookies.iter().map(String::as_str), headers))
}

fn credential(credential: &sync::Credential) -> Result<Credential, Unusable> {
    match credential {
        sync::Credential::Bearer { token, expires_at } => {
            let token = token.expose_secret();
            // The characters of RFC 6750 section 2.1 and any other visible one: not everybody keeps to it.
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Unusable::Token);
            }
            let mut authorization =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| Unusable::Token)?;
            authorization.set_sensitive(true);
            Ok(Credential::Bearer {
                authorization,
                expires_at: *expires_at,
            })
        }
        sync::Credential::Unavailable {
            reason,
            message,
            keep,
        } => Ok(Credential::Unavailable {
            reason: reason.as_str().into(),
            message: message.as_str().into(),
            keep: *keep,
        }),
    }
}

fn target(
    url: &Url,
    server: &str,
    ca_bundle: Option<&str>,
    trust: &Trust,
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
            connector: trust.config(ca_bundle)?.into(),
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
