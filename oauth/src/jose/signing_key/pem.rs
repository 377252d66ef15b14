//! Private keys in PEM (RFC 7468): PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) and SEC1 (RFC 5915). Read by hand, so
//! that no copy of a key stays behind in memory, and so that each of the usual mistakes has an error that
//! names it.

use mcp_auth_http_auth::pem::PemSection;
use p256::pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use ring::error::KeyRejected;
use ring::signature::{Ed25519KeyPair, RsaKeyPair};
use sec1::{EcParameters, EcPrivateKey};

use super::curve::Curve;
use super::{KeyError, ParsedKey};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

pub(super) fn read(text: &str) -> Result<ParsedKey, KeyError> {
    let sections = PemSection::all(text)?;
    let keys: Vec<_> = sections
        .iter()
        .filter(|section| section.label.ends_with("PRIVATE KEY"))
        .collect();
    match (keys.as_slice(), sections.as_slice()) {
        ([key], _) => private_key(key),
        ([], [first, ..]) => Err(no_private_key(first.label)),
        ([], []) => Err(KeyError::BrokenPem {
            problem: "has a BEGIN line and nothing that follows it",
        }),
        (several, _) => Err(KeyError::Several { count: several.len() }),
    }
}

fn private_key(section: &PemSection<'_>) -> Result<ParsedKey, KeyError> {
    match section.label {
        "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
        _ if section.is_encrypted() => Err(KeyError::Encrypted),
        "PRIVATE KEY" => pkcs8(&section.decode()?),
        "RSA PRIVATE KEY" => rsa(&section.decode()?).map(ParsedKey::rsa),
        "EC PRIVATE KEY" => ec(&section.decode()?, None),
        "DSA PRIVATE KEY" => Err(KeyError::Unsupported { found: "a DSA key" }),
        "OPENSSH PRIVATE KEY" => Err(KeyError::Unsupported {
            found: "a key in OpenSSH's own format",
        }),
        _ => Err(KeyError::Unsupported {
            found: "a private key of another kind",
        }),
    }
}

fn no_private_key(label: &str) -> KeyError {
    let shape = match label {
        _ if label.ends_with("PUBLIC KEY") => return KeyError::Public,
        "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => "a certificate",
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "a certificate request",
        "EC PARAMETERS" | "DH PARAMETERS" => "key parameters alone",
        _ => "PEM of another kind",
    };
    KeyError::NoKey { found: shape }
}

fn pkcs8(der: &[u8]) -> Result<ParsedKey, KeyError> {
    let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyError::Malformed { key: "PKCS#8" })?;
    match info.algorithm.oid {
        RSA => rsa(info.private_key.as_bytes()).map(ParsedKey::rsa),
        RSA_PSS => rsa(info.private_key.as_bytes()).map(ParsedKey::rsa_pss),
        EC => ec(info.private_key.as_bytes(), info.algorithm.parameters_oid().ok()),
        ED25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(ParsedKey::ed)
            .map_err(|_| KeyError::Malformed { key: "Ed25519" }),
        other => Err(KeyError::Unsupported {
            found: match other.to_string().as_str() {
                "1.2.840.10040.4.1" => "a DSA key",
                "1.3.101.110" | "1.3.101.111" => "a key for key agreement (X25519 or X448)",
                "1.3.101.113" => "an Ed448 key",
                _ => "a key of another kind",
            },
        }),
    }
}

fn rsa(der: &[u8]) -> Result<RsaKeyPair, KeyError> {
    RsaKeyPair::from_der(der).map_err(rejected_rsa)
}

pub(super) fn rejected_rsa(rejected: KeyRejected) -> KeyError {
    match rejected.to_string().as_str() {
        "TooSmall" => KeyError::TooSmall,
        "TooLarge" => KeyError::TooLarge,
        _ => KeyError::Malformed { key: "RSA" },
    }
}

/// Reads SEC1. In PKCS#8 the curve is named outside.
fn ec(der: &[u8], outer_curve: Option<ObjectIdentifier>) -> Result<ParsedKey, KeyError> {
    let Ok(key) = EcPrivateKey::try_from(der) else {
        return Err(KeyError::Malformed { key: "EC" });
    };
    let inner_curve = key.parameters.and_then(EcParameters::named_curve);
    let oid = outer_curve
        .or(inner_curve)
        .ok_or(KeyError::WrongCurve { found: "not named" })?;
    Curve::from_oid(oid)?.key_from_sec1(key)
}
