//! Identity providers: the resources of their pages at stand-ins that verify and answer as each provider's public documentation
//! has it (without `provider`, with mistakes, and as they are), and at the real servers. `docs/providers` names the sources.

use std::collections::BTreeSet;

use kube::{CustomResourceExt, ResourceExt};
use mcp_auth_crds::{EffectiveOAuth2, McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_tests::documents::read;
use mcp_auth_tests::jwt;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::merge;
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

mod answers;
mod entra;
mod google_workload;
mod registered;
mod stand_in;

use self::entra::{APPLICATION, TENANT};
use self::registered::{Credentials, Registered};
use self::stand_in::{MistakeKind, Provider, SERVER_URL, providers};

/// Starts a stand-in that knows this client, and leads the `oauth2` block to it.
async fn start_stand_in(provider: &Provider, registered: Registered, oauth2: &mut Value) -> Web {
    let web = Web::start().await;
    let token_url = format!("{}{}", web.url, provider.token_path);
    let (url, answer) = (web.url.clone(), provider.answer);
    web.by_request(provider.token_path, move |request| {
        answer(&registered, &url, request)
    });
    oauth2["allowInsecureHttp"] = json!(true);
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
    web
}

/// What the condition says of the refusal of this version, once it has these words.
pub async fn refusal_of(world: &World, applied: &McpServerAuth, code: &str, words: &str) -> String {
    let name = applied.name_any();
    let generation = applied.metadata.generation;
    let is_told = |status: &McpServerAuthStatus| {
        let mut issued = status.conditions.iter();
        let issued = issued.find(|condition| condition.type_ == conditions::TOKEN_ISSUED);
        issued.is_some_and(|condition| {
            condition.status == "False"
                && condition.observed_generation == generation
                && condition.message.contains(words)
        })
    };
    let status = until(
        &format!("{name}: {code} ({words})"),
        async || world.status(&name).await,
        is_told,
    )
    .await;
    assert_eq!(
        status.token.as_ref().unwrap().last_error.as_ref().unwrap().reason,
        code
    );
    message(&status, conditions::TOKEN_ISSUED)
}

/// Fields of the status that are worth a look, by provider.
fn expected(provider: &str, web: &str) -> EffectiveOAuth2 {
    let app = format!("api://{APPLICATION}");
    let fields = match provider {
        "Entra" => json!({
            "scopes": [format!("{app}/.default")],
            "clientAssertionAudience": format!("{web}{}", entra::TOKEN_PATH),
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
            "tokenUrl": format!("{web}/oauth_token.do"), "grantAssertionAudience": "0a1b2c3d4e5f",
        }),
        "PingFederate" => json!({"acceptedAudiences": [SERVER_URL]}),
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

/// The first resource of each page: without `provider`, with each mistake, and as it stands there.
#[tokio::test]
async fn what_each_provider_refuses_is_told_and_naming_the_provider_is_enough() {
    for provider in providers() {
        let name = provider.name.to_lowercase();
        let world = World::new(&format!("providers-{name}"), false).await;
        let mut tools = read(&format!("docs/providers/{name}.md")).yaml().swap_remove(0);
        tools["metadata"]["name"] = json!(name);
        let oauth2 = &mut tools["spec"]["oauth2"];
        let credentials = Credentials::new("the-client").await;
        credentials.write(&world, oauth2).await;
        let registered = Registered::new(oauth2, &credentials).await;
        let web = start_stand_in(&provider, registered, oauth2).await;

        let mut without = tools.clone();
        let fields = without["spec"]["oauth2"].as_object_mut().unwrap();
        for field in provider.by_default.into_iter().chain(["provider"]) {
            fields.remove(field).unwrap();
        }
        world.apply(&without).await.unwrap();
        let (reason, words) = provider.forgotten;
        let status = world
            .condition(&name, conditions::TOKEN_ISSUED, "False", reason)
            .await;
        let told = message(&status, conditions::TOKEN_ISSUED);
        assert!(told.contains(words), "{name}: {told}");
        assert!(!told.contains("scopes_supported"), "{name}: {told}");

        for mistake in &provider.mistakes {
            let mut wrong = tools.clone();
            let oauth2 = &mut wrong["spec"]["oauth2"];
            // Another version each time, so that the condition says of which it tells.
            oauth2["requestTimeout"] = json!("9s");
            match &mistake.kind {
                MistakeKind::Fields(fields) => merge(oauth2, fields.clone()),
                MistakeKind::AnotherCredential => {
                    // A new resource reads the Secret as it is now; of one that is there a change of its own may be seen first.
                    world.delete::<McpServerAuth>(&name).await;
                    Credentials::new("another-client")
                        .await
                        .write(&world, oauth2)
                        .await;
                }
            }
            let applied = world.apply(&wrong).await.unwrap();
            let told = refusal_of(&world, &applied, mistake.code, mistake.words).await;
            // These metadata list what users grant, and so are suspicious only where the server itself says that it is a scope.
            let suspects_scopes = provider.issuer.is_some() && mistake.code == "invalid_scope";
            assert_eq!(
                told.contains("scopes_supported does not list"),
                suspects_scopes,
                "{name}: {told}"
            );
            credentials.write(&world, &tools["spec"]["oauth2"]).await;
        }

        world.apply(&tools).await.unwrap();
        let status = world
            .condition(&name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        assert_eq!(
            status.effective.unwrap(),
            expected(provider.name, &web.url),
            "{name}"
        );
    }
}

/// The first resource of a page, at a real server and without a client that is not the page's.
pub fn page_at_real_server(page: &str, server: Server) -> Value {
    let mut tools = read(&format!("docs/providers/{page}.md")).yaml().swap_remove(0);
    let mut spec = server.oauth2("unused", json!({}));
    spec["oauth2"].as_object_mut().unwrap().remove("clientId");
    merge(&mut tools["spec"], spec);
    tools
}

#[tokio::test]
async fn the_resources_of_the_pages_of_real_servers_get_a_token_there() {
    for (page, server) in [("keycloak", Server::Keycloak), ("spring", Server::Spring)] {
        if !Server::all().contains(&server) {
            continue;
        }
        let world = World::new(&format!("providers-{page}"), false).await;
        world.trust().await;
        let tools = page_at_real_server(page, server);
        let oauth2 = &tools["spec"]["oauth2"];
        let mut credentials = Credentials::new("the-client").await;
        let key_id = oauth2.pointer("/clientAuthentication/privateKeyJwt/keyId");
        if let Some(key_id) = key_id.and_then(Value::as_str) {
            key_id.clone_into(&mut credentials.key.id);
        }
        credentials.write(&world, oauth2).await;
        let method = match server {
            Server::Keycloak => Method::SecretBasic(credentials.client_secret),
            Server::Spring | Server::OidcProvider => Method::PrivateKeyJwt(credentials.key),
        };
        let registration = Registration {
            resource: SERVER_URL.to_owned(),
            ..Registration::new(oauth2["clientId"].as_str().unwrap(), method)
        };
        server.register(&registration).await;
        world.apply(&tools).await.unwrap();
        let status = world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        assert_eq!(
            serde_json::to_value(status.effective.unwrap().provider).unwrap(),
            oauth2["provider"]
        );
        let pod = world
            .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
            .await;
        let mut sidecar = Sidecar::in_pod(&world, &pod).await;
        let snapshot = sidecar
            .until(|snapshot| bearer(snapshot, "tools").is_some())
            .await;
        let claims = jwt::claims(&bearer(&snapshot, "tools").unwrap());
        assert!(jwt::is_for(&claims, SERVER_URL), "{claims}");
    }
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
                let is_asserted_elsewhere =
                    spec["oauth2"]["clientAuthentication"]["method"] == "ClientAssertion";
                let tested_against = match (is_stand_in, is_asserted_elsewhere) {
                    (true, _) => "simulator",
                    (false, true) => "real Keycloak, simulated issuer",
                    (false, false) => "real server",
                };
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
    // As the real program, above.
    tested.insert("Keycloak".to_owned());
    assert_eq!(named, tested, "each has its stand-in");
}
