//! Verifies the JSON Web Token of a user (RFC 7519 section 7.2, RFC 8725): its signature by the issuer's keys, and
//! that it is this issuer's, for this audience and of now. Runs on the audit log's thread alone.

use std::collections::HashMap;

use mcp_auth_http_auth::jws::{CompactJws, Jwk, SignatureError, VerifyingKeys};
use mcp_auth_protocol::sync::{JwtVerification, VerificationKey};
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Map, Value};

use super::user_problem::UserProblem;

/// Longest token that is read: more does not fit into a request's headers.
const MAX_TOKEN_LEN: usize = 64 * 1024;
/// How far the clocks of two machines may differ, in seconds.
const MAX_CLOCK_SKEW: i64 = 60;
/// Tokens whose signature is remembered: users call again and again with the same one.
const MAX_REMEMBERED: usize = 1024;

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// The parts of a token.
pub struct Jwt<'a> {
    jws: CompactJws<'a>,
    pub claims: Claims,
}

/// Verifies the tokens of one issuer.
pub struct JwtVerifier {
    verification: JwtVerification,
    keys: VerifyingKeys,
    /// By the SHA-256 of a token: whether its signature is one of the issuer's.
    remembered: Mutex<HashMap<[u8; 32], Result<(), UserProblem>>>,
}

impl<'a> Jwt<'a> {
    /// Reads a token, without a look at its signature. `Bearer` before it is left out.
    pub fn read(value: &'a [u8]) -> Result<Self, UserProblem> {
        let token = value.strip_prefix(b"Bearer ").unwrap_or(value).trim_ascii();
        if token.len() > MAX_TOKEN_LEN {
            return Err(UserProblem::NotAJwt);
        }
        let jws = CompactJws::read(token).ok_or(UserProblem::NotAJwt)?;
        let claims = serde_json::from_slice(&jws.payload).map_err(|_| UserProblem::NotAJwt)?;
        Ok(Self { jws, claims })
    }

    /// A claim that names somebody.
    pub fn name(&self, claim: &str) -> Result<String, UserProblem> {
        match self.claims.get(claim) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => Err(UserProblem::ClaimMissing),
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let (signed, signature) = self.jws.signed_parts();
        context.update(signed);
        context.update(b".");
        context.update(signature);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

impl JwtVerifier {
    pub fn new(verification: &JwtVerification) -> Self {
        Self {
            keys: VerifyingKeys::new(verification.keys.iter().map(jwk)),
            verification: verification.clone(),
            remembered: Mutex::default(),
        }
    }

    /// Whether it was made of the same, so that what it remembers still holds.
    pub fn is_of(&self, verification: &JwtVerification) -> bool {
        self.verification == *verification
    }

    /// Whether the issuer vouches for the token at `now`, in seconds since 1970.
    pub fn verify(&self, jwt: &Jwt<'_>, now: i64) -> Result<(), UserProblem> {
        self.verify_signature(jwt)?;
        if jwt.claims.get("iss").and_then(Value::as_str) != Some(&self.verification.issuer) {
            return Err(UserProblem::OtherIssuer);
        }
        if let Some(audience) = &self.verification.audience
            && !is_for(&jwt.claims, audience)
        {
            return Err(UserProblem::OtherAudience);
        }
        // Numbers with a fraction are allowed (RFC 7519 section 2).
        let seconds = |claim: &str| jwt.claims.get(claim).and_then(Value::as_f64);
        let skew = MAX_CLOCK_SKEW as f64;
        match seconds("exp") {
            Some(exp) if now as f64 <= exp + skew => {}
            _ => return Err(UserProblem::Expired),
        }
        if seconds("nbf").is_some_and(|nbf| (now as f64) + skew < nbf) {
            return Err(UserProblem::NotYetValid);
        }
        Ok(())
    }

    fn verify_signature(&self, jwt: &Jwt<'_>) -> Result<(), UserProblem> {
        if self.keys.is_empty() {
            return Err(UserProblem::NoKeys);
        }
        let digest = jwt.digest();
        if let Some(known) = self.remembered.lock().get(&digest) {
            return *known;
        }
        let result = self.keys.verify(&jwt.jws).map_err(UserProblem::from);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest, result);
        result
    }
}

fn is_for(claims: &Claims, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        _ => false,
    }
}

fn jwk(key: &VerificationKey) -> Jwk<'_> {
    Jwk {
        kty: &key.kty,
        kid: key.kid.as_deref(),
        alg: key.alg.as_deref(),
        crv: key.crv.as_deref(),
        n: key.n.as_deref(),
        e: key.e.as_deref(),
        x: key.x.as_deref(),
        y: key.y.as_deref(),
    }
}

impl From<SignatureError> for UserProblem {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::AlgorithmUnsupported => Self::AlgorithmUnsupported,
            SignatureError::UnknownKey => Self::UnknownKey,
            SignatureError::Invalid => Self::SignatureInvalid,
        }
    }
}

#[cfg(test)]
#[path = "jwt/tests.rs"]
mod tests;
