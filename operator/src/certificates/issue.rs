//! Issues certificates, and decides when one is due for renewal. Pure but for randomness.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::check::{Authority, authorities, bundle, can_sign, serves};
use super::fingerprint;
use super::material::CertificateMaterial;

/// A new pod gets the authority at admission, and each sidecar is told of a newer one while it is connected:
/// a long life is for those that are not.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERVING_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Nodes' clocks differ: a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// The authority that signs, and those before it that sidecars may still know alone.
const MAX_AUTHORITIES: usize = 4;

/// What is due for renewal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// Nothing is due.
    None,
    /// A new serving certificate from the authority there is.
    Serving,
    /// A new authority.
    Authority,
}

/// What the Secret is to hold, by what it holds and what this replica remembers, either of which may be lost
/// or spoilt. Every authority that a client may know stays trusted.
pub fn next_material(
    stored: Option<&CertificateMaterial>,
    remembered: Option<&CertificateMaterial>,
    names: &[String],
    now: Timestamp,
) -> Result<CertificateMaterial, rcgen::Error> {
    let usable = [stored, remembered]
        .into_iter()
        .flatten()
        .find(|material| can_sign(material, now))
        .or(stored)
        .or(remembered);
    let next = match usable {
        None => new_authority(names, now)?,
        Some(usable) => match renewal_due(usable, names, now) {
            Renewal::None => usable.clone(),
            Renewal::Serving => new_serving(usable, names, now)?,
            Renewal::Authority => replaced_authority(usable, names, now)?,
        },
    };
    let known = [stored, remembered].into_iter().flatten();
    let fingerprint_key = known
        .clone()
        .map(|material| &material.fingerprint_key)
        .find(|key| fingerprint::is_key(key));
    let next = CertificateMaterial {
        fingerprint_key: fingerprint_key.cloned().unwrap_or_else(fingerprint::new_key),
        ..next
    };
    Ok(with_authorities_of(next, known, now))
}

/// A serving certificate is due after two thirds of its lifetime, or when no client would take it; an
/// authority is due when it could sign no whole lifetime more after the next serving certificate, and when it
/// cannot sign.
pub fn renewal_due(material: &CertificateMaterial, names: &[String], now: Timestamp) -> Renewal {
    let signs_until = authorities(&material.authority)
        .first()
        .and_then(|authority| authority.expires_at());
    if !can_sign(material, now) || signs_until.is_none_or(|end| end < now + 2 * SERVING_LIFETIME) {
        Renewal::Authority
    } else if serves(material, names, now + SERVING_LIFETIME / 3) {
        Renewal::None
    } else {
        Renewal::Serving
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
        fingerprint_key: String::new(),
    };
    new_serving(&material, names, now)
}

/// A new authority, with a serving certificate of the old one for as long as there can be one: clients learn
/// of the new authority from an operator that they trust already.
fn replaced_authority(
    old: &CertificateMaterial,
    names: &[String],
    now: Timestamp,
) -> Result<CertificateMaterial, rcgen::Error> {
    let new = new_authority(names, now)?;
    let old = match can_sign(old, now + SERVING_LIFETIME) {
        true => new_serving(old, names, now)?,
        false => old.clone(),
    };
    let trusting = with_authorities_of(new, [&old], now);
    let with_old_serving = CertificateMaterial {
        serving: old.serving,
        serving_key: old.serving_key,
        ..trusting.clone()
    };
    Ok(match serves(&with_old_serving, names, now) {
        true => with_old_serving,
        false => trusting,
    })
}

/// The same with the other authorities that still count, after its own.
pub fn with_authorities_of<'a>(
    material: CertificateMaterial,
    others: impl IntoIterator<Item = &'a CertificateMaterial>,
    now: Timestamp,
) -> CertificateMaterial {
    let mut trusted = authorities(&material.authority);
    trusted.extend(others.into_iter().flat_map(|other| authorities(&other.authority)));
    CertificateMaterial {
        authority: bundle(&first_valid(trusted, now)),
        ..material
    }
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

/// Each authority once, without those that have expired, as many as are kept.
pub fn first_valid(authorities: Vec<Authority>, now: Timestamp) -> Vec<Authority> {
    let mut kept: Vec<Authority> = Vec::new();
    for authority in authorities {
        if authority.is_valid_at(now) && !kept.contains(&authority) {
            kept.push(authority);
        }
    }
    kept.truncate(MAX_AUTHORITIES);
    kept
}

fn with_validity(mut params: CertificateParams, now: Timestamp, lifetime: Duration) -> CertificateParams {
    let time = |timestamp: Timestamp| std::time::SystemTime::from(timestamp).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = time(now - BACKDATE);
    params.not_after = time(now + lifetime);
    params
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

    fn made() -> CertificateMaterial {
        next_material(None, None, &names(), now()).unwrap()
    }

    /// Whether a client that knows the authorities of `client` alone takes the serving certificate.
    fn takes(client: &CertificateMaterial, server: &CertificateMaterial, at: Timestamp) -> bool {
        let seen = CertificateMaterial {
            authority: client.authority.clone(),
            ..server.clone()
        };
        serves(&seen, &names(), at)
    }

    #[test]
    fn what_was_just_made_is_not_due() {
        assert_eq!(renewal_due(&made(), &names(), now()), Renewal::None);
        let stored = made();
        let next = next_material(Some(&stored), Some(&stored), &names(), now()).unwrap();
        assert!(next == stored);
    }

    #[test]
    fn the_key_of_fingerprints_is_kept_until_another_one_is_put_into_the_secret() {
        let with = |key: &str| CertificateMaterial {
            fingerprint_key: key.into(),
            ..made()
        };
        let of = |stored: &CertificateMaterial, remembered: Option<&CertificateMaterial>| {
            let next = next_material(Some(stored), remembered, &names(), now()).unwrap();
            next.fingerprint_key
        };
        let (one, other) = ("1".repeat(64), "2".repeat(64));
        assert_eq!(of(&with(&one), Some(&with(&other))), one);
        assert_eq!(
            of(&with(""), Some(&with(&one))),
            one,
            "an older operator wrote the Secret"
        );
        assert!(fingerprint::is_key(&of(&with("guess"), None)));
        let lost = next_material(None, Some(&with(&one)), &names(), now()).unwrap();
        assert_eq!(lost.fingerprint_key, one);
    }

    #[test]
    fn a_serving_certificate_is_due_after_two_thirds_of_its_life() {
        let material = made();
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
    fn keys_that_do_not_fit_their_certificates_are_noticed() {
        let (good, other) = (made(), made());
        let serving_key = other.serving_key.clone();
        let material = CertificateMaterial {
            serving_key,
            ..good.clone()
        };
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::Serving);
        let authority_key = other.authority_key.clone();
        let material = CertificateMaterial {
            authority_key,
            ..good.clone()
        };
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::Authority);
        // Of the same name, made in the same second, and yet of another authority.
        let (serving, serving_key) = (other.serving, other.serving_key);
        let material = CertificateMaterial {
            serving,
            serving_key,
            ..good
        };
        assert_eq!(renewal_due(&material, &names(), now()), Renewal::Serving);
    }

    #[test]
    fn a_lost_secret_is_restored_from_memory() {
        let remembered = made();
        let restored = next_material(None, Some(&remembered), &names(), now()).unwrap();
        assert!(restored == remembered);
        for spoil in [
            |material: &mut CertificateMaterial| material.authority = "no certificate".into(),
            |material: &mut CertificateMaterial| material.authority_key = String::new(),
        ] {
            let mut spoilt = remembered.clone();
            spoil(&mut spoilt);
            let restored = next_material(Some(&spoilt), Some(&remembered), &names(), now()).unwrap();
            assert!(restored == remembered);
        }
    }

    #[test]
    fn an_authority_that_another_replica_made_is_taken_over_and_the_known_one_stays_trusted() {
        let (known, made_anew) = (made(), made());
        let merged = next_material(Some(&made_anew), Some(&known), &names(), now()).unwrap();
        assert!(takes(&merged, &known, now()) && takes(&merged, &made_anew, now()));
        assert_eq!(merged.authority_key, made_anew.authority_key);
        // The other replica finds nothing to change in it.
        let again = next_material(Some(&merged), Some(&made_anew), &names(), now()).unwrap();
        assert!(again == merged);
    }

    #[test]
    fn an_authority_is_replaced_long_before_its_end_and_no_client_is_locked_out() {
        let old = made();
        let due = now() + AUTHORITY_LIFETIME - 179 * DAY;
        assert_eq!(renewal_due(&old, &names(), due - 2 * DAY), Renewal::Serving);
        assert_eq!(renewal_due(&old, &names(), due), Renewal::Authority);
        let both = next_material(Some(&old), Some(&old), &names(), due).unwrap();
        assert!(
            takes(&old, &both, due),
            "sidecars that know the old one alone learn of the new one"
        );
        assert_eq!(renewal_due(&both, &names(), due), Renewal::None);
        // Two months later the new authority signs, which they know by now.
        let later = due + 61 * DAY;
        let signed_anew = next_material(Some(&both), Some(&both), &names(), later).unwrap();
        assert!(takes(&both, &signed_anew, later) && !takes(&old, &signed_anew, later));
        // The old one is dropped when it has expired.
        let end = now() + AUTHORITY_LIFETIME + DAY;
        let alone = next_material(Some(&signed_anew), None, &names(), end).unwrap();
        assert_eq!(authorities(&alone.authority).len(), 1);
    }

    #[test]
    fn an_authority_whose_key_is_lost_stays_trusted_and_its_serving_certificate_in_use() {
        let mut keyless = made();
        keyless.authority_key = String::new();
        let next = next_material(Some(&keyless), None, &names(), now()).unwrap();
        assert!(takes(&keyless, &next, now()));
        assert_eq!(authorities(&next.authority).len(), 2);
        assert_eq!(renewal_due(&next, &names(), now()), Renewal::None);
    }

    #[test]
    fn what_cannot_be_read_at_all_is_made_anew() {
        let garbage = CertificateMaterial {
            authority: "no certificate".into(),
            authority_key: "no key".into(),
            serving: String::new(),
            serving_key: String::new(),
            fingerprint_key: String::new(),
        };
        let next = next_material(Some(&garbage), None, &names(), now()).unwrap();
        assert_eq!(renewal_due(&next, &names(), now()), Renewal::None);
    }
}
