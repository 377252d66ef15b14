//! Token response: from an answer of the token endpoint to a token, or to why there is none. Reads
//! generously, since servers differ: any 2xx status, any content type with JSON in it, `expires_in` as a
//! number or text.

pub(crate) mod token_endpoint_response;

use oauth2::HttpResponse;
use serde_json::{Map, Value};

use crate::error::{ErrorCode, ErrorResponse};
use crate::redact::Redactor;
use crate::registration::ID_JAG_TYPE;
use crate::transport::Answer;
use crate::transport::body_shape::BodyShape;
use crate::{Error, TokenType};
pub(crate) use token_endpoint_response::TokenEndpointResponse;

/// Characters repeated of a server's words.
const MAX_CODE_CHARS: usize = 64;
const MAX_DESCRIPTION_CHARS: usize = 400;
const MAX_TYPE_CHARS: usize = 64;

/// Types of tokens that an exchange may issue and that no request carries (RFC 8693 section 3).
const UNUSABLE: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:refresh_token",
    "urn:ietf:params:oauth:token-type:saml1",
    "urn:ietf:params:oauth:token-type:saml2",
];

/// Types of tokens that may be used like an access token where `token_type` is `N_A` (RFC 8693 section
/// 2.2.1).
const NAMED_OTHERWISE: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:access_token",
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
];

/// Names that some servers have for bearer tokens (RFC 6750) besides the standard's: gateways of Apigee, and
/// those that name the token's format.
const NAMES_OF_BEARER: [&str; 2] = ["BearerToken", "JWT"];

/// The token that was requested.
#[derive(Clone, Copy)]
pub(crate) struct ExpectedToken {
    pub token_type: TokenType,
    pub by: RequestedBy,
}

/// What a token was requested by, as far as its type goes by that.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum RequestedBy {
    Grant,
    /// RFC 8693.
    TokenExchange,
    /// RFC 8693, for an identity assertion authorization grant, which is no access token.
    IdJagExchange,
}

/// Lets an answer through that issues a token of the type that was asked for, and makes an error of any
/// other: of status, headers and body, of which the oauth2 crate would keep the body alone. What is let
/// through has the status 200 and no content type, since servers differ in both. Nothing that `redactor`
/// keeps back is in the error.
pub(crate) fn accept(
    mut answer: Answer,
    redactor: &Redactor,
    expected: ExpectedToken,
) -> Result<HttpResponse, Error> {
    if answer.status.is_redirection() {
        return Err(redirected(answer, redactor));
    }
    let status = answer.status;
    let fields = match serde_json::from_slice(&answer.body) {
        Ok(Value::Object(fields)) => fields,
        _ if !status.is_success() => return Err(refused_without_words(&answer, redactor)),
        other => {
            return Err(Error::NotJson {
                shape: BodyShape::classify(&answer.body, other.is_ok()),
                content_type: answer
                    .content_type
                    .take()
                    .and_then(|kind| redactor.redact(&kind, MAX_TYPE_CHARS)),
            });
        }
    };
    if let Some(error) = error_response(&answer, &fields, redactor) {
        return Err(error);
    }
    if !status.is_success() {
        return Err(refused_without_words(&answer, redactor));
    }
    if expected.by == RequestedBy::IdJagExchange && !is_id_jag(&fields) {
        return Err(Error::NoIdJag);
    }
    let unusable = unusable_type(&fields, expected);
    let issued =
        TokenEndpointResponse::try_from(fields).map_err(|problem| Error::NoAccessToken { problem })?;
    if let Some(unusable) = unusable {
        let redactor = redactor.clone().hide(issued.access_token.secret());
        return Err(Error::UnsupportedTokenType {
            token_type: unusable
                .as_str()
                .and_then(|kind| redactor.redact(kind, MAX_TYPE_CHARS)),
            expected: expected.token_type,
        });
    }
    Ok(HttpResponse::new(answer.body))
}

/// Reads an answer that was let through, as the oauth2 crate does.
pub(crate) fn parse(body: &[u8]) -> Result<TokenEndpointResponse, Error> {
    serde_json::from_slice(body).map_err(|_| Error::NotJson {
        shape: BodyShape::classify(body, false),
        content_type: None,
    })
}

pub(crate) fn redirected(answer: Answer, redactor: &Redactor) -> Error {
    Error::Redirected {
        status: answer.status.as_u16(),
        host: answer
            .location_host
            .and_then(|host| redactor.redact(&host, MAX_TYPE_CHARS)),
    }
}

/// An OAuth error, which some servers send with status 200. Gateways and frameworks too answer with a field
/// `error`, such as `Service Unavailable`; there the status says more. Okta has names of its own for code and description
/// where a request names no client or holds an assertion that it cannot read.
pub(crate) fn error_response(
    answer: &Answer,
    fields: &Map<String, Value>,
    redactor: &Redactor,
) -> Option<Error> {
    let text = |name| fields.get(name).and_then(Value::as_str);
    let of_okta = || text("errorCode").filter(|_| !answer.status.is_success());
    let code_text = text("error").or_else(of_okta)?;
    if answer.status.is_success() && text("access_token").is_some_and(|token| !token.is_empty()) {
        return None;
    }
    let token = text("access_token").unwrap_or_default();
    let redactor = redactor.clone().hide(token);
    let code = match ErrorCode::from_standard(code_text) {
        Some(code) => code,
        None if !answer.status.is_success()
            && (answer.status.is_server_error() || code_text.contains(' ')) =>
        {
            return None;
        }
        None => ErrorCode::extension(
            redactor
                .redact(code_text, MAX_CODE_CHARS)
                .unwrap_or_else(|| "unknown".into()),
        ),
    };
    let description = text("error_description")
        .or_else(|| text("errorSummary"))
        .and_then(|words| redactor.redact(words, MAX_DESCRIPTION_CHARS));
    Some(rejected(answer, code, description))
}

fn rejected(answer: &Answer, code: ErrorCode, description: Option<String>) -> Error {
    Error::Rejected(ErrorResponse {
        code,
        description,
        status: answer.status.as_u16(),
        retry_after: answer.retry_after,
        advice: None,
    })
}

/// The body says nothing that can be read. The challenge may (RFC 6750 section 3), as where a gateway answers in the place of the
/// authorization server.
fn refused_without_words(answer: &Answer, redactor: &Redactor) -> Error {
    let code = answer
        .challenge_error
        .as_deref()
        .filter(|_| answer.status.is_client_error())
        .and_then(|code| {
            let extension = || Some(ErrorCode::extension(redactor.redact(code, MAX_CODE_CHARS)?));
            ErrorCode::from_standard(code).or_else(extension)
        });
    match code {
        Some(code) => rejected(answer, code, None),
        None => http_status(answer),
    }
}

pub(crate) fn http_status(answer: &Answer) -> Error {
    Error::HttpStatus {
        status: answer.status.as_u16(),
        retry_after: answer.retry_after,
    }
}

/// Its `token_type` says nothing: it is no token (`N_A`).
fn is_id_jag(fields: &Map<String, Value>) -> bool {
    fields.get("issued_token_type").and_then(Value::as_str) == Some(ID_JAG_TYPE)
}

/// The type of the token, if it is not what was asked for.
fn unusable_type(fields: &Map<String, Value>, expected: ExpectedToken) -> Option<Value> {
    if expected.by == RequestedBy::IdJagExchange {
        return None;
    }
    let by_token_exchange = expected.by == RequestedBy::TokenExchange;
    let issued_type = fields.get("issued_token_type").and_then(Value::as_str);
    if let Some(kind) = issued_type.filter(|kind| by_token_exchange && UNUSABLE.contains(kind)) {
        return Some(kind.into());
    }
    let expected_name = match expected.token_type {
        TokenType::Bearer => "bearer",
        TokenType::DPoP => "dpop",
    };
    match (fields.get("token_type"), expected.token_type) {
        // Required by RFC 6749 section 5.1, and yet left out by some; what they issue are bearer tokens.
        (None | Some(Value::Null), TokenType::Bearer) => None,
        (None | Some(Value::Null), TokenType::DPoP) => Some(Value::Null),
        (Some(Value::String(kind)), _) if kind.eq_ignore_ascii_case(expected_name) => None,
        (Some(Value::String(kind)), TokenType::Bearer)
            if NAMES_OF_BEARER.iter().any(|name| kind.eq_ignore_ascii_case(name)) =>
        {
            tracing::warn!(
                token_type = kind,
                "the authorization server calls its token otherwise than RFC 6750 does; it is used as a bearer \
                 token"
            );
            None
        }
        (Some(Value::String(kind)), TokenType::Bearer)
            if by_token_exchange
                && kind.eq_ignore_ascii_case("N_A")
                && issued_type.is_some_and(|kind| NAMED_OTHERWISE.contains(&kind)) =>
        {
            None
        }
        (Some(other), _) => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests;
