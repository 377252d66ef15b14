//! The HTTP client of one request to an endpoint: to what a grant asks for it adds how the client
//! authenticates and its DPoP proof, and it makes an error of every answer that issues no token. The oauth2
//! crate sends through it.

use std::pin::Pin;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use jiff::Timestamp;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use parking_lot::Mutex;

use crate::Error;
use crate::redact::Redactor;
use crate::token_request::client_auth::ClientAuth;
use crate::token_request::form;
use crate::token_request::response::{self, ExpectedToken};
use crate::transport::{Answer, Transport};

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// What one request carries besides its grant. No `Debug`: it holds secrets.
pub(crate) struct EndpointClient<'a> {
    pub transport: &'a Transport,
    pub client_auth: &'a ClientAuth<'a>,
    pub proof: Option<&'a str>,
    /// Keeps back what the request holds.
    pub redactor: &'a Redactor,
    /// The nonce that the answer names.
    pub dpop_nonce: Mutex<Option<String>>,
    /// The time that the answer states.
    pub server_time: Mutex<Option<Timestamp>>,
}

/// A token endpoint, as the oauth2 crate sees it.
pub(crate) struct TokenEndpoint<'a> {
    pub client: &'a EndpointClient<'a>,
    pub expected: ExpectedToken,
}

impl EndpointClient<'_> {
    pub async fn send(&self, request: HttpRequest) -> Result<Answer, Error> {
        let request = complete(request, self.client_auth, self.proof)?;
        let answer = self.transport.send(request).await?;
        self.dpop_nonce.lock().clone_from(&answer.dpop_nonce);
        *self.server_time.lock() = answer.date;
        Ok(answer)
    }
}

impl<'c> AsyncHttpClient<'c> for TokenEndpoint<'_> {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let answer = self.client.send(request).await?;
            response::accept(answer, self.client.redactor, self.expected)
        })
    }
}

/// Adds what the oauth2 crate does not know, and marks what is secret.
pub(crate) fn complete(
    request: HttpRequest,
    client_auth: &ClientAuth<'_>,
    proof: Option<&str>,
) -> Result<HttpRequest, Error> {
    let (mut parts, mut body) = request.into_parts();
    if let Some(credentials) = parts.headers.get_mut(AUTHORIZATION) {
        credentials.set_sensitive(true);
    }
    if client_auth.client_id().is_none() {
        body = form::without_empty_client_id(&body);
    }
    if let ClientAuth::Assertion { assertion, kind, .. } = client_auth {
        body = form::with_client_assertion(body, assertion, *kind);
    }
    if let Some(proof) = proof {
        let mut value = HeaderValue::from_str(proof).map_err(form::unbuilt)?;
        value.set_sensitive(true);
        parts.headers.insert(DPOP, value);
    }
    Ok(HttpRequest::from_parts(parts, body))
}
