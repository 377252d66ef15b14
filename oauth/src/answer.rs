//! From a token endpoint's answer to a token. Servers in the field are laxer than RFC 6749 section 5.1 wants:
//! `expires_in` comes as a string, as 0, or not at all.

use std::time::{Duration, SystemTime};

use oauth2::basic::BasicTokenType;
use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;
use crate::error::clean;

/// Life of a token whose server does not say. Short, since RFC 6749 leaves it to other documentation: at the
/// worst one request in five minutes too many.
const UNSTATED_LIFE: Duration = Duration::from_secs(5 * 60);
/// Longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// An access token and what was said of it.
#[derive(Clone, Debug)]
pub struct Token {
    pub access_token: SecretString,
    pub issued_at: SystemTime,
    /// Assumed where the server does not say.
    pub expires_at: SystemTime,
    /// Scope granted, where the server says so.
    pub scope: Option<String>,
}

/// The answer, as `oauth2` is to read it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Answer {
    access_token: AccessToken,
    #[serde(default = "bearer", deserialize_with = "token_type")]
    token_type: BasicTokenType,
    #[serde(default, deserialize_with = "seconds", skip_serializing)]
    expires_in: Option<i64>,
    #[serde(default, deserialize_with = "text", skip_serializing)]
    scope: Option<String>,
}

impl TokenResponse for Answer {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        None
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

impl Answer {
    /// The token, asked for at `now`: its life is counted from before the request, not from the answer.
    pub(crate) fn token(self, now: SystemTime) -> Result<Token, Error> {
        if !matches!(self.token_type, BasicTokenType::Bearer) {
            return Err(Error::TokenType(clean(self.token_type.as_ref(), &[])));
        }
        let life = match self.expires_in {
            None => UNSTATED_LIFE,
            Some(seconds) if seconds <= 0 => return Err(Error::ExpiredOnArrival(seconds)),
            Some(seconds) => Duration::from_secs(seconds.unsigned_abs()).min(LONGEST_LIFE),
        };
        let access_token = self.access_token.into_secret();
        if access_token.is_empty() || !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Malformed(
                "access_token is empty or cannot stand in a header".to_owned(),
            ));
        }
        Ok(Token {
            access_token: access_token.into(),
            issued_at: now,
            expires_at: now + life,
            scope: self.scope.map(|scope| clean(&scope, &[])),
        })
    }
}

fn bearer() -> BasicTokenType {
    BasicTokenType::Bearer
}

/// In any case (RFC 6749 section 5.1).
fn token_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BasicTokenType, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(match name.eq_ignore_ascii_case("bearer") {
        true => BasicTokenType::Bearer,
        false => BasicTokenType::Extension(name),
    })
}

/// A number, a number in a string, or nothing that says anything.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let clamp = |seconds: f64| seconds as i64; // saturates
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_f64().map(clamp),
        serde_json::Value::String(text) => text.trim().parse::<f64>().ok().filter(|n| !n.is_nan()).map(clamp),
        _ => None,
    })
}

/// Some servers answer the scopes as a list.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(items) => Some(
            items
                .iter()
                .filter_map(|item| item.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        ),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn token(json: &str) -> Result<Token, Error> {
        serde_json::from_str::<Answer>(json)
            .expect(json)
            .token(UNIX_EPOCH)
    }

    fn life(expires_in: &str) -> Result<Duration, Error> {
        let json = format!(r#"{{"access_token":"t","token_type":"bearer","expires_in":{expires_in}}}"#);
        token(&json).map(|token| token.expires_at.duration_since(UNIX_EPOCH).unwrap())
    }

    #[test]
    fn the_life_is_read_however_it_is_written() {
        assert_eq!(life("3600"), Ok(Duration::from_secs(3600)));
        assert_eq!(life("\"3600\""), Ok(Duration::from_secs(3600)));
        assert_eq!(life("3599.9"), Ok(Duration::from_secs(3599)));
        assert_eq!(life("null"), Ok(UNSTATED_LIFE));
        assert_eq!(life("\"soon\""), Ok(UNSTATED_LIFE));
        assert_eq!(life("1e300"), Ok(LONGEST_LIFE));
        assert_eq!(life("99999999999999999999"), Ok(LONGEST_LIFE));
        assert_eq!(
            token(r#"{"access_token":"t"}"#).unwrap().expires_at,
            UNIX_EPOCH + UNSTATED_LIFE
        );
    }

    #[test]
    fn a_token_that_is_over_when_it_comes_is_an_error_and_no_token() {
        assert_eq!(life("0"), Err(Error::ExpiredOnArrival(0)));
        assert_eq!(life("-1"), Err(Error::ExpiredOnArrival(-1)));
    }

    #[test]
    fn only_bearer_tokens_are_taken() {
        assert!(token(r#"{"access_token":"t","token_type":"BEARER"}"#).is_ok());
        let refused = token(r#"{"access_token":"t","token_type":"DPoP"}"#).unwrap_err();
        assert_eq!(refused.reason(), "TokenType");
    }

    #[test]
    fn a_token_that_would_break_a_header_is_refused_unseen() {
        let refused = token(r#"{"access_token":"s3cret\r\nX: y"}"#).unwrap_err();
        assert_eq!(refused.reason(), "Malformed");
        assert!(!refused.to_string().contains("s3cret"));
    }

    #[test]
    fn debug_output_never_holds_the_token() {
        let json = r#"{"access_token":"s3cret","scope":["a","b"]}"#;
        assert!(!format!("{:?}", serde_json::from_str::<Answer>(json).unwrap()).contains("s3cret"));
        let token = token(json).unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
        assert_eq!(token.scope.as_deref(), Some("a b"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(expires_in in any::<f64>(), scope in ".*", token_type in ".*", access in ".*") {
            let json = serde_json::json!({
                "access_token": access, "token_type": token_type, "expires_in": expires_in, "scope": scope,
            });
            if let Ok(answer) = serde_json::from_value::<Answer>(json) {
                let _ = answer.token(UNIX_EPOCH);
            }
        }
    }
}
