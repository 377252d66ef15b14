//! Where the authorization server is found, and where it must not be looked for.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, oauth2, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::token_endpoint::TokenEndpoint;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, oauth, setting};
use serde_json::{Value, json};

const SECRET: &str = "d1scovered-client-secret";
const OF_RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";
const OF_SERVER: &str = "/.well-known/oauth-authorization-server";

async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    world
}

fn authentication() -> Value {
    json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}})
}

/// A resource whose authorization server its MCP server names, in plain http on this machine.
fn by_server(url: &str, client: &str) -> Value {
    let mut tools = resource(
        "tools",
        "tools",
        Server::OidcProvider.oauth2(client, authentication()),
    );
    merge(
        &mut tools["spec"]["server"],
        json!({"url": url, "allowInsecureHttp": true}),
    );
    merge(
        &mut tools["spec"]["oauth2"],
        json!({"issuer": null, "allowInsecureHttp": true}),
    );
    tools
}

fn by_issuer(issuer: &str, more: Value) -> Value {
    let mut tools = resource(
        "tools",
        "tools",
        Server::OidcProvider.oauth2("nobody", authentication()),
    );
    merge(
        &mut tools["spec"]["oauth2"],
        json!({"issuer": issuer, "allowInsecureHttp": true}),
    );
    merge(&mut tools["spec"]["oauth2"], more);
    tools
}

fn metadata(issuer: &str, endpoint: &str) -> Value {
    json!({"issuer": issuer, "token_endpoint": endpoint, "response_types_supported": []})
}

async fn register(id: &str, resource: &str) {
    let registration = Registration {
        resource: resource.to_owned(),
        ..Registration::new(id, Method::SecretBasic(SECRET.into()))
    };
    oauth::register(&registration).await;
}

#[tokio::test]
async fn the_mcp_server_s_challenge_leads_to_the_authorization_server() {
    let id = "discovery-challenge";
    let world = world(id).await;
    let url = setting("MCPAUTH_TEST_MCP");
    register(id, &url).await;
    world.apply(&by_server(&url, id)).await.unwrap();
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let found = status.authorization_server.unwrap();
    assert_eq!(found.issuer, oauth::issuer());
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    let token = bearer(&snapshot, "tools").unwrap();
    assert_eq!(jwt::claims(&token)["aud"], url);
    // The MCP server's own verdict, over the same way as a sidecar's.
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let ask = reqwest::Client::new().post(&url).json(&ping);
    let ask = ask.header("accept", "application/json, text/event-stream");
    let refused = ask.try_clone().unwrap().send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let taken = ask.bearer_auth(token).send().await.unwrap();
    assert!(
        ![401, 403].contains(&taken.status().as_u16()),
        "{}",
        taken.status()
    );
}

#[tokio::test]
async fn metadata_of_another_issuer_are_refused_and_both_are_named() {
    let world = world("discovery-mismatch").await;
    let web = Web::start().await;
    let elsewhere = metadata("https://elsewhere.example.com", &format!("{}/token", web.url));
    web.json(OF_SERVER, &elsewhere);
    web.json("/.well-known/openid-configuration", &elsewhere);
    world.apply(&by_issuer(&web.url, json!({}))).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::DISCOVERY_FAILED,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        said.contains("https://elsewhere.example.com") && said.contains(&web.url),
        "{said}"
    );
    assert!(
        !web.requested_paths().contains(&"/token".to_owned()),
        "{:?}",
        web.requested_paths()
    );
}

#[tokio::test]
async fn the_metadata_of_rfc_8414_are_looked_for_first_and_those_of_openid_next() {
    let world = world("discovery-order").await;
    let web = Web::start().await;
    let issuer = format!("{}/tenant", web.url);
    let appended = "/tenant/.well-known/openid-configuration";
    web.json(appended, &metadata(&issuer, &format!("{}/token", web.url)));
    let token =
        json!({"access_token": "0paque-of-the-last-place", "token_type": "Bearer", "expires_in": 600});
    web.json("/token", &token);
    mcp_auth_tests::seen::note("0paque-of-the-last-place");
    world.apply(&by_issuer(&issuer, json!({}))).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let expected = [
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
        appended,
        "/token",
    ];
    assert_eq!(web.requested_paths(), expected);
}

#[tokio::test]
async fn an_mcp_server_that_names_another_issuer_gets_no_credentials_for_it() {
    let id = "discovery-drift";
    let world = world(id).await;
    let (mcp, other) = (Web::start().await, Web::start().await);
    let url = format!("{}/mcp", mcp.url);
    register(id, &url).await;
    let of_resource = |issuer: &str| json!({"resource": url, "authorization_servers": [issuer]});
    let challenge = format!(
        "www-authenticate: Bearer resource_metadata=\"{}{OF_RESOURCE}\"\r\n",
        mcp.url
    );
    mcp.answer("/mcp", "401 Unauthorized", &challenge, "");
    mcp.json(OF_RESOURCE, &of_resource(&oauth::issuer()));
    other.json(OF_SERVER, &metadata(&other.url, &format!("{}/token", other.url)));
    world.apply(&by_server(&url, id)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;

    mcp.json(OF_RESOURCE, &of_resource(&other.url));
    // A changed secret is a new client, which looks again.
    let (_, secret) = oauth::rotate_of(id).await;
    world.secret("client", "client-secret", &secret).await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUER_CHANGED)
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        said.contains(&other.url) && said.contains("oauth2.issuer"),
        "{said}"
    );
    assert_eq!(status.authorization_server.unwrap().issuer, oauth::issuer());
    assert!(
        !other.requested_paths().contains(&"/token".to_owned()),
        "{:?}",
        other.requested_paths()
    );
}

#[tokio::test]
async fn a_discovered_endpoint_at_a_private_address_needs_leave() {
    let world = world("discovery-private").await;
    let mcp = Web::start().await;
    // By name: what the resource states itself may be anywhere, and the authorization server is at another
    // host.
    let url = format!("{}/mcp", mcp.url.replace("127.0.0.1", "localhost"));
    mcp.answer("/mcp", "401 Unauthorized", "", "");
    mcp.json(
        OF_RESOURCE,
        &json!({"resource": url, "authorization_servers": [oauth::issuer()]}),
    );
    let mut tools = by_server(&url, "nobody");
    tools["spec"]["oauth2"]["allowPrivateAddresses"] = json!(false);
    world.apply(&tools).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::DISCOVERY_FAILED,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(said.contains("oauth2.allowPrivateAddresses: true"), "{said}");
}

#[tokio::test]
async fn nothing_is_asked_at_link_local_addresses_even_with_leave() {
    let world = world("discovery-link-local").await;
    let web = Web::start().await;
    let clouds = "http://169.254.169.254/latest/api/token";
    web.json(OF_SERVER, &metadata(&web.url, clouds));
    world.apply(&by_issuer(&web.url, json!({}))).await.unwrap();
    let status = world
        .condition("tools", conditions::READY, "False", reasons::REQUEST_FAILED)
        .await;
    let error = status.token.unwrap().last_error.unwrap();
    assert!(error.message.contains("link-local"), "{}", error.message);
    assert_ne!(
        error.reason, "Timeout",
        "it was not even tried: {}",
        error.message
    );
}

#[tokio::test]
async fn without_any_metadata_the_condition_says_where_it_looked() {
    let world = world("discovery-nothing").await;
    let web = Web::start().await;
    world.apply(&by_issuer(&web.url, json!({}))).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::DISCOVERY_FAILED,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(said.contains(OF_SERVER) && said.contains("404"), "{said}");
}

/// The token endpoint takes every request and never answers, so that what is told can only come from the metadata.
#[tokio::test]
async fn what_the_metadata_speak_against_is_told_before_the_token_endpoint_has_answered() {
    let world = World::new("discovery-preflight", false).await;
    world
        .secret("tools-oauth", "client-secret", "s3cret-for-nobody")
        .await;
    let endpoint = TokenEndpoint::silent().await;
    let web = Web::start().await;
    web.json(
        "/.well-known/oauth-authorization-server",
        &json!({
            "issuer": web.url,
            "token_endpoint": endpoint.url,
            "grant_types_supported": ["authorization_code"],
        }),
    );
    let mut tools = resource("tools", "tools", oauth2(""));
    tools["spec"]["oauth2"]["tokenUrl"] = Value::Null;
    tools["spec"]["oauth2"]["issuer"] = json!(web.url);
    tools["spec"]["oauth2"]["requestTimeout"] = json!("60s");
    world.apply(&tools).await.unwrap();
    until(
        "the metadata's objection",
        async || message(&world.status("tools").await, conditions::TOKEN_ISSUED),
        |told| {
            told.starts_with("the first token is being requested")
                && told.contains("authorization_code, and not client_credentials")
        },
    )
    .await;
}
