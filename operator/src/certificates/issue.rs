//! Makes certificates and decides when they are due. Pure but for randomness.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Sidecars trust the authority by what was put into their pod at admission, so it outlives every pod.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERVING_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Nodes' clocks differ: a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Everything in the Secret, in PEM.
#[derive(Clone, Eq, PartialEq)]
pub struct Material {
    pub authority: String,
    pub authority_key: String,
    pub serving: String,
    pub serving_key: String,
}

/// What there is to do about what the Secret holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    Nothing,
    /// A new serving certificate from the authority there is.
    Serving,
    /// A new authority, and a new serving certificate from it.
    Authority,
}

/// A serving certificate is renewed after two thirds of its life, or when it lacks one of the names; an
/// authority, when it can no longer outlive what it signs.
pub fn due(material: &Material, names: &[String], now: Timestamp) -> Due {
    let Some(authority) = read(&material.authority) else {
        return Due::Authority;
    };
    if !authority.is_ca || authority.ends < now + SERVING_LIFE {
        return Due::Authority;
    }
    if KeyPair::from_pem(&material.authority_key).is_err() {
        return Due::Authority;
    }
    match read(&material.serving) {
        Some(serving)
            if serving.issuer == authority.subject
                && serving.ends > now + SERVING_LIFE / 3
                && names.iter().all(|name| serving.names.contains(name))
                && KeyPair::from_pem(&material.serving_key).is_ok() =>
        {
            Due::Nothing
        }
        _ => Due::Serving,
    }
}

/// A new authority and a serving certificate from it.
pub fn new_authority(names: &[String], now: Timestamp) -> Result<Material, rcgen::Error> {
    let mut params = valid(CertificateParams::default(), now, AUTHORITY_LIFE);
    // The name tells two authorities of one installation apart.
    params.distinguished_name.push(
        DnType::CommonName,
        format!("mcp-auth operator CA {}", now.as_second()),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let material = Material {
        authority,
        authority_key: key.serialize_pem(),
        serving: String::new(),
        serving_key: String::new(),
    };
    new_serving(&material, names, now)
}

/// The same authority with a new serving certificate for these DNS names and IP addresses.
pub fn new_serving(material: &Material, names: &[String], now: Timestamp) -> Result<Material, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&material.authority, KeyPair::from_pem(&material.authority_key)?)?;
    let mut params = valid(CertificateParams::new(names)?, now, SERVING_LIFE);
    params
        .distinguished_name
        .push(DnType::CommonName, "mcp-auth operator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let serving = params.signed_by(&key, &issuer)?.pem();
    Ok(Material {
        serving,
        serving_key: key.serialize_pem(),
        ..material.clone()
    })
}

fn valid(mut params: CertificateParams, now: Timestamp, life: Duration) -> CertificateParams {
    let time = |at: Timestamp| std::time::SystemTime::from(at).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = time(now - BACKDATE);
    params.not_after = time(now + life);
    params
}

struct Read {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    ends: Timestamp,
    is_ca: bool,
    names: Vec<String>,
}

fn read(pem: &str) -> Option<Read> {
    use x509_parser::extensions::GeneralName;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    Some(Read {
        subject: certificate.subject().as_raw().to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
        ends: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
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
        assert_eq!(due(&material, &names(), now()), Due::Nothing);
    }

    #[test]
    fn a_serving_certificate_is_due_after_two_thirds_of_its_life() {
        let material = new_authority(&names(), now()).unwrap();
        assert_eq!(due(&material, &names(), now() + 59 * DAY), Due::Nothing);
        assert_eq!(due(&material, &names(), now() + 61 * DAY), Due::Serving);
        let renewed = new_serving(&material, &names(), now() + 61 * DAY).unwrap();
        assert_eq!(due(&renewed, &names(), now() + 61 * DAY), Due::Nothing);
        assert_eq!(renewed.authority, material.authority);
    }

    #[test]
    fn a_new_name_makes_the_serving_certificate_due() {
        let material = new_authority(&names()[..1], now()).unwrap();
        assert_eq!(due(&material, &names(), now()), Due::Serving);
    }

    #[test]
    fn an_authority_is_due_before_it_ends_and_when_it_is_garbage() {
        let mut material = new_authority(&names(), now()).unwrap();
        assert_eq!(
            due(&material, &names(), now() + AUTHORITY_LIFE - 89 * DAY),
            Due::Authority
        );
        material.authority = "garbage".into();
        assert_eq!(due(&material, &names(), now()), Due::Authority);
    }
}
