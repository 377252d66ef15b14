//! Sends one request and gets its answer: which client secret is tried first, and what is sent a second time.

use std::sync::atomic::Ordering;

use http::Method;
use parking_lot::Mutex;
use url::Url;

use super::Client;
use crate::discovery::endpoints::Endpoints;
use crate::error::ErrorCode;
use crate::redact::Redactor;
use crate::token_request::client_auth::{self, ClientAuth, SecretChoice};
use crate::token_request::endpoint_client::{EndpointClient, TokenEndpoint};
use crate::token_request::grant::GrantRequest;
use crate::token_request::installation::InstallationTokenRequest;
use crate::token_request::response::{ExpectedToken, TokenEndpointResponse};
use crate::{ClientAuthentication, Error};

/// A request on its way to an endpoint.
pub(crate) struct OutgoingRequest<'a, R> {
    pub endpoint: &'a Url,
    pub endpoints: &'a Endpoints,
    pub request: R,
    /// Keeps back what the request holds.
    pub redactor: Redactor,
    /// Whether a DPoP proof goes with it.
    pub with_proof: bool,
}

/// What can be sent to an endpoint, more than once where it must be.
pub(crate) trait EndpointRequest: Sync {
    type Response: Send;

    fn send(
        &self,
        endpoint: &Url,
        client: &EndpointClient<'_>,
    ) -> impl Future<Output = Result<Self::Response, Error>> + Send;
}

/// A request for a token of this kind.
pub(crate) struct TokenGrant {
    pub request: GrantRequest,
    pub expected: ExpectedToken,
}

/// What came of it.
pub(crate) struct EndpointReply<T> {
    outcome: Result<T, Error>,
    redactor: Redactor,
    secret: SecretChoice,
    names_nonce: bool,
}

impl Client {
    /// Sends a request, with the other client secret too where one is refused.
    pub(crate) async fn send<R: EndpointRequest>(
        &self,
        outgoing: OutgoingRequest<'_, R>,
    ) -> Result<EndpointReply<R::Response>, Error> {
        let has_two =
            client_auth::secrets(&self.registration).is_some_and(|secrets| secrets.alternate.is_some());
        let (one, other) = if has_two && self.hints.alternate_taken.load(Ordering::Relaxed) {
            (SecretChoice::Alternate, SecretChoice::First)
        } else {
            (SecretChoice::First, SecretChoice::Alternate)
        };
        let reply = self.send_with_nonce(&outgoing, one).await?;
        if !has_two || !reply.refuses_client() {
            return Ok(reply);
        }
        let second = self.send_with_nonce(&outgoing, other).await?;
        if second.refuses_client() {
            let first = if one == SecretChoice::First { reply } else { second };
            return Ok(first.of_both_secrets());
        }
        if second.outcome.is_ok() {
            self.hints
                .alternate_taken
                .store(other == SecretChoice::Alternate, Ordering::Relaxed);
        }
        Ok(second)
    }

    /// Sends it by one secret, with the nonce too where the server demands one (RFC 9449 section 8), and by the server's
    /// clock where the refusal shows that this one is wrong.
    async fn send_with_nonce<R: EndpointRequest>(
        &self,
        outgoing: &OutgoingRequest<'_, R>,
        secret: SecretChoice,
    ) -> Result<EndpointReply<R::Response>, Error> {
        let offset_before = self.hints.clock_offset.seconds();
        let reply = self.send_once(outgoing, secret).await?;
        let has_proof = outgoing.with_proof && self.proof_key.is_some();
        let demanded = has_proof && reply.demands_nonce();
        let says_time = has_proof
            || matches!(
                self.registration.authentication,
                ClientAuthentication::PrivateKeyJwt { .. }
            );
        let was_mistimed =
            says_time && reply.is_refusal() && self.hints.clock_offset.seconds() != offset_before;
        if demanded || was_mistimed {
            self.send_once(outgoing, secret).await
        } else {
            Ok(reply)
        }
    }

    /// Each time with an assertion and a proof of its own: a server takes none twice.
    async fn send_once<R: EndpointRequest>(
        &self,
        outgoing: &OutgoingRequest<'_, R>,
        secret: SecretChoice,
    ) -> Result<EndpointReply<R::Response>, Error> {
        let now = self.clock.now();
        if let Some(certificate) = &self.certificate {
            certificate.check(now)?;
            if outgoing.endpoint.scheme() != "https" {
                let problem = "is plain http, where no client certificate can be shown";
                return Err(outgoing.endpoints.invalid_token_endpoint(problem));
            }
        }
        let limit = self.transport.limits().deadline;
        let at_server = self.hints.clock_offset.at_server(now);
        let client_auth =
            ClientAuth::for_request(&self.registration, outgoing.endpoints, secret, at_server, limit).await?;
        let key = self.proof_key.as_ref().filter(|_| outgoing.with_proof);
        let proof = key.map(|key| {
            let nonce = self.hints.nonce();
            key.proof(
                &Method::POST,
                outgoing.endpoint,
                None,
                nonce.as_deref(),
                at_server,
            )
        });
        let mut redactor = client_auth::with_request_secrets(&client_auth, outgoing.redactor.clone());
        if let Some(proof) = &proof {
            redactor = redactor.hide(proof);
        }
        let client = EndpointClient {
            transport: &self.transport,
            client_auth: &client_auth,
            proof: proof.as_deref(),
            redactor: &redactor,
            dpop_nonce: Mutex::default(),
            server_time: Mutex::default(),
        };
        let sent_at = self.clock.now();
        let outcome = outgoing.request.send(outgoing.endpoint, &client).await;
        if let Some(date) = client.server_time.into_inner() {
            self.hints.clock_offset.learn(date, sent_at, self.clock.now());
        }
        let nonce = client.dpop_nonce.into_inner();
        if let Some(nonce) = &nonce {
            self.hints.remember(nonce);
        }
        Ok(EndpointReply {
            outcome,
            redactor,
            secret,
            names_nonce: nonce.is_some(),
        })
    }
}

impl EndpointRequest for TokenGrant {
    type Response = TokenEndpointResponse;

    async fn send(
        &self,
        endpoint: &Url,
        client: &EndpointClient<'_>,
    ) -> Result<TokenEndpointResponse, Error> {
        let http = TokenEndpoint {
            client,
            expected: self.expected,
        };
        self.request.send(endpoint, client.client_auth, &http).await
    }
}

impl EndpointRequest for InstallationTokenRequest {
    type Response = TokenEndpointResponse;

    async fn send(
        &self,
        endpoint: &Url,
        client: &EndpointClient<'_>,
    ) -> Result<TokenEndpointResponse, Error> {
        self.send_to(endpoint, client).await
    }
}

impl<T> EndpointReply<T> {
    /// What `reader` makes of the response, and whether the alternate secret brought it.
    pub fn read<U>(self, reader: impl FnOnce(T, &Redactor) -> Result<U, Error>) -> Result<(U, bool), Error> {
        let read = reader(self.outcome?, &self.redactor)?;
        Ok((read, self.secret == SecretChoice::Alternate))
    }

    fn of_both_secrets(mut self) -> Self {
        if let Err(Error::Rejected(rejection)) = self.outcome {
            self.outcome = Err(Error::BothSecretsRefused(rejection));
        }
        self
    }

    fn refuses_client(&self) -> bool {
        matches!(&self.outcome, Err(Error::Rejected(rejection)) if rejection.is_of_client())
    }

    fn is_refusal(&self) -> bool {
        matches!(&self.outcome, Err(Error::Rejected(_)))
    }

    /// Whether the server demands a nonce, and names one.
    fn demands_nonce(&self) -> bool {
        match &self.outcome {
            Err(Error::Rejected(rejection)) => self.names_nonce && rejection.code == ErrorCode::UseDpopNonce,
            _ => false,
        }
    }
}
