//! The client: from a registration to one token request and its answer, checked.

mod advice;
mod revoke;
mod send;

use std::sync::Arc;

use mcp_auth_http_auth::ProofKey;
use oauth2::Scope;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::discovery::endpoints::Endpoints;
use crate::redact::Redactor;
use crate::ssrf::AddressPolicy;
use crate::token_check::{self, Expectation};
use crate::token_request::client_auth;
use crate::token_request::form;
use crate::token_request::grant::{GrantParameters, GrantRequest};
use crate::token_request::installation::InstallationTokenRequest;
use crate::token_request::response::ExpectedToken;
use crate::token_request::response::TokenEndpointResponse;
use crate::token_request::{IssuedToken, TokenRequestFuture, TokenRequester};
use crate::transport::client_certificate::Certificate;
use crate::transport::{Transport, TransportRules};
use crate::{
    ClientAuthentication, Clock, Discovery, DiscoveryError, Error, Grant, Limits, PreflightProblem,
    Registration, ReportedClaims, RequestLimiter, ServerLocation, ServerMetadata, TokenRequest, TokenType,
    TokenUse, ZeroExpiresIn, preflight, token,
};
use send::{EndpointRequest, OutgoingRequest, ServerHints, TokenGrant};

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
    pub(crate) hints: Arc<ServerHints>,
    /// The server's endpoints, where the registration states them.
    stated: Option<Arc<Endpoints>>,
    /// Where they are not stated.
    discovery: Option<Arc<Discovery>>,
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
        Ok(Self {
            redactor: client_auth::redactor(&registration),
            registration,
            transport,
            certificate,
            proof_key,
            clock: Clock::system(),
            limiter: RequestLimiter::default(),
            hints: Arc::default(),
            stated: stated.map(Arc::new),
            discovery: discovery.map(Arc::new),
        })
    }

    /// Takes the time of assertions, proofs, certificates, metadata and tokens from another clock than the
    /// system's.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.discovery = self
            .discovery
            .map(|discovery| Arc::new(discovery.with_clock(clock.clone())));
        self.clock = clock;
        self
    }

    /// Keeps to the rate limits that other clients of this process keep to.
    pub fn with_limiter(mut self, limiter: RequestLimiter) -> Self {
        self.limiter = limiter;
        self
    }

    /// Takes over what another client knows of the issuer, where both are to find it by the same MCP server.
    /// For a client that takes the place of another of the same registration, such as one with a changed
    /// secret: that one may have shown its secret to a server that issued nothing, and is as bound to it as
    /// after a token.
    pub fn with_known_issuer_from(mut self, earlier: &Self) -> Self {
        if let (Some(discovery), Some(earlier)) = (&self.discovery, &earlier.discovery) {
            self.discovery = Some(Arc::new(discovery.with_known_issuer_from(earlier)));
        }
        self
    }

    /// The server as it was discovered last, whether it has issued a token or not. Makes no request and does
    /// not wait for one. `None`: nothing is discovered yet, or the registration states the endpoints.
    pub fn discovered_server(&self) -> Option<Arc<ServerMetadata>> {
        self.discovery.as_ref()?.cached_server()
    }

    /// What the metadata of the server that was discovered last say of this registration.
    pub fn preflight(&self, token_use: TokenUse) -> Vec<PreflightProblem> {
        let server = self.discovered_server();
        server.map_or_else(Vec::new, |server| {
            preflight::check(&self.registration, &server, token_use)
        })
    }

    /// Whether the authorization server is discovered. Else the registration states its endpoints.
    pub(crate) fn discovers(&self) -> bool {
        self.discovery.is_some()
    }

    /// Looks the authorization server up, unless it was found within the hour, and judges its token endpoint. Sends no
    /// secret.
    pub async fn discover(&self) -> Result<(), Error> {
        self.server().await.map(drop)
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

    /// Makes one token request; a second one at the most for each of a refused client secret and a demanded
    /// nonce.
    pub async fn request_token(&self, token_request: &TokenRequest) -> Result<IssuedToken, Error> {
        self.rediscover_after(token_request.rejections_in_a_row).await;
        let server = self.server().await?;
        let scopes = form::union(self.scopes(&server), &token_request.scopes);
        let parameters = self.parameters(&server, &scopes);
        match &self.registration.grant {
            Grant::ClientCredentials => {
                let request = self.grant(GrantRequest::client_credentials(&parameters), false);
                self.issue(&server, request, self.redactor.clone(), false).await
            }
            Grant::JwtBearer(assertions) => {
                let limit = self.transport.limits().deadline;
                let assertion = assertions
                    .assertion(server.names(), self.clock.now(), limit)
                    .await?;
                let request = self.grant(GrantRequest::jwt_bearer(&parameters, &assertion), false);
                let redactor = self.redactor.clone().hide_form_value(assertion.expose_secret());
                let outcome = self.issue(&server, request, redactor, false).await;
                assertions.learn(outcome)
            }
            Grant::GitHubApp(app) => {
                let request = InstallationTokenRequest::new(app, self.clock.now())?;
                let redactor = request.redact(self.redactor.clone());
                self.issue(&server, request, redactor, false).await
            }
        }
    }

    /// Exchanges a user's token for one of the user's own at the MCP server (RFC 8693).
    pub async fn exchange_token(&self, subject_token: &SecretString) -> Result<IssuedToken, Error> {
        let server = self.server().await?;
        let parameters = self.parameters(&server, self.scopes(&server));
        let request = self.grant(GrantRequest::token_exchange(&parameters, subject_token), true);
        let redactor = self
            .redactor
            .clone()
            .hide_form_value(subject_token.expose_secret());
        self.issue(&server, request, redactor, true).await
    }

    /// The server to ask: as the registration states it, or as it is discovered.
    pub(crate) async fn server(&self) -> Result<Arc<Endpoints>, Error> {
        match (&self.stated, &self.discovery) {
            (Some(endpoints), _) => Ok(Arc::clone(endpoints)),
            (None, Some(discovery)) => {
                let metadata = discovery.server().await?;
                let endpoints = Endpoints::discovered(metadata, self.registration.allow_insecure_http)
                    .and_then(|endpoints| {
                        let token_endpoint = endpoints.token_for(self.certificate.is_some());
                        self.allow_discovered(&endpoints, "token_endpoint", token_endpoint)?;
                        Ok(endpoints)
                    });
                if endpoints.is_err() {
                    // Who runs that server may mend its metadata within the hour.
                    discovery.invalidate_unless_fresh().await;
                }
                Ok(Arc::new(endpoints?))
            }
            (None, None) => Err(Error::InvalidUrl {
                problem: "is not set, and nothing says where to discover it",
            }),
        }
    }

    /// Judges an endpoint that metadata name by the administrator's policy, before an assertion is made for it. One that
    /// the registration states was judged with the resource.
    pub(crate) fn allow_discovered(
        &self,
        endpoints: &Endpoints,
        field: &'static str,
        url: &Url,
    ) -> Result<(), Error> {
        let Some(metadata) = endpoints.metadata() else {
            return Ok(());
        };
        self.registration
            .destinations
            .check(url)
            .map_err(|error| DiscoveryError::endpoint_not_allowed(&metadata.issuer, field, error).into())
    }

    fn grant(&self, request: GrantRequest, by_token_exchange: bool) -> TokenGrant {
        let expected = ExpectedToken {
            token_type: self.registration.token_type,
            by_token_exchange,
        };
        TokenGrant { request, expected }
    }

    async fn issue<R>(
        &self,
        server: &Endpoints,
        request: R,
        redactor: Redactor,
        by_token_exchange: bool,
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
        let turn = match by_token_exchange {
            true => None,
            false => Some(
                self.limiter
                    .turn(outgoing.endpoint, client_id, &self.clock)
                    .await?,
            ),
        };
        let read = match self.send(outgoing).await {
            Ok(reply) => reply.read(|response, redactor| {
                let issued = response.into_token(redactor, self.registration.token_type);
                let issued = self.check_token(issued, server, redactor)?;
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
    ) -> Result<IssuedToken, Error> {
        let registration = &self.registration;
        let audiences = [self.resource(server), registration.audience.as_deref()];
        let expectation = Expectation {
            issuers: self.expected_issuers(server),
            audiences: audiences
                .into_iter()
                .flatten()
                .map(str::to_owned)
                .chain(registration.check.accepted_audiences.iter().cloned())
                .collect(),
            scopes: registration.scopes.clone(),
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
            resource: self.resource(server),
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
                Error::InvalidCaBundle { problem }
            );
        }
    }
}
