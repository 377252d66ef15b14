//! Signing keys that this client makes, and the public half of any signing key as others are shown it (RFC 7517, RFC
//! 7518 section 6, RFC 8037 section 2).

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use mcp_auth_http_auth::pem;
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Pair, SigningKey};

/// Kinds of keys that can be made. Not RSA: ring makes none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum GeneratedKey {
    /// For ES256.
    #[default]
    P256,
    /// For ES384.
    P384,
    /// For EdDSA.
    Ed25519,
}

impl GeneratedKey {
    /// A new private key, in PEM (PKCS#8).
    pub fn generate(self) -> SecretString {
        let random = SystemRandom::new();
        let document = match self {
            Self::P256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random),
            Self::P384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random),
            Self::Ed25519 => Ed25519KeyPair::generate_pkcs8(&random),
        };
        let document = document
            .map_err(|Unspecified| ())
            .expect("the system gives random bytes");
        pem::encode("PRIVATE KEY", document.as_ref())
    }
}

impl SigningKey {
    /// The same key, announced by its thumbprint (RFC 7638) where it has no other name.
    pub fn with_thumbprint_as_id(mut self) -> Self {
        if self.key_id.is_none() {
            self.key_id = Some(self.public_thumbprint());
        }
        self
    }

    /// The thumbprint (RFC 7638), whatever name it has.
    pub fn public_thumbprint(&self) -> String {
        thumbprint(&public_members(&self.pair))
    }

    /// The public key as a member of a JWK set, with `kid`, `alg` and `use`.
    pub fn public_jwk(&self) -> Value {
        let mut jwk = public_members(&self.pair);
        jwk["alg"] = self.algorithm.as_str().into();
        jwk["use"] = "sig".into();
        if let Some(key_id) = &self.key_id {
            jwk["kid"] = key_id.as_str().into();
        }
        jwk
    }
}

/// The members that a thumbprint is made of (RFC 7638 section 3.2).
fn public_members(pair: &Pair) -> Value {
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    match pair {
        Pair::Rsa(pair) => {
            let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
            json!({"e": text(&e), "kty": "RSA", "n": text(&n)})
        }
        Pair::Ec(curve, pair) => {
            // Uncompressed: the byte 4, then the two coordinates.
            let (x, y) = pair.public_key().as_ref()[1..].split_at(curve.width());
            json!({"crv": curve.name(), "kty": "EC", "x": text(x), "y": text(y)})
        }
        Pair::Ed(pair) => {
            json!({"crv": "Ed25519", "kty": "OKP", "x": text(pair.public_key().as_ref())})
        }
    }
}

/// RFC 7638 section 3: the members in the order of their names, without blanks.
fn thumbprint(members: &Value) -> String {
    let mut members: Vec<_> = members.as_object().into_iter().flatten().collect();
    members.sort_by_key(|(name, _)| name.as_str());
    let members: Vec<_> = members
        .into_iter()
        .map(|(name, value)| format!("{}:{value}", json!(name)))
        .collect();
    let text = format!("{{{}}}", members.join(","));
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
    };
    use secrecy::ExposeSecret;

    use super::*;
    use crate::Algorithm;

    fn made(kind: GeneratedKey) -> SigningKey {
        SigningKey::parse(kind.generate().expose_secret(), None, None).unwrap()
    }

    fn bytes(jwk: &Value, member: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD
            .decode(jwk[member].as_str().unwrap())
            .unwrap()
    }

    #[test]
    fn what_a_made_key_signs_is_verified_by_the_public_key_that_is_shown() {
        let kinds: [(_, _, &dyn VerificationAlgorithm); 3] = [
            (GeneratedKey::P256, Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            (GeneratedKey::P384, Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
            (GeneratedKey::Ed25519, Algorithm::EdDsa, &ED25519),
        ];
        for (kind, algorithm, verification) in kinds {
            let key = made(kind).with_thumbprint_as_id();
            assert_eq!(key.algorithm(), algorithm);
            let jwk = key.public_jwk();
            let public = match jwk["kty"].as_str().unwrap() {
                "EC" => [vec![4], bytes(&jwk, "x"), bytes(&jwk, "y")].concat(),
                _ => bytes(&jwk, "x"),
            };
            UnparsedPublicKey::new(verification, public)
                .verify(b"message", &key.sign(b"message").unwrap())
                .unwrap();
            assert_eq!(jwk["alg"], algorithm.as_str());
            assert_eq!(jwk["kid"].as_str(), key.key_id());
            assert!(jwk.get("d").is_none(), "the private number is not shown");
        }
    }

    #[test]
    fn no_two_keys_are_the_same_and_each_is_named_by_its_thumbprint() {
        let (one, other) = (made(GeneratedKey::P256), made(GeneratedKey::P256));
        let id = |key: SigningKey| key.with_thumbprint_as_id().key_id().unwrap().to_owned();
        assert_ne!(id(one.clone()), id(other));
        assert_eq!(id(one.clone()).len(), 43);
        assert_eq!(id(one.clone()), id(one));
    }

    #[test]
    fn a_key_that_has_a_name_keeps_it() {
        let text = GeneratedKey::P256.generate();
        let key = SigningKey::parse(text.expose_secret(), None, Some("k-1".into())).unwrap();
        assert_eq!(key.with_thumbprint_as_id().key_id(), Some("k-1"));
    }

    /// The key and its thumbprint are from RFC 7638 section 3.1.
    #[test]
    fn the_thumbprint_is_that_of_the_standards_example() {
        let members = json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRX\
                  jBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs\
                  8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_\
                  xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        });
        assert_eq!(
            thumbprint(&members),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }
}
