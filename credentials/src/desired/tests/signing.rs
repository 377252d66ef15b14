//! Keys that assertions are signed with, from the Secrets that hold them.

use std::sync::Arc;

use mcp_auth_crds::{McpServerAuth, McpServerAuthSpec};
use mcp_auth_oauth::{AssertionAudience, AssertionSigner};
use serde_json::{Value, json};

use super::{decide, no_assertions, spec};
use crate::credential_identity::CredentialIdentity;
use crate::references::{Lookup, Reference};
use crate::token_sources::DesiredSource;
use mcp_auth_oauth::{Assertions, ClientAuthentication, Grant, Registration, ServerLocation};

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().unwrap()
}

/// What becomes of a spec whose references lead to these values, by their keys.
fn registration(oauth2: Value, values: &[(&str, &str)]) -> Result<Registration, String> {
    registration_of(&spec(oauth2), values)
}

fn registration_of(spec: &McpServerAuthSpec, values: &[(&str, &str)]) -> Result<Registration, String> {
    let lookup = |reference: &Reference| {
        let (_, value) = values.iter().find(|(key, _)| *key == reference.key).unwrap();
        Lookup::Found(Arc::new(
            [(reference.key.clone(), value.as_bytes().to_vec().into())].into(),
        ))
    };
    match decide(spec, lookup, no_assertions) {
        Ok(desired) => match desired.source {
            DesiredSource::OAuth2(configuration) => Ok(configuration.registration),
            DesiredSource::Secret(_) => panic!("not a given token"),
        },
        Err(error) => Err(error.message().to_owned()),
    }
}

fn jwt_bearer(jwt_bearer: Value) -> Value {
    let mut grant = json!({"keyRef": {"name": "account", "key": "key"}});
    for (name, value) in jwt_bearer.as_object().unwrap() {
        grant[name] = value.clone();
    }
    json!({
        "tokenUrl": "https://auth.example.com/token",
        "clientId": "consumer-key",
        "clientAuthentication": {"method": "None"},
        "scopes": ["a", "b"],
        "jwtBearer": grant,
    })
}

fn signer(oauth2: Value, key: &str) -> Arc<AssertionSigner> {
    match registration(oauth2, &[("key", key)]).unwrap().grant {
        Grant::JwtBearer(Assertions::Signed(signer)) => signer,
        grant => panic!("{grant:?}"),
    }
}

#[test]
fn a_key_by_itself_signs_for_the_client_and_for_the_subject_that_is_stated() {
    let pem = key().serialize_pem();
    let signed = signer(
        jwt_bearer(json!({"subject": "anna@example.com", "audience": "https://login.salesforce.com"})),
        &pem,
    );
    assert_eq!(
        (signed.issuer.as_str(), signed.subject.as_str()),
        ("consumer-key", "anna@example.com")
    );
    assert_eq!(
        signed.audience,
        AssertionAudience::Stated("https://login.salesforce.com".into())
    );
    assert!(signed.claims.is_empty());
    let signed = signer(jwt_bearer(json!({"issuer": "me"})), &pem);
    assert_eq!((signed.issuer.as_str(), signed.subject.as_str()), ("me", "me"));
}

#[test]
fn a_key_file_of_google_says_who_signs_and_has_the_scopes_in_the_assertion() {
    let file = json!({
        "type": "service_account", "private_key_id": "k-1", "private_key": key().serialize_pem(),
        "client_email": "tools@p.iam.gserviceaccount.com",
    })
    .to_string();
    let mut oauth2 = jwt_bearer(json!({}));
    oauth2["clientId"] = Value::Null;
    let signed = signer(oauth2, &file);
    assert_eq!(signed.issuer, "tools@p.iam.gserviceaccount.com");
    assert_eq!(signed.subject, signed.issuer);
    assert_eq!(signed.key.key_id(), Some("k-1"));
    assert_eq!(signed.claims["scope"], "a b");
    // Whom the account stands in for, and what is stated, go before the file.
    let stated = json!({"subject": "anna@example.com", "keyId": "k-2", "claims": {"scope": "c"}});
    let signed = signer(jwt_bearer(stated), &file);
    assert_eq!(signed.subject, "anna@example.com");
    assert_eq!(
        (signed.key.key_id(), signed.claims["scope"].as_str()),
        (Some("k-2"), "c")
    );
}

#[test]
fn a_key_that_nobody_is_named_for_is_an_error_that_says_where_to_name_one() {
    let mut oauth2 = jwt_bearer(json!({}));
    oauth2["clientId"] = Value::Null;
    let error = registration(oauth2, &[("key", &key().serialize_pem())]).unwrap_err();
    assert!(
        error.starts_with("spec.oauth2.jwtBearer.issuer is not set"),
        "{error}"
    );
}

#[test]
fn a_key_file_with_a_broken_key_names_its_field_and_not_its_text() {
    let file =
        json!({"type": "serviceaccount", "keyId": "1", "key": "t0p-s3cret", "userId": "2"}).to_string();
    let error = registration(jwt_bearer(json!({})), &[("key", &file)]).unwrap_err();
    assert!(error.contains("named by spec.oauth2.jwtBearer.keyRef"), "{error}");
    assert!(!error.contains("t0p-s3cret"), "{error}");
}

/// By a Secret of type `kubernetes.io/tls`.
fn certified(certificate: &str, key: &str) -> Result<Registration, String> {
    let oauth2 = json!({
        "tokenUrl": "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
        "clientId": "litellm",
        "clientAuthentication": {"method": "PrivateKeyJwt", "privateKeyJwt": {"certificateRef": {"name": "tls"}}},
    });
    registration(oauth2, &[("tls.crt", certificate), ("tls.key", key)])
}

#[test]
fn a_certificate_s_key_signs_and_the_certificate_announces_it() {
    let pair = key();
    let certificate = rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&pair)
        .unwrap();
    let registration = certified(&certificate.pem(), &pair.serialize_pem()).unwrap();
    let ClientAuthentication::PrivateKeyJwt { key, .. } = registration.authentication else {
        panic!("{:?}", registration.authentication);
    };
    assert_eq!(key.certificate().unwrap().sha256.len(), 43);
    assert!(registration.certificate.is_none(), "it is shown in no handshake");
    let error = certified(&certificate.pem(), &super::signing::key().serialize_pem()).unwrap_err();
    assert!(error.contains("do not belong together"), "{error}");
}

#[test]
fn every_kind_of_key_signs_by_its_algorithm_and_another_curve_is_named_with_the_way_out() {
    let generated = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let (p256, p384, ed25519) = (
        generated(&rcgen::PKCS_ECDSA_P256_SHA256),
        generated(&rcgen::PKCS_ECDSA_P384_SHA384),
        generated(&rcgen::PKCS_ED25519),
    );
    for (pair, name) in [(p256, "ES256"), (p384, "ES384"), (ed25519, "EdDSA")] {
        let (pem, algorithm) = (pair.serialize_pem(), json!({"algorithm": name}));
        assert_eq!(signer(jwt_bearer(json!({})), &pem).key.algorithm().as_str(), name);
        assert_eq!(signer(jwt_bearer(algorithm), &pem).key.algorithm().as_str(), name);
        let certificate = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let by_certificate = certified(&certificate.pem(), &pem).unwrap().authentication;
        let ClientAuthentication::PrivateKeyJwt { key, .. } = by_certificate else {
            panic!("{by_certificate:?}");
        };
        assert_eq!(key.algorithm().as_str(), name);
    }

    let p521 = include_str!("../../../../oauth/src/jose/signing_key/testdata/p521.pem");
    assert_eq!(
        signer(jwt_bearer(json!({})), p521).key.algorithm().as_str(),
        "ES512"
    );
    let algorithm = json!({"algorithm": "ES512"});
    assert_eq!(
        signer(jwt_bearer(algorithm), p521).key.algorithm().as_str(),
        "ES512"
    );

    let secp256k1 = include_str!("../../../../oauth/src/jose/signing_key/testdata/secp256k1.pem");
    let way_out = "its curve is secp256k1 instead of P-256, P-384 or P-521: use an RSA, EC P-256, EC P-384, EC P-521 or \
                   Ed25519 key";
    for (refused, field) in [
        (
            registration(jwt_bearer(json!({})), &[("key", secp256k1)]),
            "spec.oauth2.jwtBearer.keyRef",
        ),
        (
            certified("unread", secp256k1),
            "spec.oauth2.clientAuthentication.privateKeyJwt.certificateRef",
        ),
    ] {
        let error = refused.unwrap_err();
        assert!(error.contains(field) && error.contains(way_out), "{error}");
    }
}

fn github_app(app: Value) -> McpServerAuthSpec {
    let mut github_app = json!({
        "appId": 123_456,
        "installationId": 87_654_321,
        "keyRef": {"name": "github", "key": "key.pem"},
    });
    for (name, value) in app.as_object().unwrap() {
        github_app[name] = value.clone();
    }
    let server = json!({"name": "github", "url": "https://api.githubcopilot.com/mcp/"});
    serde_json::from_value(json!({"server": server, "githubApp": github_app})).unwrap()
}

#[test]
fn a_github_app_asks_at_its_installation_for_what_it_names() {
    const RSA: &str = include_str!("../../../../oauth/src/jose/signing_key/testdata/rsa.pkcs1.pem");
    for (app, token_url) in [
        (
            json!({"repositories": ["tools"], "permissions": {"contents": "read", "issues": "write"}}),
            "https://api.github.com/app/installations/87654321/access_tokens",
        ),
        (
            json!({"apiUrl": "https://github.example.com/api/v3/"}),
            "https://github.example.com/api/v3/app/installations/87654321/access_tokens",
        ),
    ] {
        let narrowed = app.get("repositories").is_some();
        let registration = registration_of(&github_app(app), &[("key.pem", RSA)]).unwrap();
        assert_eq!(
            registration.server,
            ServerLocation::Endpoints {
                token_url: token_url.into(),
                revocation_url: None
            }
        );
        let Grant::GitHubApp(app) = registration.grant else {
            panic!("another grant");
        };
        assert_eq!(app.app_id, 123_456);
        assert_eq!(app.repositories.len(), usize::from(narrowed));
        let permissions: Vec<_> = app
            .permissions
            .iter()
            .map(|(name, access)| format!("{name}={access}"))
            .collect();
        let expected: &[&str] = if narrowed {
            &["contents=read", "issues=write"]
        } else {
            &[]
        };
        assert_eq!(permissions, expected);
    }
}

#[test]
fn a_key_that_no_github_app_has_is_named() {
    for (text, problem) in [
        (
            key().serialize_pem(),
            "a key of the kind P-256, and those of GitHub Apps are RSA",
        ),
        ("hello".into(), "neither PEM nor a JWK"),
        (String::new(), "is empty"),
    ] {
        let error = registration_of(&github_app(json!({})), &[("key.pem", &text)]).unwrap_err();
        assert!(
            error.contains("spec.githubApp.keyRef") && error.contains(problem),
            "{error}"
        );
    }
}

/// What changes which token it is, and what does not.
#[test]
fn a_token_of_an_installation_is_of_its_narrowing_and_not_of_the_key_that_asked() {
    let identity = |app| {
        let mut resource = McpServerAuth::new("github", github_app(app));
        resource.metadata.namespace = Some("llm".into());
        CredentialIdentity::for_resource(&resource)
    };
    let first = identity(json!({}));
    let same = [
        json!({"keyRef": {"name": "next", "key": "key.pem"}}),
        json!({"refreshBefore": "10m"}),
    ];
    for app in same {
        assert_eq!(identity(app.clone()), first, "{app}");
    }
    let other = [
        json!({"installationId": 1}),
        json!({"apiUrl": "https://github.example.com/api/v3"}),
        json!({"repositories": ["tools"]}),
        json!({"permissions": {"contents": "read"}}),
    ];
    for app in other {
        assert_ne!(identity(app.clone()), first, "{app}");
    }
}

#[test]
fn an_assertion_that_is_addressed_to_the_authorization_server_is_not_shown_to_the_identity_provider() {
    let registration = registration(
        json!({
            "tokenUrl": "https://auth.example.com/token",
            "clientId": "litellm",
            "clientAuthentication": {
                "method": "PrivateKeyJwt",
                "privateKeyJwt": {
                    "keyRef": {"name": "oauth", "key": "key"},
                    "audience": "https://auth.example.com",
                },
            },
            "tokenExchange": {
                "profile": "IdJag",
                "subjectCookie": "sid",
                "audience": "https://auth.example.com",
                "identityProvider": {"issuer": "https://idp.example.com"},
            },
        }),
        &[("key", &key().serialize_pem())],
    )
    .unwrap();
    let audience = |registration: &Registration| match &registration.authentication {
        ClientAuthentication::PrivateKeyJwt { audience, .. } => audience.clone(),
        authentication => panic!("{authentication:?}"),
    };
    assert_eq!(
        audience(&registration),
        AssertionAudience::Stated("https://auth.example.com".into())
    );
    let identity_provider = registration.token_exchange.identity_provider.as_ref().unwrap();
    assert_eq!(audience(identity_provider), AssertionAudience::Issuer);
}
