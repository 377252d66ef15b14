use serde_json::{Value, json};

use super::*;

const TENANT: &str = "00000000-0000-0000-0000-000000000000";
const APPLICATION: &str = "22222222-2222-2222-2222-222222222222";

fn spec(provider: &str, fields: Value) -> McpServerAuthSpec {
    let mut oauth2 = json!({
        "provider": provider,
        "clientId": "litellm",
        "clientAuthentication": {
            "method": "PrivateKeyJwt", "privateKeyJwt": {"keyRef": {"name": "oauth", "key": "key"}},
        },
    });
    for (name, value) in fields.as_object().unwrap() {
        oauth2[name] = value.clone();
    }
    let server = json!({"name": "tools", "url": "https://tools.example.com/mcp"});
    serde_json::from_value(json!({"server": server, "oauth2": oauth2})).unwrap()
}

fn effective(provider: &str, fields: Value) -> EffectiveSettings {
    let spec = spec(provider, fields);
    let oauth2 = spec.oauth2.as_ref().unwrap();
    EffectiveSettings::new(&spec, oauth2, oauth2.client_id.as_deref())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn entra_makes_scope_audiences_and_issuers_of_the_application_and_the_tenant() {
    let application = format!("api://{APPLICATION}");
    let issuer = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
    let by_audience = effective("Entra", json!({"issuer": issuer, "audience": application}));
    let by_scope = effective(
        "Entra",
        json!({"issuer": issuer, "scopes": [format!("{application}/.default")]}),
    );
    assert_eq!(by_audience, by_scope);
    assert_eq!(by_audience.scopes, [format!("{application}/.default")]);
    assert_eq!((by_audience.resource, by_audience.audience), (None, None));
    assert_eq!(
        by_audience.client_assertion_audience,
        AssertionAudience::TokenEndpoint
    );
    assert_eq!(
        by_audience.workload_audience.as_deref(),
        Some("api://AzureADTokenExchange")
    );
    assert_eq!(
        by_audience.accepted_audiences,
        [application.as_str(), APPLICATION]
    );
    assert_eq!(
        by_audience.accepted_issuers,
        [format!("https://sts.windows.net/{TENANT}/"), issuer]
    );
    let china = effective(
        "Entra",
        json!({"tokenUrl": format!("https://login.partner.microsoftonline.cn/{TENANT}/oauth2/v2.0/token")}),
    );
    assert_eq!(
        china.accepted_issuers[0],
        format!("https://sts.chinacloudapi.cn/{TENANT}/")
    );
    // Nothing is guessed of a tenant that is named by its domain.
    let named = effective(
        "Entra",
        json!({"issuer": "https://login.microsoftonline.com/company.onmicrosoft.com/v2.0"}),
    );
    assert_eq!(named.accepted_issuers, strings(&[]));
}

#[test]
fn each_provider_gets_what_its_documentation_says() {
    let server = Some("https://tools.example.com/mcp");
    let okta = effective(
        "Okta",
        json!({"issuer": "https://company.okta.com/oauth2/default"}),
    );
    assert_eq!(okta.resource, None);
    assert_eq!(okta.client_assertion_audience, AssertionAudience::TokenEndpoint);
    assert_eq!(okta.accepted_audiences, ["api://default"]);
    let other = effective("Okta", json!({"issuer": "https://company.okta.com/oauth2/aus1"}));
    assert_eq!(other.accepted_audiences, strings(&[]));

    let auth0 = effective("Auth0", json!({"issuer": "https://company.eu.auth0.com/"}));
    assert_eq!(
        (auth0.resource.as_deref(), auth0.audience.as_deref()),
        (None, server)
    );
    assert_eq!(auth0.client_assertion_audience, AssertionAudience::Issuer);
    let ory = effective("Ory", json!({"issuer": "https://company.projects.oryapis.com"}));
    assert_eq!((ory.resource.as_deref(), ory.audience.as_deref()), (None, server));
    assert_eq!(ory.client_assertion_audience, AssertionAudience::TokenEndpoint);

    let keycloak = effective("Keycloak", json!({"issuer": "https://sso.example.com/realms/a"}));
    assert_eq!(
        (keycloak.resource.as_deref(), keycloak.audience.as_deref()),
        (server, None)
    );
    for provider in ["Cognito", "PingFederate"] {
        let plain = effective(provider, json!({"issuer": "https://idp.example.com"}));
        assert_eq!((plain.resource, plain.audience), (None, None), "{provider}");
    }

    let google = effective("Google", json!({}));
    assert_eq!(
        google.token_url.as_deref(),
        Some("https://oauth2.googleapis.com/token")
    );
    assert_eq!(google.resource, None);

    let scopes = json!({"scopes": ["openid", "urn:zitadel:iam:org:project:id:123456789:aud"]});
    assert_eq!(effective("Zitadel", scopes).accepted_audiences, ["123456789"]);

    let service_now = effective("ServiceNow", json!({}));
    assert_eq!(
        service_now.grant_assertion_audience,
        AssertionAudience::Stated("litellm".into())
    );
}

#[test]
fn salesforce_is_addressed_where_its_users_log_in_and_its_tokens_live_for_an_hour() {
    for (host, audience) in [
        ("company.my.salesforce.com", "https://login.salesforce.com"),
        (
            "company--dev.sandbox.my.salesforce.com",
            "https://test.salesforce.com",
        ),
        ("test.salesforce.com", "https://test.salesforce.com"),
    ] {
        let token_url = format!("https://{host}/services/oauth2/token");
        let salesforce = effective("Salesforce", json!({"tokenUrl": token_url}));
        assert_eq!(
            salesforce.grant_assertion_audience,
            AssertionAudience::Stated(audience.into())
        );
        assert_eq!(
            (salesforce.assumed_lifetime.as_str(), salesforce.resource),
            ("1h", None)
        );
    }
}

#[test]
fn what_the_spec_states_goes_before_what_the_provider_wants() {
    let stated = json!({
        "issuer": "https://company.okta.com/oauth2/default",
        "resource": "urn:tools",
        "audience": "urn:audience",
        "scopes": ["a"],
        "assumedLifetime": "7m",
        "jwtBearer": {"keyRef": {"name": "oauth", "key": "key"}, "audience": "w"},
        "tokenCheck": {"acceptedAudiences": ["x"], "acceptedIssuers": ["y"]},
        "clientAuthentication": {
            "method": "PrivateKeyJwt",
            "privateKeyJwt": {"keyRef": {"name": "oauth", "key": "key"}, "audience": "z"},
        },
    });
    for provider in [
        "Okta",
        "Auth0",
        "Keycloak",
        "Google",
        "Cognito",
        "Salesforce",
        "ServiceNow",
        "PingFederate",
        "Ory",
        "Zitadel",
    ] {
        let effective = effective(provider, stated.clone());
        let expected = EffectiveSettings {
            token_url: None,
            resource: Some("urn:tools".into()),
            audience: Some("urn:audience".into()),
            scopes: strings(&["a"]),
            client_assertion_audience: AssertionAudience::Stated("z".into()),
            grant_assertion_audience: AssertionAudience::Stated("w".into()),
            workload_audience: None,
            accepted_audiences: strings(&["x"]),
            accepted_issuers: strings(&["y"]),
            assumed_lifetime: "7m".into(),
        };
        assert_eq!(effective, expected, "{provider}");
    }
}

#[test]
fn the_status_shows_what_counts_and_the_audience_of_assertions_once_it_is_known() {
    let spec = spec(
        "Okta",
        json!({"issuer": "https://company.okta.com/oauth2/default"}),
    );
    let oauth2 = spec.oauth2.as_ref().unwrap();
    let effective = EffectiveSettings::new(&spec, oauth2, Some("litellm"));
    assert_eq!(effective.in_status(oauth2, None).client_assertion_audience, None);
    let server = DiscoveredServer {
        issuer: "https://company.okta.com/oauth2/default".into(),
        token_endpoint: "https://company.okta.com/oauth2/default/v1/token".into(),
    };
    let shown = serde_json::to_value(effective.in_status(oauth2, Some(&server))).unwrap();
    assert_eq!(
        shown,
        json!({
            "provider": "Okta",
            "clientAssertionAudience": "https://company.okta.com/oauth2/default/v1/token",
            "acceptedAudiences": ["api://default"],
            "assumedLifetime": "5m",
        })
    );
}

#[test]
fn the_status_shows_the_audience_of_a_workload_identity_and_of_no_other_client() {
    let shown = |authentication: Value| {
        let fields = json!({
            "issuer": format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            "audience": format!("api://{APPLICATION}"),
            "clientAuthentication": authentication,
        });
        let spec = spec("Entra", fields);
        let oauth2 = spec.oauth2.as_ref().unwrap();
        let effective = EffectiveSettings::new(&spec, oauth2, Some("litellm"));
        effective.in_status(oauth2, None).workload_identity_audience
    };
    let by_workload = |workload: Value| json!({"method": "WorkloadIdentity", "workloadIdentity": workload});
    assert_eq!(
        shown(by_workload(json!({"serviceAccountName": "litellm"}))).as_deref(),
        Some("api://AzureADTokenExchange")
    );
    let stated = json!({"serviceAccountName": "litellm", "audience": "api://mine"});
    assert_eq!(shown(by_workload(stated)).as_deref(), Some("api://mine"));
    let by_secret = json!({
        "method": "ClientSecretPost", "clientSecretRef": {"name": "oauth", "key": "secret"},
    });
    assert_eq!(shown(by_secret), None);
}

#[test]
fn google_exchanges_the_token_of_a_workload_at_its_security_token_service() {
    const POOL: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k";
    let of_workload = |assertion: &str, audience: Option<&str>| {
        let workload =
            json!({"serviceAccountRef": {"name": "litellm"}, "assertion": assertion, "audience": audience});
        let fields = json!({
            "clientAuthentication": {"method": "WorkloadIdentity", "workloadIdentity": workload},
            "audience": POOL,
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        });
        effective("Google", fields)
    };
    let exchanged = of_workload("TokenExchange", None);
    assert_eq!(
        exchanged.token_url.as_deref(),
        Some("https://sts.googleapis.com/v1/token")
    );
    assert_eq!(exchanged.audience.as_deref(), Some(POOL));
    assert_eq!(exchanged.workload_audience, Some(format!("https:{POOL}")));
    assert_eq!(exchanged.resource, None);
    let stated = of_workload("TokenExchange", Some("company-pool"));
    assert_eq!(stated.workload_audience.as_deref(), Some("company-pool"));
    let bearer = of_workload("JwtBearer", None);
    assert_eq!(
        bearer.token_url.as_deref(),
        Some("https://oauth2.googleapis.com/token")
    );
}
