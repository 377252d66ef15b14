//! JWS in compact serialisation (RFC 7515 section 7.1): header and claims in JSON, signed; and what it was signed with.

mod verify;

pub use verify::{CompactJws, Jwk, SignatureError, VerifyingKeys};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

/// A header (JSON) as it stands before the first dot.
pub fn encode_header(json: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json)
}

/// Signs `claims` (JSON) under a header from [`encode_header`].
pub fn sign_compact<E>(
    header: &str,
    claims: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<String, E> {
    // Room for an RSA signature too, so that it never grows.
    let mut jws = String::with_capacity(header.len() + claims.len() * 4 / 3 + 512);
    jws.push_str(header);
    jws.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut jws);
    let signature = sign(jws.as_bytes())?;
    jws.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
    Ok(jws)
}

/// A `jti` that no other JWT has: 128 random bits.
pub fn random_jti() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}
