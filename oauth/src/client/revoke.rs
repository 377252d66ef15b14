//! Revocation (RFC 7009): a token that is needed no more, made invalid by the server that issued it.

use oauth2::AccessToken;
use serde_json::Value;
use url::Url;

use super::send::{EndpointRequest, OutgoingRequest};
use super::{Client, advice};
use crate::Error;
use crate::error::{ErrorCode, ErrorResponse};
use crate::redact::Redactor;
use crate::token_request::endpoint_client::EndpointClient;
use crate::token_request::form::{self, Form};
use crate::token_request::response;
use crate::transport::Answer;

/// A revocation request (RFC 7009 section 2.1). Its response: whether the token is revoked.
struct Revocation(Form);

impl Client {
    /// Revokes a token (RFC 7009). `Ok(false)`: the server offers no revocation, or none for such tokens.
    pub async fn revoke(&self, access_token: &AccessToken) -> Result<bool, Error> {
        let server = self.server().await?;
        let Some(endpoint) = server.revocation_for(self.certificate.is_some()) else {
            return Ok(false);
        };
        self.allow_discovered(&server, "revocation_endpoint", endpoint)?;
        let outgoing = OutgoingRequest {
            endpoint,
            endpoints: &server,
            request: Revocation(Form::revocation(access_token)),
            redactor: self.redactor.clone().hide_form_value(access_token.secret()),
            with_proof: false,
        };
        let answered = self.send(outgoing).await?.read(|revoked, _| Ok(revoked));
        let (revoked, _) = answered.map_err(advice::add_to_revocation)?;
        Ok(revoked)
    }
}

impl EndpointRequest for Revocation {
    type Response = bool;

    async fn send(&self, endpoint: &Url, client: &EndpointClient<'_>) -> Result<bool, Error> {
        let request = form::build(&self.0, endpoint, client.client_auth)?;
        read(client.send(request).await?, client.redactor)
    }
}

/// Reads an answer to a revocation (RFC 7009 section 2.2). `false`: the server does not revoke tokens of this
/// type.
fn read(answer: Answer, redactor: &Redactor) -> Result<bool, Error> {
    if answer.status.is_redirection() {
        return Err(response::redirected(answer, redactor));
    }
    let error = match serde_json::from_slice(&answer.body) {
        Ok(Value::Object(fields)) => response::error_response(&answer, &fields, redactor),
        _ => None,
    };
    match error {
        Some(Error::Rejected(ErrorResponse {
            code: ErrorCode::UnsupportedTokenType,
            ..
        })) => Ok(false),
        Some(error) => Err(error),
        None if answer.status.is_success() => Ok(true),
        None => Err(response::http_status(&answer)),
    }
}
