//! Key errors: why a text is no private key to sign with. Says what was found, and nothing of the text
//! itself.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mcp_auth_http_auth::pem::PemError;
use zeroize::Zeroizing;

use super::Algorithm;

/// A text that is no private key to sign with.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("the private key is empty")]
    Empty,
    #[error("the private key is neither PEM nor a JWK but {found}")]
    Unknown { found: &'static str },
    #[error("the private key is PEM that {problem}")]
    BrokenPem { problem: &'static str },
    #[error("the private key is broken JSON")]
    BrokenJson,
    #[error("the private key is a JWK whose member {member:?} {problem}")]
    InvalidJwk {
        member: &'static str,
        problem: &'static str,
    },
    #[error("the private key is a JWK with a member of the wrong type")]
    WrongJsonType,
    #[error("it is a JWK set instead of one JWK")]
    JwkSet,
    #[error("the private key is encrypted")]
    Encrypted,
    #[error("it is a public key instead of a private one")]
    Public,
    #[error("it is {found} instead of a private key")]
    NoKey { found: &'static str },
    #[error("it holds {count} private keys instead of one")]
    Several { count: usize },
    #[error("it is {found}, which no supported algorithm signs with")]
    Unsupported { found: &'static str },
    #[error("its curve is {found} instead of P-256, P-384 or P-521")]
    WrongCurve { found: &'static str },
    #[error("the certificate of the key is no X.509 certificate in PEM")]
    NoCertificate,
    #[error("the certificate and the key do not belong together")]
    CertificateMismatch,
    #[error("it is an RSA key of fewer than 2048 bits or with a public exponent below 65537")]
    TooSmall,
    #[error("it is an RSA key of more than 4096 bits")]
    TooLarge,
    #[error("the {key} key is malformed: its parts are missing or contradict one another")]
    Malformed { key: &'static str },
    #[error("the algorithm {} does not fit: it is {} {key} key", algorithm.as_str(), article(key))]
    AlgorithmMismatch {
        algorithm: Algorithm,
        key: &'static str,
        fitting: &'static [Algorithm],
    },
}

impl KeyError {
    /// Closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "KeyEmpty",
            Self::Unknown { .. } => "KeyUnknown",
            Self::BrokenPem { .. } => "KeyBrokenPem",
            Self::BrokenJson => "KeyBrokenJson",
            Self::InvalidJwk { .. } | Self::WrongJsonType => "KeyInvalidJwk",
            Self::JwkSet => "KeyJwkSet",
            Self::Encrypted => "KeyEncrypted",
            Self::Public => "KeyPublic",
            Self::NoKey { .. } => "KeyNone",
            Self::Several { .. } => "KeySeveral",
            Self::Unsupported { .. } => "KeyUnsupported",
            Self::WrongCurve { .. } => "KeyWrongCurve",
            Self::NoCertificate => "KeyNoCertificate",
            Self::CertificateMismatch => "KeyCertificateMismatch",
            Self::TooSmall => "KeyTooSmall",
            Self::TooLarge => "KeyTooLarge",
            Self::Malformed { .. } => "KeyMalformed",
            Self::AlgorithmMismatch { .. } => "KeyAlgorithmMismatch",
        }
    }

    /// What was found and the way out, for people.
    pub fn message(&self) -> String {
        format!("{self}: {}", self.hint())
    }

    /// The way out.
    pub fn hint(&self) -> String {
        let hint = match self {
            Self::Empty | Self::Unknown { .. } | Self::NoKey { .. } => {
                "put the private key there, as PEM (BEGIN PRIVATE KEY) or as one JWK"
            }
            Self::BrokenPem { .. } | Self::BrokenJson | Self::Malformed { .. } => {
                "copy the key anew, whole and with its line breaks"
            }
            Self::InvalidJwk { .. } | Self::WrongJsonType => {
                "export the JWK anew with its private members (RFC 7518 section 6), or use PEM"
            }
            Self::JwkSet => "put the one key there that signs, without the set around it",
            Self::Encrypted => "decrypt it, such as by openssl pkcs8 -in encrypted.pem -out key.pem",
            Self::Public => "put the private key there; the public one belongs to the authorization server",
            Self::Several { .. } => "leave only the one that signs",
            Self::Unsupported { .. } | Self::WrongCurve { .. } => {
                "use an RSA, EC P-256, EC P-384, EC P-521 or Ed25519 key, and register its public key at the authorization server"
            }
            Self::NoCertificate | Self::CertificateMismatch => {
                "put the certificate and its own key there: a Secret of type kubernetes.io/tls has both"
            }
            Self::TooSmall => "make a key of 2048 bits or more, and register its public key",
            Self::TooLarge => "make a key of 2048 to 4096 bits, and register its public key",
            Self::AlgorithmMismatch { fitting, .. } => {
                let names: Vec<_> = fitting.iter().map(|algorithm| algorithm.as_str()).collect();
                return format!(
                    "set algorithm to {}, leave it out, or use another key",
                    names.join(" or ")
                );
            }
        };
        hint.to_owned()
    }
}

impl From<PemError> for KeyError {
    fn from(PemError(problem): PemError) -> Self {
        Self::BrokenPem { problem }
    }
}

/// What a text looks like that is neither PEM nor a JSON object.
pub(super) fn shape(text: &str) -> &'static str {
    if text.starts_with('[') {
        return "a JSON list";
    }
    if text.starts_with("ssh-") || text.starts_with("ecdsa-sha2-") {
        return "an SSH public key";
    }
    let compact: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
    match BASE64_STANDARD.decode(compact.as_bytes()).map(Zeroizing::new) {
        Ok(inner) if inner.starts_with(b"-----BEGIN ") || inner.starts_with(b"{") => {
            "a key that is encoded in base64 once too often"
        }
        Ok(_) => "base64 without the lines around it that PEM has",
        Err(_) => "other text",
    }
}

fn article(key: &str) -> &'static str {
    // As they are spoken: an R-S-A key, an Ed25519 key, a P-256 key.
    if key.starts_with('P') { "a" } else { "an" }
}
