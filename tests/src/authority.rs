//! The certificate authority that the OAuth2 servers trust, and the certificates of clients.

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};

use crate::{seen, setting};

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

/// PEM of the authority's own certificate.
pub fn bundle() -> String {
    read_setting_file("ca.crt")
}

/// A new client certificate with this common name, signed by the authority.
pub fn certificate(name: &str) -> Certificate {
    let authority = KeyPair::from_pem(&read_setting_file("ca.key")).expect("the authority's key");
    let issuer = Issuer::from_ca_cert_pem(&bundle(), authority).expect("the authority's certificate");
    let key = KeyPair::generate().expect("a key");
    let params = params(name);
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    noted_certificate(certificate.pem(), &key)
}

/// A new client certificate with this common name that is signed by its own key only.
pub fn self_signed(name: &str) -> Certificate {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(name).self_signed(&key).expect("a certificate");
    noted_certificate(certificate.pem(), &key)
}

/// One that its own key has signed and that Spring Authorization Server, which is told at its start whom it trusts, takes.
pub fn trusted_self_signed() -> Certificate {
    let key = read_setting_file("self-signed.key");
    seen::note(&key);
    Certificate {
        chain: read_setting_file("self-signed.crt"),
        key,
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn noted_certificate(chain: String, key: &KeyPair) -> Certificate {
    let key = key.serialize_pem();
    seen::note(&key);
    Certificate { chain, key }
}

fn read_setting_file(file: &str) -> String {
    let path = format!("{}/{file}", setting("MCPAUTH_TEST_AUTHORITY"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
