//! Elliptic curves of ECDSA keys, from their names in JWKs (RFC 7518 section 6.2.1.1) and in PKCS#8 and SEC1 (RFC 5480 section
//! 2.1.1.1), and what signs by each: ring, and for P-521, which it does not know, the crate p521.

use p256::NistP256;
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, SecretKey};
use p256::pkcs8::{AssociatedOid, ObjectIdentifier};
use p384::NistP384;
use p521::NistP521;
use p521::ecdsa::Signature;
use p521::ecdsa::signature::Signer;
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use sec1::EcPrivateKey;
use zeroize::Zeroizing;

use super::{Algorithm, KeyError, ParsedKey};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

/// A private key of a curve.
pub(super) enum EcPair {
    Ring(Box<EcdsaKeyPair>),
    P521 {
        key: Box<p521::ecdsa::SigningKey>,
        /// Uncompressed.
        public: Vec<u8>,
    },
}

impl EcPair {
    /// The uncompressed point: the byte 4, then the two coordinates.
    pub fn public_key(&self) -> &[u8] {
        match self {
            Self::Ring(pair) => pair.public_key().as_ref(),
            Self::P521 { public, .. } => public,
        }
    }

    /// The two numbers side by side (RFC 7518 section 3.4).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match self {
            Self::Ring(pair) => Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec()),
            Self::P521 { key, .. } => {
                let signature: Signature = key.try_sign(message).map_err(|_| Unspecified)?;
                Ok(signature.to_bytes().to_vec())
            }
        }
    }
}

impl Curve {
    pub fn from_oid(oid: ObjectIdentifier) -> Result<Self, KeyError> {
        match oid {
            NistP256::OID => Ok(Self::P256),
            NistP384::OID => Ok(Self::P384),
            NistP521::OID => Ok(Self::P521),
            other => Err(KeyError::WrongCurve {
                found: match other.to_string().as_str() {
                    "1.3.132.0.10" => "secp256k1",
                    _ => "another",
                },
            }),
        }
    }

    pub fn from_jwk_name(name: &str) -> Result<Self, KeyError> {
        match name {
            "P-256" => Ok(Self::P256),
            "P-384" => Ok(Self::P384),
            "P-521" => Ok(Self::P521),
            "secp256k1" => Err(KeyError::WrongCurve { found: "secp256k1" }),
            _ => Err(KeyError::WrongCurve { found: "another" }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a private key, and of a coordinate.
    pub fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Each curve has one algorithm (RFC 7518 section 3.4).
    pub fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::P256 => &[Algorithm::Es256],
            Self::P384 => &[Algorithm::Es384],
            Self::P521 => &[Algorithm::Es512],
        }
    }

    /// The key of this private number and this uncompressed point.
    pub fn key(self, private: &[u8], public: &[u8]) -> Result<ParsedKey, KeyError> {
        let pair = match self {
            Self::P256 => ring_pair(&ECDSA_P256_SHA256_FIXED_SIGNING, private, public),
            Self::P384 => ring_pair(&ECDSA_P384_SHA384_FIXED_SIGNING, private, public),
            Self::P521 => p521_pair(private, public),
        };
        pair.map(|pair| ParsedKey::ec(self, pair))
            .ok_or(KeyError::Malformed { key: "EC" })
    }

    /// The public key is computed: what Java writes does not hold it.
    pub fn key_from_sec1(self, key: EcPrivateKey<'_>) -> Result<ParsedKey, KeyError> {
        let (private, public) = match self {
            Self::P256 => private_and_public::<NistP256>(key),
            Self::P384 => private_and_public::<NistP384>(key),
            Self::P521 => private_and_public::<NistP521>(key),
        }
        .ok_or(KeyError::Malformed { key: "EC" })?;
        self.key(&private, &public)
    }
}

fn ring_pair(signing: &'static EcdsaSigningAlgorithm, private: &[u8], public: &[u8]) -> Option<EcPair> {
    let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, private, public, &SystemRandom::new());
    pair.ok().map(|pair| EcPair::Ring(pair.into()))
}

fn p521_pair(private: &[u8], public: &[u8]) -> Option<EcPair> {
    let secret = p521::SecretKey::from_slice(private).ok()?;
    let point = secret.public_key().to_sec1_point(false);
    (point.as_bytes() == public).then(|| EcPair::P521 {
        key: Box::new(secret.into()),
        public: public.to_vec(),
    })
}

/// The private number, and the uncompressed point that belongs to it.
fn private_and_public<C>(key: EcPrivateKey<'_>) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)>
where
    C: AssociatedOid + CurveArithmetic,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    // Compares the public key too where there is one.
    let secret = SecretKey::<C>::try_from(key).ok()?;
    let private = Zeroizing::new(secret.to_bytes());
    let public = secret.public_key().to_sec1_point(false);
    Some((Zeroizing::new(private.to_vec()), public.as_bytes().to_vec()))
}
