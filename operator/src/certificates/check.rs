//! Checks certificates and keys against one another: whether a client would take what is served, by the same
//! library that the sidecar verifies with. Pure.

use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_credentials::credential_expiry::certificate_validity;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::material::CertificateMaterial;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificate of an authority, in both forms.
#[derive(Clone, Debug)]
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Authority {
    pub fn expires_at(&self) -> Option<Timestamp> {
        let end = parse(&self.der)?.validity().not_after.timestamp();
        Timestamp::from_second(end).ok()
    }

    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.expires_at().is_some_and(|end| end > at)
    }
}

/// The authorities in a PEM bundle. What is none is left out.
pub fn authorities(pem: &str) -> Vec<Authority> {
    let sections = pem
        .split_inclusive(END)
        .filter_map(|text| text.find(BEGIN).map(|at| &text[at..]));
    let authority = |section: &str| {
        let der = CertificateDer::from_pem_slice(section.as_bytes()).ok()?;
        let pem = format!("{section}\n");
        parse(&der)?.is_ca().then_some(Authority { pem, der })
    };
    sections.filter_map(authority).collect()
}

/// When the first certificate of a chain in PEM ends.
pub fn certificate_expiry(chain: &str) -> Option<Timestamp> {
    certificate_validity(chain).map(|(_, end)| end)
}

/// The bundle of these authorities.
pub fn bundle(authorities: &[Authority]) -> String {
    authorities
        .iter()
        .map(|authority| authority.pem.as_str())
        .collect()
}

/// Whether the first authority could sign a certificate at this time.
pub fn can_sign(material: &CertificateMaterial, at: Timestamp) -> bool {
    let authority = authorities(&material.authority).into_iter().next();
    let Some(authority) = authority.filter(|authority| authority.is_valid_at(at)) else {
        return false;
    };
    KeyPair::from_pem(&material.authority_key).is_ok()
        && certified_key(vec![authority.der], &material.authority_key).is_ok()
}

/// Whether clients that trust the authorities take the serving certificate for each of these names at this
/// time.
pub fn serves(material: &CertificateMaterial, names: &[String], at: Timestamp) -> bool {
    serving_key(material).is_ok_and(|key| is_trusted(&key, &material.authority, names, at))
}

/// Whether clients that trust the authorities of a PEM bundle take this certificate for each of these names at
/// this time.
pub fn is_trusted(key: &CertifiedKey, bundle: &str, names: &[String], at: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(bundle).into_iter().map(|authority| authority.der));
    let provider = ring::default_provider().into();
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build() else {
        return false;
    };
    let Some((leaf, intermediates)) = key.cert.split_first() else {
        return false;
    };
    let since_epoch = u64::try_from(at.as_second()).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(since_epoch));
    let takes = |name: &String| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| {
            verifier
                .verify_server_cert(leaf, intermediates, &name, &[], at)
                .is_ok()
        })
    };
    names.iter().all(takes)
}

/// What the TLS listener presents; an error if key and certificate do not fit.
pub fn serving_key(material: &CertificateMaterial) -> anyhow::Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(material.serving.as_bytes()).collect::<Result<_, _>>()?;
    certified_key(chain, &material.serving_key)
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> anyhow::Result<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &ring::default_provider())?)
}

fn parse<'a>(certificate: &'a CertificateDer<'static>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate)
        .ok()
        .map(|(_, certificate)| certificate)
}
