mod exchange;
mod managed_key;
mod signing;

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth::{
    ClientAssertionType, ClientAuthentication, GivenAssertion, Grant, Registration, ServerLocation,
};
use serde_json::{Value, json};

use super::*;
use crate::references::needed;
use crate::token_sources::ClientConfiguration;

fn spec(oauth2: Value) -> McpServerAuthSpec {
    let server = json!({"name": "tools", "url": "https://tools.example.com/mcp"});
    serde_json::from_value(json!({"server": server, "oauth2": oauth2})).unwrap()
}

fn basic() -> Value {
    json!({
        "tokenUrl": "https://auth.example.com/token",
        "clientId": "litellm",
        "clientAuthentication": {
            "method": "ClientSecretBasic",
            "clientSecretRef": {"name": "oauth", "key": "secret"},
        },
    })
}

fn by_workload(workload: Value) -> Value {
    json!({
        "tokenUrl": "https://auth.example.com/token",
        "clientAuthentication": {"method": "WorkloadIdentity", "workloadIdentity": workload},
    })
}

fn holding(secret: &'static str) -> impl Fn(&Reference) -> Lookup {
    move |reference| {
        let value = secret.as_bytes().to_vec().into();
        Lookup::Found(Arc::new([(reference.key.clone(), value)].into()))
    }
}

/// Of whatever ServiceAccount, for whatever audience.
fn some_assertions(workload: &WorkloadIdentity) -> Option<Result<Assertions, NotServedError>> {
    let assertion = format!("for {}", workload.audience.clone().unwrap_or_default());
    Some(Ok(Assertions::Given(GivenAssertion::new(assertion.into()))))
}

fn no_assertions(_: &WorkloadIdentity) -> Option<Result<Assertions, NotServedError>> {
    None
}

fn decide(
    spec: &McpServerAuthSpec,
    lookup: impl Fn(&Reference) -> Lookup,
    workload: impl Fn(&WorkloadIdentity) -> Option<Result<Assertions, NotServedError>>,
) -> Result<Desired, NotServedError> {
    let references: Vec<_> = needed(spec)
        .into_iter()
        .map(|reference| (reference.clone(), lookup(&reference)))
        .collect();
    let inputs = Inputs {
        references: &references,
        workload,
        known_issuer: Some("https://known.example.com".into()),
        managed_key: None,
        policy: &AdministratorPolicy::default(),
        egress_proxy: None,
    };
    desired(spec, &inputs)
}

fn configuration(spec: &McpServerAuthSpec, secret: &'static str) -> ClientConfiguration {
    match decide(spec, holding(secret), some_assertions).unwrap().source {
        DesiredSource::OAuth2(configuration) => *configuration,
        DesiredSource::Secret(_) => panic!("not a given token"),
    }
}

fn registration(spec: &McpServerAuthSpec) -> Registration {
    configuration(spec, "s3cret\n").registration
}

#[test]
fn the_resource_parameter_is_the_servers_url_unless_the_spec_says_otherwise() {
    assert_eq!(
        registration(&spec(basic())).resource.as_deref(),
        Some("https://tools.example.com/mcp")
    );
    let mut other = basic();
    other["resource"] = json!("urn:tools");
    assert_eq!(registration(&spec(other)).resource.as_deref(), Some("urn:tools"));
    let mut none = basic();
    none["resource"] = json!("");
    assert_eq!(registration(&spec(none)).resource, None);
}

#[test]
fn the_first_reference_that_leads_nowhere_blocks() {
    let spec = spec(basic());
    let error = decide(&spec, |_| Lookup::NotFound, no_assertions).unwrap_err();
    assert_eq!(error.reason(), "SecretNotFound");
    assert!(error.message().contains("clientSecretRef"), "{}", error.message());
}

#[test]
fn a_changed_secret_asks_in_another_way_and_a_changed_renewal_does_not() {
    let before = spec(basic());
    let one = configuration(&before, "one").request_digest;
    assert_eq!(configuration(&before, "one").request_digest, one);
    assert_ne!(configuration(&before, "two").request_digest, one);
    let mut renewed = before.clone();
    let oauth2 = renewed.oauth2.as_mut().unwrap();
    oauth2.refresh_before = "5m".into();
    oauth2.revoke_on_deletion = true;
    assert_eq!(configuration(&renewed, "one").request_digest, one);
    let mut scoped = before;
    scoped.oauth2.as_mut().unwrap().scopes = vec!["tools:call".into()];
    assert_ne!(configuration(&scoped, "one").request_digest, one);
}

/// It is read where the MCP server is to name its authorization server, and nowhere else on the way to a token.
#[test]
fn a_new_authority_of_the_mcp_server_asks_anew_only_where_that_server_names_the_authorization_server() {
    let mut oauth2 = basic();
    let digest = |oauth2: &Value, bundle: &'static str| {
        let mut spec = spec(oauth2.clone());
        spec.server.tls = serde_json::from_value(json!({
            "caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
        }))
        .unwrap();
        let lookup = move |reference: &Reference| match reference.field {
            fields::SERVER_CA => holding(bundle)(reference),
            _ => holding("s3cret")(reference),
        };
        let desired = decide(&spec, lookup, no_assertions).unwrap();
        assert_eq!(desired.connection.ca_bundle.as_deref(), Some(bundle));
        let DesiredSource::OAuth2(configuration) = desired.source else {
            panic!("not a given token");
        };
        configuration.request_digest
    };
    assert_eq!(
        digest(&oauth2, "an authority"),
        digest(&oauth2, "another authority")
    );
    oauth2.as_object_mut().unwrap().remove("tokenUrl");
    assert_ne!(
        digest(&oauth2, "an authority"),
        digest(&oauth2, "another authority")
    );
}

#[test]
fn parameters_of_secrets_are_sent_as_they_are_there_and_a_change_asks_anew() {
    let mut oauth2 = basic();
    oauth2["extraParameters"] = json!({"tenant": "a"});
    oauth2["extraParametersFrom"] = json!([
        {"name": "api_key", "secretKeyRef": {"name": "keys", "key": "one"}},
        {"name": "partner", "secretKeyRef": {"name": "keys", "key": "two"}},
    ]);
    let spec = spec(oauth2);
    let by_key = |reference: &Reference| {
        let value = format!("value of {}", reference.key).into_bytes().into();
        Lookup::Found(Arc::new([(reference.key.clone(), value)].into()))
    };
    let DesiredSource::OAuth2(configuration) = decide(&spec, by_key, no_assertions).unwrap().source else {
        panic!("not a given token");
    };
    let registration = configuration.registration;
    assert_eq!(
        registration.extra_parameters,
        [("tenant".into(), "a".into())].into()
    );
    let secret = |name: &str| registration.secret_parameters[name].expose_secret().to_owned();
    assert_eq!(
        (secret("api_key"), secret("partner")),
        ("value of one".into(), "value of two".into())
    );
    assert!(!format!("{registration:?}").contains("value of"));
    let digest = |secret| self::configuration(&spec, secret).request_digest;
    assert_ne!(digest("one"), digest("two"));
}

#[test]
fn the_time_that_a_request_may_take_is_the_spec_s() {
    let mut oauth2 = basic();
    oauth2["requestTimeout"] = json!("3s");
    let configuration = configuration(&spec(oauth2), "s3cret");
    assert_eq!(configuration.limits.deadline, Duration::from_secs(3));
    assert_eq!(configuration.limits.connect, Duration::from_secs(3));
    assert_eq!(configuration.policy.deadline, Duration::from_secs(58));
}

#[test]
fn a_proxy_is_the_resource_s_own_with_the_credentials_of_its_secret_and_a_change_of_either_asks_anew() {
    let mut direct = spec(basic());
    assert!(registration(&direct).egress_proxy.is_none());
    let digest = |spec: &McpServerAuthSpec, secret| configuration(spec, secret).request_digest;
    let without = digest(&direct, "s3cret");
    direct.egress_proxy = Some(EgressProxy {
        url: "http://proxy.example.com:3128".into(),
        used_by: EgressProxyUsers::default(),
        credentials_ref: None,
        no_proxy: vec![],
    });
    assert_ne!(digest(&direct, "s3cret"), without);
    let mut known = direct.clone();
    known.egress_proxy.as_mut().unwrap().credentials_ref =
        Some(mcp_auth_crds::SecretName { name: "proxy".into() });
    let proxy = registration(&known).egress_proxy.unwrap();
    let shown = format!("{proxy:?}");
    assert!(
        shown.contains("proxy.example.com:3128") && !shown.contains("s3cret"),
        "{shown}"
    );
    assert_ne!(digest(&known, "s3cret"), digest(&known, "another"));
}

#[test]
fn sidecars_get_the_proxy_where_the_spec_says_so_and_it_is_for_their_server() {
    let mut resource = spec(basic());
    resource.egress_proxy = Some(EgressProxy {
        url: "http://proxy.example.com:3128".into(),
        used_by: EgressProxyUsers::Operator,
        credentials_ref: Some(mcp_auth_crds::SecretName { name: "proxy".into() }),
        no_proxy: vec![],
    });
    let of_sidecars = |spec: &McpServerAuthSpec| {
        let desired = decide(spec, holding("s3cret"), no_assertions).unwrap();
        desired.connection.egress_proxy
    };
    let digest = |spec: &McpServerAuthSpec| configuration(spec, "s3cret").request_digest;
    let operator_alone = digest(&resource);
    assert_eq!(of_sidecars(&resource), None);
    resource.egress_proxy.as_mut().unwrap().used_by = EgressProxyUsers::OperatorAndSidecars;
    let proxy = of_sidecars(&resource).unwrap();
    assert_eq!(proxy.url, "http://proxy.example.com:3128/");
    let authorization = proxy.authorization.as_ref().unwrap().expose_secret();
    // s3cret:s3cret
    assert_eq!(authorization, "Basic czNjcmV0OnMzY3JldA==");
    assert!(!format!("{proxy:?}").contains("czNj"));
    assert_eq!(
        digest(&resource),
        operator_alone,
        "no other token is requested for that"
    );
    for excepted in [".example.com", "tools.example.com", "*"] {
        resource.egress_proxy.as_mut().unwrap().no_proxy = vec![excepted.into()];
        assert_eq!(of_sidecars(&resource), None, "{excepted}");
    }
}

#[test]
fn a_user_name_that_no_proxy_can_be_told_is_an_invalid_spec() {
    let mut resource = spec(basic());
    resource.egress_proxy = Some(EgressProxy {
        url: "http://proxy.example.com:3128".into(),
        used_by: EgressProxyUsers::default(),
        credentials_ref: Some(mcp_auth_crds::SecretName { name: "proxy".into() }),
        no_proxy: vec![],
    });
    let error = decide(&resource, holding("user:s3cret"), no_assertions).unwrap_err();
    assert_eq!(error.reason(), "InvalidSpec");
    assert!(error.message().contains("colon"), "{}", error.message());
    assert!(!error.message().contains("s3cret"), "{}", error.message());
}

#[test]
fn the_authorization_server_is_stated_or_found_by_issuer_or_by_the_mcp_server() {
    let mut oauth2 = basic();
    assert!(matches!(
        registration(&spec(oauth2.clone())).server,
        ServerLocation::Endpoints { .. }
    ));
    oauth2.as_object_mut().unwrap().remove("tokenUrl");
    let expected = ServerLocation::ProtectedResource {
        url: "https://tools.example.com/mcp".into(),
        ca_bundle: None,
        known_issuer: Some("https://known.example.com".into()),
    };
    assert_eq!(registration(&spec(oauth2.clone())).server, expected);
    oauth2["issuer"] = json!("https://auth.example.com");
    let expected = ServerLocation::Issuer("https://auth.example.com".into());
    assert_eq!(registration(&spec(oauth2)).server, expected);
}

#[test]
fn workload_identity_is_the_clients_assertion_or_the_grant_itself() {
    let client = registration(&spec(by_workload(json!({"audience": "idp"}))));
    assert!(matches!(
        client.authentication,
        ClientAuthentication::Assertion(Assertions::Given(assertion), _)
            if assertion.expose_secret() == "for idp"
    ));
    assert!(matches!(client.grant, Grant::ClientCredentials));
    let grant = registration(&spec(by_workload(json!({"assertion": "JwtBearer"}))));
    assert!(matches!(grant.authentication, ClientAuthentication::None));
    assert!(matches!(grant.grant, Grant::JwtBearer(_)));
    let exchanged = registration(&spec(by_workload(json!({"assertion": "TokenExchange"}))));
    assert!(matches!(exchanged.authentication, ClientAuthentication::None));
    assert!(matches!(exchanged.grant, Grant::TokenExchange(_)));
}

#[test]
fn an_assertion_of_a_secret_says_who_the_client_is_by_the_type_that_is_stated() {
    for (stated, expected) in [
        (json!({}), ClientAssertionType::JwtBearer),
        (json!({"type": "JwtSpiffe"}), ClientAssertionType::JwtSpiffe),
    ] {
        let mut assertion = stated;
        assertion["secretKeyRef"] = json!({"name": "svid", "key": "jwt"});
        let oauth2 = json!({
            "tokenUrl": "https://auth.example.com/token",
            "clientAuthentication": {"method": "ClientAssertion", "clientAssertion": assertion},
        });
        let client = registration(&spec(oauth2.clone()));
        assert_eq!(client.client_id, None);
        let ClientAuthentication::Assertion(Assertions::Given(given), kind) = client.authentication else {
            panic!("another method");
        };
        assert_eq!((given.expose_secret(), kind), ("s3cret", expected));
        // A token outlives the assertion that brought it.
        let digest = |secret| configuration(&spec(oauth2.clone()), secret).request_digest;
        assert_ne!(digest("one"), digest("two"));
    }
}

#[test]
fn where_there_are_no_service_accounts_nobody_acts_as_one() {
    for assertion in ["ClientAssertion", "JwtBearer"] {
        let spec = spec(by_workload(json!({"assertion": assertion})));
        let error = decide(&spec, holding("x"), no_assertions).unwrap_err();
        assert_eq!(error.reason(), "InvalidSpec");
        assert!(
            error.message().contains("workloadIdentity"),
            "{}",
            error.message()
        );
    }
}

#[test]
fn what_the_administrator_forbids_is_refused_before_any_secret_is_looked_at() {
    let policy = AdministratorPolicy {
        mcp_servers: oauth::Destinations {
            hosts: ["elsewhere.example.com".parse().unwrap()].into(),
            ..oauth::Destinations::default()
        },
        ..AdministratorPolicy::default()
    };
    let inputs = Inputs {
        references: &[],
        workload: no_assertions,
        known_issuer: None,
        managed_key: None,
        policy: &policy,
        egress_proxy: None,
    };
    let error = desired(&spec(basic()), &inputs).unwrap_err();
    assert_eq!(error.reason(), "NotAllowed");
    assert!(error.ends_use() && !error.is_conflict());
}

#[test]
fn the_second_of_two_secrets_may_come_and_go() {
    let mut oauth2 = basic();
    oauth2["clientAuthentication"]["alternateClientSecretRef"] = json!({"name": "oauth", "key": "next"});
    let without = |_: &Reference| {
        let values = [("secret".to_owned(), b"s3cret".to_vec().into())];
        Lookup::Found(Arc::new(values.into()))
    };
    let desired = decide(&spec(oauth2.clone()), without, no_assertions).unwrap();
    let DesiredSource::OAuth2(without) = desired.source else {
        panic!("not a given token");
    };
    let ClientAuthentication::SecretBasic(secrets) = &without.registration.authentication else {
        panic!("another method");
    };
    assert!(secrets.alternate.is_none());
    let with = configuration(&spec(oauth2), "s3cret").request_digest;
    assert_ne!(without.request_digest, with, "it is tried once it is there");
}

#[test]
fn a_private_key_that_is_none_names_its_field_and_not_its_text() {
    let oauth2 = json!({
        "tokenUrl": "https://auth.example.com/token",
        "clientId": "litellm",
        "clientAuthentication": {
            "method": "PrivateKeyJwt",
            "privateKeyJwt": {"keyRef": {"name": "keys", "key": "key.pem"}},
        },
    });
    let error = decide(&spec(oauth2), holding("n0-key-at-all"), no_assertions).unwrap_err();
    assert_eq!(error.reason(), "SecretInvalid");
    for part in ["privateKeyJwt.keyRef", "Secret keys", "\"key.pem\""] {
        assert!(error.message().contains(part), "{}", error.message());
    }
    assert!(!error.message().contains("n0-key"), "{}", error.message());
}

#[test]
fn a_refresh_before_that_cannot_be_read_names_its_field() {
    let mut spec = spec(basic());
    spec.oauth2.as_mut().unwrap().refresh_before = "soon".into();
    let error = decide(&spec, holding("s3cret"), no_assertions).unwrap_err();
    assert_eq!(error.reason(), "InvalidSpec");
    assert!(
        error.message().contains("\"soon\" is not a duration"),
        "{}",
        error.message()
    );
}

/// The one that the sidecar's tests have.
const P521_AUTHORITY: &str = include_str!("../../../sidecar/src/http/testdata/p521-authority.pem");

#[test]
fn a_ca_bundle_that_nothing_can_be_verified_by_is_refused_by_the_name_of_its_key() {
    let mut spec = spec(basic());
    spec.server.tls = serde_json::from_value(json!({
        "caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
    }))
    .unwrap();
    let lookup = |reference: &Reference| match reference.field {
        fields::SERVER_CA => holding(P521_AUTHORITY)(reference),
        _ => holding("s3cret")(reference),
    };
    let refused = decide(&spec, lookup, no_assertions).map(drop).unwrap_err();
    assert_eq!(refused.reason(), "InvalidSpec");
    for part in ["spec.server.tls.caBundle", "certificate 1 ", "P-521", "P-384"] {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
}

/// Of a company's bundle most are the public authorities.
#[test]
fn a_bundle_with_all_public_authorities_is_taken_and_what_is_longer_is_refused_with_the_way_out() {
    let mut spec = spec(basic());
    spec.server.tls = serde_json::from_value(json!({
        "caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}},
        "clientCertificate": {"name": "pair"},
    }))
    .unwrap();
    let decided = |bundle: usize, certificate: usize| {
        let lookup = move |reference: &Reference| {
            let value = match reference.field {
                fields::SERVER_CA => "b".repeat(bundle),
                fields::SERVER_CERTIFICATE => "c".repeat(certificate),
                _ => "s3cret".to_owned(),
            };
            Lookup::Found(Arc::new(
                [(reference.key.clone(), value.into_bytes().into())].into(),
            ))
        };
        decide(&spec, lookup, no_assertions)
    };
    let (first, second) = (decided(225_000, 4000).unwrap(), decided(225_000, 4000).unwrap());
    let bundle = |desired: &Desired| desired.connection.ca_bundle.clone().unwrap();
    assert!(
        Arc::ptr_eq(&bundle(&first), &bundle(&second)),
        "resources share it"
    );
    for (bundle, certificate, field) in [
        (
            600_000,
            4000,
            "spec.server.tls.caBundle: the CA bundle has 600000 bytes",
        ),
        (
            225_000,
            70_000,
            "the client certificate and its key have 70006 bytes",
        ),
    ] {
        let refused = decided(bundle, certificate).map(drop).unwrap_err();
        assert_eq!(refused.reason(), "LimitExceeded");
        assert!(refused.message().contains(field), "{}", refused.message());
    }
}
