//! TLS towards MCP servers: the platform's roots and a route's own CA bundle.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Reads the platform's roots once, and only when a route with TLS needs them.
#[derive(Default)]
pub struct Trust {
    platform: OnceLock<RootCertStore>,
    /// Most routes have no CA bundle and share this.
    without_bundle: OnceLock<Arc<ClientConfig>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the CA bundle is not PEM")]
    NotPem,
    #[error("the CA bundle holds no certificate")]
    Empty,
    #[error("certificate {position} of the CA bundle is not usable as an authority")]
    NotAnAuthority { position: usize },
}

impl Trust {
    /// For a server whose certificate is verified against the platform's roots and, if any, `ca_bundle`.
    pub fn config(&self, ca_bundle: Option<&str>) -> Result<Arc<ClientConfig>, TrustError> {
        let platform = self.platform.get_or_init(platform_roots);
        match ca_bundle {
            None => Ok(self
                .without_bundle
                .get_or_init(|| Arc::new(config(platform.clone())))
                .clone()),
            Some(pem) => {
                let mut roots = platform.clone();
                add(&mut roots, pem)?;
                Ok(Arc::new(config(roots)))
            }
        }
    }
}

fn platform_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 || !found.errors.is_empty() {
        // Not fatal: every route may bring its own CA bundle.
        tracing::warn!(
            added,
            ignored,
            errors = found.errors.len(),
            "platform certificates incomplete"
        );
    }
    roots
}

fn add(roots: &mut RootCertStore, pem: &str) -> Result<(), TrustError> {
    let mut position = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        position += 1;
        let certificate = certificate.map_err(|_| TrustError::NotPem)?;
        roots
            .add(certificate)
            .map_err(|_| TrustError::NotAnAuthority { position })?;
    }
    if position == 0 {
        Err(TrustError::Empty)
    } else {
        Ok(())
    }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_cannot_be_used_says_why() {
        let error = |pem: &str| add(&mut RootCertStore::empty(), pem).unwrap_err().to_string();
        assert_eq!(
            error("no certificate at all"),
            "the CA bundle holds no certificate"
        );
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 of the CA bundle is not usable as an authority"
        );
        assert_eq!(
            error("-----BEGIN CERTIFICATE-----\n?\n"),
            "the CA bundle is not PEM"
        );
    }
}
