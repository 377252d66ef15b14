//! Identity providers by stand-ins that answer as each provider's public documentation has it: what becomes of a resource
//! that knows nothing of the provider, and what `provider` makes of the same. `docs/providers` names the pages.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::CustomResourceExt;
use mcp_auth_crds::{EffectiveOAuth2, McpServerAuth, conditions, reasons};
use mcp_auth_tests::documents::read;
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

mod google_workload;
mod stand_in;

use self::stand_in::{APPLICATION, Provider, TENANT, providers};

const SERVER_URL: &str = "https://tools.example.com/mcp";

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
        let [provider, tested_against, fields, test] = cells[..] else {
            panic!("{row}");
        };
        let page = provider.split_once("](").unwrap().1.trim_end_matches(')');
        let shown = read(&format!("docs/providers/{page}")).yaml();
        let spec = &shown[0]["spec"];
        let (source, expected) = match spec.get("githubApp") {
            Some(app) => (app, "simulator"),
            None => {
                let value = spec["oauth2"]["provider"].as_str();
                let is_stand_in = value.is_some_and(|value| stand_ins.contains(value));
                named.extend(value.map(str::to_owned));
                let tested_against = if is_stand_in { "simulator" } else { "real server" };
                (&spec["oauth2"], tested_against)
            }
        };
        assert_eq!(tested_against, expected, "{page}");
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
