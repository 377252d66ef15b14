//! TLS of token requests: whom a client trusts, and which certificate it shows. Trust roots are some hundred
//! kilobytes, so that all clients with the same ones share them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use mcp_auth_http_auth::authority_key::{USABLE_KEYS, UnusableAuthority};
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

use super::client_certificate::Certificate;
use crate::Error;

/// What the platform trusts, as it was when the first client was made.
static PLATFORM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    // One that cannot be read leaves the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// The platform's with those of a CA bundle, by the bundle's digest, while a client uses them.
static WITH_BUNDLE: Mutex<Option<HashMap<[u8; 32], Weak<RootCertStore>>>> = Mutex::new(None);

/// `encrypted`: whether anything may be reached by TLS. Without that a system without authorities will do, since
/// nothing will be verified.
pub fn client_config(
    ca_bundle: Option<&str>,
    encrypted: bool,
    certificate: Option<&Certificate>,
) -> Result<ClientConfig, Error> {
    let roots = match encrypted {
        true => trust_roots(ca_bundle)?,
        false => {
            let mut roots = RootCertStore::empty();
            ca_bundle
                .map(|bundle| add_authorities(&mut roots, bundle))
                .transpose()?;
            Arc::new(roots)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(certificate) => {
            let resolver = SingleCertAndKey::from(certificate.key());
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
        None => builder.with_no_client_auth(),
    };
    // Hours pass between two requests, and the store for it is larger than all else.
    config.resumption = Resumption::disabled();
    // One request a connection, so HTTP/2 has nothing to offer.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// An error where no server can be verified by the authorities of a CA bundle, whoever it is that connects: their keys are of kinds
/// that cannot be. What is no bundle at all is for whoever uses it to say.
pub fn check_authority_keys(bundle: &str) -> Result<(), Error> {
    match Authorities::read(bundle) {
        Ok(authorities) => authorities.all_unusable().map_or(Ok(()), Err),
        Err(_) => Ok(()),
    }
}

fn trust_roots(ca_bundle: Option<&str>) -> Result<Arc<RootCertStore>, Error> {
    let Some(bundle) = ca_bundle else {
        return match PLATFORM.is_empty() {
            true => Err(Error::NoTrustRoots),
            false => Ok(PLATFORM.clone()),
        };
    };
    let digest: [u8; 32] = Sha256::digest(bundle).into();
    let mut known = WITH_BUNDLE.lock();
    let known = known.get_or_insert_default();
    if let Some(roots) = known.get(&digest).and_then(Weak::upgrade) {
        return Ok(roots);
    }
    let mut roots = RootCertStore::clone(&PLATFORM);
    add_authorities(&mut roots, bundle)?;
    let roots = Arc::new(roots);
    known.retain(|_, roots| roots.strong_count() > 0);
    known.insert(digest, Arc::downgrade(&roots));
    Ok(roots)
}

fn add_authorities(roots: &mut RootCertStore, bundle: &str) -> Result<(), Error> {
    let authorities = Authorities::read(bundle)?;
    if let Some(error) = authorities.all_unusable() {
        return Err(error);
    }
    if let Some(first) = authorities.unusable.first() {
        let left_out = authorities.unusable.len();
        tracing::warn!(left_out, %first, "authorities of a CA bundle are left out");
    }
    roots.roots.extend(authorities.usable.roots);
    Ok(())
}

/// Those of a CA bundle.
struct Authorities {
    usable: RootCertStore,
    unusable: Vec<UnusableAuthority>,
}

impl Authorities {
    fn read(bundle: &str) -> Result<Self, Error> {
        let invalid = |problem: &'static str| Error::InvalidCaBundle {
            problem: problem.into(),
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
        let certificates = certificates.map_err(|_| invalid("is not PEM"))?;
        if certificates.is_empty() {
            return Err(invalid("holds no certificate"));
        }
        let (mut usable, mut unusable) = (RootCertStore::empty(), Vec::new());
        for (index, certificate) in certificates.into_iter().enumerate() {
            usable
                .add(certificate)
                .map_err(|_| invalid("holds a certificate that is none of an authority"))?;
            let find = |root: &TrustAnchor<'_>| {
                UnusableAuthority::find(index + 1, &root.subject, &root.subject_public_key_info)
            };
            if let Some(found) = usable.roots.last().and_then(find) {
                usable.roots.pop();
                unusable.push(found);
            }
        }
        Ok(Self { usable, unusable })
    }

    /// An error where nothing can be verified by any of them.
    fn all_unusable(&self) -> Option<Error> {
        let first = self.unusable.first().filter(|_| self.usable.is_empty())?;
        let problem = format!("holds nothing that a server can be verified by: {first}; {USABLE_KEYS}");
        Some(Error::InvalidCaBundle {
            problem: problem.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn clients_with_the_same_ca_bundle_share_their_trust_roots() {
        let [one, other] = [bundle(), bundle()];
        let roots = trust_roots(Some(&one)).unwrap();
        assert_eq!(roots.len(), PLATFORM.len() + 1);
        let again = trust_roots(Some(&one)).unwrap();
        assert!(Arc::ptr_eq(&roots, &again));
        assert!(!Arc::ptr_eq(&roots, &trust_roots(Some(&other)).unwrap()));
        // No other test uses this bundle.
        let forgotten = Arc::downgrade(&roots);
        drop((roots, again));
        assert!(forgotten.upgrade().is_none(), "who uses none keeps none");
    }

    #[test]
    fn clients_without_one_share_those_of_the_platform() {
        match trust_roots(None) {
            Ok(roots) => assert!(Arc::ptr_eq(&roots, &trust_roots(None).unwrap())),
            Err(error) => assert!(PLATFORM.is_empty() && matches!(error, Error::NoTrustRoots)),
        }
    }
}
