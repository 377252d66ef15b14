//! Private keys that sign JWTs: from PEM or JWK text to a signature (RFC 7515, RFC 7518, RFC 8037).

mod curve;
mod error;
mod generated;
mod jwk;
mod pem;

use std::fmt;
use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::digest;
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{self, Ed25519KeyPair, KeyPair, RsaKeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::parse_x509_certificate;

use curve::{Curve, EcPair};
pub use error::KeyError;
pub use generated::GeneratedKey;

/// A private key with the algorithm that it signs by and the `kid` that it is announced by. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<Pair>,
    algorithm: Algorithm,
    key_id: Option<String>,
    certificate: Option<CertificateThumbprints>,
}

/// What names a key by its certificate (RFC 7515 sections 4.1.7 and 4.1.8), in base64url.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateThumbprints {
    /// `x5t`, which servers that know no other still want.
    pub sha1: String,
    /// `x5t#S256`.
    pub sha256: String,
}

/// A JWS signature algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// What a text held.
struct ParsedKey {
    pair: Pair,
    /// The algorithms that the key is good for. The first is the default.
    algorithms: &'static [Algorithm],
    /// What the text itself names.
    algorithm: Option<Algorithm>,
    key_id: Option<String>,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Curve, EcPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads PEM (PKCS#8, PKCS#1, SEC1) or a JWK. Without `algorithm` it signs by the one that the JWK names,
    /// or else by RS256, ES256, ES384, ES512 or EdDSA, as the key is. `key_id` goes before the JWK's `kid`.
    pub fn parse(text: &str, algorithm: Option<Algorithm>, key_id: Option<String>) -> Result<Self, KeyError> {
        let parsed = read(text)?;
        let algorithm = algorithm.or(parsed.algorithm).unwrap_or(parsed.algorithms[0]);
        if !parsed.algorithms.contains(&algorithm) {
            return Err(KeyError::AlgorithmMismatch {
                algorithm,
                key: parsed.pair.name(),
                fitting: parsed.algorithms,
            });
        }
        let key = Self {
            pair: Arc::new(parsed.pair),
            algorithm,
            key_id: key_id.or(parsed.key_id),
            certificate: None,
        };
        // Some contradictions in an RSA key come to light only here.
        key.sign(b"")
            .map_err(|Unspecified| KeyError::Malformed { key: key.pair.name() })?;
        Ok(key)
    }

    /// The same key, announced by its certificate too: PEM, the leaf first.
    pub fn with_certificate(mut self, chain: &str) -> Result<Self, KeyError> {
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_| KeyError::NoCertificate)?;
        let (_, certificate) = parse_x509_certificate(&leaf).map_err(|_| KeyError::NoCertificate)?;
        if *certificate.public_key().subject_public_key.data != *self.pair.public_key() {
            return Err(KeyError::CertificateMismatch);
        }
        let thumbprint = |algorithm| BASE64_URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &leaf));
        self.certificate = Some(CertificateThumbprints {
            sha1: thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            sha256: thumbprint(&digest::SHA256),
        });
        Ok(self)
    }

    pub fn certificate(&self) -> Option<&CertificateThumbprints> {
        self.certificate.as_ref()
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// A JWS signature value: ECDSA's are the two numbers side by side (RFC 7518 section 3.4).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match &*self.pair {
            Pair::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match self.algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature)?;
                Ok(signature)
            }
            Pair::Ec(_, pair) => pair.sign(message),
            Pair::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Algorithm {
    const ALL: [Self; 6] = [
        Self::Rs256,
        Self::Ps256,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The value of the header `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl ParsedKey {
    fn rsa(pair: RsaKeyPair) -> Self {
        Self::new(Pair::Rsa(Box::new(pair)), &[Algorithm::Rs256, Algorithm::Ps256])
    }

    /// Of a key that may be used for PSS only (RFC 4055 section 1.2).
    fn rsa_pss(pair: RsaKeyPair) -> Self {
        Self::new(Pair::Rsa(Box::new(pair)), &[Algorithm::Ps256])
    }

    fn ec(curve: Curve, pair: EcPair) -> Self {
        Self::new(Pair::Ec(curve, pair), curve.algorithms())
    }

    fn ed(pair: Ed25519KeyPair) -> Self {
        Self::new(Pair::Ed(pair), &[Algorithm::EdDsa])
    }

    fn new(pair: Pair, algorithms: &'static [Algorithm]) -> Self {
        Self {
            pair,
            algorithms,
            algorithm: None,
            key_id: None,
        }
    }
}

impl Pair {
    /// As a certificate holds it (RFC 5280 section 4.1.2.7).
    fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ec(_, pair) => pair.public_key(),
            Self::Ed(pair) => pair.public_key().as_ref(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RSA",
            Self::Ec(curve, _) => curve.name(),
            Self::Ed(_) => "Ed25519",
        }
    }
}

fn read(text: &str) -> Result<ParsedKey, KeyError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    match text.as_bytes().first() {
        None => Err(KeyError::Empty),
        Some(b'{') => jwk::read(text),
        Some(_) if text.contains("-----BEGIN ") => pem::read(text),
        Some(_) => Err(KeyError::Unknown {
            found: error::shape(text),
        }),
    }
}

#[cfg(test)]
mod tests;
