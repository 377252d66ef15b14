//! A GitHub App instead of OAuth2: by a stand-in that answers as GitHub documents
//! (<https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app>).

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::keys::Key;
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::seen;
use mcp_auth_tests::sidecar::{Sidecar, credential, token_of};
use mcp_auth_tests::web::Web;
use mcp_auth_tests::world::{World, message};
use serde_json::json;

const JSON: &str = "content-type: application/json; charset=utf-8\r\n";

#[tokio::test]
async fn a_github_app_is_told_what_is_wrong_and_gets_its_token_when_it_is_mended() {
    let world = World::new("github-app", false).await;
    let key = Key::new("RS256", "app").await;
    world.secret("github", "key.pem", &key.private_pem).await;
    let github = Web::start().await;
    let not_found = json!({
        "message": "Not Found",
        "documentation_url": "https://docs.github.com/rest/reference/apps#create-an-installation-access-token-for-an-app",
        "status": "404",
    });
    let path = |installation: u32| format!("/app/installations/{installation}/access_tokens");
    github.answer(&path(1), "404 Not Found", JSON, &not_found.to_string());
    let token = "ghs_16C7e42F292c6912E7710c838347Ae178B4a";
    seen::note(token);
    let issued = json!({
        "token": token,
        "expires_at": "2099-11-30T10:00:00Z",
        "permissions": {"issues": "write", "metadata": "read"},
        "repository_selection": "selected",
    });
    github.answer(&path(2), "201 Created", JSON, &issued.to_string());

    let app = json!({"githubApp": {
        "appId": 12, "installationId": 1, "keyRef": {"name": "github", "key": "key.pem"},
        "apiUrl": github.url, "allowInsecureHttp": true,
    }});
    let mut tools = resource("tools", "tools", app);
    world.apply(&tools).await.unwrap();
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "False",
            reasons::REQUEST_FAILED,
        )
        .await;
    let told = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        told.contains("404 (Not Found)") && told.contains("githubApp.installationId"),
        "{told}"
    );
    let error = status.token.unwrap().last_error.unwrap();
    assert_eq!(error.reason, "GitHubInstallationNotFound");

    merge(&mut tools["spec"]["githubApp"], json!({"installationId": 2}));
    world.apply(&tools).await.unwrap();
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
    assert_eq!(handed, token);
}
