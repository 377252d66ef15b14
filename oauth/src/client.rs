//! The client: from a registration to one token request and its answer, checked.

mod advice;
mod exchange;
mod identity;
mod revoke;
mod send;
mod server;
mod surroundings;

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_http_auth::ProofKey;
use oauth2::Scope;
use secrecy::{ExposeSecret, SecretString};

use crate::discovery::endpoints::Endpoints;
use crate::redact::Redactor;
use crate::server_hints::ServerHints;
use crate::ssrf::AddressPolicy;
use crate::token_check::{self, Expectation};
use crate::token_request::client_auth;
use crate::token_request::form;
use crate::token_request::grant::{GrantParameters, GrantRequest};
use crate::token_request::installation::InstallationTokenRequest;
use crate::token_request::response::{ExpectedToken, RequestedBy, TokenEndpointResponse};
use crate::token_request::{IssuedToken, TokenRequestFuture, TokenRequester};
use crate::transport::client_certificate::Certificate;
use crate::transport::{Transport, TransportRules};
use crate::{
    Assertions, ClientAuthentication, Clock, Discovery, Error, ExchangeProfile, Grant, Limits,
    PreflightProblem, Registration, ReportedClaims, RequestLimiter, ServerLocation, ServerMetadata,
    TokenCount, TokenRequest, TokenType, TokenUse, ZeroExpiresIn, preflight, token,
};
pub use identity::ClientIdentity;
use send::{EndpointRequest, OutgoingRequest, TokenGrant};

/// A client that can request tokens. Needs rustls' process-wide default provider to be installed. Clones
/// share what they learn.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) registration: Registration,
    pub(crate) transport: Transport,
    pub(crate) certificate: Option<Certificate>,
    /// Of all tokens that this client is issued, where they are bound.
    pub(crate) proof_key: Option<Arc<ProofKey>>,
    /// Keeps back what the registration holds of secrets.
    pub(crate) redactor: Redactor,
    pub(crate) clock: Clock,
    limiter: RequestLimiter,
    count: TokenCount,
    pub(crate) hints: Arc<ServerHints>,
    /// The server's endpoints, where the registration states them.
    stated: Option<Arc<Endpoints>>,
    /// Where they are not stated.
    discovery: Option<Arc<Discovery>>,
    /// Asks the identity provider for what this client's exchanges are granted by.
    identity_provider: Option<Box<Client>>,
}

impl Client {
    /// A client with the usual limits. Makes no connection yet, but reads the system's certificate
    /// authorities.
    pub fn new(registration: Registration) -> Result<Self, Error> {
        Self::with_limits(registration, Limits::default())
    }

    pub fn with_limits(registration: Registration, limits: Limits) -> Result<Self, Error> {
        let stated = Endpoints::stated(&registration)?;
        let discovery = Discovery::with_limits(&registration, limits, Clock::system())?;
        form::check_extra_parameters(&registration)?;
        client_auth::check(&registration)?;
        let certificate = match &registration.authentication {
            ClientAuthentication::Tls(certificate) => Some(certificate),
            _ => registration.certificate.as_ref(),
        };
        let certificate = certificate.map(Certificate::read).transpose()?;
        let transport_rules = TransportRules {
            allow_http: registration.allow_insecure_http,
            encrypted: stated.as_ref().is_none_or(Endpoints::is_encrypted),
            addresses: discovery
                .as_ref()
                .map_or(AddressPolicy::Stated, Discovery::addresses),
            destinations: registration.destinations.clone(),
            egress_proxy: registration.egress_proxy.clone(),
        };
        let transport = Transport::new(
            transport_rules,
            registration.ca_bundle.as_deref(),
            certificate.as_ref(),
            limits,
        )?;
        let proof_key = match registration.token_type {
            TokenType::Bearer => None,
            TokenType::DPoP => Some(Arc::new(ProofKey::generate())),
        };
        let identity_provider = registration.token_exchange.identity_provider.clone();
        let identity_provider = identity_provider
            .map(|registration| Self::with_limits(*registration, limits))
            .transpose()
            .map_err(|error| Error::IdentityProvider(Box::new(error)))?;
        Ok(Self {
            redactor: client_auth::redactor(&registration),
            registration,
            transport,
            certificate,
            proof_key,
            clock: Clock::system(),
            limiter: RequestLimiter::default(),
            count: TokenCount::default(),
            hints: Arc::default(),
            stated: stated.map(Arc::new),
            discovery: discovery.map(Arc::new),
            identity_provider: identity_provider.map(Box::new),
        })
    }

    /// The server as it was discovered last, whether it has issued a token or not. Makes no request and does
    /// not wait for one. `None`: nothing is discovered yet, or the registration states the endpoints.
    pub fn discovered_server(&self) -> Option<Arc<ServerMetadata>> {
        self.discovery.as_ref()?.cached_server()
    }

    /// Seconds that the authorization server's clock is ahead of this one's, as its answers say; 0 where that is little.
    pub fn clock_offset(&self) -> i64 {
        self.hints.clock_offset.seconds()
    }

    fn time_at_server(&self) -> Timestamp {
        self.hints.clock_offset.at_server(self.clock.now())
    }

    /// What the metadata of the server that was discovered last say of this registration.
    pub fn preflight(&self, token_use: TokenUse) -> Vec<PreflightProblem> {
        let server = self.discovered_server();
        let mut problems = server.map_or_else(Vec::new, |server| {
            preflight::check(&self.registration, &server, token_use)
        });
        if let Some(identity_provider) = self
            .identity_provider
            .as_ref()
            .filter(|_| token_use != TokenUse::Service)
        {
            let there = identity_provider.preflight(TokenUse::Users).into_iter();
            problems.extend(there.map(|problem| PreflightProblem::IdentityProvider(Box::new(problem))));
        }
        problems
    }

    /// Waits until a server is discovered that says something else than the known one. For ever where there is nothing
    /// to discover.
    pub async fn next_discovered(&self, known: Option<&ServerMetadata>) -> Arc<ServerMetadata> {
        let Some(discovery) = &self.discovery else {
            return std::future::pending().await;
        };
        let mut discovered = discovery.subscribe();
        loop {
            let server = discovered.borrow_and_update().clone();
            match server {
                Some(server) if Some(&*server) != known => return server,
                _ => {}
            }
            if discovered.changed().await.is_err() {
                // Not while this client has the sender.
                return std::future::pending().await;
            }
        }
    }

    /// Makes one token request; a second one at the most for each of a refused client secret, a demanded
    /// nonce, and a grant that was refused by a server whose answer shows that the clock here is wrong.
    pub async fn request_token(&self, token_request: &TokenRequest) -> Result<IssuedToken, Error> {
        self.rediscover_after(token_request.rejections_in_a_row).await;
        let offset_before = self.hints.clock_offset.seconds();
        let outcome = self.request_by_grant(token_request).await;
        let says_time = matches!(
            self.registration.grant,
            Grant::JwtBearer(Assertions::Signed(_)) | Grant::GitHubApp(_)
        );
        let is_refused = matches!(outcome, Err(Error::Rejected(_) | Error::Installation(_)));
        if says_time && is_refused && self.hints.clock_offset.seconds() != offset_before {
            return self.request_by_grant(token_request).await;
        }
        outcome
    }

    async fn request_by_grant(&self, token_request: &TokenRequest) -> Result<IssuedToken, Error> {
        let server = self.server().await?;
        let scopes = form::union(self.scopes(&server), &token_request.scopes);
        let parameters = self.parameters(&server, &scopes);
        match &self.registration.grant {
            Grant::ClientCredentials => {
                let request = self.grant(GrantRequest::client_credentials(&parameters), RequestedBy::Grant);
                self.issue(&server, request, self.redactor.clone(), RequestedBy::Grant)
                    .await
            }
            Grant::JwtBearer(assertions) => {
                let assertion = self.grant_assertion(&server, assertions).await?;
                let request = GrantRequest::jwt_bearer(&parameters, &assertion);
                let outcome = self.issue_by_assertion(&server, request, &assertion).await;
                assertions.learn(outcome)
            }
            Grant::TokenExchange(assertions) => {
                let subject = self.grant_assertion(&server, assertions).await?;
                let request = GrantRequest::workload_exchange(&parameters, &subject);
                self.issue_by_assertion(&server, request, &subject).await
            }
            Grant::GitHubApp(app) => {
                let request = InstallationTokenRequest::new(app, self.time_at_server())?;
                let redactor = request.redact(self.redactor.clone());
                self.issue(&server, request, redactor, RequestedBy::Grant).await
            }
        }
    }

    async fn grant_assertion(
        &self,
        server: &Endpoints,
        assertions: &Assertions,
    ) -> Result<SecretString, Error> {
        let limit = self.transport.limits().deadline;
        assertions
            .assertion(server.names(), self.time_at_server(), limit)
            .await
    }

    async fn issue_by_assertion(
        &self,
        server: &Endpoints,
        request: GrantRequest,
        assertion: &SecretString,
    ) -> Result<IssuedToken, Error> {
        let redactor = self.redactor.clone().hide_form_value(assertion.expose_secret());
        let request = self.grant(request, RequestedBy::Grant);
        self.issue(server, request, redactor, RequestedBy::Grant).await
    }

    fn grant(&self, request: GrantRequest, by: RequestedBy) -> TokenGrant {
        let expected = ExpectedToken {
            token_type: self.registration.token_type,
            by,
        };
        TokenGrant { request, expected }
    }

    async fn issue<R>(
        &self,
        server: &Endpoints,
        request: R,
        redactor: Redactor,
        by: RequestedBy,
    ) -> Result<IssuedToken, Error>
    where
        R: EndpointRequest<Response = TokenEndpointResponse>,
    {
        let outgoing = OutgoingRequest {
            endpoint: server.token_for(self.certificate.is_some()),
            endpoints: server,
            request,
            redactor,
            with_proof: true,
        };
        let client_id = self.registration.client_id.as_ref();
        let by_token_exchange = by != RequestedBy::Grant;
        let turn = match by_token_exchange {
            true => None,
            false => Some(
                self.limiter
                    .turn(outgoing.endpoint, client_id, &self.clock)
                    .await?,
            ),
        };
        if !by_token_exchange {
            self.count.record_request();
        }
        let read = match self.send(outgoing).await {
            Ok(reply) => reply.read(|response, redactor| {
                // Whether it fits or not.
                self.count.record_issued(by_token_exchange, self.clock.now());
                let issued = response.into_token(redactor, self.registration.token_type);
                let issued = match by {
                    // The authorization server that it is for reads it.
                    RequestedBy::IdJagExchange => return Ok(issued),
                    _ => self.check_token(issued, server, redactor, by)?,
                };
                // What a user's token says is about the user, and nobody asks for it.
                let claims = match by_token_exchange {
                    true => None,
                    false => ReportedClaims::of(issued.access_token.secret(), redactor),
                };
                Ok(IssuedToken {
                    claims: claims.map(Arc::new),
                    ..issued
                })
            }),
            Err(error) => Err(error),
        };
        if let (Err(error), Some(turn)) = (&read, turn) {
            turn.learn(error, client_id, &self.clock);
        }
        if let (Err(error), Some(discovery)) = (&read, &self.discovery)
            && may_have_moved(error)
        {
            discovery.invalidate_unless_fresh().await;
        }
        let read = match &self.registration.authentication {
            ClientAuthentication::Assertion(assertions, _) => assertions.learn_of_client(read),
            _ => read,
        };
        let (issued, by_alternate_secret) =
            read.map_err(|error| advice::add(error, &self.registration, server, by_token_exchange))?;
        Ok(IssuedToken {
            proof_key: self.proof_key.clone(),
            by_alternate_secret,
            server: server.metadata().cloned(),
            ..issued
        })
    }

    /// Compares a token with what it was asked for, and adds what it says of itself. The scopes that are
    /// demanded are those that the registration states: what the MCP server names beyond them is for the
    /// authorization server to grant or not.
    fn check_token(
        &self,
        issued: IssuedToken,
        server: &Endpoints,
        redactor: &Redactor,
        by: RequestedBy,
    ) -> Result<IssuedToken, Error> {
        let registration = &self.registration;
        let own = match by {
            RequestedBy::Grant => None,
            _ => Some(&registration.token_exchange),
        };
        let own_audience = own
            .filter(|exchange| exchange.profile != ExchangeProfile::IdJag)
            .and_then(|exchange| exchange.audience.as_deref());
        let audience = own_audience.or(registration.audience.as_deref());
        let audiences = [self.resource(server), audience];
        let scopes = own.and_then(|exchange| exchange.scopes.as_ref());
        let expectation = Expectation {
            issuers: self.expected_issuers(server),
            audiences: audiences
                .into_iter()
                .flatten()
                .map(str::to_owned)
                .chain(registration.check.accepted_audiences.iter().cloned())
                .collect(),
            scopes: scopes.unwrap_or(&registration.scopes).clone(),
            key_thumbprint: self.proof_key.as_ref().map(|key| key.thumbprint().to_owned()),
            certificate_thumbprint: self
                .certificate
                .as_ref()
                .map(|certificate| certificate.thumbprint().to_owned()),
        };
        let now = self.clock.now();
        let checked = token_check::check(
            &issued.access_token,
            &expectation,
            registration.check.mode,
            redactor,
            now,
        )?;
        let claims = checked.claims.unwrap_or_default();
        let stated = match (issued.expires_in, registration.zero_expires_in) {
            (Some(0), ZeroExpiresIn::Unlimited) => None,
            (stated, _) => stated,
        };
        Ok(IssuedToken {
            expires_in: token::life(
                stated,
                claims.expires_at.map(|end| end.saturating_sub(now.as_second())),
            ),
            certificate_bound: claims.certificate_thumbprint.is_some(),
            mismatch: checked.mismatch,
            ..issued
        })
    }

    /// What a token may name as its issuer; none where nothing is known of it.
    fn expected_issuers(&self, server: &Endpoints) -> Vec<String> {
        let discovered = server.metadata().into_iter();
        let discovered =
            discovered.flat_map(|metadata| [Some(&metadata.issuer), metadata.token_issuer.as_ref()]);
        let accepted = self.registration.check.accepted_issuers.iter();
        discovered.flatten().chain(accepted).cloned().collect()
    }

    /// Forgets what was discovered where the tokens it leads to are refused.
    async fn rediscover_after(&self, rejections_in_a_row: u32) {
        match (&self.discovery, rejections_in_a_row) {
            (None, _) | (_, 0) => {}
            (Some(discovery), 1) => discovery.invalidate_unless_fresh().await,
            (Some(discovery), _) => discovery.invalidate().await,
        }
    }

    fn parameters<'a>(&'a self, server: &'a Endpoints, scopes: &'a [Scope]) -> GrantParameters<'a> {
        GrantParameters {
            registration: &self.registration,
            scopes,
            audience: self.registration.audience.as_deref(),
            resource: self.resource(server),
            extra_parameters: &self.registration.extra_parameters,
        }
    }

    /// What the MCP server is called in token requests: where the registration names it by its URL, by what
    /// its own metadata call it, which may be shorter (RFC 9728 section 3.3).
    fn resource<'a>(&'a self, server: &'a Endpoints) -> Option<&'a str> {
        let stated = self.registration.resource.as_deref()?;
        match &self.registration.server {
            ServerLocation::ProtectedResource { url, .. } if url == stated => {
                let metadata = server.metadata();
                Some(
                    metadata
                        .and_then(|metadata| metadata.resource.as_deref())
                        .unwrap_or(stated),
                )
            }
            _ => Some(stated),
        }
    }

    /// Those of the registration, or else those that the MCP server names.
    fn scopes<'a>(&'a self, server: &'a Endpoints) -> &'a [Scope] {
        match server.metadata() {
            Some(metadata) if self.registration.scopes.is_empty() => &metadata.scopes,
            _ => &self.registration.scopes,
        }
    }
}

/// Whether a discovered endpoint that fails like this may be somewhere else by now.
fn may_have_moved(error: &Error) -> bool {
    match error {
        Error::Connect(_) | Error::Redirected { .. } => true,
        Error::HttpStatus { status, .. } => matches!(status, 404 | 405 | 410),
        _ => false,
    }
}

impl TokenRequester for Client {
    fn request(&self, request: &TokenRequest) -> TokenRequestFuture<'_> {
        let request = request.clone();
        Box::pin(async move { self.request_token(&request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        let secret = ClientAuthentication::SecretPost("t0p-s3cret".into());
        Registration {
            allow_insecure_http: true,
            ..Registration::new("http://127.0.0.1:1/token", "client", secret)
        }
    }

    #[test]
    fn debug_output_never_holds_the_secret() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(registration()).unwrap();
        assert!(!format!("{client:?}").contains("t0p-s3cret"));
    }

    #[test]
    fn a_ca_bundle_that_holds_no_certificate_is_refused() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (pem, problem) in [
            ("", "holds no certificate"),
            ("hello", "holds no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                "is not PEM",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "holds a certificate that is none of an authority",
            ),
        ] {
            let registration = Registration {
                ca_bundle: Some(pem.into()),
                ..registration()
            };
            assert_eq!(
                Client::new(registration).unwrap_err(),
                Error::InvalidCaBundle {
                    problem: problem.into()
                }
            );
        }
    }
}
