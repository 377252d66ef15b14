//! From a resource to its token and its status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_protocol::reachability::Reachability;
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, oauth2, resource};
use mcp_auth_tests::sidecar::{Sidecar, bearer, learned};
use mcp_auth_tests::token_endpoint::TokenEndpoint;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::{Value, json};

fn litellm() -> Value {
    json!({"app.kubernetes.io/name": "litellm"})
}

async fn world(namespace: &str) -> World {
    let world = World::new(namespace, false).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world
}

fn tools() -> Value {
    resource("tools", "tools", oauth2(&oauth::token_url()))
}

#[tokio::test]
async fn a_resource_and_a_secret_become_a_token_in_the_sidecar() {
    let world = world("reconcile-happy").await;
    world.apply(&tools()).await.unwrap();
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    sidecar.say(|report| {
        report.applied = Some(snapshot.revision);
        report.reachability = vec![learned("tools", Reachability::Answered)];
    });
    let answered = Reachability::Answered.reason();
    world
        .condition("tools", conditions::SERVER_REACHABLE, "True", answered)
        .await;

    let status = world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
    assert_eq!(status.conditions.len(), 5);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.status == "True"),
        "{status:#?}"
    );
    assert!(
        message(&status, conditions::READY).contains("plain http"),
        "the opt-out is visible"
    );
    let token = status.token.unwrap();
    let (issued, renewed, ends) = (
        token.issued_at.unwrap(),
        token.next_refresh_at.unwrap(),
        token.expires_at.unwrap(),
    );
    assert!(issued.0 < renewed.0 && renewed.0 < ends.0);
    assert_eq!(status.sidecars.unwrap().summary, "1/1");
    // Events follow the status that they tell of.
    let issued = |events: &Vec<(String, String)>| events.iter().any(|(reason, _)| reason == reasons::ISSUED);
    until(
        "an event about the token",
        async || world.events("tools").await,
        issued,
    )
    .await;
}

#[tokio::test]
async fn a_missing_secret_is_named_and_taken_when_it_appears() {
    let world = World::new("reconcile-missing-secret", false).await;
    world.apply(&tools()).await.unwrap();
    let status = world
        .condition("tools", conditions::READY, "False", reasons::SECRET_NOT_FOUND)
        .await;
    let expected =
        format!("Secret {SECRET}, named by spec.oauth2.clientAuthentication.clientSecretRef, does not exist");
    assert!(
        message(&status, conditions::SECRETS_RESOLVED).starts_with(&expected),
        "{status:#?}"
    );

    world.secret(SECRET, "other-key", "x").await;
    let status = world
        .condition("tools", conditions::READY, "False", reasons::SECRET_KEY_NOT_FOUND)
        .await;
    assert!(
        message(&status, conditions::SECRETS_RESOLVED).ends_with("it has the keys other-key"),
        "{status:#?}"
    );

    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

#[tokio::test]
async fn a_wrong_client_secret_says_so_and_a_right_one_mends_it() {
    let world = World::new("reconcile-wrong-secret", false).await;
    world.secret(SECRET, "client-secret", "wr0ng-s3cret").await;
    world.apply(&tools()).await.unwrap();
    let status = world
        .condition("tools", conditions::READY, "False", reasons::REQUEST_FAILED)
        .await;
    assert!(
        message(&status, conditions::TOKEN_ISSUED).contains("invalid_client"),
        "{status:#?}"
    );
    assert!(
        message(&status, conditions::TOKEN_ISSUED).contains("clientId"),
        "{status:#?}"
    );
    assert_eq!(status.token.unwrap().last_error.unwrap().reason, "invalid_client");

    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    assert!(status.token.unwrap().last_error.is_none());
}

#[tokio::test]
async fn a_broken_new_secret_keeps_the_old_token_and_a_good_one_brings_a_new() {
    let world = world("reconcile-rotation").await;
    world.apply(&tools()).await.unwrap();
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let old = bearer(&sidecar.until(|s| bearer(s, "tools").is_some()).await, "tools").unwrap();

    world.secret(SECRET, "client-secret", "wr0ng-s3cret").await;
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::RENEWAL_FAILED)
        .await;
    assert!(
        message(&status, conditions::TOKEN_ISSUED).contains("still serves until"),
        "{status:#?}"
    );
    let mut again = Sidecar::in_pod(&world, &pod).await;
    assert_eq!(
        bearer(&again.next().await.unwrap(), "tools").as_deref(),
        Some(&*old),
        "the old token still serves"
    );

    let (_, secret) = oauth::rotate().await;
    world.secret(SECRET, "client-secret", &secret).await;
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    again
        .until(|snapshot| bearer(snapshot, "tools").is_some_and(|token| token != old))
        .await;
}

#[tokio::test]
async fn a_secret_that_is_taken_away_ends_renewal_and_not_the_token_in_use() {
    let world = world("reconcile-secret-deleted").await;
    world.apply(&tools()).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    world.delete::<Secret>(SECRET).await;
    let status = world
        .condition(
            "tools",
            conditions::SECRETS_RESOLVED,
            "False",
            reasons::SECRET_NOT_FOUND,
        )
        .await;
    let token = status.token.unwrap();
    assert!(token.expires_at.is_some() && token.next_refresh_at.is_none());
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    assert!(bearer(&sidecar.next().await.unwrap(), "tools").is_some());
}

#[tokio::test]
async fn what_a_token_endpoint_does_wrong_is_told_with_a_hint() {
    let world = world("reconcile-endpoint-faults").await;
    let down = "http://127.0.0.1:1/token".to_owned();
    let html = TokenEndpoint::answering("200 OK", "text/html", "<html>log in</html>").await;
    let broken = TokenEndpoint::answering("503 Service Unavailable", "text/plain", "later").await;
    let empty = TokenEndpoint::answering("200 OK", "application/json", "{}").await;
    let stale = r#"{"access_token": "t", "token_type": "Bearer", "expires_in": 0}"#;
    let stale = TokenEndpoint::answering("200 OK", "application/json", stale).await;
    let slow = TokenEndpoint::silent().await;
    let cases = [
        ("down", &down, "ConnectRefused", "check host and port in tokenUrl"),
        ("html", &html.url, "NotJson", "text/html"),
        ("broken", &broken.url, "HttpStatus", "503"),
        ("empty", &empty.url, "NoAccessToken", "access_token"),
        ("stale", &stale.url, "ExpiredOnArrival", "over when it arrived"),
        ("slow", &slow.url, "Timeout", "within 10 s"),
    ];
    for (name, url, _, _) in &cases {
        world.apply(&resource(name, name, oauth2(url))).await.unwrap();
    }
    for (name, _, reason, hint) in cases {
        let status = world
            .condition(name, conditions::TOKEN_ISSUED, "False", reasons::REQUEST_FAILED)
            .await;
        let error = status.token.unwrap().last_error.unwrap();
        assert_eq!(error.reason, reason, "{name}: {}", error.message);
        assert!(error.message.contains(hint), "{name}: {}", error.message);
    }
}

#[tokio::test]
async fn a_token_without_expires_in_serves_and_is_renewed_all_the_same() {
    let world = world("reconcile-no-expiry").await;
    let answer = r#"{"access_token": "opaque-t0ken", "token_type": "bearer"}"#;
    let endpoint = TokenEndpoint::answering("200 OK", "application/json", answer).await;
    world
        .apply(&resource("tools", "tools", oauth2(&endpoint.url)))
        .await
        .unwrap();
    let status = world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    assert!(
        message(&status, conditions::TOKEN_ISSUED).contains("does not say until when"),
        "{status:#?}"
    );
    let token = status.token.unwrap();
    assert!(token.expires_at.is_none() && token.next_refresh_at.is_some());
}

#[tokio::test]
async fn two_resources_for_the_same_server_and_pods_leave_the_older_alone() {
    let world = world("reconcile-conflict").await;
    world
        .apply(&resource("first", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    world
        .condition("first", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    // Kubernetes tells ages in whole seconds.
    let born = world
        .api::<McpServerAuth>()
        .get("first")
        .await
        .unwrap()
        .metadata
        .creation_timestamp
        .unwrap();
    until(
        "a later second",
        async || seconds(),
        |now| *now > born.0.as_second(),
    )
    .await;
    world
        .apply(&resource("second", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    let status = world
        .condition("second", conditions::READY, "False", reasons::CONFLICT)
        .await;
    assert!(
        message(&status, conditions::READY).contains("older McpServerAuth first"),
        "{status:#?}"
    );
    world
        .condition("first", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;

    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let snapshot = sidecar.next().await.unwrap();
    assert_eq!(snapshot.servers.len(), 1);
    assert_eq!(snapshot.servers[0].route.resource, "first");

    world.delete::<McpServerAuth>("first").await;
    world
        .condition("second", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    sidecar
        .until(|snapshot| {
            snapshot
                .servers
                .iter()
                .any(|server| server.route.resource == "second")
        })
        .await;
}

fn seconds() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

#[tokio::test]
async fn a_resource_that_is_wrong_does_not_disturb_its_neighbours() {
    let world = world("reconcile-neighbours").await;
    world.apply(&tools()).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let good = bearer(&sidecar.until(|s| bearer(s, "tools").is_some()).await, "tools");

    let mut wrong = resource("wrong", "wrong", oauth2(&oauth::token_url()));
    wrong["spec"]["oauth2"]["clientAuthentication"]["clientSecretRef"]["name"] = json!("missing");
    world.apply(&wrong).await.unwrap();
    let snapshot = sidecar.until(|snapshot| snapshot.servers.len() == 2).await;
    assert_eq!(bearer(&snapshot, "tools"), good);
    assert_eq!(bearer(&snapshot, "wrong"), None);
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
}

#[tokio::test]
async fn a_selector_that_matches_no_pod_says_so() {
    let world = world("reconcile-no-pods").await;
    let mut nobody = tools();
    nobody["spec"]["podSelector"] = json!({"matchLabels": {"app": "litelm"}});
    world.apply(&nobody).await.unwrap();
    let status = world
        .condition("tools", conditions::READY, "False", reasons::NO_PODS_SELECTED)
        .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(
        said.contains("litelm") && said.contains("matches no running pod"),
        "{said}"
    );
    assert_eq!(status.sidecars.unwrap().summary, "0/0");
}

#[tokio::test]
async fn pods_without_sidecar_and_pods_that_need_a_restart_are_named() {
    let world = world("reconcile-pods").await;
    world.apply(&tools()).await.unwrap();
    let plain = json!({
        "metadata": {"name": "plain-0", "labels": litellm()},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "litellm", "image": "litellm"}]},
    });
    world
        .create::<k8s_openapi::api::core::v1::Pod>(plain)
        .await
        .unwrap();
    let status = world
        .condition("tools", conditions::READY, "False", reasons::PODS_NOT_INJECTED)
        .await;
    assert!(
        message(&status, conditions::READY).contains("pod plain-0 run without the sidecar"),
        "{status:#?}"
    );
    world.delete::<k8s_openapi::api::core::v1::Pod>("plain-0").await;

    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let revision = sidecar.until(|s| bearer(s, "tools").is_some()).await.revision;
    sidecar.say(|report| {
        report.applied = Some(revision);
        report.restart_needed_for = vec!["tools".into()];
    });
    let status = world
        .condition("tools", conditions::READY, "False", reasons::RESTART_NEEDED)
        .await;
    assert!(
        message(&status, conditions::READY).contains("litellm-0"),
        "{status:#?}"
    );
    sidecar.say(|report| report.restart_needed_for.clear());
    world
        .condition("tools", conditions::READY, "True", reasons::READY)
        .await;
}

#[tokio::test]
async fn a_given_bearer_token_is_taken_over_the_moment_it_changes() {
    let world = World::new("reconcile-bearer", false).await;
    world.secret("minted-elsewhere", "token", "first-t0ken\n").await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "minted-elsewhere", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("first-t0ken"))
        .await;
    world.secret("minted-elsewhere", "token", "second-t0ken").await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").as_deref() == Some("second-t0ken"))
        .await;
    world.secret("minted-elsewhere", "token", "two\nlines").await;
    world
        .condition(
            "tools",
            conditions::SECRETS_RESOLVED,
            "False",
            reasons::SECRET_INVALID,
        )
        .await;
}

#[tokio::test]
async fn the_end_that_a_secret_states_is_told_ahead_and_one_that_is_no_time_too() {
    let world = World::new("reconcile-expiring", false).await;
    world.secret("token", "token", "expiring-t0ken").await;
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    world.apply(&resource("tools", "tools", given)).await.unwrap();
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    let told = |status: &McpServerAuthStatus| {
        let mut types = status.conditions.iter().map(|condition| &*condition.type_);
        types.any(|type_| type_ == conditions::CREDENTIAL_EXPIRING)
    };
    assert!(!told(&world.status("tools").await), "there is nothing to say");

    let state = async |end: serde_json::Value| {
        let annotations = json!({"metadata": {"annotations": {"mcpauth.dev/expires-at": end}}});
        let api: Api<Secret> = world.api();
        let patch = Patch::Merge(&annotations);
        api.patch("token", &PatchParams::default(), &patch).await.unwrap();
    };
    let in_days = |days: i64| json!((Timestamp::now() + SignedDuration::from_hours(24 * days)).to_string());
    let expiring = async |reason: &str| {
        let status = world
            .condition("tools", conditions::CREDENTIAL_EXPIRING, "True", reason)
            .await;
        message(&status, conditions::CREDENTIAL_EXPIRING)
    };
    state(in_days(20)).await;
    let told_of = expiring(reasons::EXPIRES_WITHIN_30_DAYS).await;
    assert!(told_of.contains("spec.bearerToken.secretKeyRef"), "{told_of}");
    state(in_days(2)).await;
    expiring(reasons::EXPIRES_WITHIN_3_DAYS).await;
    state(json!("next year")).await;
    let invalid = expiring(reasons::EXPIRY_INVALID).await;
    assert!(invalid.contains("mcpauth.dev/expires-at"), "{invalid}");
    state(in_days(300)).await;
    let silent = |status: &McpServerAuthStatus| !told(status);
    until(
        "the condition to go",
        async || world.status("tools").await,
        silent,
    )
    .await;
}

#[tokio::test]
async fn a_token_is_never_sent_to_a_changed_url() {
    let world = world("reconcile-moved").await;
    world.apply(&tools()).await.unwrap();
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    let old = bearer(&sidecar.until(|s| bearer(s, "tools").is_some()).await, "tools").unwrap();
    let mut moved = tools();
    moved["spec"]["server"]["url"] = json!("https://elsewhere.example.com/mcp");
    world.apply(&moved).await.unwrap();
    let elsewhere = |snapshot: &mcp_auth_protocol::sync::Snapshot| {
        snapshot.servers[0].route.url == "https://elsewhere.example.com/mcp"
    };
    loop {
        let snapshot = sidecar.next().await.unwrap();
        let Some(token) = bearer(&snapshot, "tools").filter(|_| elsewhere(&snapshot)) else {
            assert!(!elsewhere(&snapshot) || bearer(&snapshot, "tools").is_none());
            continue;
        };
        assert_ne!(token, old);
        break;
    }
}

#[tokio::test]
async fn a_deleted_resource_is_withdrawn_from_the_sidecars() {
    let world = world("reconcile-deleted").await;
    world.apply(&tools()).await.unwrap();
    let pod = world.pod("litellm-0", litellm()).await;
    let mut sidecar = Sidecar::in_pod(&world, &pod).await;
    sidecar
        .until(|snapshot| bearer(snapshot, "tools").is_some())
        .await;
    world.delete::<McpServerAuth>("tools").await;
    sidecar.until(|snapshot| snapshot.servers.is_empty()).await;
}
