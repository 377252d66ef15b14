//! Metadata search: requests the well-known URLs in order until metadata are found. Sends no secret, follows
//! no redirect, and goes only where [`AddressPolicy`](crate::ssrf::AddressPolicy) lets it.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use mcp_auth_http_auth::Challenge;
use oauth2::{Scope, TokenUrl};
use serde_json::{Map, Value};
use url::Url;

use super::error::{Attempt, AttemptError, DiscoveryError, name};
use super::metadata::{self, MetadataError, ScopeOrigin, ServerMetadata, Supported};
use super::well_known;
use crate::Error;
use crate::Limits;
use crate::destinations::Destinations;
use crate::egress_proxy::EgressProxy;
use crate::issuer::is_same_issuer;
use crate::ssrf::AddressPolicy;
use crate::transport::body_shape::BodyShape;
use crate::transport::{Transport, TransportRules};

/// The request that makes the MCP server send its challenge. Without a session and without effect in every
/// version of the protocol; `initialize` would open a session that is never closed, and some servers answer
/// that one without a token.
const PROBE_BODY: &str = r#"{"jsonrpc":"2.0","id":"mcp-auth","method":"tools/list","params":{}}"#;

/// Scopes of OpenID Connect that only a user who signs in can grant: a machine that asks for them is refused.
const SCOPES_OF_USERS: [&str; 2] = ["openid", "offline_access"];

/// Where a search begins.
#[derive(Clone, Debug)]
pub(super) enum SearchStart {
    Issuer {
        /// As it is written, for comparisons.
        name: String,
        url: Url,
    },
    Resource {
        url: Url,
        /// For the MCP server.
        ca_bundle: Option<String>,
    },
}

/// What a search keeps to.
#[derive(Clone, Debug)]
pub(super) struct SearchRules {
    pub start: SearchStart,
    pub known_issuer: Option<String>,
    /// For the authorization server.
    pub ca_bundle: Option<String>,
    pub allow_insecure_http: bool,
    pub destinations: Destinations,
    pub addresses: AddressPolicy,
    pub egress_proxy: Option<EgressProxy>,
    pub limits: Limits,
}

pub(super) struct Search<'a> {
    rules: &'a SearchRules,
    known_issuer: Option<&'a String>,
    attempts: Vec<Attempt>,
}

/// What the MCP server answers to a request without a token.
#[derive(Default)]
struct ProbeOutcome {
    unauthorized: bool,
    challenge: Challenge,
}

impl SearchStart {
    pub fn url(&self) -> &Url {
        match self {
            Self::Issuer { url, .. } | Self::Resource { url, .. } => url,
        }
    }

    pub fn is_same_resource(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resource { url, .. }, Self::Resource { url: other, .. }) => url == other,
            _ => false,
        }
    }
}

impl SearchRules {
    /// A bundle of authorities that cannot be used is an error before any request is made.
    pub fn check_trust(&self) -> Result<(), Error> {
        self.transport(self.start.url(), self.ca_bundle.as_deref())?;
        if let SearchStart::Resource { url, ca_bundle } = &self.start {
            self.transport(url, ca_bundle.as_deref())?;
        }
        Ok(())
    }

    fn transport(&self, url: &Url, ca_bundle: Option<&str>) -> Result<Transport, Error> {
        let transport_rules = TransportRules {
            allow_http: self.allow_insecure_http,
            encrypted: url.scheme() == "https",
            addresses: self.addresses.clone(),
            destinations: self.destinations.clone(),
            egress_proxy: self.egress_proxy.clone(),
        };
        Transport::new(transport_rules, ca_bundle, None, self.limits)
    }
}

impl<'a> Search<'a> {
    pub fn new(rules: &'a SearchRules, known_issuer: Option<&'a String>) -> Self {
        Self {
            rules,
            known_issuer,
            attempts: Vec::new(),
        }
    }

    pub async fn run(mut self) -> Result<ServerMetadata, DiscoveryError> {
        match &self.rules.start {
            SearchStart::Issuer { name, url } => self.discover_by_issuer(name, url).await,
            SearchStart::Resource { url, ca_bundle } => {
                self.discover_by_resource(url, ca_bundle.as_deref()).await
            }
        }
    }

    async fn discover_by_issuer(
        &mut self,
        issuer: &str,
        url: &Url,
    ) -> Result<ServerMetadata, DiscoveryError> {
        let is_expected = |stated: &str| is_same_issuer(stated, issuer);
        let metadata = self.server(url, issuer, is_expected).await?;
        metadata.ok_or_else(|| self.not_found("authorization server"))
    }

    async fn discover_by_resource(
        &mut self,
        url: &Url,
        ca_bundle: Option<&str>,
    ) -> Result<ServerMetadata, DiscoveryError> {
        let answered = self.probe(url, ca_bundle).await;
        let Some(resource) = self.resource(url, ca_bundle, &answered).await? else {
            return self.discover_by_origin(url, answered).await;
        };
        // The resource may offer several servers; the one that this client is registered at is the one to
        // use.
        let issuer = match self.known_issuer {
            Some(known_issuer) => {
                let is_known = |issuer: &&String| is_same_issuer(issuer, known_issuer);
                let named = resource.issuers.iter().find(is_known);
                named.ok_or_else(|| DiscoveryError::IssuerChanged {
                    known: name(known_issuer),
                    found: name(&resource.issuers[0]),
                })?
            }
            None => &resource.issuers[0],
        };
        let issuer_url = match well_known::parse(issuer, self.rules.allow_insecure_http) {
            Ok(url) if url.query().is_none() => url,
            unusable => {
                let problem = unusable.err().unwrap_or("has a query, which an issuer has not");
                let field = "authorization_servers";
                self.failed(issuer, AttemptError::Unusable { field, problem });
                return Err(self.not_found("authorization server"));
            }
        };
        let server = self.discover_by_issuer(issuer, &issuer_url).await?;
        // The order of the MCP specification; scopes that the registration states come before both.
        let (named, scope_origin) = match answered.challenge.scopes {
            challenged if challenged.is_empty() => (resource.scopes, ScopeOrigin::Metadata),
            challenged => (challenged, ScopeOrigin::Challenge),
        };
        Ok(ServerMetadata {
            scopes: scopes(named),
            scope_origin,
            resource: Some(resource.name),
            ..server
        })
    }

    /// The MCP server is its own authorization server: so says version 2025-03-26 of the protocol, which
    /// knows no metadata of resources. Without metadata at the server's origin its endpoints have names that
    /// are agreed on.
    ///
    /// Only where the server says that it has no metadata. One that does not answer, or that was known to
    /// have another authorization server, gets no credentials in this way.
    async fn discover_by_origin(
        &mut self,
        url: &Url,
        answered: ProbeOutcome,
    ) -> Result<ServerMetadata, DiscoveryError> {
        let origin = well_known::origin(url);
        let known_issuer = self.known_issuer;
        let is_expected = |stated: &str| is_same_issuer(stated, &origin);
        let is_known_elsewhere = known_issuer.is_some_and(|known_issuer| !is_expected(known_issuer));
        let knows_metadata = answered.challenge.resource_metadata.is_some();
        if is_known_elsewhere || knows_metadata || !self.attempts.iter().all(Attempt::is_absent) {
            return Err(self.not_found("MCP server"));
        }
        if let Some(server) = self
            .server(&well_known::with_path(url, "/"), &origin, is_expected)
            .await?
        {
            return Ok(ServerMetadata {
                scopes: scopes(answered.challenge.scopes),
                ..server
            });
        }
        if !answered.unauthorized || !self.attempts.iter().all(Attempt::is_absent) {
            return Err(self.not_found("MCP server"));
        }
        Ok(ServerMetadata {
            issuer: known_issuer.unwrap_or(&origin).clone(),
            token_issuer: None,
            token_endpoint: TokenUrl::from_url(well_known::with_path(url, "/token")),
            mtls_token_endpoint: None,
            revocation_endpoint: None,
            mtls_revocation_endpoint: None,
            resource: None,
            scopes: scopes(answered.challenge.scopes),
            scope_origin: ScopeOrigin::Challenge,
            supported: Supported::default(),
        })
    }

    /// The challenge of the MCP server. Whatever the answer is, its body is not read: it may be an endless
    /// stream.
    async fn probe(&mut self, url: &Url, ca_bundle: Option<&str>) -> ProbeOutcome {
        let request = Request::post(url.as_str())
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json")
            .body(PROBE_BODY.into());
        let answer = match (self.rules.transport(url, ca_bundle), request) {
            (Ok(transport), Ok(request)) => transport.probe(request).await,
            (Err(error), _) => Err(error),
            (_, Err(_)) => unreachable_url(),
        };
        match answer {
            Ok((status, headers)) => ProbeOutcome {
                unauthorized: status == StatusCode::UNAUTHORIZED,
                challenge: Challenge::from_headers(&headers).unwrap_or_default(),
            },
            Err(error) => {
                self.failed(url.as_str(), outcome(error));
                ProbeOutcome::default()
            }
        }
    }

    /// The resource's metadata, from where its challenge says they are, or else from the well-known places.
    ///
    /// The challenge may name another host: RFC 9728 binds the document to the resource by what it says, not
    /// by where it is. So the address must be one that may be asked, and the document must be about this
    /// server.
    async fn resource(
        &mut self,
        server: &Url,
        ca_bundle: Option<&str>,
        answered: &ProbeOutcome,
    ) -> Result<Option<metadata::Resource>, DiscoveryError> {
        let mut urls = well_known::resource_metadata(server);
        if let Some(named) = &answered.challenge.resource_metadata {
            match well_known::parse(named, self.rules.allow_insecure_http) {
                Ok(url) => {
                    urls.retain(|candidate| *candidate != url);
                    urls.insert(0, url);
                }
                Err(problem) => {
                    let field = "resource_metadata";
                    self.failed(server.as_str(), AttemptError::Unusable { field, problem });
                }
            }
        }
        let mut mismatch = None;
        for url in urls {
            let Some(fields) = self.fetch(&url, ca_bundle).await else {
                continue;
            };
            match metadata::resource(&fields) {
                Ok(resource) if well_known::covers(&resource.name, server) => return Ok(Some(resource)),
                Ok(resource) => {
                    mismatch.get_or_insert(DiscoveryError::ResourceMismatch {
                        url: name(url.as_str()),
                        found: name(&resource.name),
                    });
                }
                Err(error) => self.reject_metadata(&url, error),
            }
        }
        mismatch.map_or(Ok(None), Err)
    }

    /// The metadata of an authorization server, if it has any. Those of another one are told where there are no
    /// others: gateways and servers of many tenants serve one document at all the places that are searched.
    async fn server(
        &mut self,
        issuer: &Url,
        expected: &str,
        is_expected: impl Fn(&str) -> bool,
    ) -> Result<Option<ServerMetadata>, DiscoveryError> {
        let mut mismatch = None;
        for url in well_known::server_metadata(issuer) {
            let Some(fields) = self.fetch(&url, self.rules.ca_bundle.as_deref()).await else {
                continue;
            };
            match metadata::server(&fields, &is_expected, self.rules.allow_insecure_http) {
                Ok(metadata) => return Ok(Some(metadata)),
                Err(MetadataError::Issuer { found }) => {
                    mismatch.get_or_insert(DiscoveryError::IssuerMismatch {
                        url: name(url.as_str()),
                        expected: name(expected),
                        found: name(&found),
                    });
                }
                Err(error) => self.reject_metadata(&url, error),
            }
        }
        mismatch.map_or(Ok(None), Err)
    }

    /// A JSON object, if there is one.
    async fn fetch(&mut self, url: &Url, ca_bundle: Option<&str>) -> Option<Map<String, Value>> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .header(ACCEPT, "application/json")
            .body(Vec::new());
        let answer = match (self.rules.transport(url, ca_bundle), request) {
            (Ok(transport), Ok(request)) => transport.send(request).await,
            (Err(error), _) => Err(error),
            (_, Err(_)) => unreachable_url(),
        };
        let outcome = match answer {
            Err(error) => outcome(error),
            Ok(answer) if answer.status.is_redirection() => AttemptError::Redirect,
            Ok(answer) if answer.status != StatusCode::OK => AttemptError::Status(answer.status.as_u16()),
            Ok(answer) => match serde_json::from_slice(&answer.body) {
                Ok(Value::Object(fields)) => return Some(fields),
                other => AttemptError::NotJson(BodyShape::classify(&answer.body, other.is_ok())),
            },
        };
        self.failed(url.as_str(), outcome);
        None
    }

    fn reject_metadata(&mut self, url: &Url, error: MetadataError) {
        let (field, problem) = match error {
            MetadataError::Field { field, problem } => (field, problem),
            MetadataError::Issuer { .. } => ("issuer", "is another one"),
        };
        self.failed(url.as_str(), AttemptError::Unusable { field, problem });
    }

    fn failed(&mut self, url: &str, outcome: AttemptError) {
        let url = name(url);
        tracing::debug!(url, %outcome, "no metadata");
        self.attempts.push(Attempt { url, outcome });
    }

    fn not_found(&mut self, what: &'static str) -> DiscoveryError {
        let attempts = std::mem::take(&mut self.attempts);
        DiscoveryError::NotFound { what, attempts }
    }
}

fn scopes(names: Vec<String>) -> Vec<Scope> {
    let names = names.into_iter();
    let of_machines = names.filter(|name| !SCOPES_OF_USERS.contains(&name.as_str()));
    of_machines.map(Scope::new).collect()
}

fn unreachable_url<T>() -> Result<T, Error> {
    Err(Error::InvalidUrl {
        problem: "cannot be requested",
    })
}

fn outcome(error: Error) -> AttemptError {
    match error {
        Error::Timeout { limit } => AttemptError::Timeout(limit),
        Error::Connect(fault) => AttemptError::Connect(fault),
        Error::TooLarge { limit } => AttemptError::TooLarge(limit),
        Error::NoTrustRoots => AttemptError::NoTrustRoots,
        Error::InvalidUrl { problem } => AttemptError::Unusable {
            field: "address",
            problem,
        },
        _ => AttemptError::Interrupted,
    }
}
