//! Signing keys that this client makes, and the public half of any signing key as others are shown it (RFC 7517, RFC
//! 7518 section 6, RFC 8037 section 2).

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use mcp_auth_http_auth::pem;
use p521::elliptic_curve::Generate;
use p521::pkcs8::EncodePrivateKey;
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::pkcs8::Document;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Algorithm, Pair, SigningKey};

/// Bits of a new RSA key: what NIST SP 800-57 part 1 allows for use until 2030, and what the providers take that want RSA.
const RSA_BITS: usize = 2048;

/// Kinds of keys that can be made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum GeneratedKey {
    /// For ES256.
    #[default]
    P256,
    /// For ES384.
    P384,
    /// For ES512.
    P521,
    /// For EdDSA.
    Ed25519,
    /// For RS256. Takes hundreds of milliseconds to make.
    Rsa,
}

impl GeneratedKey {
    pub const ALL: [Self; 5] = [Self::P256, Self::P384, Self::P521, Self::Ed25519, Self::Rsa];

    /// What a key of this kind signs by where nothing else is said.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::P521 => Algorithm::Es512,
            Self::Ed25519 => Algorithm::EdDsa,
            Self::Rsa => Algorithm::Rs256,
        }
    }

    /// A new private key, in PEM (PKCS#8).
    pub fn generate(self) -> SecretString {
        let random = SystemRandom::new();
        match self {
            Self::P256 => of_ring(EcdsaKeyPair::generate_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &random,
            )),
            Self::P384 => of_ring(EcdsaKeyPair::generate_pkcs8(
                &ECDSA_P384_SHA384_FIXED_SIGNING,
                &random,
            )),
            Self::Ed25519 => of_ring(Ed25519KeyPair::generate_pkcs8(&random)),
            Self::P521 => encode(&p521::SecretKey::generate_from_rng(&mut rand::rng())),
            Self::Rsa => {
                let key = rsa::PrivateKey::new(&mut rand::rng(), RSA_BITS);
                encode(&key.expect("the size is one that the crate makes"))
            }
        }
    }
}

fn of_ring(document: Result<Document, Unspecified>) -> SecretString {
    let document = document
        .map_err(|Unspecified| ())
        .expect("the system gives random bytes");
    pem::encode("PRIVATE KEY", document.as_ref())
}

fn encode(key: &impl EncodePrivateKey) -> SecretString {
    let document = key.to_pkcs8_der().expect("a key that was just made is one");
    pem::encode("PRIVATE KEY", document.as_bytes())
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
            let (x, y) = pair.public_key()[1..].split_at(curve.width());
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
    use p521::ecdsa::signature::Verifier;
    use p521::ecdsa::{Signature, VerifyingKey};
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
        RsaPublicKeyComponents, UnparsedPublicKey,
    };
    use secrecy::ExposeSecret;

    use super::*;

    fn made(kind: GeneratedKey) -> SigningKey {
        SigningKey::parse(kind.generate().expose_secret(), None, None).unwrap()
    }

    fn bytes(jwk: &Value, member: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD
            .decode(jwk[member].as_str().unwrap())
            .unwrap()
    }

    fn point(jwk: &Value) -> Vec<u8> {
        [vec![4], bytes(jwk, "x"), bytes(jwk, "y")].concat()
    }

    /// Whether the public key that is shown verifies this signature.
    fn is_verified(jwk: &Value, message: &[u8], signature: &[u8]) -> bool {
        let by_ring = |by, public| {
            UnparsedPublicKey::new(by, public)
                .verify(message, signature)
                .is_ok()
        };
        match jwk["alg"].as_str().unwrap() {
            "ES256" => by_ring(&ECDSA_P256_SHA256_FIXED, point(jwk)),
            "ES384" => by_ring(&ECDSA_P384_SHA384_FIXED, point(jwk)),
            "EdDSA" => UnparsedPublicKey::new(&ED25519, bytes(jwk, "x"))
                .verify(message, signature)
                .is_ok(),
            "ES512" => {
                let key = VerifyingKey::from_sec1_bytes(&point(jwk)).unwrap();
                let signature = Signature::from_slice(signature).unwrap();
                key.verify(message, &signature).is_ok()
            }
            "RS256" => RsaPublicKeyComponents {
                n: bytes(jwk, "n"),
                e: bytes(jwk, "e"),
            }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_a_made_key_signs_is_verified_by_the_public_key_that_is_shown() {
        for kind in GeneratedKey::ALL {
            let key = made(kind).with_thumbprint_as_id();
            assert_eq!(key.algorithm(), kind.algorithm());
            let jwk = key.public_jwk();
            let signature = key.sign(b"message").unwrap();
            assert!(is_verified(&jwk, b"message", &signature), "{kind:?}");
            assert!(!is_verified(&jwk, b"another", &signature), "{kind:?}");
            assert_eq!(jwk["alg"], kind.algorithm().as_str());
            assert_eq!(jwk["kid"].as_str(), key.key_id());
            let private = ["d", "p", "q", "dp", "dq", "qi"];
            let shown = private.iter().find(|member| jwk.get(**member).is_some());
            assert!(shown.is_none(), "{kind:?}: {shown:?} is not shown");
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
