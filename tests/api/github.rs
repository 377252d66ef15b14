//! A GitHub App instead of OAuth2: by a stand-in that verifies and answers as GitHub documents
//! (<https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>,
//! <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>).

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::sidecar::{Sidecar, credential, token_of};
use mcp_auth_tests::web::{Request, Web};
use mcp_auth_tests::world::World;
use mcp_auth_tests::{jwt, seen};
use serde_json::{Value, json};

use crate::providers::refusal_of;

const APP: u32 = 12;
const TOKEN: &str = "ghs_16C7e42F292c6912E7710c838347Ae178B4a";

/// What GitHub answers to a request for a token of an installation that is there, by the public key of the app.
fn answer(key: &Value, request: &Request) -> (&'static str, Value) {
    let refused = |status: &'static str, message: &str| {
        let body = json!({
            "message": message, "documentation_url": "https://docs.github.com/rest",
            "status": status.split(' ').next(),
        });
        (status, body)
    };
    let unauthorized = |message: &str| refused("401 Unauthorized", message);
    let bearer = request.header("authorization").unwrap_or_default();
    let Some(assertion) = bearer.strip_prefix("Bearer ") else {
        return unauthorized("A JSON web token could not be decoded");
    };
    let claims = jwt::claims(assertion);
    if claims["iss"].as_str() != Some(APP.to_string().as_str()) && claims["iss"] != APP {
        return refused("404 Not Found", "Integration not found");
    }
    if jwt::header(assertion)["alg"] != "RS256" || jwt::verify(assertion, key).is_err() {
        return unauthorized("A JSON web token could not be decoded");
    }
    // A time of the future, or none.
    if claims["iat"].as_i64().is_none_or(|issued| issued > jwt::now()) {
        return unauthorized(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        );
    }
    let ends = claims["exp"].as_i64().unwrap_or(i64::MAX);
    if ends > jwt::now() + 600 {
        return unauthorized("'Expiration time' claim ('exp') is too far in the future");
    }
    let issued = json!({
        "token": TOKEN, "expires_at": "2099-11-30T10:00:00Z",
        "permissions": {"issues": "write", "metadata": "read"}, "repository_selection": "selected",
    });
    ("201 Created", issued)
}

#[tokio::test]
async fn a_github_app_is_told_what_is_wrong_and_gets_its_token_when_it_is_mended() {
    let world = World::new("github-app", false).await;
    let (key, another) = (
        Key::new("RS256", "app").await,
        Key::new("RS256", "another-app").await,
    );
    world.secret("github", "key.pem", &another.private_pem).await;
    seen::note(TOKEN);
    let github = Web::start().await;
    let not_found = json!({
        "message": "Not Found",
        "documentation_url": "https://docs.github.com/rest/reference/apps#create-an-installation-access-token-for-an-app",
        "status": "404",
    });
    let path = |installation: u32| format!("/app/installations/{installation}/access_tokens");
    github.by_request(&path(1), move |_| ("404 Not Found", not_found.clone()));
    let public_key = key.jwk().await;
    github.by_request(&path(2), move |request| answer(&public_key, request));

    let app = json!({"githubApp": {
        "appId": APP, "installationId": 1, "keyRef": {"name": "github", "key": "key.pem"},
        "apiUrl": github.url, "allowInsecureHttp": true,
    }});
    let mut tools = resource("tools", "tools", app);
    for (change, words, code) in [
        (json!({}), "404 (Not Found)", "GitHubInstallationNotFound"),
        (
            json!({"installationId": 2, "appId": 13}),
            "Integration not found",
            "GitHubInstallationNotFound",
        ),
        (json!({"appId": APP}), "could not be decoded", "GitHubKeyRefused"),
    ] {
        merge(&mut tools["spec"]["githubApp"], change);
        let applied = world.apply(&tools).await.unwrap();
        refusal_of(&world, &applied, code, words).await;
    }

    world.secret("github", "key.pem", &key.private_pem).await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let in_use = status.token.unwrap();
    assert_eq!(in_use.scope.as_deref(), Some("issues:write metadata:read"));
    assert_eq!(in_use.format.as_deref(), Some("Opaque"));
    let pod = world
        .pod("litellm-0", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| credential(snapshot, "tools").and_then(token_of).is_some())
        .await;
    let handed = credential(&snapshot, "tools").and_then(token_of).unwrap();
    assert_eq!(handed, TOKEN);
}
