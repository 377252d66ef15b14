//! The keys of certificate authorities: which of them the crypto library (ring) can verify signatures by. Operator and sidecar
//! leave the others out of a CA bundle, with a word why, since every handshake under them would fail.

use std::borrow::Cow;
use std::fmt;

use ring::digest::{SHA256, digest};

/// What can be verified, as advice.
pub const USABLE_KEYS: &str = "P-256, P-384, Ed25519 and RSA of 2048 to 8192 bits can be";

/// An authority of a CA bundle that nothing can be verified by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnusableAuthority {
    /// Among the certificates of the bundle, from 1.
    pub position: usize,
    /// How the SHA-256 of its subject's DER begins, in hex.
    pub subject_digest: String,
    key: Cow<'static, str>,
}

impl UnusableAuthority {
    /// `None` where the key is a usable one. `subject` and `key_info` are the contents of subject and SubjectPublicKeyInfo in
    /// DER, without their own tags, as trust anchors have them.
    pub fn find(position: usize, subject: &[u8], key_info: &[u8]) -> Option<Self> {
        let key = unusable_key(key_info)?;
        let digest = digest(&SHA256, subject);
        let digest = digest.as_ref().iter().take(4);
        Some(Self {
            position,
            subject_digest: digest.map(|byte| format!("{byte:02x}")).collect(),
            key,
        })
    }
}

impl fmt::Display for UnusableAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            subject_digest,
            key,
        } = self;
        write!(
            formatter,
            "certificate {position} (SHA-256 of its subject: {subject_digest}...) has {key}"
        )
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// Object identifiers of key algorithms (RFC 3279, 4055, 8410), without tag and length.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ED448: &[u8] = &[0x2b, 0x65, 0x71];
const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
/// The same of curves (RFC 5480, 5639).
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OTHER_CURVES: [(&[u8], &str); 6] = [
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "a key on the curve P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "a key on the curve P-224"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "a key on the curve secp256k1"),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
        "a key on the curve brainpoolP256r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b],
        "a key on the curve brainpoolP384r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d],
        "a key on the curve brainpoolP512r1",
    ),
];

/// What the key is, unless signatures can be verified by it.
fn unusable_key(key_info: &[u8]) -> Option<Cow<'static, str>> {
    const UNKNOWN: &str = "a key of an algorithm that is not known here";
    let parts = || {
        let (algorithm, rest) = value(key_info, SEQUENCE)?;
        let (identifier, parameters) = value(algorithm, OBJECT_IDENTIFIER)?;
        Some((identifier, parameters, rest))
    };
    let Some((identifier, parameters, rest)) = parts() else {
        return Some("a key that cannot be read".into());
    };
    match identifier {
        ED25519 => None,
        RSA => match rsa_bits(rest) {
            Some(2048..=8192) => None,
            Some(bits) => Some(format!("an RSA key of {bits} bits").into()),
            None => Some("an RSA key that cannot be read".into()),
        },
        EC => match value(parameters, OBJECT_IDENTIFIER).map(|(curve, _)| curve) {
            Some(P256 | P384) => None,
            curve => {
                let known = OTHER_CURVES.iter().find(|(known, _)| Some(*known) == curve);
                Some(
                    known
                        .map_or("a key on a curve that is not known here", |(_, name)| name)
                        .into(),
                )
            }
        },
        RSA_PSS => Some("a key of RSASSA-PSS".into()),
        ED448 => Some("a key on the curve Ed448".into()),
        DSA => Some("a key of DSA".into()),
        _ => Some(UNKNOWN.into()),
    }
}

/// How long the modulus is that a BIT STRING holds.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (bits, _) = value(key, BIT_STRING)?;
    let (numbers, _) = value(bits.strip_prefix(&[0])?, SEQUENCE)?;
    let (modulus, _) = value(numbers, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = &modulus[zeros..];
    let leading = modulus.first()?.leading_zeros() as usize;
    Some(modulus.len() * 8 - leading)
}

/// The value with this tag at the beginning, and what follows it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u16::from_be_bytes(*length).into(), rest)
        }
        // No key is as long.
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        let length = contents.len();
        let length = match u8::try_from(length) {
            Ok(short @ 0..=0x7f) => vec![short],
            Ok(long) => vec![0x81, long],
            Err(_) => [&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        };
        [&[tag][..], &length, &contents].concat()
    }

    fn key_info(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
        let algorithm = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[algorithm]), parameters]);
        [algorithm, der(BIT_STRING, &[&[0], key])].concat()
    }

    fn rsa(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        let key = der(
            SEQUENCE,
            &[&der(INTEGER, &[&modulus]), &der(INTEGER, &[&[1, 0, 1]])],
        );
        key_info(RSA, &[5, 0], &key)
    }

    #[test]
    fn what_can_be_verified_is_usable_and_all_else_is_named() {
        let ec = |curve: &[u8]| key_info(EC, &der(OBJECT_IDENTIFIER, &[curve]), &[4; 65]);
        let usable = [
            ec(P256),
            ec(P384),
            key_info(ED25519, &[], &[1; 32]),
            rsa(2048),
            rsa(8192),
        ];
        for key in usable {
            assert_eq!(UnusableAuthority::find(1, b"", &key), None);
        }
        for (key, expected) in [
            (ec(OTHER_CURVES[0].0), "the curve P-521"),
            (ec(OTHER_CURVES[3].0), "the curve brainpoolP256r1"),
            (ec(&[1, 2, 3]), "a curve that is not known"),
            (key_info(ED448, &[], &[1; 57]), "Ed448"),
            (key_info(RSA_PSS, &[], &[]), "RSASSA-PSS"),
            (key_info(&[1, 2], &[], &[]), "an algorithm that is not known"),
            (rsa(1024), "an RSA key of 1024 bits"),
            (rsa(16_384), "an RSA key of 16384 bits"),
            (vec![], "cannot be read"),
            (vec![SEQUENCE, 0x82, 0xff], "cannot be read"),
        ] {
            let found = UnusableAuthority::find(2, b"subject", &key).unwrap().to_string();
            assert!(
                found.starts_with("certificate 2 (SHA-256 of its subject: ") && found.contains(expected),
                "{found}"
            );
        }
    }
}
