//! What sidecars say of tokens in use: an MCP server that refuses one, or demands more scopes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_protocol::sync::{RejectedToken, RejectionCause};
use mcp_auth_tests::registration::{Method, Registration};
use mcp_auth_tests::resource::{merge, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{Sidecar, bearer, refused};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use mcp_auth_tests::{jwt, oauth};
use serde_json::{Value, json};

const SECRET: &str = "t00ls-client-secret";

/// A client with its resource, and sidecars that have its token.
async fn start<const COUNT: usize>(
    id: &str,
    registered: Value,
    more: Value,
) -> (World, [Sidecar; COUNT], String) {
    let world = World::new(id, false).await;
    world.trust().await;
    world.secret("client", "client-secret", SECRET).await;
    let registration = Registration::new(id, Method::SecretBasic(SECRET.into()));
    oauth::register_with(&registration, registered).await;
    let authentication =
        json!({"method": "ClientSecretBasic", "clientSecretRef": {"name": "client", "key": "client-secret"}});
    let mut spec = Server::OidcProvider.oauth2(id, authentication);
    merge(&mut spec, json!({"oauth2": more}));
    world.apply(&resource("tools", "tools", spec)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let mut sidecars = Vec::new();
    for index in 0..COUNT {
        let labels = json!({"app.kubernetes.io/name": "litellm"});
        let pod = world.pod(&format!("litellm-{index}"), labels).await;
        sidecars.push(Sidecar::in_pod(&world, &pod).await);
    }
    let mut sidecars: [Sidecar; COUNT] = sidecars.try_into().ok().unwrap();
    let mut token = None;
    for sidecar in &mut sidecars {
        let snapshot = sidecar
            .until(|snapshot| bearer(snapshot, "tools").is_some())
            .await;
        token = bearer(&snapshot, "tools");
    }
    (world, sidecars, token.unwrap())
}

/// Says that the MCP server does not take the token in use.
async fn refuse(world: &World, sidecar: &mut Sidecar, why: RejectionCause) {
    let refused = in_use(world, why).await;
    sidecar.say(|report| report.refused = vec![refused]);
}

/// A report that the MCP server does not take the token in use.
async fn in_use(world: &World, why: RejectionCause) -> RejectedToken {
    // A stream of its own tells the identifier of the token without waiting for a change.
    let pod = world
        .api::<k8s_openapi::api::core::v1::Pod>()
        .get("litellm-0")
        .await
        .unwrap();
    let snapshot = Sidecar::in_pod(world, &pod).await.next().await.unwrap();
    refused(&snapshot, "tools", why)
}

async fn next(sidecar: &mut Sidecar, old: &str) -> String {
    let changed = |token: &str| token != old;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some_and(|token| changed(&token)))
        .await;
    bearer(&snapshot, "tools").unwrap()
}

#[tokio::test]
async fn a_token_that_two_sidecars_see_refused_is_renewed_once_for_all() {
    let id = "use-refused";
    let (world, mut sidecars, old) = start::<3>(id, json!({}), json!({})).await;
    let [first, second, third] = &mut sidecars;
    assert_eq!(oauth::issued(id).await, 1);
    let refused = in_use(&world, RejectionCause::Unauthorized).await;
    for sidecar in [&mut *second, &mut *third] {
        sidecar.say(|report| report.refused = vec![refused.clone()]);
    }
    let new = next(first, &old).await;
    assert_eq!(next(second, &old).await, new, "the same for those that saw it");
    assert_eq!(next(third, &old).await, new);
    // Who says it once more of the token that is gone asks for nothing.
    third.say(|report| report.version = "said again".into());
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    assert_eq!(oauth::issued(id).await, 2, "one request for the whole fleet");
}

#[tokio::test]
async fn scopes_that_the_mcp_server_demands_are_asked_for_besides_the_configured_ones() {
    let id = "use-step-up";
    let scopes = json!({"scopes": ["tools:call"], "stepUpAllowedScopes": ["tools:admin", "tools:write"]});
    let (world, mut sidecars, old) = start::<1>(id, json!({}), scopes).await;
    let [sidecar] = &mut sidecars;
    assert_eq!(jwt::claims(&old)["scope"], "tools:call");
    let demanded = RejectionCause::InsufficientScope(vec!["tools:admin".into()]);
    refuse(&world, sidecar, demanded).await;
    let new = next(sidecar, &old).await;
    let scope = jwt::claims(&new)["scope"].as_str().unwrap().to_owned();
    let mut scopes: Vec<_> = scope.split(' ').collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["tools:admin", "tools:call"]);
    // Sidecars have the token before the status tells of it.
    let look = async || world.status("tools").await;
    let status = until("the status to tell of the scopes", look, |status| {
        let scope = status.token.as_ref().and_then(|token| token.scope.as_deref());
        scope.is_some_and(|scope| scope.contains("tools:admin"))
    })
    .await;
    let is_issued = |c: &Condition| {
        (&*c.type_, &*c.status, &*c.reason) == (conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
    };
    assert!(status.conditions.iter().any(is_issued), "{status:?}");
    assert_eq!(oauth::requests(id).await.len(), 2);
}

#[tokio::test]
async fn scopes_that_are_not_granted_are_told_and_the_token_in_use_serves_on() {
    let id = "use-step-up-refused";
    let registered = json!({"scope": "tools:call"});
    let scopes = json!({"scopes": ["tools:call"], "stepUpAllowedScopes": ["tools:admin"]});
    let (world, mut sidecars, old) = start::<1>(id, registered, scopes).await;
    let [sidecar] = &mut sidecars;
    let demanded = RejectionCause::InsufficientScope(vec!["tools:admin".into()]);
    refuse(&world, sidecar, demanded).await;
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "True",
            reasons::INSUFFICIENT_SCOPE,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(said.contains("tools:admin"), "{said}");
    let pod = world
        .pod("litellm-9", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let mut late = Sidecar::in_pod(&world, &pod).await;
    let snapshot = late.until(|snapshot| bearer(snapshot, "tools").is_some()).await;
    let scope = jwt::claims(&bearer(&snapshot, "tools").unwrap())["scope"].clone();
    assert_eq!(scope, jwt::claims(&old)["scope"]);
}

#[tokio::test]
async fn no_scopes_are_added_where_that_is_turned_off() {
    let id = "use-no-step-up";
    let spec = json!({"scopes": ["tools:call"], "stepUp": false});
    let (world, mut sidecars, old) = start::<1>(id, json!({}), spec).await;
    let [sidecar] = &mut sidecars;
    let demanded = RejectionCause::InsufficientScope(vec!["tools:admin".into()]);
    refuse(&world, sidecar, demanded).await;
    // A refusal comes after it on the same stream, and has been heard when its renewal is there.
    refuse(&world, sidecar, RejectionCause::Unauthorized).await;
    let new = next(sidecar, &old).await;
    assert_eq!(jwt::claims(&new)["scope"], "tools:call");
    let asked = oauth::requests(id).await;
    assert!(
        asked.iter().all(|request| request["scope"] == "tools:call"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn scopes_that_the_resource_does_not_list_are_told_and_not_requested() {
    let id = "use-step-up-not-listed";
    let spec = json!({"scopes": ["tools:call"]});
    let (world, mut sidecars, old) = start::<1>(id, json!({}), spec).await;
    let [sidecar] = &mut sidecars;
    let demanded = || RejectionCause::InsufficientScope(vec!["tools:call".into(), "tools:admin".into()]);
    refuse(&world, sidecar, demanded()).await;
    let status = world
        .condition(
            "tools",
            conditions::TOKEN_ISSUED,
            "True",
            reasons::INSUFFICIENT_SCOPE,
        )
        .await;
    let said = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        said.contains("tools:admin") && said.contains("oauth2.stepUpAllowedScopes"),
        "{said}"
    );
    assert!(
        !said.contains("tools:call"),
        "what the token has is not what is missing: {said}"
    );
    let snapshot = sidecar
        .until(|snapshot| snapshot.servers.iter().any(|server| server.declined.is_some()))
        .await;
    let declined = snapshot
        .servers
        .iter()
        .find_map(|server| server.declined.clone())
        .unwrap();
    assert_eq!(
        declined.why,
        RejectionCause::InsufficientScope(vec!["tools:admin".into()])
    );
    assert_eq!(bearer(&snapshot, "tools").as_deref(), Some(&*old), "it serves on");
    assert_eq!(oauth::requests(id).await.len(), 1);

    // Listing it is the way out that the message names; taking it back brings a token without it.
    for (listed, scope) in [
        (json!(["tools:admin"]), "tools:admin tools:call"),
        (json!([]), "tools:call"),
    ] {
        let patch = json!({"spec": {"oauth2": {"stepUpAllowedScopes": listed}}});
        world.patch("tools", &patch).await.unwrap();
        world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        if scope.contains("admin") {
            refuse(&world, sidecar, demanded()).await;
        }
        let has_scope = |token: &str| {
            let claims = jwt::claims(token);
            let mut scopes: Vec<_> = claims["scope"].as_str().unwrap().split(' ').collect();
            scopes.sort_unstable();
            scopes.join(" ") == scope
        };
        sidecar
            .until(|snapshot| {
                bearer(snapshot, "tools").is_some_and(|token| token != old && has_scope(&token))
            })
            .await;
    }
}

#[tokio::test]
async fn an_ill_server_is_left_in_peace_while_the_token_in_use_serves() {
    let id = "use-failing-server";
    let (world, mut sidecars, old) = start::<1>(id, json!({}), json!({})).await;
    let [sidecar] = &mut sidecars;
    oauth::fail(id, json!({"status": 503, "retryAfter": 3600})).await;
    refuse(&world, sidecar, RejectionCause::Unauthorized).await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::RENEWAL_FAILED)
        .await;
    let token = status.token.unwrap();
    let error = token.last_error.unwrap();
    assert_eq!(error.reason, "temporarily_unavailable", "{}", error.message);
    let wait = token.next_refresh_at.unwrap().0.as_second() - error.time.0.as_second();
    assert!(
        wait > 60,
        "Retry-After is kept to, not only the backoff: {wait} s"
    );
    let pod = world
        .pod("litellm-9", json!({"app.kubernetes.io/name": "litellm"}))
        .await;
    let snapshot = Sidecar::in_pod(&world, &pod).await.next().await.unwrap();
    assert_eq!(bearer(&snapshot, "tools").as_deref(), Some(&*old));
    assert_eq!(
        oauth::requests(id).await.len(),
        2,
        "the failed request was the last"
    );
}
