//! DPoP (RFC 9449): the key that a token is bound to, and the proof that a request carries.

use std::fmt;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::Method;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Serialize;
use url::{Position, Url};

use crate::jws;
use crate::pem::{self, PemSection};

/// A P-256 key; proofs are signed by ES256. Kept in memory only.
pub struct ProofKey {
    pair: EcdsaKeyPair,
    pkcs8: SecretSlice<u8>,
    random: SystemRandom,
    /// As it stands in every proof.
    header: String,
    thumbprint: String,
}

/// A text is no proof key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proof key is no P-256 key in PKCS#8 PEM")]
pub struct ProofKeyError;

/// RFC 9449 section 4.2.
#[derive(Serialize)]
struct Claims<'a> {
    jti: &'a str,
    htm: &'a str,
    htu: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl ProofKey {
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .expect("the system gives random bytes");
        Self::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made is one")
    }

    /// PKCS#8 in PEM, as [`Self::to_pem`] gives it.
    pub fn from_pem(text: &str) -> Result<Self, ProofKeyError> {
        let sections = PemSection::all(text).map_err(|_| ProofKeyError)?;
        match sections.as_slice() {
            [section] if section.label == "PRIVATE KEY" => {
                Self::from_pkcs8(&section.decode().map_err(|_| ProofKeyError)?)
            }
            _ => Err(ProofKeyError),
        }
    }

    pub fn to_pem(&self) -> SecretString {
        pem::encode("PRIVATE KEY", self.pkcs8.expose_secret())
    }

    /// The value of the header `DPoP` for one request (RFC 9449 section 4.2): `htu` is `url` without query
    /// and fragment, `ath` is there where there is an access token, `nonce` where the server demanded one.
    pub fn proof(
        &self,
        method: &Method,
        url: &Url,
        access_token: Option<&SecretString>,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> String {
        let hash = access_token.map(|token| hash(token.expose_secret().as_bytes()));
        let claims = Claims {
            jti: &jws::random_jti(),
            htm: method.as_str(),
            htu: &url[..Position::AfterPath],
            iat: now.as_second(),
            ath: hash.as_deref(),
            nonce,
        };
        let claims = serde_json::to_vec(&claims).expect("texts and numbers are JSON");
        jws::sign_compact(&self.header, &claims, |message| {
            let signature = self.pair.sign(&self.random, message)?;
            Ok::<_, Unspecified>(signature.as_ref().to_vec())
        })
        .expect("the system gives random bytes")
    }

    /// The key's name (RFC 7638): what the claim `cnf.jkt` of a token that is bound to it says.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, ProofKeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|_| ProofKeyError)?;
        // Uncompressed: the byte 4, then the two coordinates.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        // In the order and form that RFC 7638 section 3 fixes.
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let header = jws::encode_header(&format!(r#"{{"typ":"dpop+jwt","alg":"ES256","jwk":{jwk}}}"#));
        Ok(Self {
            pair,
            pkcs8: pkcs8.to_vec().into(),
            random,
            header,
            thumbprint: hash(jwk.as_bytes()),
        })
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ProofKey")
            .field("thumbprint", &self.thumbprint)
            .finish_non_exhaustive()
    }
}

fn hash(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn prove(key: &ProofKey, url: &str, token: Option<&str>, nonce: Option<&str>) -> String {
        let token = token.map(SecretString::from);
        let now = Timestamp::from_second(NOW).unwrap();
        key.proof(
            &Method::POST,
            &Url::parse(url).unwrap(),
            token.as_ref(),
            nonce,
            now,
        )
    }

    fn decode(part: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
    }

    /// Header and claims of a proof whose signature fits the key that it shows.
    fn verified(proof: &str) -> (Value, Value) {
        let (message, signature) = proof.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let header: Value = serde_json::from_slice(&decode(header)).unwrap();
        let coordinate = |name: &str| decode(header["jwk"][name].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &decode(signature))
            .unwrap();
        (header, serde_json::from_slice(&decode(claims)).unwrap())
    }

    #[test]
    fn a_proof_shows_the_public_key_and_names_the_request_without_query_and_fragment() {
        let key = ProofKey::generate();
        let (header, mut claims) = verified(&prove(
            &key,
            "https://as.example.com:8443/a%20b/token?c=d#e",
            None,
            None,
        ));
        assert_eq!(
            (&header["typ"], &header["alg"]),
            (&"dpop+jwt".into(), &"ES256".into())
        );
        let members: Vec<_> = header["jwk"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["crv", "kty", "x", "y"]);
        assert_eq!(claims["jti"].take().as_str().unwrap().len(), 22);
        assert_eq!(
            claims,
            json!({"jti": null, "htm": "POST", "htu": "https://as.example.com:8443/a%20b/token", "iat": NOW})
        );
    }

    #[test]
    fn a_proof_holds_the_hash_of_the_token_and_the_nonce_as_it_came() {
        // The token and its hash are from RFC 9449 section 7.1.
        let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        let proof = prove(
            &ProofKey::generate(),
            "https://a.example/",
            Some(token),
            Some("n\"1"),
        );
        let (_, claims) = verified(&proof);
        assert_eq!(claims["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
        assert_eq!(claims["nonce"], "n\"1");
    }

    #[test]
    fn no_two_proofs_have_the_same_id() {
        let key = ProofKey::generate();
        let id = || verified(&prove(&key, "https://a.example/", None, None)).1["jti"].clone();
        assert_ne!(id(), id());
    }

    #[test]
    fn a_key_survives_its_text() {
        let key = ProofKey::generate();
        let read = ProofKey::from_pem(key.to_pem().expose_secret()).unwrap();
        assert_eq!(read.thumbprint(), key.thumbprint());
        assert_eq!(read.to_pem().expose_secret(), key.to_pem().expose_secret());
        verified(&prove(&read, "https://a.example/", None, None));
    }

    #[test]
    fn the_thumbprint_is_of_the_key_that_proofs_show() {
        let key = ProofKey::generate();
        let (header, _) = verified(&prove(&key, "https://a.example/", None, None));
        // Read and written again, the members still stand in the order that RFC 7638 asks for.
        assert_eq!(key.thumbprint(), hash(header["jwk"].to_string().as_bytes()));
    }

    #[test]
    fn other_keys_are_refused() {
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_pem();
        for text in ["", "hello", rsa, &ed25519] {
            assert_eq!(ProofKey::from_pem(text).unwrap_err(), ProofKeyError, "{text}");
        }
    }

    #[test]
    fn debug_output_never_holds_the_private_key() {
        let key = ProofKey::generate();
        let pem = key.to_pem();
        let body: String = pem
            .expose_secret()
            .lines()
            .filter(|line| !line.contains('-'))
            .collect();
        let seen = format!("{key:?}");
        assert!(seen.contains(key.thumbprint()), "{seen}");
        assert!(
            !body
                .as_bytes()
                .windows(12)
                .any(|piece| seen.contains(std::str::from_utf8(piece).unwrap()))
        );
    }

    proptest! {
        #[test]
        fn reading_any_text_never_panics(text in "\\PC*", der: Vec<u8>) {
            let _ = ProofKey::from_pem(&text);
            let _ = ProofKey::from_pem(pem::encode("PRIVATE KEY", &der).expose_secret());
        }
    }
}
