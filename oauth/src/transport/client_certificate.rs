//! The TLS client certificate (RFC 8705): from PEM to what the handshake presents, checked before that.

use std::fmt;
use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use x509_parser::parse_x509_certificate;

use crate::{ClientCertificate, Error};

/// A certificate whose key belongs to it.
#[derive(Clone)]
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    expires_at: Timestamp,
    thumbprint: String,
}

impl Certificate {
    pub fn read(pem_texts: &ClientCertificate) -> Result<Self, Error> {
        let invalid = |problem| Error::InvalidCertificate { problem };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem_texts.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("holds a chain that is no PEM"))?;
        let Some(leaf) = chain.first() else {
            return Err(invalid("holds no certificate"));
        };
        let (_, parsed) =
            parse_x509_certificate(leaf).map_err(|_| invalid("holds a certificate that is not X.509"))?;
        let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(leaf));
        let expires_at =
            Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);

        let text = pem_texts.key.expose_secret();
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
            invalid(if text.contains("ENCRYPTED") {
                "holds an encrypted key"
            } else {
                "holds no private key in PEM"
            })
        })?;
        // Only what was checked here is presented, whatever else the texts hold.
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
            invalid(match error {
                rustls::Error::InconsistentKeys(_) => {
                    "holds a certificate and a key that do not belong together"
                }
                _ => "holds a key that TLS cannot sign with; RSA, EC P-256, EC P-384 and Ed25519 keys can",
            })
        })?;
        Ok(Self {
            key: Arc::new(key),
            expires_at,
            thumbprint,
        })
    }

    /// The chain and its key, for the handshake.
    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// SHA-256 of the certificate, as tokens that are bound to it name it (RFC 8705 section 3.1).
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// An error once it has expired: the server would say so less clearly, if at all. One that is not valid
    /// yet is the server's to judge, by its own clock.
    pub fn check(&self, now: Timestamp) -> Result<(), Error> {
        if self.expires_at <= now {
            return Err(Error::CertificateExpired { at: self.expires_at });
        }
        Ok(())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificate")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
