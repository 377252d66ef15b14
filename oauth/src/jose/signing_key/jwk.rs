//! Private keys as a JWK (RFC 7517, RFC 7518 section 6, RFC 8037).

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{Ed25519KeyPair, RsaKeyPair};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::curve::Curve;
use super::pem::rejected_rsa;
use super::{Algorithm, KeyError, ParsedKey};

/// Some write the padding that RFC 7515 section 2 leaves out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// All numbers are secrets here, the public ones too: it costs nothing, and text in a wrong member is no
/// leak.
#[derive(Deserialize)]
struct Jwk {
    kty: Option<String>,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    kid: Option<String>,
    n: Option<SecretString>,
    e: Option<SecretString>,
    d: Option<SecretString>,
    p: Option<SecretString>,
    q: Option<SecretString>,
    dp: Option<SecretString>,
    dq: Option<SecretString>,
    qi: Option<SecretString>,
    oth: Option<IgnoredAny>,
    x: Option<SecretString>,
    y: Option<SecretString>,
    /// Of a JWK set.
    keys: Option<IgnoredAny>,
}

type Bytes = Zeroizing<Vec<u8>>;

pub(super) fn read(text: &str) -> Result<ParsedKey, KeyError> {
    let jwk: Jwk = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => KeyError::WrongJsonType,
        _ => KeyError::BrokenJson,
    })?;
    if jwk.keys.is_some() && jwk.kty.is_none() {
        return Err(KeyError::JwkSet);
    }
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err(invalid("use", "says that it is not for signing"));
    }
    let algorithm = match jwk.alg.as_deref() {
        Some(name) => Some(
            Algorithm::from_name(name)
                .ok_or_else(|| invalid("alg", "is none of RS256, PS256, ES256, ES384, ES512 and EdDSA"))?,
        ),
        None => None,
    };
    let key = match jwk.kty.as_deref() {
        Some("RSA") => jwk.rsa()?,
        Some("EC") => jwk.ec()?,
        Some("OKP") => jwk.okp()?,
        Some("oct") => {
            return Err(KeyError::Unsupported {
                found: "a symmetric key (oct)",
            });
        }
        Some(_) => return Err(invalid("kty", "is none of RSA, EC and OKP")),
        None => return Err(invalid("kty", "is missing")),
    };
    Ok(ParsedKey {
        algorithm,
        key_id: jwk.kid,
        ..key
    })
}

impl Jwk {
    fn rsa(&self) -> Result<ParsedKey, KeyError> {
        if self.d.is_none() {
            return Err(KeyError::Public);
        }
        if self.oth.is_some() {
            return Err(invalid("oth", "makes it a key of more than two primes"));
        }
        let number = |member, value| number(member, value).map(|bytes| without_zeros(&bytes));
        let components = KeyPairComponents {
            public_key: PublicKeyComponents {
                n: number("n", &self.n)?,
                e: number("e", &self.e)?,
            },
            d: number("d", &self.d)?,
            p: number("p", &self.p)?,
            q: number("q", &self.q)?,
            dP: number("dp", &self.dp)?,
            dQ: number("dq", &self.dq)?,
            qInv: number("qi", &self.qi)?,
        };
        RsaKeyPair::from_components(&components)
            .map(ParsedKey::rsa)
            .map_err(rejected_rsa)
    }

    fn ec(&self) -> Result<ParsedKey, KeyError> {
        if self.d.is_none() {
            return Err(KeyError::Public);
        }
        let name = self.crv.as_deref().ok_or_else(|| invalid("crv", "is missing"))?;
        let curve = Curve::from_jwk_name(name)?;
        let coordinate = |member, value| coordinate(curve, member, value);
        let (x, y) = (coordinate("x", &self.x)?, coordinate("y", &self.y)?);
        let point = [&[4][..], &x, &y].concat();
        curve.key(&coordinate("d", &self.d)?, &point)
    }

    fn okp(&self) -> Result<ParsedKey, KeyError> {
        match self.crv.as_deref() {
            Some("Ed25519") => {}
            Some("Ed448") => {
                return Err(KeyError::Unsupported {
                    found: "an Ed448 key",
                });
            }
            Some("X25519" | "X448") => {
                return Err(KeyError::Unsupported {
                    found: "a key for key agreement (X25519 or X448)",
                });
            }
            Some(_) => return Err(invalid("crv", "is not Ed25519")),
            None => return Err(invalid("crv", "is missing")),
        }
        if self.d.is_none() {
            return Err(KeyError::Public);
        }
        let (seed, public) = (number("d", &self.d)?, number("x", &self.x)?);
        Ed25519KeyPair::from_seed_and_public_key(&seed, &public)
            .map(ParsedKey::ed)
            .map_err(|_| KeyError::Malformed { key: "Ed25519" })
    }
}

fn invalid(member: &'static str, problem: &'static str) -> KeyError {
    KeyError::InvalidJwk { member, problem }
}

fn number(member: &'static str, value: &Option<SecretString>) -> Result<Bytes, KeyError> {
    let Some(text) = value else {
        return Err(invalid(member, "is missing"));
    };
    let text = text.expose_secret();
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    match BASE64.decode_vec(text, &mut bytes) {
        Ok(()) if !bytes.is_empty() => Ok(bytes),
        Ok(()) => Err(invalid(member, "is empty")),
        Err(_) => Err(invalid(member, "is not base64url")),
    }
}

/// Libraries that count numbers without their leading zeros are forgiven.
fn coordinate(curve: Curve, member: &'static str, value: &Option<SecretString>) -> Result<Bytes, KeyError> {
    let bytes = without_zeros(&number(member, value)?);
    let Some(missing) = curve.width().checked_sub(bytes.len()) else {
        return Err(invalid(member, "is longer than a number of its curve"));
    };
    let mut padded = Zeroizing::new(vec![0; curve.width()]);
    padded[missing..].copy_from_slice(&bytes);
    Ok(padded)
}

fn without_zeros(bytes: &Bytes) -> Bytes {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Zeroizing::new(bytes[start..].to_vec())
}
