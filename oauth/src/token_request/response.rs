//! What an answer of the token endpoint means: a token, or why there is none. Reads generously, since servers
//! differ: any 2xx status, any content type with JSON in it, `expires_in` as a number or text.

use serde_json::{Map, Value};

use crate::error::{ErrorCode, ErrorResponse};
use crate::redact::Redactor;
use crate::transport::Answer;
use crate::transport::body_shape::BodyShape;
use crate::{Error, IssuedToken, TokenType};

/// Characters repeated of a server's words.
const MAX_CODE_CHARS: usize = 64;
const MAX_DESCRIPTION_CHARS: usize = 200;
const MAX_SCOPE_CHARS: usize = 1024;
const MAX_TYPE_CHARS: usize = 64;

/// Longest access token in bytes. Servers take no longer headers, most of them not even those.
const MAX_TOKEN_LEN: usize = 16 * 1024;

/// Types of tokens that an exchange may issue and that no request carries (RFC 8693 section 3).
const UNUSABLE: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:refresh_token",
    "urn:ietf:params:oauth:token-type:saml1",
    "urn:ietf:params:oauth:token-type:saml2",
];

/// Types of tokens that may be used like an access token where `token_type` is `N_A` (RFC 8693 section 2.2.1).
const NAMED_OTHERWISE: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:access_token",
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
];

/// What was asked for.
#[derive(Clone, Copy)]
pub(crate) struct ExpectedToken {
    pub token_type: TokenType,
    /// By token exchange (RFC 8693).
    pub by_token_exchange: bool,
}

/// Reads an answer. Nothing that `redactor` keeps back is in the result, except in the token itself.
pub(crate) fn read(
    mut answer: Answer,
    redactor: &Redactor,
    expected: ExpectedToken,
) -> Result<IssuedToken, Error> {
    if answer.status.is_redirection() {
        return Err(redirected(answer, redactor));
    }
    let parsed = serde_json::from_slice(&answer.body);
    let status = answer.status;
    match parsed {
        Ok(Value::Object(fields)) => match refusal(&answer, &fields, redactor) {
            Some(error) => Err(error),
            None if status.is_success() => issued(fields, redactor, expected),
            None => Err(http_status(&answer)),
        },
        _ if !status.is_success() => Err(http_status(&answer)),
        other => Err(Error::NotJson {
            shape: BodyShape::of(&answer.body, other.is_ok()),
            content_type: answer
                .content_type
                .take()
                .and_then(|kind| redactor.redact(&kind, MAX_TYPE_CHARS)),
        }),
    }
}

/// The OAuth error that this is, without the server's words.
pub(crate) fn rejection(answer: &Answer) -> Option<ErrorResponse> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(&answer.body) else {
        return None;
    };
    match refusal(answer, &fields, &Redactor::default()) {
        Some(Error::Rejected(rejection)) => Some(ErrorResponse {
            description: None,
            ..rejection
        }),
        _ => None,
    }
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
/// `error`, such as `Service Unavailable`; there the status says more.
pub(crate) fn refusal(answer: &Answer, fields: &Map<String, Value>, redactor: &Redactor) -> Option<Error> {
    let text = |name| fields.get(name).and_then(Value::as_str);
    let sent = text("error")?;
    if answer.status.is_success() && text("access_token").is_some_and(|token| !token.is_empty()) {
        return None;
    }
    let token = text("access_token").unwrap_or_default();
    let redactor = redactor.clone().hide(token);
    let code = match ErrorCode::known(sent) {
        Some(code) => code,
        None if !answer.status.is_success() && (answer.status.is_server_error() || sent.contains(' ')) => {
            return None;
        }
        None => ErrorCode::Other(
            redactor
                .redact(sent, MAX_CODE_CHARS)
                .unwrap_or_else(|| "unknown".into()),
        ),
    };
    Some(Error::Rejected(ErrorResponse {
        code,
        description: text("error_description")
            .and_then(|words| redactor.redact(words, MAX_DESCRIPTION_CHARS)),
        status: answer.status.as_u16(),
        retry_after: answer.retry_after,
    }))
}

pub(crate) fn http_status(answer: &Answer) -> Error {
    Error::HttpStatus {
        status: answer.status.as_u16(),
        retry_after: answer.retry_after,
    }
}

fn issued(
    mut fields: Map<String, Value>,
    redactor: &Redactor,
    expected: ExpectedToken,
) -> Result<IssuedToken, Error> {
    let problem = |problem| Err(Error::NoAccessToken { problem });
    let access_token = match fields.remove("access_token") {
        Some(Value::String(token)) if token.is_empty() => return problem("it is empty"),
        Some(Value::String(token)) if token.len() > MAX_TOKEN_LEN => {
            return problem("it is longer than 16 KiB, which no header can carry");
        }
        // Only visible ASCII can travel in a header (RFC 6750 section 2.1 allows even less).
        Some(Value::String(token)) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            return problem("it has characters that no header can carry");
        }
        Some(Value::String(token)) => token,
        Some(_) => return problem("it is not a string"),
        None => return problem("there is none"),
    };
    let redactor = redactor.clone().hide(&access_token);
    if let Some(found) = unusable_type(&fields, expected) {
        return Err(Error::UnsupportedTokenType {
            token_type: found
                .as_str()
                .and_then(|kind| redactor.redact(kind, MAX_TYPE_CHARS)),
            expected: expected.token_type,
        });
    }
    Ok(IssuedToken {
        token_type: expected.token_type,
        expires_in: fields.get("expires_in").and_then(seconds),
        scope: scope(fields.get("scope")).and_then(|scope| redactor.redact(&scope, MAX_SCOPE_CHARS)),
        ..IssuedToken::bearer(access_token)
    })
}

/// The type of the token, if it is not what was asked for.
fn unusable_type(fields: &Map<String, Value>, expected: ExpectedToken) -> Option<Value> {
    let issued_type = fields.get("issued_token_type").and_then(Value::as_str);
    if let Some(kind) = issued_type.filter(|kind| expected.by_token_exchange && UNUSABLE.contains(kind)) {
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
            if expected.by_token_exchange
                && kind.eq_ignore_ascii_case("N_A")
                && issued_type.is_some_and(|kind| NAMED_OTHERWISE.contains(&kind)) =>
        {
            None
        }
        (Some(other), _) => Some(other.clone()),
    }
}

/// Whole seconds, rounded down and kept within bounds. What is no number counts as absent.
fn seconds(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => number.as_i64().map(Ok).or(number.as_f64().map(Err)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().map(Ok).or(text.parse().ok().map(Err))
        }
        _ => None,
    };
    match number? {
        Ok(whole) => Some(whole),
        Err(float) if f64::is_nan(float) => None,
        // The cast keeps to the bounds of the type.
        Err(float) => Some(float.floor() as i64),
    }
}

/// Space-separated by RFC 6749 section 3.3; some servers send a list.
fn scope(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(scope) => Some(scope.clone()),
        Value::Array(scopes) => {
            let scopes: Option<Vec<_>> = scopes.iter().map(Value::as_str).collect();
            scopes.map(|scopes| scopes.join(" "))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
