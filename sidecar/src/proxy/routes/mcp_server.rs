//! One MCP server of the routing table: the operator's route and credential, checked and prepared for
//! requests.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use mcp_auth_http_auth::authority_key::UnusableAuthority;
use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};
use mcp_auth_protocol::sync::{
    self, Audit, ClientCertificate, DeclinedRefresh, EgressProxy, Problem, Route, ServerAddresses,
    SubjectTokenSource, Transport, UserContext,
};
use url::Url;

use super::access_token::{AccessToken, InvalidTokenError, reuse_if_same};
use super::announced_endpoints::AnnouncedEndpoints;
use super::reachability::ReachabilityRecord;
use super::refusal_streams::RefusalStreams;
use super::route_error::RouteError;
use super::sessions::{AffinityNames, Sessions};
use super::target;
use super::tool_calls::ToolCalls;
use crate::http::tls::{TlsConfigs, unusable_authorities};
use crate::http::upstream::Target;
use crate::proxy::error::ProxyError;
use crate::proxy::jwt::JwtVerifier;
use crate::proxy::metrics::{Metrics, ServerMetrics};
use crate::proxy::user_context::Allowlist;

/// Longest wait for the headers of an answer: tools may run for minutes before they send anything.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// The cookie of LiteLLM's own session in its user interface.
const LITELLM_COOKIE: &str = "token";

pub struct McpServer {
    /// First path segment on the outbound listener.
    pub name: Box<str>,
    /// Name of the `McpServerAuth`, for messages.
    pub resource: Box<str>,
    /// What is recorded of each call; `None` where nothing is.
    pub audit: Option<AuditSettings>,
    pub(crate) metrics: ServerMetrics,
    pub(crate) tool_calls: Arc<ToolCalls>,
    pub state: ServerState,
}

/// What is recorded of each call to a server.
pub struct AuditSettings {
    /// Whether names of arguments are, never their values.
    pub argument_names: bool,
    pub user: Option<AuditUserSource>,
}

/// Where the user's name is found.
pub struct AuditUserSource {
    pub from: SubjectTokenSource,
    /// The value is a JWT, whose claim of this name is the user's.
    pub claim: Option<Box<str>>,
    /// Whose signature it must have; without one the claim is taken without a look at the signature.
    pub verifier: Option<Arc<JwtVerifier>>,
}

pub enum ServerState {
    Usable(Box<UsableServer>),
    /// The route cannot be used, so requests are answered with the reason.
    Unusable(RouteError),
}

/// Everything a request needs.
pub struct UsableServer {
    pub url: Url,
    /// `url` exactly as the operator wrote it, which identifies it by that text.
    pub stated_url: Box<str>,
    /// Path and query of `url`, ready to send: most requests go exactly there.
    pub endpoint: PathAndQuery,
    pub transport: Transport,
    /// Longest silence in the middle of an answer that is no event stream, and before its headers.
    pub answer_timeout: Duration,
    http1_only: bool,
    pub user_context: UserContext,
    /// Cookies and headers of a user that go to the server.
    pub allowed: Allowlist,
    /// The cookie or header of a user that is exchanged for a token of the user's own.
    pub exchange: Option<SubjectTokenSource>,
    /// [`sync::Server::resource_uid`]
    resource_uid: Option<Box<str>>,
    /// Opaque identity of what users' tokens are minted for.
    pub credential_identity: Box<str>,
    pub credential: ServiceCredential,
    declined: Option<DeclinedRefresh>,
    pub(crate) target: Arc<Target>,
    /// Of the URL, by way of `target`.
    pub(crate) reachability: Arc<ReachabilityRecord>,
    pub(crate) sessions: Arc<Sessions>,
    /// Where messages go with legacy SSE.
    pub(crate) announced: Arc<AnnouncedEndpoints>,
    /// Where refusals of such messages go.
    pub(crate) refusals: Arc<RefusalStreams>,
    /// The allowed names, the subject of the exchange and the user's for the audit log, which the inbound half
    /// seals.
    sealed: Allowlist,
    /// Cookies of a load balancer before the server, beside those that are known.
    affinity_cookies: Box<[Box<str>]>,
    ca_bundle: Option<Box<str>>,
    /// Authorities of the CA bundle that nothing can be verified by.
    pub(super) unusable_authorities: Vec<UnusableAuthority>,
    client_certificate: Option<ClientCertificate>,
    egress_proxy: Option<EgressProxy>,
    addresses: Option<ServerAddresses>,
}

#[derive(Clone)]
pub enum ServiceCredential {
    Token(Arc<AccessToken>),
    Unavailable {
        reason: Box<str>,
        message: Box<str>,
        keep: bool,
    },
}

/// Path, and query if there is one, by which LiteLLM reaches a server through the outbound listener: `None`
/// where the URL cannot be used.
pub fn outbound_path(route: &Route) -> Option<String> {
    let url = parse_url(&route.url)?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("/{}{}{query}", route.server, url.path()))
}

impl McpServer {
    /// `previous` is the server of this name in the current table.
    pub(super) fn build(
        server: &sync::Server,
        previous: Option<&McpServer>,
        trust: &TlsConfigs,
        metrics: &Metrics,
        workers: usize,
    ) -> Self {
        let previous_audit = previous.and_then(|previous| previous.audit.as_ref());
        let tool_calls = match previous {
            Some(previous) => previous.tool_calls.clone(),
            None => ToolCalls::new(metrics.calls_past_sidecar(&server.route.server)),
        };
        let previous = previous.and_then(McpServer::usable);
        let state = match build_usable(server, previous, trust, metrics, workers) {
            Ok(usable) => ServerState::Usable(Box::new(usable)),
            Err(unusable) => ServerState::Unusable(unusable),
        };
        let route = &server.route;
        Self {
            name: route.server.as_str().into(),
            resource: route.resource.as_str().into(),
            audit: route
                .audit
                .as_ref()
                .map(|audit| AuditSettings::from_route(audit, previous_audit)),
            metrics: metrics.server(&route.server),
            tool_calls,
            state,
        }
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        match &self.state {
            ServerState::Usable(_) => None,
            ServerState::Unusable(unusable) => Some(Problem {
                reason: unusable.reason().into(),
                message: format!("McpServerAuth {}: {unusable}", self.resource),
                server: Some(self.name.as_ref().to_owned()),
            }),
        }
    }

    pub(super) fn sealed(&self) -> Option<&Allowlist> {
        self.usable().map(|usable| &usable.sealed)
    }

    pub(super) fn sweep(&self, worker: usize) {
        if let Some(usable) = self.usable() {
            usable.target.sweep(worker);
        }
    }

    pub fn usable(&self) -> Option<&UsableServer> {
        match &self.state {
            ServerState::Usable(usable) => Some(usable),
            ServerState::Unusable(_) => None,
        }
    }

    /// The usable server, or the error for a request to one that cannot be used.
    pub fn require_usable(&self) -> Result<&UsableServer, ProxyError> {
        match &self.state {
            ServerState::Usable(usable) => Ok(usable),
            ServerState::Unusable(unusable) => Err(ProxyError::RouteUnusable {
                resource: self.resource.clone(),
                message: unusable.to_string().into(),
            }),
        }
    }
}

impl AuditSettings {
    /// A verifier of before is kept, with the tokens that it remembers, where it is of the same keys.
    fn from_route(audit: &Audit, previous: Option<&Self>) -> Self {
        let previous = previous.and_then(|previous| previous.user.as_ref()?.verifier.as_ref());
        Self {
            argument_names: audit.argument_names,
            user: audit.user.as_ref().map(|user| AuditUserSource {
                from: user.from.clone(),
                claim: user.claim.as_deref().map(Into::into),
                verifier: user.verification.as_ref().map(|verification| {
                    let same = previous.filter(|previous| previous.is_of(verification));
                    same.cloned()
                        .unwrap_or_else(|| Arc::new(JwtVerifier::new(verification)))
                }),
            }),
        }
    }
}

impl UsableServer {
    /// A resource that was deleted and created again is another one, though nothing else of it differs. Nothing is said of
    /// it by an operator that tells no uid.
    pub fn is_of_another_resource(&self, resource_uid: Option<&str>) -> bool {
        let uids = self.resource_uid().zip(resource_uid);
        uids.is_some_and(|(uid, other)| uid != other)
    }

    pub fn resource_uid(&self) -> Option<&str> {
        self.resource_uid.as_deref()
    }

    /// The service's token, if there is one.
    pub fn token(&self) -> Option<&Arc<AccessToken>> {
        match &self.credential {
            ServiceCredential::Token(token) => Some(token),
            ServiceCredential::Unavailable { .. } => None,
        }
    }

    pub fn affinity_names(&self) -> AffinityNames<'_> {
        AffinityNames {
            further: &self.affinity_cookies,
            users: &self.sealed,
        }
    }

    /// The operator's answer to a rejection of [`UsableServer::token`]: it has no better token for now.
    pub fn declined(&self) -> Option<&DeclinedRefresh> {
        let token = self.token()?;
        let declined = self.declined.as_ref();
        declined.filter(|declined| *declined.token == *token.id)
    }
}

fn build_usable(
    server: &sync::Server,
    previous: Option<&UsableServer>,
    trust: &TlsConfigs,
    metrics: &Metrics,
    workers: usize,
) -> Result<UsableServer, RouteError> {
    let route = &server.route;
    let url = parse_url(&route.url).ok_or(RouteError::Url)?;
    let endpoint = url[url::Position::BeforePath..url::Position::AfterQuery]
        .parse()
        .map_err(|_| RouteError::Url)?;
    let (allowed, sealed) = allowlists(route)?;
    let of_same_resource = |previous: &&UsableServer| {
        previous.url == url && !previous.is_of_another_resource(server.resource_uid.as_deref())
    };
    let same_resource = previous.filter(of_same_resource);
    let credential = match credential(&server.credential, same_resource)? {
        ServiceCredential::Unavailable { keep: true, .. }
            if let Some(kept_credential) = kept_credential(same_resource) =>
        {
            kept_credential
        }
        credential => credential,
    };
    let mut ca_bundle = route.ca_bundle.as_deref();
    let mut client_certificate = server.client_certificate.as_ref();
    let mut egress_proxy = server.egress_proxy.as_ref();
    // An operator that does not know the credential yet has not looked up the CA bundle, the client certificate and
    // the proxy's password either.
    if let sync::Credential::Unavailable { keep: true, .. } = server.credential
        && let Some(previous) = same_resource
        && (ca_bundle, client_certificate, egress_proxy) == (None, None, None)
    {
        ca_bundle = previous.ca_bundle.as_deref();
        client_certificate = previous.client_certificate.as_ref();
        egress_proxy = previous.egress_proxy.as_ref();
    }
    let answer_timeout = route
        .answer_timeout_seconds
        .map_or(ANSWER_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
    let unchanged = |previous: &&UsableServer| {
        previous.url.origin() == url.origin()
            && previous.answer_timeout == answer_timeout
            && previous.http1_only == route.http1_only
            && previous.ca_bundle.as_deref() == ca_bundle
            && previous.client_certificate.as_ref() == client_certificate
            && previous.egress_proxy.as_ref() == egress_proxy
            && previous.addresses == server.addresses
    };
    let unchanged = previous.filter(unchanged);
    let reachability = unchanged.filter(|previous| previous.url == url);
    let reachability = reachability.map(|previous| previous.reachability.clone());
    let target = match unchanged {
        Some(previous) => previous.target.clone(),
        None => {
            let connection = target::Connection {
                url: &url,
                http1_only: route.http1_only,
                answer_timeout,
                ca_bundle,
                client_certificate,
                egress_proxy,
                addresses: server.addresses,
            };
            Arc::new(connection.target(trust, metrics.connects(&route.server), workers)?)
        }
    };
    let (sessions, announced, refusals) = match previous.filter(|previous| previous.url == url) {
        Some(previous) => (
            previous.sessions.clone(),
            previous.announced.clone(),
            previous.refusals.clone(),
        ),
        None => Default::default(),
    };
    Ok(UsableServer {
        url,
        stated_url: route.url.as_str().into(),
        endpoint,
        transport: route.transport,
        answer_timeout,
        http1_only: route.http1_only,
        user_context: route.user_context,
        allowed,
        exchange: route.exchange.clone(),
        // Of one that an operator of before tells no uid of, what is known stays.
        resource_uid: match &server.resource_uid {
            Some(uid) => Some(uid.as_str().into()),
            None => same_resource.and_then(|previous| previous.resource_uid.clone()),
        },
        credential_identity: route.credential_identity.as_str().into(),
        credential,
        declined: server.declined.clone(),
        target,
        reachability: reachability.unwrap_or_default(),
        sessions,
        announced,
        refusals,
        sealed,
        affinity_cookies: route
            .affinity_cookies
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
        ca_bundle: ca_bundle.map(Into::into),
        unusable_authorities: ca_bundle.map(unusable_authorities).unwrap_or_default(),
        client_certificate: client_certificate.cloned(),
        egress_proxy: egress_proxy.cloned(),
        addresses: server.addresses,
    })
}

/// The token in use, where `previous` is of the same resource and URL. Each request checks whether it has expired.
fn kept_credential(previous: Option<&UsableServer>) -> Option<ServiceCredential> {
    previous?.token().cloned().map(ServiceCredential::Token)
}

fn parse_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain).then_some(url)
}

/// The names that go to the server, and those that are sealed: the same, the subject of the exchange and the
/// user's for the audit log.
fn allowlists(route: &Route) -> Result<(Allowlist, Allowlist), RouteError> {
    let headers: Vec<HeaderName> = route
        .headers
        .iter()
        .map(allowed_header)
        .collect::<Result<_, _>>()?;
    let cookies = || route.cookies.iter().map(String::as_str);
    let audit_user = route.audit.as_ref().and_then(|audit| audit.user.as_ref());
    let (mut other_cookies, mut other_headers) = (Vec::new(), Vec::new());
    for source in route.exchange.iter().chain(audit_user.map(|user| &user.from)) {
        match source {
            SubjectTokenSource::Cookie(name) => other_cookies.push(name.as_str()),
            // For the exchange alone, which it goes to the operator for, and never to the server.
            SubjectTokenSource::Header(name)
                if name == AUTHORIZATION.as_str() && route.exchange.as_ref() == Some(source) =>
            {
                other_headers.push(AUTHORIZATION);
            }
            SubjectTokenSource::Header(name) => other_headers.push(allowed_header(name)?),
        }
    }
    let sealed_cookies = || cookies().chain(other_cookies.iter().copied());
    if sealed_cookies().any(|name| name == LITELLM_COOKIE) {
        return Err(RouteError::Cookie);
    }
    let sealed = Allowlist::new(sealed_cookies(), headers.iter().cloned().chain(other_headers));
    Ok((Allowlist::new(cookies(), headers), sealed))
}

fn allowed_header(text: &String) -> Result<HeaderName, RouteError> {
    let name = HeaderName::try_from(text).map_err(|_| RouteError::Header(text.clone()))?;
    let is_denied = DENIED_HEADERS.contains(&name.as_str())
        || DENIED_PREFIXES
            .iter()
            .any(|beginning| name.as_str().starts_with(beginning));
    match is_denied {
        true => Err(RouteError::Header(text.clone())),
        false => Ok(name),
    }
}

fn credential(
    credential: &sync::Credential,
    previous: Option<&UsableServer>,
) -> Result<ServiceCredential, RouteError> {
    if let Some(token) = AccessToken::from_credential(credential)? {
        let token = reuse_if_same(previous.and_then(UsableServer::token), token);
        return Ok(ServiceCredential::Token(token));
    }
    match credential {
        sync::Credential::Unavailable {
            reason,
            message,
            keep,
        } => Ok(ServiceCredential::Unavailable {
            reason: reason.as_str().into(),
            message: message.as_str().into(),
            keep: *keep,
        }),
        sync::Credential::Bearer { .. } => Err(RouteError::Token(InvalidTokenError::Characters)),
    }
}

#[cfg(test)]
mod tests;
