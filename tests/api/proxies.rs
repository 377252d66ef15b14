//! The way to the authorization server through a real HTTP proxy.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{oauth, setting};
use serde_json::{Value, json};

const SECRET: &str = "cl1ent-behind-a-proxy";

/// A client of the real server, and a resource that reaches it by the proxy.
async fn behind_proxy(id: &str, egress_proxy: Value) -> (World, Value) {
    let world = World::new(id, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let registration = Registration {
        resource: "https://tools.example.com/mcp".into(),
        ..Registration::new(id, Method::SecretBasic(SECRET.into()))
    };
    oauth::register(&registration).await;
    let authentication = json!({
        "method": "ClientSecretBasic",
        "clientSecretRef": {"name": "client", "key": "client-secret"},
    });
    let mut tools = resource("tools", "tools", Server::OidcProvider.oauth2(id, authentication));
    merge(
        &mut tools["spec"],
        json!({"egressProxy": {"url": setting("MCPAUTH_TEST_PROXY")}}),
    );
    merge(&mut tools["spec"]["egressProxy"], egress_proxy);
    (world, tools)
}

/// Tunnels that the proxy opened so far; this test's alone, since no other goes through it.
fn tunnels() -> usize {
    let log = std::fs::read_to_string(setting("MCPAUTH_TEST_PROXY_LOG")).unwrap();
    log.lines()
        .filter(|line| line.contains("Established connection to host"))
        .count()
}

#[tokio::test]
async fn a_proxy_that_is_named_is_gone_through_and_a_password_that_is_mended_is_tried_at_once() {
    let credentials = json!({"credentialsRef": {"name": "proxy"}});
    let (world, tools) = behind_proxy("proxies-credentials", credentials).await;
    world
        .basic_auth("proxy", "operator", "wr0ng-pr0xy-password")
        .await;
    world.apply(&tools).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::DISCOVERY_FAILED,
        )
        .await;
    let told = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        told.contains("the proxy on the way") && told.contains("spec.egressProxy"),
        "{told}"
    );
    assert_eq!(tunnels(), 0);

    let password = setting("MCPAUTH_TEST_PROXY_SECRET");
    world.basic_auth("proxy", "operator", &password).await;
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    // For the metadata, and for the token.
    assert!(tunnels() >= 2);
    let log = std::fs::read_to_string(setting("MCPAUTH_TEST_PROXY_LOG")).unwrap();
    assert!(!log.contains(SECRET), "the proxy sees a tunnel and nothing in it");
}

#[tokio::test]
async fn a_server_that_is_excepted_is_reached_without_the_proxy() {
    let (world, tools) = behind_proxy("proxies-excepted", json!({"noProxy": ["127.0.0.1"]})).await;
    world.apply(&tools).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

#[tokio::test]
async fn a_proxy_s_url_with_credentials_or_a_path_is_refused_at_admission() {
    let (world, mut tools) = behind_proxy("proxies-refused", json!({})).await;
    for url in [
        "http://user:s3cret@proxy.example.com:3128",
        "socks5://proxy.example.com:1080",
        "http://proxy.example.com/path",
        "proxy.example.com:3128",
    ] {
        tools["spec"]["egressProxy"]["url"] = json!(url);
        let error = world.apply(&tools).await.unwrap_err().to_string();
        assert!(error.contains("http or https URL of a proxy"), "{error}");
    }
}

#[tokio::test]
async fn sidecars_go_through_a_proxy_to_servers_by_https_only() {
    let proxy = json!({"usedBy": "OperatorAndSidecars"});
    let (world, mut tools) = behind_proxy("proxies-of-sidecars", proxy).await;
    world.apply(&tools).await.unwrap();
    merge(
        &mut tools["spec"]["server"],
        json!({"url": "http://tools.example.com/mcp", "allowInsecureHttp": true}),
    );
    let error = world.apply(&tools).await.unwrap_err().to_string();
    assert!(error.contains("needs an https server.url"), "{error}");
    tools["spec"]["egressProxy"]["usedBy"] = json!("Sidecars");
    let error = world.apply(&tools).await.unwrap_err().to_string();
    assert!(
        error.contains("usedBy") && error.contains("OperatorAndSidecars"),
        "{error}"
    );
}
