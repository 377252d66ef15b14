//! The response of a token endpoint (RFC 6749 section 5.1) in the oauth2 crate's terms, read as generously as
//! servers write it: `expires_in` as a number or text, `scope` as text or a list.

use std::fmt;
use std::time::Duration;

use oauth2::basic::BasicTokenType;
use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::redact::Redactor;
use crate::{IssuedToken, TokenType};

/// Longest access token in bytes. Servers take no longer headers, most of them not even those.
const MAX_TOKEN_LEN: usize = 16 * 1024;

/// Characters repeated of the scope that a server names.
const MAX_SCOPE_CHARS: usize = 1024;

#[derive(serde::Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub(crate) struct TokenEndpointResponse {
    pub access_token: AccessToken,
    token_type: BasicTokenType,
    /// Seconds. May be zero or negative.
    expires_in: Option<i64>,
    scopes: Option<Vec<Scope>>,
}

impl TokenEndpointResponse {
    /// Nothing that `redactor` keeps back is in the result, except in the token itself.
    pub fn into_token(self, redactor: &Redactor, token_type: TokenType) -> IssuedToken {
        let redactor = redactor.clone().hide(self.access_token.secret());
        let scope = self.scopes.map(|scopes| {
            let names: Vec<&str> = scopes.iter().map(AsRef::as_ref).collect();
            names.join(" ")
        });
        IssuedToken {
            token_type,
            expires_in: self.expires_in,
            scope: scope.and_then(|scope| redactor.redact(&scope, MAX_SCOPE_CHARS)),
            ..IssuedToken::bearer(self.access_token.into_secret())
        }
    }
}

impl TryFrom<Map<String, Value>> for TokenEndpointResponse {
    type Error = &'static str;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, &'static str> {
        let access_token = match fields.remove("access_token") {
            Some(Value::String(token)) if token.is_empty() => return Err("it is empty"),
            Some(Value::String(token)) if token.len() > MAX_TOKEN_LEN => {
                return Err("it is longer than 16 KiB, which no header can carry");
            }
            // Only visible ASCII can travel in a header (RFC 6750 section 2.1 allows even less).
            Some(Value::String(token)) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err("it has characters that no header can carry");
            }
            Some(Value::String(token)) => token,
            Some(_) => return Err("it is not a string"),
            None => return Err("there is none"),
        };
        let token_type = fields.get("token_type").and_then(Value::as_str);
        Ok(Self {
            access_token: AccessToken::new(access_token),
            // Left out by some; what they issue are bearer tokens.
            token_type: match token_type {
                Some(kind) if !kind.eq_ignore_ascii_case("bearer") => {
                    BasicTokenType::Extension(kind.to_owned())
                }
                _ => BasicTokenType::Bearer,
            },
            expires_in: fields.get("expires_in").and_then(seconds),
            scopes: scopes(fields.get("scope")),
        })
    }
}

impl TokenResponse for TokenEndpointResponse {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        let seconds = self.expires_in?;
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        None
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        self.scopes.as_ref()
    }
}

/// The oauth2 crate demands it of responses. A token is written nowhere.
impl Serialize for TokenEndpointResponse {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("a token response is not written"))
    }
}

impl fmt::Debug for TokenEndpointResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a server says may hold the token.
        formatter
            .debug_struct("TokenEndpointResponse")
            .field("access_token", &self.access_token)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
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
fn scopes(value: Option<&Value>) -> Option<Vec<Scope>> {
    let names = match value? {
        Value::String(scope) => Some(scope.split(' ').collect()),
        Value::Array(scopes) => scopes.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    names.map(|names| {
        names
            .into_iter()
            .map(|name| Scope::new(name.to_owned()))
            .collect()
    })
}
