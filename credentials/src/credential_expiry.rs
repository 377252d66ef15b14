//! `CredentialExpiring`: what the spec refers to and when that ends, told 30, 14 and 3 days ahead. A credential that is renewed in
//! shorter turns, such as a certificate of cert-manager's or a workload's assertion, is told of only when it should have been
//! renewed by then: each of these times is a share of its lifetime at most.

use jiff::{SignedDuration, Timestamp};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_http_auth::pem::PemSection;
use mcp_auth_oauth::read_claims;
use secrecy::ExposeSecret;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::conditions::{ConditionDraft, seconds};
use crate::references::{Lookup, Reference, fields, resolve_reference};

/// Annotation of a Secret: when what it holds ends, where that cannot be read from it, such as of a client secret
/// (RFC 3339).
pub const EXPIRES_AT: &str = "mcpauth.dev/expires-at";

/// Kinds of what a resource may refer to that ends: the closed set of [`CredentialExpiry::credential`].
pub const CREDENTIALS: [&str; 16] = [
    "alternate-client-secret",
    "assertion",
    "bearer-token",
    "client-assertion",
    "client-secret",
    "egress-proxy-password",
    "extra-parameter",
    "github-app-key",
    "grant-signing-key",
    "identity-provider-client-secret",
    "identity-provider-signing-certificate",
    "identity-provider-signing-key",
    "oauth2-client-certificate",
    "server-client-certificate",
    "signing-certificate",
    "signing-key",
];

/// A reference of a spec, with what was found.
pub struct FoundReference {
    pub reference: Reference,
    pub lookup: Lookup,
    /// When the object says that what it holds ends.
    pub stated_end: Option<String>,
}

/// A credential that ends.
#[derive(Clone, Debug, PartialEq)]
pub struct CredentialExpiry {
    /// One of [`CREDENTIALS`], for metrics.
    pub credential: &'static str,
    /// The object that holds it, and the field that names that.
    pub holder: String,
    /// `None`: the Secret states something that is no time.
    pub end: Option<Timestamp>,
    /// Where it is known when it began.
    pub lifetime: Option<SignedDuration>,
}

/// How near the end is. Its number is the metric's value.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Nearness {
    Far = 0,
    Within30Days = 1,
    Within14Days = 2,
    Within3Days = 3,
    Expired = 4,
}

/// Each time in days, and the share of a lifetime that it is at most.
const STEPS: [(Nearness, i64, i32); 3] = [
    (Nearness::Within3Days, 3, 40),
    (Nearness::Within14Days, 14, 8),
    (Nearness::Within30Days, 30, 4),
];

/// Begin, where it is stated, and end.
type Validity = Option<(Option<Timestamp>, Timestamp)>;

/// How the end is read from a value, where that is possible.
type ReadValidity = fn(&str) -> Validity;

/// What of these ends, and when.
pub fn expiries(references: &[FoundReference]) -> Vec<CredentialExpiry> {
    references.iter().filter_map(expiry).collect()
}

fn expiry(found: &FoundReference) -> Option<CredentialExpiry> {
    let FoundReference {
        reference,
        lookup,
        stated_end,
    } = found;
    let (credential, validity) = kind(reference.field)?;
    let value = resolve_reference(reference, lookup).ok()?;
    let (end, lifetime) = match validity(value.expose_secret()) {
        Some((begin, end)) => (Some(end), begin.map(|begin| end.duration_since(begin))),
        None => (stated_end.as_ref()?.trim().parse().ok(), None),
    };
    Some(CredentialExpiry {
        credential,
        holder: format!(
            "{} {}, named by {}",
            reference.kind.as_str(),
            reference.name,
            reference.field
        ),
        end,
        lifetime,
    })
}

/// What a field refers to, and how its end is read from it where that is possible.
fn kind(field: &str) -> Option<(&'static str, ReadValidity)> {
    let says_nothing: ReadValidity = |_| None;
    Some(match field {
        fields::SERVER_CERTIFICATE => ("server-client-certificate", of_certificate),
        fields::CERTIFICATE => ("oauth2-client-certificate", of_certificate),
        fields::PRIVATE_KEY_CERTIFICATE => ("signing-certificate", of_certificate),
        fields::ASSERTION => ("assertion", of_jwt),
        fields::CLIENT_ASSERTION => ("client-assertion", of_jwt),
        fields::BEARER_TOKEN => ("bearer-token", of_jwt),
        fields::CLIENT_SECRET => ("client-secret", says_nothing),
        fields::IDENTITY_PROVIDER_SECRET => ("identity-provider-client-secret", says_nothing),
        fields::IDENTITY_PROVIDER_KEY => ("identity-provider-signing-key", says_nothing),
        fields::IDENTITY_PROVIDER_KEY_CERTIFICATE => {
            ("identity-provider-signing-certificate", of_certificate)
        }
        fields::ALTERNATE_SECRET => ("alternate-client-secret", says_nothing),
        fields::PRIVATE_KEY => ("signing-key", says_nothing),
        fields::GRANT_KEY => ("grant-signing-key", says_nothing),
        fields::GITHUB_APP_KEY => ("github-app-key", says_nothing),
        fields::EXTRA_PARAMETER => ("extra-parameter", says_nothing),
        fields::PROXY_PASSWORD => ("egress-proxy-password", says_nothing),
        _ => return None,
    })
}

/// When the first certificate of a chain in PEM begins and ends.
pub fn certificate_validity(chain: &str) -> Option<(Timestamp, Timestamp)> {
    let sections = PemSection::all(chain).ok()?;
    let first = sections.iter().find(|section| section.label == "CERTIFICATE")?;
    let der = first.decode().ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let validity = certificate.validity();
    let time = |at: x509_parser::time::ASN1Time| Timestamp::from_second(at.timestamp()).ok();
    Some((time(validity.not_before)?, time(validity.not_after)?))
}

fn of_certificate(chain: &str) -> Validity {
    certificate_validity(chain).map(|(begin, end)| (Some(begin), end))
}

fn of_jwt(token: &str) -> Validity {
    let claims = read_claims(token)?;
    let time = |at: i64| Timestamp::from_second(at).ok();
    Some((claims.issued_at.and_then(time), time(claims.expires_at?)?))
}

impl CredentialExpiry {
    pub fn nearness(&self, now: Timestamp) -> Nearness {
        let Some(end) = self.end else {
            return Nearness::Far;
        };
        let left = end.duration_since(now);
        if left <= SignedDuration::ZERO {
            return Nearness::Expired;
        }
        let is_within = |days: i64, share: i32| {
            let days = SignedDuration::from_hours(24 * days);
            left <= self.lifetime.map_or(days, |lifetime| days.min(lifetime / share))
        };
        let step = STEPS
            .into_iter()
            .find(|(_, days, share)| is_within(*days, *share));
        step.map_or(Nearness::Far, |(nearness, ..)| nearness)
    }
}

impl Nearness {
    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Far => None,
            Self::Within30Days => Some(reasons::EXPIRES_WITHIN_30_DAYS),
            Self::Within14Days => Some(reasons::EXPIRES_WITHIN_14_DAYS),
            Self::Within3Days => Some(reasons::EXPIRES_WITHIN_3_DAYS),
            Self::Expired => Some(reasons::CREDENTIAL_EXPIRED),
        }
    }
}

/// The condition; `None` where there is nothing to say.
pub fn credential_expiring(expiries: &[CredentialExpiry], now: Timestamp) -> Option<ConditionDraft> {
    let draft = |reason: &str, message: String| {
        let type_ = conditions::CREDENTIAL_EXPIRING;
        Some(ConditionDraft::new(type_, Some(true), reason, message))
    };
    let nearest = expiries.iter().map(|expiry| expiry.nearness(now)).max()?;
    if let Some(reason) = nearest.reason() {
        let near = expiries
            .iter()
            .filter(|expiry| expiry.nearness(now) > Nearness::Far);
        let ends: Vec<String> = near
            .filter_map(|expiry| Some(format!("{}, ends at {}", expiry.holder, seconds(expiry.end?))))
            .collect();
        let message = format!(
            "{}: put a new one there; it is taken without a restart",
            ends.join("; ")
        );
        return draft(reason, message);
    }
    let invalid = expiries.iter().find(|expiry| expiry.end.is_none())?;
    draft(
        reasons::EXPIRY_INVALID,
        format!(
            "{}, has an annotation {EXPIRES_AT} that is no time: write it as 2027-01-31T00:00:00Z",
            invalid.holder
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::references::Kind;

    fn now() -> Timestamp {
        "2026-11-30T00:00:00Z".parse().unwrap()
    }

    fn days(days: i64) -> Timestamp {
        now() + SignedDuration::from_hours(24 * days)
    }

    fn found(field: &'static str, value: &str, stated_end: Option<&str>) -> FoundReference {
        FoundReference {
            reference: Reference {
                field,
                kind: Kind::Secret,
                name: "oauth".to_owned(),
                key: "key".to_owned(),
            },
            lookup: Lookup::Found(Arc::new(
                [("key".to_owned(), value.as_bytes().to_vec().into())].into(),
            )),
            stated_end: stated_end.map(str::to_owned),
        }
    }

    fn certificate(from: i64, to: i64) -> String {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let time = |at: i64| {
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(days(at).as_second() as u64)
        };
        (params.not_before, params.not_after) = (time(from).into(), time(to).into());
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn reason(found: FoundReference) -> Option<String> {
        let draft = credential_expiring(&expiries(&[found]), now())?;
        assert_eq!(draft.type_, "CredentialExpiring");
        Some(draft.reason)
    }

    #[test]
    fn a_certificate_of_a_year_is_told_of_30_14_and_3_days_ahead() {
        for (left, expected) in [
            (31, None),
            (29, Some("ExpiresWithin30Days")),
            (13, Some("ExpiresWithin14Days")),
            (2, Some("ExpiresWithin3Days")),
            (-1, Some("CredentialExpired")),
        ] {
            for field in [
                fields::SERVER_CERTIFICATE,
                fields::CERTIFICATE,
                fields::PRIVATE_KEY_CERTIFICATE,
            ] {
                let found = found(field, &certificate(left - 365, left), None);
                assert_eq!(reason(found).as_deref(), expected, "{left} days before its end");
            }
        }
    }

    #[test]
    fn a_certificate_that_is_renewed_every_few_weeks_is_no_news_until_that_is_late() {
        assert_eq!(
            reason(found(fields::CERTIFICATE, &certificate(-10, 20), None)),
            None
        );
        let late = found(fields::CERTIFICATE, &certificate(-25, 5), None);
        assert_eq!(reason(late).as_deref(), Some("ExpiresWithin30Days"));
    }

    #[test]
    fn an_assertion_ends_as_its_claims_say() {
        use base64::Engine;
        let part = |value: serde_json::Value| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        let claims = serde_json::json!({"exp": days(13).as_second()});
        let assertion = format!(
            "{}.{}.c2ln",
            part(serde_json::json!({"alg": "RS256"})),
            part(claims)
        );
        for field in [fields::ASSERTION, fields::CLIENT_ASSERTION] {
            let reason = reason(found(field, &assertion, None));
            assert_eq!(reason.as_deref(), Some("ExpiresWithin14Days"), "{field}");
        }
    }

    #[test]
    fn the_end_of_a_client_secret_is_what_its_secret_states() {
        let secret = |stated| found(fields::CLIENT_SECRET, "s3cret", stated);
        assert_eq!(reason(secret(None)), None);
        assert_eq!(reason(secret(Some("2027-11-30T00:00:00Z"))), None);
        let near =
            credential_expiring(&expiries(&[secret(Some("2026-12-02T01:00:00+01:00"))]), now()).unwrap();
        assert_eq!(near.reason, "ExpiresWithin3Days");
        let field = fields::CLIENT_SECRET;
        assert!(
            near.message.starts_with(&format!(
                "Secret oauth, named by {field}, ends at 2026-12-02T00:00:00Z"
            )),
            "{}",
            near.message
        );
        let invalid = credential_expiring(&expiries(&[secret(Some("next s3cret summer"))]), now()).unwrap();
        assert_eq!(invalid.reason, "ExpiryInvalid");
        assert!(!invalid.message.contains("s3cret"), "{}", invalid.message);
    }

    #[test]
    fn each_kind_has_its_metric() {
        for field in [
            fields::SERVER_CERTIFICATE,
            fields::CERTIFICATE,
            fields::PRIVATE_KEY_CERTIFICATE,
            fields::ASSERTION,
            fields::CLIENT_ASSERTION,
            fields::BEARER_TOKEN,
            fields::CLIENT_SECRET,
            fields::ALTERNATE_SECRET,
            fields::PRIVATE_KEY,
            fields::GRANT_KEY,
            fields::GITHUB_APP_KEY,
            fields::EXTRA_PARAMETER,
            fields::PROXY_PASSWORD,
        ] {
            let (credential, _) = kind(field).unwrap();
            assert!(CREDENTIALS.contains(&credential), "{credential}");
        }
    }

    #[test]
    fn the_nearest_decides_and_all_that_are_near_are_named() {
        let draft = credential_expiring(
            &expiries(&[
                found(fields::CLIENT_SECRET, "a", Some("2026-12-20T00:00:00Z")),
                found(fields::ALTERNATE_SECRET, "b", Some("2026-12-01T00:00:00Z")),
                found(fields::PRIVATE_KEY, "c", Some("2028-01-01T00:00:00Z")),
            ]),
            now(),
        )
        .unwrap();
        assert_eq!(draft.reason, "ExpiresWithin3Days");
        assert!(draft.message.contains("2026-12-20") && draft.message.contains("2026-12-01"));
        assert!(!draft.message.contains("2028"), "{}", draft.message);
    }
}
