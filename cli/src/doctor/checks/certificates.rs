//! Checks of the certificates: whether the API server, which trusts the webhook by the configuration's
//! caBundle, can verify the certificate that the operator presents, and for how long.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cluster::seconds_until;
use crate::doctor::facts::{Facts, client_config};
use crate::doctor::finding::Finding;
use crate::lookup::Lookup;

const CHECK: &str = "certificates";
const DAY: i64 = 24 * 3600;
/// The operator renews a certificate after two thirds of its 90 days: one that has less than this left has
/// not been renewed.
const RENEWAL_OVERDUE_DAYS: i64 = 20;
const RENEWAL_FAILS: &str =
    "the operator renews its certificates by itself: its log says why it has not renewed these";

pub fn certificates(facts: &Facts) -> Vec<Finding> {
    let Some(bundle) = facts
        .webhook()
        .and_then(|webhook| client_config(webhook)?.ca_bundle.as_ref())
    else {
        return Vec::new();
    };
    let found = match &facts.certificates {
        Lookup::Found(found) => found,
        Lookup::Missing => {
            return vec![Finding::fault(
                CHECK,
                "operator",
                "the operator's Secret with its certificates is not there",
                "the operator makes it when it starts: see whether it runs, and its log",
            )];
        }
        Lookup::Unknown(why) => return vec![Finding::not_checked(CHECK, "operator", why)],
    };
    let subject = found.secret.clone();
    let way_out = "restart the operator, which writes its authority into the webhook configuration";
    let chain = match read_chain(&found.serving) {
        Some(chain) => chain,
        None => {
            return vec![Finding::fault(
                CHECK,
                subject,
                format!(
                    "tls.crt of the Secret holds no certificate in PEM ({} bytes)",
                    found.serving.len()
                ),
                "delete the Secret: the operator makes a new one when it starts",
            )];
        }
    };
    let days = match days_left(&chain[0], facts.now) {
        Some(days) => days,
        None => {
            return vec![Finding::fault(
                CHECK,
                subject,
                "tls.crt of the Secret holds a certificate that cannot be read",
                "delete the Secret: the operator makes a new one when it starts",
            )];
        }
    };
    if days < 0 {
        let message = format!("the serving certificate has been over for {} days", -days);
        return vec![Finding::fault(CHECK, subject, message, RENEWAL_FAILS)];
    }
    if let Err(problem) = verify(&chain, &bundle.0, &found.host, facts.now) {
        let message = format!(
            "the API server cannot verify the certificate for {}, by the caBundle that it has: {problem}",
            found.host
        );
        return vec![Finding::fault(CHECK, subject, message, way_out)];
    }
    if days < RENEWAL_OVERDUE_DAYS {
        let message = format!("the serving certificate has {days} days left, and should have been renewed");
        return vec![Finding::warning(CHECK, subject, message, RENEWAL_FAILS)];
    }
    let message = format!(
        "valid for {} by the webhook's caBundle, for another {days} days",
        found.host
    );
    vec![Finding::passed(CHECK, subject, message)]
}

/// At least one certificate.
fn read_chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(chain).filter(|chain| !chain.is_empty())
}

/// Whole days, rounded down.
fn days_left(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let ends = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(seconds_until(ends, now).div_euclid(DAY))
}

fn verify(
    chain: &[CertificateDer<'static>],
    bundle: &[u8],
    host: &str,
    now: Timestamp,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        let authority = authority.map_err(|_| "the caBundle is no PEM".to_owned())?;
        roots
            .add(authority)
            .map_err(|error| format!("the caBundle holds no authority: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("the caBundle holds no authority: {error}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let since_epoch = Duration::from_secs(now.as_second().try_into().unwrap_or_default());
    let now = UnixTime::since_unix_epoch(since_epoch);
    verifier
        .verify_server_cert(&chain[0], &chain[1..], &name, &[], now)
        .map(|_| ())
        .map_err(|error| error.to_string())
}
