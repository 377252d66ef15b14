//! Whose Secrets the operator may read: by default everybody's, with `rbac.secrets: perNamespace` those of namespaces that
//! grant it, and with `watchNamespaces` those of these.

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use mcp_auth_crds::conditions::TOKEN_ISSUED;
use mcp_auth_crds::reasons::{FORBIDDEN, ISSUED};
use mcp_auth_tests::oauth;
use mcp_auth_tests::resource::{SECRET, oauth2, resource};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::json;
use tokio::process::Command;

use crate::installation::Installation;

/// A namespace with a resource that needs a Secret.
async fn namespace(name: &str) -> World {
    let world = World::new(name, false).await;
    world.secret(SECRET, "client-secret", &oauth::secret()).await;
    world
        .apply(&resource("tools", "tools", oauth2(&oauth::token_url())))
        .await
        .unwrap();
    world
}

/// Whether the operator's ServiceAccount may list the Secrets of a namespace, as the API server says.
async fn may_list_secrets(installation: &Installation, namespace: &str) -> bool {
    let account = format!(
        "system:serviceaccount:{}:{}",
        installation.world.namespace,
        installation.operator_name()
    );
    let review = json!({"spec": {"user": account, "resourceAttributes": {
        "namespace": namespace, "verb": "list", "resource": "secrets",
    }}});
    let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
    let reviews: Api<SubjectAccessReview> = Api::all(installation.world.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn a_namespace_grants_the_operator_its_secrets_by_the_command_in_the_status() {
    let (granting, other) = (
        namespace("secrets-granting").await,
        namespace("secrets-other").await,
    );
    let installation = Installation::new("secrets", json!({"rbac": {"secrets": "perNamespace"}})).await;
    let replica = installation.start(&[]).await;
    replica.until_ready().await;
    for world in [&granting, &other] {
        world.condition("tools", TOKEN_ISSUED, "False", FORBIDDEN).await;
        assert!(!may_list_secrets(&installation, &world.namespace).await);
    }

    let status = granting.status("tools").await;
    let told = message(&status, TOKEN_ISSUED);
    let (_, command) = told.split_once("grants it: ").unwrap_or_else(|| panic!("{told}"));
    let mut words = command.split_whitespace();
    let granted = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .await
        .unwrap();
    assert!(granted.status.success(), "{command}: {granted:?}");
    granting.condition("tools", TOKEN_ISSUED, "True", ISSUED).await;
    assert!(may_list_secrets(&installation, &granting.namespace).await);

    let status = other.status("tools").await;
    assert!(message(&status, TOKEN_ISSUED).ends_with("--namespace=secrets-other"));
    assert!(!may_list_secrets(&installation, &other.namespace).await);
    assert!(!may_list_secrets(&installation, &installation.world.namespace).await);
}

#[tokio::test]
async fn the_rights_of_a_role_in_each_watched_namespace_are_enough() {
    let (watched, other) = (namespace("watched").await, namespace("not-watched").await);
    let values = json!({"watchNamespaces": ["watched"], "rbac": {"secretNames": [SECRET]}});
    let installation = Installation::new("namespaced", values).await;
    let replica = installation.start(&[]).await;
    replica.until_ready().await;
    watched.condition("tools", TOKEN_ISSUED, "True", ISSUED).await;
    for namespace in [
        &watched.namespace,
        &other.namespace,
        &installation.world.namespace,
    ] {
        // Of one name alone is not all of them.
        assert!(!may_list_secrets(&installation, namespace).await);
    }
    let requested = async || replica.get("/metrics").await.unwrap_or_default();
    let served = |metrics: &String| metrics.contains("mcpauth_operator_token_requests_total{");
    let metrics = until("the token to be counted", requested, served).await;
    assert!(!metrics.contains("not-watched"), "{metrics}");
}
