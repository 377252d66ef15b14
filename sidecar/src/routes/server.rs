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
mod tests {
    use super::super::Routes;
    use super::*;
    use prometheus_client::registry::Registry;
    use std::num::NonZeroUsize;

    fn server(url: &str) -> sync::Server {
        sync::Server {
            route: Route {
                resource: "tools-auth".into(),
                server: "tools".into(),
                url: url.into(),
                transport: Transport::StreamableHttp,
                ca_bundle: None,
                cookies: vec!["session_id".into()],
                headers: vec!["x-forwarded-user".into()],
                user_context: UserContext::Optional,
            },
            credential: sync::Credential::Bearer {
                token: "t0p-s3cret".into(),
                expires_at: None,
            },
        }
    }

    fn routes() -> Routes {
        Routes::new(NonZeroUsize::MIN, Metrics::new(&mut Registry::default()))
    }

    fn target(routes: &Routes, name: &str) -> Arc<Target> {
        routes
            .table()
            .server(name)
            .unwrap()
            .usable()
            .unwrap()
            .target
            .clone()
    }

    fn refused(server: sync::Server) -> Problem {
        let routes = routes();
        let mut sound = self::server("http://127.0.0.1:1/mcp");
        sound.route.server = "sound".into();
        let problems = routes.apply(&[sound, server]);
        assert!(
            routes.table().server("sound").unwrap().usable().is_some(),
            "others are not affected"
        );
        let [problem] = problems.try_into().unwrap();
        problem
    }

    #[test]
    fn connections_survive_unless_origin_or_ca_change() {
        let routes = routes();
        routes.apply(&[server("https://tools.example.com/mcp")]);
        let first = target(&routes, "tools");
        let mut renewed = server("https://tools.example.com:443/other");
        renewed.credential = sync::Credential::Bearer {
            token: "new".into(),
            expires_at: Some(1),
        };
        routes.apply(&[renewed]);
        assert!(Arc::ptr_eq(&first, &target(&routes, "tools")));
        routes.apply(&[server("https://tools.example.org/mcp")]);
        assert!(!Arc::ptr_eq(&first, &target(&routes, "tools")));
        routes.apply(&[]);
        assert!(routes.table().server("tools").is_none());
    }

    #[test]
    fn the_union_of_allowed_names_follows_the_servers() {
        let routes = routes();
        let mut other = server("http://127.0.0.1:1/mcp");
        (other.route.server, other.route.cookies) = ("other".into(), vec!["csrf".into()]);
        routes.apply(&[server("http://127.0.0.1:1/mcp"), other.clone()]);
        assert!(routes.table().allowed().cookie(b"csrf") && routes.table().allowed().cookie(b"session_id"));
        routes.apply(&[other]);
        assert!(!routes.table().allowed().cookie(b"session_id"));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_a_problem_of_that_server_alone() {
        for url in [
            "",
            "tools",
            "ftp://x/",
            "https://u:p@x/mcp",
            "https://x/mcp#f",
            "http://",
            "https://[::1",
        ] {
            assert_eq!(refused(server(url)).reason, "InvalidUrl", "{url}");
        }
    }

    #[test]
    fn a_ca_bundle_that_cannot_be_used_is_a_problem() {
        let mut server = server("https://tools.example.com/mcp");
        server.route.ca_bundle = Some("no pem".into());
        let expected = "McpServerAuth tools-auth: the CA bundle holds no certificate";
        assert_eq!(
            refused(server),
            Problem {
                reason: "InvalidCaBundle".into(),
                message: expected.into(),
                server: Some("tools".to_owned())
            }
        );
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_a_problem_that_does_not_show_it() {
        for token in ["", "a b", "s3cret\r\nx: y", "s3cret\u{e9}"] {
            let mut server = server("https://tools.example.com/mcp");
            server.credential = sync::Credential::Bearer {
                token: token.into(),
                expires_at: None,
            };
            let problem = refused(server);
            assert_eq!(problem.reason, "InvalidToken");
            assert!(!problem.message.contains("s3cret"));
        }
    }

    #[test]
    fn credentials_and_our_own_names_are_never_identity() {
        for name in [
            "Authorization",
            "cookie",
            "mcpauth-context",
            "mcp-session-id",
            "x y",
        ] {
            let mut server = server("https://tools.example.com/mcp");
            server.route.headers = vec![name.into()];
            assert_eq!(refused(server).reason, "InvalidHeaderName", "{name}");
        }
        let mut server = server("https://tools.example.com/mcp");
        server.route.cookies = vec!["token".into()];
        assert_eq!(refused(server).reason, "InvalidCookieName");
    }

    #[test]
    fn the_outbound_path_is_that_of_the_url_below_the_server() {
        let path = |url: &str| outbound_path(&server(url).route);
        assert_eq!(path("https://x"), Some("/tools/".into()));
        assert_eq!(path("https://x/a/mcp/?key=1"), Some("/tools/a/mcp/?key=1".into()));
        assert_eq!(path("nothing"), None);
    }

    #[test]
    fn the_authorization_value_is_marked_sensitive() {
        let Credential::Bearer { authorization, .. } = credential(&server("http://x").credential).unwrap()
        else {
            panic!("there is a token")
        };
        assert!(authorization.is_sensitive());
        assert_eq!(authorization, "Bearer t0p-s3cret");
    }

    #[test]
    fn a_token_in_use_outlives_an_operator_that_does_not_know_it_but_not_a_changed_url() {
        let routes = routes();
        let mut known = server("https://tools.example.com/mcp");
        routes.apply(&[known.clone()]);
        let has_token = |routes: &Routes| {
            let table = routes.table();
            let usable = table.server("tools").unwrap().usable().unwrap();
            matches!(usable.credential, Credential::Bearer { .. })
        };
        let unavailable = |keep| sync::Credential::Unavailable {
            reason: "Pending".into(),
            message: String::new(),
            keep,
        };
        known.credential = unavailable(true);
        routes.apply(&[known.clone()]);
        assert!(has_token(&routes));
        known.route.url = "https://elsewhere.example.com/mcp".into();
        routes.apply(&[known.clone()]);
        assert!(!has_token(&routes), "never for another URL");

        let known = server("https://tools.example.com/mcp");
        routes.apply(std::slice::from_ref(&known));
        let withdrawn = sync::Server {
            credential: unavailable(false),
            ..known
        };
        routes.apply(&[withdrawn]);
        assert!(!has_token(&routes), "withdrawn means withdrawn");
    }
}
