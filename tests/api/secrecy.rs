//! Runs after the other tests against the API server: no secret, key, assertion or token that passed through
//! the operator may stand in anything it wrote.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_tests::{oauth, seen, setting};

/// How a JWT begins in base64: `{"alg":`, `{"typ":`, `{"kid":`, `{"jwk":`.
const JWT_BEGINNINGS: [&str; 4] = ["eyJhbGci", "eyJ0eXAi", "eyJraWQi", "eyJqd2si"];

/// Everything that must not be seen: the values of all Secrets, and what the other tests noted, which is gone
/// from the cluster by now or was never in it, such as tokens, proof keys and what users sent.
async fn secrets(client: &Client) -> BTreeSet<String> {
    let secrets = Api::<Secret>::all(client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let data = secrets
        .into_iter()
        .flat_map(|secret| secret.data.unwrap_or_default());
    // Certificates are public, and so is the name that an egress proxy knows the operator by.
    let values = data
        .filter(|(key, _)| !key.ends_with(".crt") && key != "username")
        .map(|(_, value)| value);
    let values = values.filter_map(|value| String::from_utf8(value.0).ok());
    let lines = values.flat_map(|value| value.lines().map(str::to_owned).collect::<Vec<_>>());
    let lines = lines.filter(|line| line.len() >= 8 && !line.starts_with("-----"));
    lines
        .chain(seen::all())
        .chain([
            oauth::secret(),
            "wr0ng-s3cret".into(),
            "opaque-t0ken".into(),
            "first-t0ken".into(),
        ])
        .filter(|secret| !is_prose(secret))
        .collect()
}

/// What tests put where a secret belongs, to be refused, and what an error message may say of its own accord.
fn is_prose(secret: &str) -> bool {
    ["no certificate", "other-key"].contains(&secret)
}

#[tokio::test]
async fn no_secret_and_no_token_is_in_logs_status_events_and_metrics() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    let client = Client::try_default().await.unwrap();
    let everything = ListParams::default();
    let log = std::fs::read_to_string(setting("MCPAUTH_TEST_OPERATOR_LOG")).unwrap();
    let metrics = reqwest::get(format!("{}/metrics", setting("MCPAUTH_TEST_OPERATOR_HEALTH")))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let resources = Api::<McpServerAuth>::all(client.clone())
        .list(&everything)
        .await
        .unwrap();
    let events = Api::<Event>::all(client.clone()).list(&everything).await.unwrap();
    assert!(
        log.lines().count() > 100,
        "the operator logged what it did at level debug"
    );
    assert!(
        metrics.contains("mcpauth_operator_token_requests_total{"),
        "{metrics}"
    );
    assert!(resources.items.len() > 5 && events.items.len() > 5);
    let places = [
        ("the log", log),
        ("the metrics", metrics),
        ("a status", serde_json::to_string(&resources).unwrap()),
        ("an event", serde_json::to_string(&events).unwrap()),
    ];
    for (place, text) in &places {
        for secret in secrets(&client).await {
            assert!(
                !text.contains(&secret),
                "{place} holds a secret of {} characters",
                secret.len()
            );
        }
        for beginning in JWT_BEGINNINGS {
            assert!(!text.contains(beginning), "{place} holds a JWT");
        }
    }
    // Of some, such as one that was never taken up, it may say nothing.
    let names = resources.items.iter().map(ResourceExt::name_any);
    let spoken_of = names.filter(|name| places[0].1.contains(name)).count();
    assert!(
        spoken_of > 5,
        "the log speaks of the resources that were looked at: of {spoken_of}"
    );
}
