//! Verifies what a JWS was signed with (RFC 7515 section 5.2, RFC 8725) by the public keys of an issuer (JWK, RFC 7517). Neither
//! `none` nor an algorithm with a shared secret is among those that are known.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};
use thiserror::Error;

/// The parts of a JWS in compact serialisation (RFC 7515 section 7.1).
#[derive(Debug)]
pub struct CompactJws<'a> {
    pub header: Map<String, Value>,
    pub payload: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// A public key as a key set has it.
#[derive(Clone, Copy, Debug)]
pub struct Jwk<'a> {
    pub kty: &'a str,
    pub kid: Option<&'a str>,
    pub alg: Option<&'a str>,
    pub crv: Option<&'a str>,
    pub n: Option<&'a str>,
    pub e: Option<&'a str>,
    pub x: Option<&'a str>,
    pub y: Option<&'a str>,
}

/// The public keys of one issuer.
#[derive(Debug, Default)]
pub struct VerifyingKeys(Vec<Key>);

/// Why a signature is not one of these keys'.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SignatureError {
    #[error("the algorithm is not one that signatures are verified by")]
    AlgorithmUnsupported,
    #[error("the key is not one of the issuer's")]
    UnknownKey,
    #[error("the signature is not valid")]
    Invalid,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, where the set says so.
    algorithm: Option<String>,
    material: KeyMaterial,
}

#[derive(Debug)]
enum KeyMaterial {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Signature algorithms (RFC 7518 section 3.1, RFC 8037).
enum Algorithm {
    Rsa(&'static RsaParameters),
    P256,
    P384,
    Ed25519,
}

impl<'a> CompactJws<'a> {
    /// `None`: it is none. The signature is not looked at.
    pub fn read(token: &'a [u8]) -> Option<Self> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let decode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            payload: decode(payload)?,
            signed: &token[..header.len() + 1 + payload.len()],
            signature: decode(signature)?,
        })
    }

    pub fn key_id(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// What is signed, and the signature.
    pub fn signed_parts(&self) -> (&'a [u8], &[u8]) {
        (self.signed, &self.signature)
    }
}

impl VerifyingKeys {
    /// Keys that verifying does not know are left out.
    pub fn new<'a>(keys: impl IntoIterator<Item = Jwk<'a>>) -> Self {
        Self(keys.into_iter().filter_map(|key| Key::new(&key)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether one of the keys signed it.
    pub fn verify(&self, jws: &CompactJws<'_>) -> Result<(), SignatureError> {
        let name = jws.header.get("alg").and_then(Value::as_str).unwrap_or_default();
        // What `crit` names has to be understood, and none of it is (RFC 7515 section 4.1.11).
        let algorithm = Algorithm::named(name).filter(|_| !jws.header.contains_key("crit"));
        let algorithm = algorithm.ok_or(SignatureError::AlgorithmUnsupported)?;
        let id = jws.key_id();
        let fits = |key: &&Key| {
            let is_named = match (&key.id, id) {
                (Some(own), Some(id)) => own == id,
                _ => true,
            };
            is_named
                && key.algorithm.as_deref().is_none_or(|only| only == name)
                && algorithm.fits(&key.material)
        };
        let mut keys = self.0.iter().filter(fits).peekable();
        if keys.peek().is_none() {
            return Err(SignatureError::UnknownKey);
        }
        match keys.any(|key| algorithm.verifies(&key.material, jws.signed, &jws.signature)) {
            true => Ok(()),
            false => Err(SignatureError::Invalid),
        }
    }
}

impl Key {
    /// `None`: no key that verifying knows.
    fn new(key: &Jwk<'_>) -> Option<Self> {
        let bytes = |text: Option<&str>| BASE64_URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(key.x)?, bytes(key.y)?);
            // Uncompressed (SEC 1 section 2.3.3).
            ((x.len(), y.len()) == (length, length)).then(|| [vec![4], x, y].concat())
        };
        let material = match (key.kty, key.crv) {
            ("RSA", _) => KeyMaterial::Rsa {
                n: bytes(key.n)?,
                e: bytes(key.e)?,
            },
            ("EC", Some("P-256")) => KeyMaterial::P256(point(32)?),
            ("EC", Some("P-384")) => KeyMaterial::P384(point(48)?),
            ("OKP", Some("Ed25519")) => KeyMaterial::Ed25519(bytes(key.x)?),
            _ => return None,
        };
        Some(Self {
            id: key.kid.map(str::to_owned),
            algorithm: key.alg.map(str::to_owned),
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
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;
    use crate::jws::{encode_header, sign_compact};

    fn pair() -> EcdsaKeyPair {
        let (signing, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap()
    }

    fn signed(pair: &EcdsaKeyPair, header: &str) -> String {
        let sign = |message: &[u8]| {
            let signature = pair.sign(&SystemRandom::new(), message).unwrap();
            Ok::<_, SignatureError>(signature.as_ref().to_vec())
        };
        sign_compact(&encode_header(header), br#"{"sub":"anna"}"#, sign).unwrap()
    }

    fn verdict(keys: &VerifyingKeys, token: &str) -> Result<(), SignatureError> {
        keys.verify(&CompactJws::read(token.as_bytes()).unwrap())
    }

    #[test]
    fn a_signature_is_one_of_the_keys_or_says_why_not() {
        let (own, stranger) = (pair(), pair());
        let point = own.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64_URL_SAFE_NO_PAD.encode(half));
        let jwk = Jwk {
            kty: "EC",
            kid: Some("1"),
            alg: Some("ES256"),
            crv: Some("P-256"),
            n: None,
            e: None,
            x: Some(&x),
            y: Some(&y),
        };
        let unknown = Jwk { kty: "oct", ..jwk };
        let keys = VerifyingKeys::new([unknown, jwk]);
        let good = signed(&own, r#"{"alg":"ES256","kid":"1"}"#);
        assert_eq!(verdict(&keys, &good), Ok(()));
        assert_eq!(
            CompactJws::read(good.as_bytes()).unwrap().payload,
            br#"{"sub":"anna"}"#
        );
        for (token, expected) in [
            (
                signed(&stranger, r#"{"alg":"ES256","kid":"1"}"#),
                SignatureError::Invalid,
            ),
            (
                signed(&own, r#"{"alg":"ES256","kid":"2"}"#),
                SignatureError::UnknownKey,
            ),
            (
                signed(&own, r#"{"alg":"none","kid":"1"}"#),
                SignatureError::AlgorithmUnsupported,
            ),
            (
                signed(&own, r#"{"alg":"HS256","kid":"1"}"#),
                SignatureError::AlgorithmUnsupported,
            ),
            (
                signed(&own, r#"{"alg":"ES256","kid":"1","crit":["exp"]}"#),
                SignatureError::AlgorithmUnsupported,
            ),
        ] {
            assert_eq!(verdict(&keys, &token), Err(expected), "{token}");
        }
        for text in ["", "a.b", "a.b.c.d", "e30.e30.!!"] {
            assert!(CompactJws::read(text.as_bytes()).is_none(), "{text}");
        }
    }
}
