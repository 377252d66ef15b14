//! `token`: what the status tells of tokens of a real server.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::oauth;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{SECRET, merge, oauth2, resource};
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use super::run;

const RESOURCE: &str = "https://tools.example.com/mcp";

#[tokio::test]
async fn token_tells_the_claims_of_a_jwt_and_of_an_opaque_token_its_expiry() {
    let world = World::new("cli-token", false).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    let mut signed = resource("signed", "tools", oauth2(&oauth::token_url()));
    merge(
        &mut signed,
        json!({"spec": {"oauth2": {"resource": RESOURCE, "scopes": ["tools:read"]}}}),
    );
    world.apply(&signed).await.unwrap();

    let secret = "the-secret-of-a-client-with-opaque-tokens";
    let registration = Registration::new("cli-token-opaque", Method::SecretBasic(secret.to_owned()));
    oauth::register_with(&registration, json!({"opaque": true})).await;
    world.secret("opaque", "client-secret", secret).await;
    let mut opaque = resource("opaque", "files", oauth2(&oauth::token_url()));
    let with = json!({"spec": {"oauth2": {
        "clientId": "cli-token-opaque",
        "clientAuthentication": {"clientSecretRef": {"name": "opaque"}},
    }}});
    merge(&mut opaque, with);
    world.apply(&opaque).await.unwrap();
    for name in ["signed", "opaque"] {
        world
            .condition(name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
    }

    let printed = run(&["token", "tools", "-n", "cli-token", "-o", "json"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let reports: Value = serde_json::from_str(&printed.out).unwrap();
    let token = &reports[0]["token"];
    assert_eq!(token["format"], "JWT", "{reports:#}");
    assert_eq!(token["claims"]["audience"], json!([RESOURCE]), "{reports:#}");
    assert_eq!(token["claims"]["clientId"], "litellm", "{reports:#}");
    assert_eq!(token["claims"]["scope"], json!(["tools:read"]), "{reports:#}");
    assert!(
        token["claims"]["issuer"].is_string() && token["claims"]["expiresAt"].is_string(),
        "{reports:#}"
    );
    assert!(
        !printed.out.contains("credential"),
        "a server's own claims are not told: {}",
        printed.out
    );

    let printed = run(&["token", "opaque", "-n", "cli-token"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(
        printed.out.contains("opaque: it has no claims to read"),
        "{}",
        printed.out
    );
    assert!(printed.out.contains("(in "), "{}", printed.out);

    let printed = run(&["token", "nobody", "-n", "cli-token"]).await;
    assert_eq!(printed.code, 6, "{printed:?}");
    let expected = "no McpServerAuth of the namespace cli-token has the server nobody: it has ";
    assert!(printed.err.contains(expected), "{}", printed.err);
}

#[tokio::test]
async fn token_ends_with_1_where_there_is_none_and_says_why() {
    let world = World::new("cli-token-none", false).await;
    world
        .apply(&resource("tools", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    world
        .condition("tools", conditions::READY, "False", reasons::SECRET_NOT_FOUND)
        .await;
    let printed = run(&["token", "tools", "-n", "cli-token-none"]).await;
    assert_eq!(printed.code, 1, "{printed:?}");
    assert!(
        printed.out.contains("SecretNotFound") && printed.out.contains("There is no token."),
        "{}",
        printed.out
    );
}
