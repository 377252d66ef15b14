//! DPoP (RFC 9449): the key that a token is bound to, and the proof that a request carries.

use http::Method;
use jiff::Timestamp;
use secrecy::SecretString;
use url::Url;

/// A P-256 key; proofs are signed by ES256. Kept in memory only.
#[derive(Debug)]
pub struct ProofKey {}

/// A key's text is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proof key is no P-256 key in PKCS#8 PEM")]
pub struct InvalidProofKey;

impl ProofKey {
    pub fn generate() -> Self {
        todo!()
    }

    /// PKCS#8 in PEM, as [`Self::to_pem`] gives it.
    pub fn from_pem(_pem: &str) -> Result<Self, InvalidProofKey> {
        todo!()
    }

    pub fn to_pem(&self) -> SecretString {
        todo!()
    }

    /// The value of the header `DPoP` for one request (RFC 9449 section 4.2): `htu` is `url` without query and
    /// fragment, `ath` is there where there is an access token, `nonce` where the server demanded one.
    pub fn proof(
        &self,
        _method: &Method,
        _url: &Url,
        _access_token: Option<&SecretString>,
        _nonce: Option<&str>,
        _now: Timestamp,
    ) -> String {
        todo!()
    }
}
