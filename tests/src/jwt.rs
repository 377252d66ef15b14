//! JWTs: looked into without verifying them where the servers that issue them are the tests' own, and signed and verified
//! where a stand-in is the other side.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::Error;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde_json::{Value, json};

use crate::keys::Key;
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

/// A JWT that is signed by this key, by its algorithm and with its identifier as `kid`.
pub fn sign(key: &Key, claims: &Value) -> String {
    let pem = key.private_pem.as_bytes();
    let (algorithm, encoding) = match &*key.algorithm {
        "RS256" => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
        "ES256" => (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
        "ES384" => (Algorithm::ES384, EncodingKey::from_ec_pem(pem)),
        other => panic!("no test signs by {other}"),
    };
    let mut header = Header::new(algorithm);
    header.kid = Some(key.id.clone());
    let token = encode(&header, claims, &encoding.expect("a key of openssl's")).expect("claims are JSON");
    seen::note(&token);
    token
}

/// The claims of a JWT with a signature by this public key (RFC 7517), which `exp` and `nbf` let pass now. Whom it is from and
/// for is left to the caller.
pub fn verify(token: &str, public_key: &Value) -> Result<Value, Error> {
    let key: Jwk = serde_json::from_value(public_key.clone()).expect("a JWK");
    let mut validation = Validation::new(decode_header(token)?.alg);
    validation.validate_aud = false;
    validation.validate_nbf = true;
    Ok(decode(token, &DecodingKey::from_jwk(&key)?, &validation)?.claims)
}

/// Seconds since 1970, as claims have the time.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
