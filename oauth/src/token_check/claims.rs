//! The claims of a JWT, read without its key: what a token says of itself, used for
//! comparison alone.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::{Map, Value};

/// Longest token that is read; no header carries one as long.
const MAX_LEN: usize = 64 * 1024;

/// What a JWT access token says (RFC 7519 section 4.1, RFC 8693 section 4.2, RFC 7800 section 3.1). Claims of
/// another type than the standards give them count as absent.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Claims {
    pub issuer: Option<String>,
    pub subject: Option<String>,
    /// Of `client_id` (RFC 9068 section 2.2), or of `azp` where that is absent.
    pub client_id: Option<String>,
    pub audiences: Option<Vec<String>>,
    /// Of `scope`, or of `scp` where that is absent; a text or a list.
    pub scopes: Option<Vec<String>>,
    /// Unix seconds, like the other times.
    pub expires_at: Option<i64>,
    pub not_before: Option<i64>,
    pub issued_at: Option<i64>,
    /// `cnf.x5t#S256`: of the client's certificate (RFC 8705 section 3.1).
    pub certificate_thumbprint: Option<String>,
    /// `cnf.jkt`: of the client's proof key (RFC 9449 section 6.1).
    pub key_thumbprint: Option<String>,
}

/// The claims of what has the shape of a signed JWT; nothing where the token is opaque.
pub fn read(token: &str) -> Option<Claims> {
    if token.len() > MAX_LEN {
        return None;
    }
    let mut parts = token.split('.');
    let (header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    object(header)?;
    let claims = object(payload)?;
    let text = |claims: &Map<String, Value>, name| claims.get(name)?.as_str().map(str::to_owned);
    let bound = claims.get("cnf").and_then(Value::as_object);
    Some(Claims {
        issuer: text(&claims, "iss"),
        subject: text(&claims, "sub"),
        client_id: text(&claims, "client_id").or_else(|| text(&claims, "azp")),
        audiences: claims.get("aud").and_then(|value| texts(value, false)),
        scopes: ["scope", "scp"]
            .iter()
            .find_map(|name| texts(claims.get(*name)?, true)),
        expires_at: seconds(&claims, "exp"),
        not_before: seconds(&claims, "nbf"),
        issued_at: seconds(&claims, "iat"),
        certificate_thumbprint: bound.and_then(|bound| text(bound, "x5t#S256")),
        key_thumbprint: bound.and_then(|bound| text(bound, "jkt")),
    })
}

/// A part that is base64url of a JSON object.
fn object(part: &str) -> Option<Map<String, Value>> {
    // Some issuers pad, which RFC 7515 section 2 forbids.
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn texts(value: &Value, splits: bool) -> Option<Vec<String>> {
    match value {
        Value::String(text) if splits => Some(text.split_whitespace().map(str::to_owned).collect()),
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

/// NumericDate may have a fraction (RFC 7519 section 2).
fn seconds(claims: &Map<String, Value>, name: &str) -> Option<i64> {
    let value = claims.get(name)?;
    // The cast keeps to the bounds of the type.
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|float| float.floor() as i64))
}

/// Claims may say who a user is.
impl fmt::Debug for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Claims")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn jwt(claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2lnbmF0dXJl", part(&json!({"alg": "RS256"})), part(claims))
    }

    #[test]
    fn reads_what_a_token_says() {
        let token = jwt(&json!({
            "iss": "i", "sub": "s", "azp": "c", "aud": ["a", "b"], "scp": ["r", "w"], "exp": 3.9, "nbf": 2, "iat": 1,
            "cnf": {"x5t#S256": "cert", "jkt": "key"},
        }));
        let texts = |texts: [&str; 2]| Some(texts.map(str::to_owned).to_vec());
        assert!(
            read(&token).unwrap()
                == Claims {
                    issuer: Some("i".into()),
                    subject: Some("s".into()),
                    client_id: Some("c".into()),
                    audiences: texts(["a", "b"]),
                    scopes: texts(["r", "w"]),
                    expires_at: Some(3),
                    not_before: Some(2),
                    issued_at: Some(1),
                    certificate_thumbprint: Some("cert".into()),
                    key_thumbprint: Some("key".into()),
                }
        );
    }

    #[test]
    fn claims_of_other_types_count_as_absent() {
        let token = jwt(&json!({
            "iss": 7, "aud": {"a": 1}, "scope": [1], "exp": "soon", "nbf": null, "iat": [], "cnf": "x",
        }));
        assert!(read(&token).unwrap() == Claims::default());
        let bound = jwt(&json!({"aud": ["a", 7], "cnf": {"jkt": 7}}));
        assert!(read(&bound).unwrap() == Claims::default());
    }

    #[test]
    fn padding_is_forgiven() {
        let payload = base64::prelude::BASE64_URL_SAFE.encode(r#"{"iss":"ab"}"#);
        assert!(payload.is_ascii());
        assert_eq!(
            read(&format!("e30=.{payload}.x")).unwrap().issuer.as_deref(),
            Some("ab")
        );
    }

    #[test]
    fn what_is_no_signed_jwt_is_opaque() {
        let long = jwt(&json!({"iss": "x".repeat(MAX_LEN)}));
        for token in [
            "",
            ".",
            "..",
            "a.b.c",
            "e30",
            "e30.e30",
            "e30.e30.x.y",
            "e30.e30.x.y.z",
            "W10.e30.x",
            "e30.W10.x",
            "!!.e30.x",
            &long,
        ] {
            assert!(read(token).is_none(), "{token:.40}");
        }
        assert!(read("e30.e30.").is_some());
    }
}
