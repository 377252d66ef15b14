//! Resources that would request the very same token, at the real OAuth2 server, which counts.

use mcp_auth_crds::{McpServerAuth, conditions, reasons};
use mcp_auth_protocol::sync::RejectionCause;
use mcp_auth_tests::oauth;
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer, refused};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

const RESOURCE: &str = "https://tools.example.com/mcp";
const SECRET: &str = "cl1ent-of-many-resources";
const NAMES: [&str; 4] = ["calendar", "mail", "tickets", "wiki"];

/// A resource of its own MCP server, whose token is for what they have in common. Each has a Secret of its own.
fn of(client: &str, name: &str, more: Value) -> Value {
    let authentication = json!({
        "method": "ClientSecretBasic",
        "clientSecretRef": {"name": format!("{name}-secret"), "key": "client-secret"},
    });
    let mut oauth2 = Server::OidcProvider.oauth2(client, authentication);
    merge(&mut oauth2, json!({"oauth2": {"resource": RESOURCE}}));
    merge(&mut oauth2, more);
    let mut resource = resource(name, name, oauth2);
    resource["spec"]["server"]["url"] = format!("https://{name}.example.com/mcp").into();
    resource
}

async fn apply(world: &World, client: &str, name: &str, secret: &str, more: Value) {
    world
        .secret(&format!("{name}-secret"), "client-secret", secret)
        .await;
    world.apply(&of(client, name, more)).await.unwrap();
}

async fn until_issued(world: &World, name: &str) {
    world
        .condition(name, conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

async fn issued_today(world: &World, name: &str) -> i64 {
    let token = world.status(name).await.token.unwrap_or_default();
    token.usage.unwrap_or_default().issued
}

#[tokio::test]
async fn resources_of_one_namespace_that_want_the_same_token_have_it_requested_once() {
    let client = "shared-tokens";
    let world = World::new(client, false).await;
    world.trust().await;
    let registration = Registration {
        resource: RESOURCE.into(),
        ..Registration::new(client, Method::SecretBasic(SECRET.into()))
    };
    oauth::register(&registration).await;
    for name in NAMES {
        apply(&world, client, name, SECRET, json!({})).await;
    }
    for name in NAMES {
        until_issued(&world, name).await;
    }
    assert_eq!(oauth::issued(client).await, 1);
    let pod = world
        .pod("litellm", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let has_all = |snapshot: &_| NAMES.iter().all(|name| bearer(snapshot, name).is_some());
    let snapshot = sidecar.until(has_all).await;
    let first = bearer(&snapshot, NAMES[0]);
    assert!(NAMES.iter().all(|name| bearer(&snapshot, name) == first));
    let mut counted = 0;
    for name in NAMES {
        counted += issued_today(&world, name).await;
    }
    assert_eq!(counted, 1, "it counts where it was requested");

    // One MCP server takes it no more, and then another.
    sidecar.say(|report| report.refused = vec![refused(&snapshot, "mail", RejectionCause::Unauthorized)]);
    let renewed = sidecar.until(|snapshot| bearer(snapshot, "mail") != first).await;
    assert_eq!(bearer(&renewed, "wiki"), first, "nobody rejected it there");
    sidecar.say(|report| report.refused = vec![refused(&renewed, "wiki", RejectionCause::Unauthorized)]);
    let both = sidecar.until(|snapshot| bearer(snapshot, "wiki") != first).await;
    assert_eq!(bearer(&both, "wiki"), bearer(&both, "mail"));
    assert_eq!(oauth::issued(client).await, 2);

    // What asks for something else, or somewhere else, asks for itself.
    apply(
        &world,
        client,
        "reports",
        SECRET,
        json!({"oauth2": {"scopes": ["tools"]}}),
    )
    .await;
    until_issued(&world, "reports").await;
    assert_eq!(oauth::issued(client).await, 3);
    let other = World::new("shared-tokens-elsewhere", false).await;
    other.trust().await;
    apply(&other, client, "mail", SECRET, json!({})).await;
    until_issued(&other, "mail").await;
    assert_eq!(oauth::issued(client).await, 4);

    // A secret that is wrong is one resource's own.
    apply(&world, client, "tickets", "wr0ng-secret-of-one", json!({})).await;
    world
        .condition(
            "tickets",
            conditions::TOKEN_ISSUED,
            "True",
            reasons::RENEWAL_FAILED,
        )
        .await;
    let status = world.status("calendar").await;
    let reason =
        |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| c.type_ == conditions::TOKEN_ISSUED;
    assert_eq!(
        status.conditions.iter().find(reason).unwrap().reason,
        reasons::ISSUED
    );
}

#[tokio::test]
async fn the_quota_of_a_client_counts_its_tokens_of_all_resources_of_the_namespace_and_names_them() {
    let client = "token-quota-of-a-client";
    let world = World::new(client, false).await;
    world.trust().await;
    let registration = Registration {
        resource: RESOURCE.into(),
        ..Registration::new(client, Method::SecretBasic(SECRET.into()))
    };
    // No other one is to be expected today.
    oauth::register_with(&registration, json!({"lifetime": 30 * 24 * 3600})).await;
    let quota = json!({"oauth2": {"quota": {"tokensPerDay": 1}}});
    apply(&world, client, "mail", SECRET, quota).await;
    until_issued(&world, "mail").await;

    // For other scopes it has a token of its own, and states no quota. Nothing happens to the first.
    let scopes = json!({"oauth2": {"scopes": ["tools"]}});
    apply(&world, client, "reports", SECRET, scopes).await;
    until_issued(&world, "reports").await;
    let exceeded = world.condition("mail", conditions::TOKEN_ISSUED, "True", reasons::QUOTA_EXCEEDED);
    let message = mcp_auth_tests::world::message(&exceeded.await, conditions::TOKEN_ISSUED);
    for part in [
        "2 tokens were issued today (UTC) to the client that 2 resources of this namespace have",
        "(by midnight: mail 1, reports 1)",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(issued_today(&world, "mail").await, 1, "each has its own count");

    world.delete::<McpServerAuth>("reports").await;
    until_issued(&world, "mail").await;
}

#[tokio::test]
async fn more_tokens_than_the_quota_are_told_before_they_are_issued() {
    let client = "token-quota";
    let world = World::new(client, false).await;
    world.trust().await;
    let registration = Registration {
        resource: RESOURCE.into(),
        ..Registration::new(client, Method::SecretBasic(SECRET.into()))
    };
    // Renewed every six seconds or so.
    oauth::register_with(&registration, json!({"lifetime": 10})).await;
    let quota = |tokens: u32| json!({"oauth2": {"quota": {"tokensPerDay": tokens}}});
    apply(&world, client, "tools", SECRET, quota(1_000_000)).await;
    until_issued(&world, "tools").await;
    let usage = async || {
        world
            .status("tools")
            .await
            .token
            .unwrap_or_default()
            .usage
            .unwrap_or_default()
    };
    let found = until("tokens to be counted", usage, |usage| usage.issued >= 2).await;
    assert!(
        found.forecast >= found.issued && found.quota == Some(1_000_000),
        "{found:?}"
    );

    world.apply(&of(client, "tools", quota(1))).await.unwrap();
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::QUOTA_EXCEEDED)
        .await;
    let message = mcp_auth_tests::world::message(&status, conditions::TOKEN_ISSUED);
    assert!(
        message.contains("spec.oauth2.quota.tokensPerDay is 1"),
        "{message}"
    );
    let error = world
        .apply(&of(client, "tools", quota(0)))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("tokensPerDay"), "{error}");
}
