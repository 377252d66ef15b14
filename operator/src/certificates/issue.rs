//! Issues certificates, and decides when one is due for renewal. Pure but for randomness.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Sidecars verify by the authority that was in their pod at admission, so it has to outlive every pod.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERVING_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Nodes' clocks differ: a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Everything in the Secret, in PEM.
#[derive(Clone, Eq, PartialEq)]
pub struct CertificateMaterial {
    pub authority: String,
    pub authority_key: String,
    pub serving: String,
    pub serving_key: String,
}

/// What is due for renewal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// Nothing is due.
    None,
    /// A new serving certificate from the authority there is.
    Serving,
    /// A new authority, and a new serving certificate from it.
    Authority,
}

/// A serving certificate is due after two thirds of its lifetime, or when it lacks one of the names; an
/// authority is due when it would expire before a certificate that it signs now.
pub fn renewal_due(material: &CertificateMaterial, names: &[String], now: Timestamp) -> Renewal {
    let Some(authority) = parse_certificate(&material.authority) else {
        return Renewal::Authority;
    };
    if !authority.is_ca || authority.not_after < now + SERVING_LIFETIME {
        return Renewal::Authority;
    }
    if KeyPair::from_pem(&material.authority_key).is_err() {
        return Renewal::Authority;
    }
    match parse_certificate(&material.serving) {
        Some(serving)
            if serving.issuer == authority.subject
                && serving.not_after > now + SERVING_LIFETIME / 3
                && names.iter().all(|name| serving.names.contains(name))
                && KeyPair::from_pem(&material.serving_key).is_ok() =>
        {
            Renewal::None
        }
        _ => Renewal::Serving,
    }
}

/// A new authority and a serving certificate from it.
pub fn new_authority(names: &[String], now: Timestamp) -> Result<CertificateMaterial, rcgen::Error> {
    let mut params = with_validity(CertificateParams::default(), now, AUTHORITY_LIFETIME);
    // The name tells two authorities of one installation apart.
    params.distinguished_name.push(
        DnType::CommonName,
        format!("mcp-auth operator CA {}", now.as_second()),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let material = CertificateMaterial {
        authority,
        authority_key: key.serialize_pem(),
        serving: String::new(),
        serving_key: String::new(),
    };
    new_serving(&material, names, now)
}

/// The same authority with a new serving certificate for these DNS names and IP addresses.
pub fn new_serving(
    material: &CertificateMaterial,
    names: &[String],
    now: Timestamp,
) -> Result<CertificateMaterial, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&material.authority, KeyPair::from_pem(&material.authority_key)?)?;
    let mut params = with_validity(CertificateParams::new(names)?, now, SERVING_LIFETIME);
    params
        .distinguished_name
        .push(DnType::CommonName, "mcp-auth operator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let serving = params.signed_by(&key, &issuer)?.pem();
    Ok(CertificateMaterial {
        serving,
        serving_key: key.serialize_pem(),
        ..material.clone()
    })
}

fn with_validity(mut params: CertificateParams, now: Timestamp, lifetime: Duration) -> CertificateParams {
    let time = |timestamp: Timestamp| std::time::SystemTime::from(timestamp).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = time(now - BACKDATE);
    params.not_after = time(now + lifetime);
    params
}

struct ParsedCertificate {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_after: Timestamp,
    is_ca: bool,
    names: Vec<String>,
}

fn parse_certificate(pem: &str) -> Option<ParsedCertificate> {
    use x509_parser::extensions::GeneralName;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    Some(ParsedCertificate {
        subject: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
        not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
        is_ca: certificate.is_ca(),
        names: names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            })
            .collect(),
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn names() -> Vec<String> {
        vec!["mcp-auth-operator.mcp-auth-system.svc".into(), "127.0.0.1".into()]
    }

    fn now() -> Timestamp {
        "2026-11-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_was_just_made_is_not_due() {
        let material = new_authority(&names(), now()).unwrap();
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::None);
    }

    #[test]
    fn a_serving_certificate_is_due_after_two_thirds_of_its_life() {
        let material = new_authority(&names(), now()).unwrap();
        assert_eq!(renewal_due(&material, &names(), now() + 59 * DAY), Renewal::None);
        assert_eq!(
            renewal_due(&material, &names(), now() + 61 * DAY),
            Renewal::Serving
        );
        let renewed = new_serving(&material, &names(), now() + 61 * DAY).unwrap();
        assert_eq!(renewal_due(&renewed, &names(), now() + 61 * DAY), Renewal::None);
        assert_eq!(renewed.authority, material.authority);
    }

    #[test]
    fn a_new_name_makes_the_serving_certificate_due() {
        let material = new_authority(&names()[..1], now()).unwrap();
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::Serving);
    }

    #[test]
    fn an_authority_is_due_before_it_expires_and_when_it_cannot_be_read() {
        let mut material = new_authority(&names(), now()).unwrap();
        assert_eq!(
            renewal_due(&material, &names(), now() + AUTHORITY_LIFETIME - 89 * DAY),
            Renewal::Authority
        );
        material.authority = "no certificate".into();
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::Authority);
    }
}
