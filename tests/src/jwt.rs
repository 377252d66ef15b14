//! JWTs, looked into without verifying them: the servers that issue them are the tests' own.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::seen;

/// The claims; `null` of a token that is no JWT.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The JOSE header; `null` of a token that is no JWT.
pub fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    let part = token
        .split('.')
        .nth(index)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    part.and_then(|part| serde_json::from_slice(&part).ok())
        .unwrap_or_default()
}

/// A JWT by its shape: its signature is worth nothing.
pub fn unsigned(claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(&json!({"alg": "RS256", "typ": "JWT"}));
    let token = format!("{header}.{}.c2lnbmF0dXJl", encode(claims));
    seen::note(&token);
    token
}

/// Whether the `aud` claim is or holds this value.
pub fn is_for(claims: &Value, audience: &str) -> bool {
    match &claims["aud"] {
        Value::String(value) => value == audience,
        Value::Array(values) => values.iter().any(|value| value == audience),
        _ => false,
    }
}
