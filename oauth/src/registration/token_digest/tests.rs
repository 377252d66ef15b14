use std::sync::Arc;

use super::*;
use crate::jose::assertion::{AssertionFuture, AssertionSource, GivenAssertion};
use crate::{Client, ClientCertificate, ClientId, EgressProxy, GeneratedKey, Limits, Scope};

fn registration() -> Registration {
    let secret = ClientAuthentication::SecretBasic("s3cret".into());
    Registration {
        scopes: vec![Scope::new("tools:call".into())],
        audience: Some("https://api.example.com".into()),
        ..Registration::new("https://auth.example.com/token", "litellm", secret)
    }
}

fn digest(change: impl FnOnce(&mut Registration)) -> Option<TokenDigest> {
    let mut registration = registration();
    change(&mut registration);
    TokenDigest::of(&registration, Limits::default().deadline)
}

fn key() -> SigningKey {
    SigningKey::parse(GeneratedKey::P256.generate().expose_secret(), None, None).unwrap()
}

#[test]
fn equal_registrations_have_one_digest_wherever_their_secrets_are_kept() {
    assert!(digest(|_| {}).is_some());
    assert_eq!(digest(|_| {}), digest(|_| {}));
    let key = key();
    let by_key = |registration: &mut Registration| {
        registration.authentication = ClientAuthentication::PrivateKeyJwt {
            key: key.clone(),
            audience: AssertionAudience::default(),
        };
    };
    assert_eq!(digest(by_key), digest(by_key));
}

#[test]
fn whatever_makes_another_token_makes_another_digest() {
    let pair = |first: &str, alternate: Option<&str>| ClientSecrets {
        alternate: alternate.map(|secret| crate::ClientSecret::new(secret.into())),
        ..ClientSecrets::from(first)
    };
    let signed = |key: SigningKey, subject: &str| {
        Assertions::Signed(Arc::new(AssertionSigner {
            key,
            issuer: "litellm".into(),
            subject: subject.into(),
            audience: AssertionAudience::default(),
            claims: [].into(),
        }))
    };
    let one_key = key();
    type Change = Box<dyn FnOnce(&mut Registration)>;
    let changes: Vec<(&str, Change)> = vec![
        ("nothing", Box::new(|_| {})),
        (
            "issuer",
            Box::new(|r| r.server = ServerLocation::Issuer("https://auth.example.com/token".into())),
        ),
        (
            "client",
            Box::new(|r| r.client_id = Some(ClientId::new("other".into()))),
        ),
        ("no client", Box::new(|r| r.client_id = None)),
        (
            "secret",
            Box::new(move |r| r.authentication = ClientAuthentication::SecretBasic("other".into())),
        ),
        (
            "method",
            Box::new(|r| r.authentication = ClientAuthentication::SecretPost("s3cret".into())),
        ),
        (
            "alternate",
            Box::new(move |r| {
                r.authentication = ClientAuthentication::SecretBasic(pair("s3cret", Some("other")));
            }),
        ),
        (
            "key",
            Box::new({
                let key = one_key.clone();
                move |r| {
                    r.authentication = ClientAuthentication::PrivateKeyJwt {
                        key,
                        audience: AssertionAudience::Issuer,
                    };
                }
            }),
        ),
        (
            "audience of the assertion",
            Box::new({
                let key = one_key.clone();
                move |r| {
                    let audience = AssertionAudience::TokenEndpoint;
                    r.authentication = ClientAuthentication::PrivateKeyJwt { key, audience };
                }
            }),
        ),
        (
            "grant",
            Box::new(|r| {
                r.grant = Grant::JwtBearer(Assertions::Given(GivenAssertion::new("a.b.c".into())));
            }),
        ),
        (
            "signed",
            Box::new({
                let key = one_key.clone();
                move |r| r.grant = Grant::JwtBearer(signed(key, "one"))
            }),
        ),
        (
            "subject",
            Box::new(move |r| r.grant = Grant::JwtBearer(signed(one_key, "other"))),
        ),
        ("scopes", Box::new(|r| r.scopes.push(Scope::new("more".into())))),
        ("audience", Box::new(|r| r.audience = None)),
        (
            "resource",
            Box::new(|r| r.resource = Some("https://api.example.com".into())),
        ),
        (
            "parameter",
            Box::new(|r| drop(r.extra_parameters.insert("tenant".into(), "a".into()))),
        ),
        (
            "value",
            Box::new(|r| drop(r.extra_parameters.insert("tenant".into(), "b".into()))),
        ),
        (
            "secret parameter",
            Box::new(|r| drop(r.secret_parameters.insert("tenant".into(), "a".into()))),
        ),
        ("check", Box::new(|r| r.check.mode = TokenCheckMode::Off)),
        (
            "accepted",
            Box::new(|r| r.check.accepted_audiences = vec!["a".into()]),
        ),
        (
            "issuers",
            Box::new(|r| r.check.accepted_issuers = vec!["a".into()]),
        ),
        ("zero", Box::new(|r| r.zero_expires_in = ZeroExpiresIn::Unlimited)),
        ("authority", Box::new(|r| r.ca_bundle = Some("pem".into()))),
        (
            "proxy",
            Box::new(|r| {
                r.egress_proxy = Some(EgressProxy::new("http://proxy:3128", None, &[]).unwrap());
            }),
        ),
        (
            "no proxy",
            Box::new(|r| {
                let none = ["auth.example.com".to_owned()];
                r.egress_proxy = Some(EgressProxy::new("http://proxy:3128", None, &none).unwrap());
            }),
        ),
        ("http", Box::new(|r| r.allow_insecure_http = true)),
        ("private", Box::new(|r| r.allow_private_addresses = true)),
    ];
    let mut known = std::collections::HashMap::new();
    for (name, change) in changes {
        let digest = digest(change).unwrap_or_else(|| panic!("{name} has none"));
        if let Some(other) = known.insert(digest, name) {
            panic!("{name} has the digest of {other}");
        }
    }
}

struct Elsewhere;

impl AssertionSource for Elsewhere {
    fn assertion<'a>(&'a self, _: &'a str) -> AssertionFuture<'a> {
        Box::pin(async { Ok("a.b.c".into()) })
    }
}

#[test]
fn what_is_bound_or_found_or_made_elsewhere_is_shared_with_nobody() {
    let certificate = || ClientCertificate {
        chain: "pem".into(),
        key: "pem".into(),
    };
    assert_eq!(digest(|r| r.token_type = TokenType::DPoP), None);
    assert_eq!(digest(|r| r.certificate = Some(certificate())), None);
    assert_eq!(
        digest(|r| r.authentication = ClientAuthentication::Tls(certificate())),
        None
    );
    let from = || Assertions::From(Arc::new(Elsewhere));
    assert_eq!(digest(|r| r.grant = Grant::JwtBearer(from())), None);
    let kind = ClientAssertionType::default();
    assert_eq!(
        digest(|r| r.authentication = ClientAuthentication::Assertion(from(), kind)),
        None
    );
    let found = ServerLocation::ProtectedResource {
        url: "https://tools.example.com/mcp".into(),
        ca_bundle: None,
        known_issuer: None,
    };
    assert_eq!(digest(|r| r.server = found), None);
}

/// Whoever requests for both would have the other wait for as long as it does itself.
#[test]
fn clients_that_wait_for_an_answer_for_different_times_share_no_token() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let digest = |seconds| {
        let limits = Limits {
            deadline: std::time::Duration::from_secs(seconds),
            ..Limits::default()
        };
        let client = Client::with_limits(registration(), limits).unwrap();
        client.token_digest().unwrap()
    };
    assert_eq!(digest(3), digest(3));
    assert_ne!(digest(3), digest(60));
}
