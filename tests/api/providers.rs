//! Identity providers by stand-ins that answer as each provider's public documentation has it: what becomes of a resource
//! that knows nothing of the provider, and what `provider` makes of the same. `docs/providers` names the pages.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::CustomResourceExt;
use mcp_auth_crds::{EffectiveOAuth2, McpServerAuth, conditions, reasons};
use mcp_auth_tests::documents::read;
use mcp_auth_tests::jwt;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::web::{Form, Web};
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

const SERVER_URL: &str = "https://tools.example.com/mcp";
const TENANT: &str = "00000000-0000-0000-0000-000000000000";
const APPLICATION: &str = "22222222-2222-2222-2222-222222222222";

type Answer = (&'static str, Value);

/// A provider, and what a resource has of it besides its name.
struct Provider {
    name: &'static str,
    /// Path of the issuer; none: only the token endpoint is stated.
    issuer: Option<&'static str>,
    token_path: &'static str,
    /// Fields that this provider's users have to state.
    oauth2: Value,
    /// From URL of the stand-in and form to the answer.
    answer: fn(&str, &Form) -> Answer,
    /// Reason and words of the condition without `provider`.
    forgotten: (&'static str, &'static str),
}

fn issued(claims: Value, expires_in: Option<u32>) -> Answer {
    let mut body = json!({"access_token": jwt::unsigned(&claims), "token_type": "Bearer"});
    if let Some(expires_in) = expires_in {
        body["expires_in"] = json!(expires_in);
    }
    ("200 OK", body)
}

fn refused(status: &'static str, code: &str, description: &str) -> Answer {
    (status, json!({"error": code, "error_description": description}))
}

fn by_secret() -> Value {
    json!({
        "method": "ClientSecretPost",
        "clientSecretRef": {"name": "client", "key": "client-secret"},
    })
}

fn by_key() -> Value {
    json!({"method": "PrivateKeyJwt", "privateKeyJwt": {"keyRef": {"name": "client-key", "key": "key.pem"}}})
}

fn by_grant(subject: &str) -> Value {
    json!({
        "clientAuthentication": {"method": "None"},
        "jwtBearer": {"keyRef": {"name": "client-key", "key": "key.pem"}, "subject": subject},
    })
}

fn entra(_: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        let words = "AADSTS901002: The 'resource' request parameter is not supported.";
        return refused("400 Bad Request", "invalid_request", words);
    }
    match form
        .get("scope")
        .and_then(|scope| scope.strip_suffix("/.default"))
    {
        Some(application) => issued(
            json!({"iss": format!("https://sts.windows.net/{TENANT}/"), "aud": application}),
            Some(3599),
        ),
        None => refused(
            "400 Bad Request",
            "invalid_scope",
            "AADSTS1002012: The provided value for scope is not valid.",
        ),
    }
}

fn okta(url: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["client_assertion"]);
    if assertion["aud"] != format!("{url}/oauth2/default/v1/token") {
        let words = "The audience claim for client_assertion must be the endpoint invoked for the request.";
        return refused("401 Unauthorized", "invalid_client", words);
    }
    issued(
        json!({"iss": format!("{url}/oauth2/default"), "aud": "api://default", "scp": ["tools.call"]}),
        Some(3600),
    )
}

fn auth0(url: &str, form: &Form) -> Answer {
    match form.get("audience") {
        Some(audience) => issued(
            json!({"iss": format!("{url}/"), "aud": audience, "gty": "client-credentials"}),
            Some(86_400),
        ),
        None => refused(
            "403 Forbidden",
            "access_denied",
            "No audience parameter was provided, and no default audience has been configured",
        ),
    }
}

fn google(_: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return refused(
            "400 Bad Request",
            "invalid_request",
            "Parameter not allowed: resource",
        );
    }
    let token = json!({"access_token": "ya29.c.b0AXv0zTO", "expires_in": 3599, "token_type": "Bearer"});
    ("200 OK", token)
}

fn cognito(url: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return ("400 Bad Request", json!({"error": "invalid_request"}));
    }
    let claims = json!({
        "iss": format!("{url}/eu-central-1_abc"), "client_id": "litellm", "token_use": "access", "scope": "tools/call",
    });
    issued(claims, Some(3600))
}

fn salesforce(_: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["assertion"]);
    if assertion["aud"] != "https://login.salesforce.com" {
        return refused("400 Bad Request", "invalid_grant", "audience is invalid");
    }
    let token = json!({
        "access_token": "00D5g0000000000!AQcAQH0dMHEXAMPLE", "scope": "api", "token_type": "Bearer",
        "instance_url": "https://company.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D5g0000000000EAA/0055g000000000AAA",
    });
    ("200 OK", token)
}

fn service_now(_: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["assertion"]);
    if assertion["aud"] != form["client_id"] {
        return refused("401 Unauthorized", "server_error", "access_denied");
    }
    let token = json!({
        "access_token": "LD3xzvXAMPLE", "scope": "useraccount", "token_type": "Bearer", "expires_in": 1799,
    });
    ("200 OK", token)
}

fn ping_federate(url: &str, form: &Form) -> Answer {
    if form.contains_key("resource") {
        return refused(
            "400 Bad Request",
            "invalid_target",
            "The requested resource is invalid, unknown, or malformed.",
        );
    }
    issued(json!({"iss": url, "client_id": "litellm"}), Some(7199))
}

fn ory(url: &str, form: &Form) -> Answer {
    let assertion = jwt::claims(&form["client_assertion"]);
    if assertion["aud"] != format!("{url}/oauth2/token") {
        let words = "Client authentication failed. Claim 'audience' from 'client_assertion' must match the \
                     authorization server's token endpoint.";
        return refused("401 Unauthorized", "invalid_client", words);
    }
    let audience = form.get("audience").into_iter().collect::<Vec<_>>();
    issued(json!({"iss": url, "aud": audience}), Some(3599))
}

fn zitadel(url: &str, form: &Form) -> Answer {
    let project = form["scope"].rsplit(':').nth(1).unwrap_or_default();
    issued(json!({"iss": url, "aud": [project]}), Some(43_199))
}

fn providers() -> Vec<Provider> {
    let app = format!("api://{APPLICATION}");
    let with = |grant: Value, more: Value| {
        let mut oauth2 = grant;
        merge(&mut oauth2, more);
        oauth2
    };
    vec![
        Provider {
            name: "Entra",
            issuer: Some("/00000000-0000-0000-0000-000000000000/v2.0"),
            token_path: "/00000000-0000-0000-0000-000000000000/oauth2/v2.0/token",
            oauth2: json!({"clientAuthentication": by_secret(), "audience": app}),
            answer: entra,
            forgotten: (reasons::REQUEST_FAILED, "AADSTS901002"),
        },
        Provider {
            name: "Okta",
            issuer: Some("/oauth2/default"),
            token_path: "/oauth2/default/v1/token",
            oauth2: json!({"clientAuthentication": by_key(), "scopes": ["tools.call"]}),
            answer: okta,
            forgotten: (reasons::REQUEST_FAILED, "privateKeyJwt.audience"),
        },
        Provider {
            name: "Auth0",
            issuer: Some("/"),
            token_path: "/oauth/token",
            oauth2: json!({"clientAuthentication": by_secret()}),
            answer: auth0,
            forgotten: (reasons::REQUEST_FAILED, "No audience parameter was provided"),
        },
        Provider {
            name: "Google",
            issuer: None,
            token_path: "/token",
            oauth2: with(
                by_grant("tools@p.iam.gserviceaccount.com"),
                json!({"scopes": ["https://www.googleapis.com/auth/cloud-platform"]}),
            ),
            answer: google,
            forgotten: (reasons::REQUEST_FAILED, "Parameter not allowed: resource"),
        },
        Provider {
            name: "Cognito",
            issuer: Some("/eu-central-1_abc"),
            token_path: "/oauth2/token",
            oauth2: json!({"clientAuthentication": by_secret(), "scopes": ["tools/call"]}),
            answer: cognito,
            forgotten: (reasons::REQUEST_FAILED, "invalid_request"),
        },
        Provider {
            name: "Salesforce",
            issuer: None,
            token_path: "/services/oauth2/token",
            oauth2: by_grant("integration@company.com"),
            answer: salesforce,
            forgotten: (reasons::REQUEST_FAILED, "audience is invalid"),
        },
        Provider {
            name: "ServiceNow",
            issuer: None,
            token_path: "/oauth_token.do",
            oauth2: by_grant("integration@company.com"),
            answer: service_now,
            forgotten: (reasons::REQUEST_FAILED, "server_error (access_denied)"),
        },
        Provider {
            name: "PingFederate",
            issuer: Some(""),
            oauth2: json!({"clientAuthentication": by_secret()}),
            token_path: "/as/token.oauth2",
            answer: ping_federate,
            forgotten: (reasons::REQUEST_FAILED, "an empty resource sends none"),
        },
        Provider {
            name: "Ory",
            issuer: Some(""),
            token_path: "/oauth2/token",
            oauth2: json!({"clientAuthentication": by_key()}),
            answer: ory,
            forgotten: (reasons::REQUEST_FAILED, "token endpoint"),
        },
        Provider {
            name: "Zitadel",
            issuer: Some(""),
            token_path: "/oauth/v2/token",
            oauth2: with(
                by_grant("service-user"),
                json!({"scopes": ["openid", "urn:zitadel:iam:org:project:id:123456789:aud"]}),
            ),
            answer: zitadel,
            forgotten: (reasons::TOKEN_MISMATCH, "123456789"),
        },
    ]
}

/// The stand-in, and the resource that says nothing of the provider.
async fn set_up(world: &World, provider: &Provider) -> (Web, Value) {
    let web = Web::start().await;
    let token_url = format!("{}{}", web.url, provider.token_path);
    let (url, answer) = (web.url.clone(), provider.answer);
    web.by_form(provider.token_path, move |form| answer(&url, form));
    let mut oauth2 = json!({"clientId": "litellm", "allowInsecureHttp": true});
    match provider.issuer {
        Some(path) => {
            let issuer = format!("{}{path}", web.url);
            // As Entra's and others': what users grant at a sign-in, and no scope of an application.
            let metadata = json!({
                "issuer": issuer, "token_endpoint": token_url,
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
            });
            let path = path.trim_end_matches('/');
            web.json(
                &format!("/.well-known/oauth-authorization-server{path}"),
                &metadata,
            );
            oauth2["issuer"] = json!(issuer);
        }
        None => oauth2["tokenUrl"] = json!(token_url),
    }
    merge(&mut oauth2, provider.oauth2.clone());
    let name = provider.name.to_lowercase();
    let mut tools = resource("tools", &name, json!({"oauth2": oauth2}));
    tools["spec"]["server"]["url"] = json!(SERVER_URL);
    tools["metadata"]["name"] = json!(name);
    let key = Key::new("RS256", "client").await;
    let secret = format!("s3cret of {}", provider.name);
    world.secret("client", "client-secret", &secret).await;
    world.secret("client-key", "key.pem", &key.private_pem).await;
    (web, tools)
}

/// Fields of the status that are worth a look, by provider.
fn expected(provider: &str, web: &str) -> EffectiveOAuth2 {
    let app = format!("api://{APPLICATION}");
    let fields = match provider {
        "Entra" => json!({
            "scopes": [format!("{app}/.default")],
            "acceptedAudiences": [app, APPLICATION],
            "acceptedIssuers": [
                format!("https://sts.windows.net/{TENANT}/"),
                format!("https://{}/{TENANT}/v2.0", web.trim_start_matches("http://")),
            ],
        }),
        "Okta" => json!({
            "scopes": ["tools.call"],
            "clientAssertionAudience": format!("{web}/oauth2/default/v1/token"),
            "acceptedAudiences": ["api://default"],
        }),
        "Auth0" => json!({"audience": SERVER_URL}),
        "Google" => json!({
            "tokenUrl": format!("{web}/token"),
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            "grantAssertionAudience": format!("{web}/token"),
        }),
        "Cognito" => json!({"scopes": ["tools/call"]}),
        "Salesforce" => json!({
            "tokenUrl": format!("{web}/services/oauth2/token"),
            "grantAssertionAudience": "https://login.salesforce.com",
            "assumedLifetime": "1h",
        }),
        "ServiceNow" => json!({
            "tokenUrl": format!("{web}/oauth_token.do"), "grantAssertionAudience": "litellm",
        }),
        "PingFederate" => json!({}),
        "Ory" => json!({"audience": SERVER_URL, "clientAssertionAudience": format!("{web}/oauth2/token")}),
        "Zitadel" => json!({
            "scopes": ["openid", "urn:zitadel:iam:org:project:id:123456789:aud"],
            "grantAssertionAudience": web,
            "acceptedAudiences": ["123456789"],
        }),
        other => panic!("{other} is not expected"),
    };
    let mut effective = json!({"provider": provider, "assumedLifetime": "5m"});
    merge(&mut effective, fields);
    serde_json::from_value(effective).unwrap()
}

#[tokio::test]
async fn what_each_provider_refuses_is_told_and_naming_the_provider_is_enough() {
    for provider in providers() {
        let name = provider.name.to_lowercase();
        let world = World::new(&format!("providers-{name}"), false).await;
        let (web, mut tools) = set_up(&world, &provider).await;
        world.apply(&tools).await.unwrap();
        let (reason, words) = provider.forgotten;
        let status = world
            .condition(&name, conditions::TOKEN_ISSUED, "False", reason)
            .await;
        let told = message(&status, conditions::TOKEN_ISSUED);
        assert!(told.contains(words), "{name}: {told}");
        assert!(!told.contains("scopes_supported"), "{name}: {told}");
        tools["spec"]["oauth2"]["provider"] = json!(provider.name);
        world.apply(&tools).await.unwrap();
        let status = world
            .condition(&name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        assert_eq!(
            status.effective.unwrap(),
            expected(provider.name, &web.url),
            "{name}"
        );
        let shown = shown_resource(&world, &provider, &tools).await;
        world.apply(&shown).await.unwrap();
        world
            .condition("shown", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
    }
}

/// The first resource of the provider's page, with its Secrets, at the stand-in that `tools` leads to.
async fn shown_resource(world: &World, provider: &Provider, tools: &Value) -> Value {
    let page = format!("docs/providers/{}.md", provider.name.to_lowercase());
    let mut shown = read(&page).yaml().swap_remove(0);
    shown["metadata"]["name"] = json!("shown");
    let oauth2 = &mut shown["spec"]["oauth2"];
    make_secrets(world, oauth2).await;
    for field in ["issuer", "tokenUrl", "allowInsecureHttp"] {
        if let Some(value) = tools["spec"]["oauth2"].get(field) {
            oauth2[field] = value.clone();
        }
    }
    shown
}

/// Makes what the references of a page's resource name, each by the name of its key.
async fn make_secrets(world: &World, oauth2: &Value) {
    let key = Key::new("RS256", "shown").await;
    let google = json!({
        "type": "service_account", "client_email": "tools@p.iam.gserviceaccount.com", "private_key_id": "k",
        "private_key": key.private_pem,
    });
    let zitadel = json!({"type": "serviceaccount", "keyId": "k", "userId": "u", "key": key.private_pem});
    let mut secrets = BTreeMap::<String, Value>::new();
    for reference in references(oauth2) {
        let secret = secrets
            .entry(reference["name"].as_str().unwrap().to_owned())
            .or_insert(json!({}));
        let data = match reference["key"].as_str() {
            Some("client-secret") => json!({"client-secret": "s3cret-of-a-page"}),
            Some("key.pem") => json!({"key.pem": key.private_pem}),
            Some("key.json") if oauth2["provider"] == "Google" => json!({"key.json": google.to_string()}),
            Some("key.json") => json!({"key.json": zitadel.to_string()}),
            Some(other) => panic!("nothing is known of {other}"),
            None => json!({"tls.crt": key.self_signed().await, "tls.key": key.private_pem}),
        };
        merge(secret, data);
    }
    for (name, data) in secrets {
        let secret = json!({"metadata": {"name": name}, "stringData": data});
        world.create::<Secret>(secret).await.unwrap();
    }
}

/// The objects that are the value of a field whose name ends in `Ref`.
fn references(value: &Value) -> Vec<Value> {
    let Some(object) = value.as_object() else {
        return Vec::new();
    };
    let below = object
        .iter()
        .flat_map(|(field, value)| match field.ends_with("Ref") {
            true => vec![value.clone()],
            false => references(value),
        });
    below.collect()
}

/// Names in backquotes.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The values of `spec.oauth2.provider`.
fn values_of_provider() -> BTreeSet<String> {
    let schema = serde_json::to_value(&McpServerAuth::crd().spec.versions[0].schema).unwrap();
    let field = "/openAPIV3Schema/properties/spec/properties/oauth2/properties/provider/enum";
    let values = schema.pointer(field).and_then(Value::as_array).unwrap().iter();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_table_of_providers_is_what_the_pages_show_and_what_runs_here() {
    let table = read("docs/providers/README.md").text;
    let (_, table) = table.split_once("## What works").unwrap();
    let stand_ins: BTreeSet<String> = providers()
        .iter()
        .map(|provider| provider.name.to_owned())
        .collect();
    let mut named = BTreeSet::new();
    let rows = table.lines().filter(|line| line.starts_with("| ["));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [provider, works, fields, test] = cells[..] else {
            panic!("{row}");
        };
        let page = provider.split_once("](").unwrap().1.trim_end_matches(')');
        let shown = read(&format!("docs/providers/{page}")).yaml();
        let spec = &shown[0]["spec"];
        let (source, expected) = match spec.get("githubApp") {
            Some(app) => (app, "by a stand-in"),
            None => {
                let value = spec["oauth2"]["provider"].as_str();
                let is_stand_in = value.is_some_and(|value| stand_ins.contains(value));
                named.extend(value.map(str::to_owned));
                let works = if is_stand_in {
                    "by a stand-in"
                } else {
                    "the real program"
                };
                (&spec["oauth2"], works)
            }
        };
        assert_eq!(works, expected, "{page}");
        let mut quoted_fields = quoted(fields);
        quoted_fields.remove("githubApp");
        let shown_fields = source.as_object().unwrap().keys().cloned().collect();
        assert_eq!(quoted_fields, shown_fields, "{page}");
        assert!(!quoted(test).is_empty(), "{page}");
    }
    assert_eq!(named, values_of_provider(), "each value of the field has its row");
    let mut tested = stand_ins;
    // As the real program: `methods.rs`.
    tested.insert("Keycloak".to_owned());
    assert_eq!(named, tested, "each has its stand-in");
}
