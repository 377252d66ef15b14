//! Verifies the JSON Web Token of a user (RFC 7519 section 7.2, RFC 8725): its signature by the issuer's keys, and
//! that it is this issuer's, for this audience and of now. Runs on the audit log's thread alone.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcp_auth_protocol::sync::{JwtVerification, VerificationKey};
use parking_lot::Mutex;
use ring::digest;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::user::UserProblem;

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
    header: Map<String, Value>,
    pub claims: Claims,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// Verifies the tokens of one issuer.
pub struct JwtVerifier {
    verification: JwtVerification,
    keys: Vec<Key>,
    /// By the SHA-256 of a token: whether its signature is one of the issuer's.
    remembered: Mutex<HashMap<[u8; 32], Result<(), UserProblem>>>,
}

struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, where the set says so.
    algorithm: Option<String>,
    material: KeyMaterial,
}

enum KeyMaterial {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Signature algorithms (RFC 7518 section 3.1, RFC 8037). Neither `none` nor one with a shared secret is among them.
enum Algorithm {
    Rsa(&'static RsaParameters),
    P256,
    P384,
    Ed25519,
}

impl<'a> Jwt<'a> {
    /// Reads a token, without a look at its signature. `Bearer` before it is left out.
    pub fn read(value: &'a [u8]) -> Result<Self, UserProblem> {
        let token = value.strip_prefix(b"Bearer ").unwrap_or(value).trim_ascii();
        if token.len() > MAX_TOKEN_LEN {
            return Err(UserProblem::NotAJwt);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(UserProblem::NotAJwt);
        };
        let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| UserProblem::NotAJwt);
        let object = |part: &[u8]| {
            serde_json::from_slice::<Map<String, Value>>(&decode(part)?).map_err(|_| UserProblem::NotAJwt)
        };
        Ok(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed: &token[..header.len() + 1 + claims.len()],
            signature: decode(signature)?,
        })
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
        context.update(self.signed);
        context.update(b".");
        context.update(&self.signature);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

impl JwtVerifier {
    pub fn new(verification: &JwtVerification) -> Self {
        Self {
            keys: verification.keys.iter().filter_map(Key::new).collect(),
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
        let result = self.check_signature(jwt);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest, result);
        result
    }

    fn check_signature(&self, jwt: &Jwt<'_>) -> Result<(), UserProblem> {
        let text = |name: &str| jwt.header.get(name).and_then(Value::as_str);
        let name = text("alg").unwrap_or_default();
        // What `crit` names has to be understood, and none of it is (RFC 7515 section 4.1.11).
        let algorithm = Algorithm::named(name).filter(|_| !jwt.header.contains_key("crit"));
        let algorithm = algorithm.ok_or(UserProblem::AlgorithmUnsupported)?;
        let id = text("kid");
        let fits = |key: &&Key| {
            let is_named = match (&key.id, id) {
                (Some(own), Some(id)) => own == id,
                _ => true,
            };
            is_named
                && key.algorithm.as_deref().is_none_or(|only| only == name)
                && algorithm.fits(&key.material)
        };
        let mut keys = self.keys.iter().filter(fits).peekable();
        if keys.peek().is_none() {
            return Err(UserProblem::UnknownKey);
        }
        match keys.any(|key| algorithm.verifies(&key.material, jwt.signed, &jwt.signature)) {
            true => Ok(()),
            false => Err(UserProblem::SignatureInvalid),
        }
    }
}

fn is_for(claims: &Claims, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        _ => false,
    }
}

impl Key {
    /// `None`: no key that verifying knows.
    fn new(key: &VerificationKey) -> Option<Self> {
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?.trim_end_matches('=')).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&key.x)?, bytes(&key.y)?);
            // Uncompressed (SEC 1 section 2.3.3).
            ((x.len(), y.len()) == (length, length)).then(|| [vec![4], x, y].concat())
        };
        let material = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => KeyMaterial::Rsa {
                n: bytes(&key.n)?,
                e: bytes(&key.e)?,
            },
            ("EC", Some("P-256")) => KeyMaterial::P256(point(32)?),
            ("EC", Some("P-384")) => KeyMaterial::P384(point(48)?),
            ("OKP", Some("Ed25519")) => KeyMaterial::Ed25519(bytes(&key.x)?),
            _ => return None,
        };
        Some(Self {
            id: key.kid.clone(),
            algorithm: key.alg.clone(),
            material,
        })
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            "EdDSA" | "Ed25519" => Self::Ed25519,
            _ => return None,
        })
    }

    fn fits(&self, key: &KeyMaterial) -> bool {
        matches!(
            (self, key),
            (Self::Rsa(_), KeyMaterial::Rsa { .. })
                | (Self::P256, KeyMaterial::P256(_))
                | (Self::P384, KeyMaterial::P384(_))
                | (Self::Ed25519, KeyMaterial::Ed25519(_))
        )
    }

    fn verifies(&self, key: &KeyMaterial, signed: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key)
                .verify(signed, signature)
                .is_ok()
        };
        match (self, key) {
            (Self::Rsa(parameters), KeyMaterial::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                .verify(parameters, signed, signature)
                .is_ok(),
            (Self::P256, KeyMaterial::P256(point)) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Self::P384, KeyMaterial::P384(point)) => by(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519, KeyMaterial::Ed25519(key)) => by(&signature::ED25519, key),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "jwt/tests.rs"]
mod tests;
