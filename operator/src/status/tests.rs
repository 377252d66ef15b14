use std::sync::Arc;

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_credentials::{DiscoveredServer, LastError, NotServedError, NotServedReason, TokenInUse};
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_protocol::sync::Problem;

use super::learned::learned;
use super::pod_classes::{PodNames, PodWithSidecar, classes};
use super::*;
use crate::namespaces::{NamespaceInjection, WebhookScope};
use crate::pods::WatchedPod;
use crate::refused_pods::RefusedPod;
use crate::sidecars::Sidecar;

mod notices;
mod pods;
mod reachability;
mod renewals;

fn resource(url: &str) -> McpServerAuth {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "apps", "generation": 3},
        "spec": {
            "server": {"name": "tools", "url": url},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

fn now() -> Timestamp {
    "2026-11-23T12:00:00.5Z".parse().unwrap()
}

fn pod(name: &str, annotation: Option<&str>) -> Arc<WatchedPod> {
    let annotations = annotation.map(|key| serde_json::json!({key: "1"}));
    let metadata = serde_json::json!({"name": name, "annotations": annotations});
    Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap())
}

fn synced() -> Sidecar {
    Sidecar {
        sent_revision: Some("1".into()),
        applied: Some("1".into()),
        reachability: vec![of_server("tools", Reachability::Answered)].into(),
        ..Sidecar::default()
    }
}

fn of_server(server: &str, state: Reachability) -> ServerReachability {
    ServerReachability {
        server: server.into(),
        state,
        since: 1_795_435_200,
        detail: String::new(),
    }
}

/// What was found, where everything is as it should be.
struct Scenario<'a> {
    resource: &'a McpServerAuth,
    problem: Option<NotServedError>,
    token: TokenSnapshot,
    audit_keys_problem: Option<String>,
    pods: Option<Vec<PodWithSidecar>>,
    stale_servers: std::collections::BTreeMap<String, PodNames>,
    passed_over: Vec<Arc<WatchedPod>>,
    refused: Vec<RefusedPod>,
    may_miss_refusals: bool,
    injection: InjectionFacts,
    expiries: Vec<CredentialExpiry>,
}

fn good(resource: &McpServerAuth) -> Scenario<'_> {
    let in_use = TokenInUse {
        issued_at: Some(now()),
        expires_at: Some("2026-11-23T13:00:00Z".parse().unwrap()),
        ..TokenInUse::default()
    };
    Scenario {
        resource,
        problem: None,
        token: TokenSnapshot {
            in_use: Some(in_use),
            ..TokenSnapshot::default()
        },
        audit_keys_problem: None,
        pods: Some(vec![(
            pod("a", Some("mcpauth.dev/injected")),
            Some(synced().into()),
        )]),
        stale_servers: std::collections::BTreeMap::new(),
        passed_over: Vec::new(),
        refused: Vec::new(),
        may_miss_refusals: false,
        injection: InjectionFacts {
            namespace: NamespaceInjection::OptedIn,
            scope: Arc::default(),
            webhook_called: true,
            operator_started: now() - jiff::SignedDuration::from_hours(1),
            webhook_port: 10250,
        },
        expiries: Vec::new(),
    }
}

fn status(scenario: &Scenario<'_>, now: Timestamp) -> McpServerAuthStatus {
    let issuance = Issuance {
        problem: scenario.problem.clone(),
        token: scenario.token.clone(),
        audit_keys_problem: scenario.audit_keys_problem.clone(),
    };
    let passed_over: Vec<_> = scenario
        .passed_over
        .iter()
        .map(|pod| (pod.clone(), None))
        .collect();
    let pods = scenario.pods.as_deref();
    let [injectable, passed_over] = [pods.unwrap_or_default(), &passed_over].map(|pods| classes(pods, now));
    let selected = pods.map(|pods| Selected {
        classes: injectable.iter().collect(),
        passed_over: passed_over.iter().collect(),
        ending: PodNames::default(),
        learned: learned(pods).remove("tools").unwrap_or_default(),
        stale_servers: scenario.stale_servers.clone(),
    });
    let inputs = StatusInputs {
        left_out: None,
        resource: scenario.resource,
        issuance: &issuance,
        pods: selected,
        refused: scenario.refused.iter().cloned().map(Arc::new).collect(),
        may_miss_refusals: scenario.may_miss_refusals,
        injection: scenario.injection.clone(),
        expiries: scenario.expiries.clone(),
        managed_key: None,
        restart: None,
    };
    super::status(&inputs, now)
}

fn condition(status: &McpServerAuthStatus, type_: &str) -> (String, String, String) {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn ready(scenario: &Scenario<'_>) -> (String, String) {
    let (status, reason, _) = condition(&status(scenario, now()), conditions::READY);
    (status, reason)
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn ready_is_true_when_everything_is() {
    let resource = resource("https://tools.example.com/mcp");
    let status = status(&good(&resource), now());
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.status == "True")
    );
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.sidecars.unwrap().summary, "1/1");
}

#[test]
fn ready_takes_over_the_first_reason_that_is_not() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.pods = Some(vec![(pod("a", None), None)]);
    assert_eq!(ready(&scenario), pair("False", reasons::PODS_NOT_INJECTED));
    scenario.pods = None;
    assert_eq!(ready(&scenario), pair("Unknown", reasons::PENDING));
    scenario.problem = Some(NotServedError::new(NotServedReason::SecretNotFound, "gone"));
    assert_eq!(ready(&scenario), pair("False", reasons::SECRET_NOT_FOUND));
    scenario.problem = Some(NotServedError::new(NotServedReason::Conflict, "another"));
    assert_eq!(ready(&scenario), pair("False", reasons::CONFLICT));
}

#[test]
fn a_failed_renewal_is_told_while_the_token_serves() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.token.last_error = Some(LastError {
        at: now(),
        reason: "invalid_client".into(),
        condition: reasons::REQUEST_FAILED,
        message: "check the secret".into(),
    });
    assert_eq!(ready(&scenario), pair("True", reasons::RENEWAL_FAILED));
    scenario.token.in_use = None;
    assert_eq!(ready(&scenario), pair("False", reasons::REQUEST_FAILED));
}

#[test]
fn a_problem_of_another_server_is_not_this_ones() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut sidecar = synced();
    sidecar.problems = vec![Problem::new("InvalidCaBundle", "bad").for_server("other")];
    scenario.pods = Some(vec![(
        pod("a", Some("mcpauth.dev/injected")),
        Some(sidecar.clone().into()),
    )]);
    assert_eq!(ready(&scenario), pair("True", reasons::READY));
    sidecar.problems = vec![Problem::new("ConfigNotYaml", "bad")];
    scenario.pods = Some(vec![(
        pod("a", Some("mcpauth.dev/injected")),
        Some(sidecar.into()),
    )]);
    assert_eq!(ready(&scenario), pair("False", reasons::SIDECAR_PROBLEM));
}

#[test]
fn what_litellms_own_configuration_says_otherwise_is_told_while_the_server_is_served() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut sidecar = synced();
    sidecar.notices = vec![
        Problem::new("ConfigurationDiffers", "another server's").for_server("other"),
        Problem::new("ConfigurationDiffers", "mcp_servers.tools counts").for_server("tools"),
    ];
    scenario.pods = Some(vec![(
        pod("a", Some("mcpauth.dev/injected")),
        Some(sidecar.into()),
    )]);
    assert_eq!(
        ready(&scenario),
        pair("True", reasons::LITELLM_CONFIGURATION_DIFFERS)
    );
    let (_, _, message) = condition(&status(&scenario, now()), conditions::SIDECARS_SYNCED);
    assert_eq!(message, "mcp_servers.tools counts");
}

#[test]
fn a_server_that_goes_out_without_a_token_is_told_before_settings_that_differ() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    let mut sidecar = synced();
    sidecar.notices = vec![
        Problem::new("ConfigurationDiffers", "mcp_servers.tools counts").for_server("tools"),
        Problem::new("ServerUnderOtherName", "old has the same URL").for_server("tools"),
    ];
    scenario.pods = Some(vec![(
        pod("a", Some("mcpauth.dev/injected")),
        Some(sidecar.into()),
    )]);
    let (_, reason, message) = condition(&status(&scenario, now()), conditions::SIDECARS_SYNCED);
    assert_eq!(reason, reasons::SIDECAR_NOTICE);
    assert!(
        message.contains("ServerUnderOtherName: old has the same URL"),
        "{message}"
    );
    assert!(message.ends_with("also ConfigurationDiffers"), "{message}");
}

#[test]
fn keys_that_cannot_be_fetched_are_told_while_the_token_serves() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.audit_keys_problem = Some("https://auth.example.com/keys answers 404".into());
    assert_eq!(ready(&scenario), pair("True", reasons::AUDIT_KEYS_UNAVAILABLE));
    let (_, _, message) = condition(&status(&scenario, now()), conditions::TOKEN_ISSUED);
    assert!(
        message.contains("spec.audit.user.jwks") && message.contains("answers 404"),
        "{message}"
    );
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut resource = resource("https://tools.example.com/mcp");
    let first = status(&good(&resource), now());
    resource.status = Some(first.clone());
    let later = now() + std::time::Duration::from_secs(60);
    assert_eq!(
        status(&good(&resource), later),
        first,
        "nothing changed, so nothing is written"
    );
}

#[test]
fn plain_http_is_never_silent() {
    let resource = resource("http://tools.apps.svc/mcp");
    let (_, _, message) = condition(&status(&good(&resource), now()), conditions::READY);
    assert!(
        message.contains("the MCP server is reached over plain http"),
        "{message}"
    );
}

#[test]
fn what_wants_attention_is_told_while_the_token_serves() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.token.in_use.as_mut().unwrap().by_alternate_secret = true;
    assert_eq!(ready(&scenario), pair("True", reasons::ALTERNATE_SECRET_IN_USE));
    scenario.token.in_use.as_mut().unwrap().mismatch = Some("its claim aud is a, expected b".into());
    assert_eq!(ready(&scenario), pair("True", reasons::TOKEN_MISMATCH));
    scenario.token.scopes_refused = Some("tools:write".into());
    let (_, reason, message) = condition(&status(&scenario, now()), conditions::TOKEN_ISSUED);
    assert_eq!(reason, reasons::INSUFFICIENT_SCOPE);
    assert!(message.contains("tools:write"), "{message}");
    scenario.token.scopes_refused = None;
    scenario.token.scopes_not_allowed = Some("tools:admin".into());
    let (holds, reason, message) = condition(&status(&scenario, now()), conditions::TOKEN_ISSUED);
    assert_eq!((&*holds, &*reason), ("True", reasons::INSUFFICIENT_SCOPE));
    assert!(
        message.contains("tools:admin") && message.contains("oauth2.stepUpAllowedScopes"),
        "{message}"
    );
}

#[test]
fn a_token_that_the_server_keeps_refusing_is_not_ready() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.token.rejected = true;
    assert_eq!(ready(&scenario), pair("False", reasons::TOKEN_REFUSED));
}

#[test]
fn the_issuer_found_is_remembered_for_this_server_and_no_other() {
    let mut resource = resource("https://tools.example.com/mcp");
    resource.spec.bearer_token = None;
    let oauth2 = serde_json::json!({"clientId": "a", "clientAuthentication": {
        "method": "ClientSecretPost", "clientSecretRef": {"name": "a", "key": "b"},
    }});
    resource.spec.oauth2 = serde_json::from_value(oauth2).unwrap();
    let mut scenario = good(&resource);
    scenario.token.server = Some(DiscoveredServer {
        issuer: "https://auth.example.com".into(),
        token_endpoint: "https://auth.example.com/token".into(),
    });
    let first = status(&scenario, now());
    let mut later = resource.clone();
    later.status = Some(first);
    // The operator was restarted, and has not discovered anything yet.
    let kept = status(&good(&later), now()).authorization_server.unwrap();
    assert_eq!(kept.issuer, "https://auth.example.com");
    later.spec.server.url = "https://other.example.com/mcp".into();
    assert_eq!(status(&good(&later), now()).authorization_server, None);
}

/// An injected pod, created so many seconds ago.
fn pod_of_age(name: &str, seconds: i64) -> Arc<WatchedPod> {
    let created = Time(super::seconds(now() - jiff::SignedDuration::from_secs(seconds)));
    let metadata = serde_json::json!({
        "name": name, "annotations": {"mcpauth.dev/injected": "1"}, "creationTimestamp": created,
    });
    Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap())
}

#[test]
fn a_pod_that_starts_beside_others_that_serve_is_no_fault() {
    let resource = resource("https://tools.example.com/mcp");
    let synced_at = |seconds| {
        let old = (pod_of_age("a", 600), Some(synced().into()));
        let scenario = Scenario {
            pods: Some(vec![old, (pod_of_age("b", seconds), None)]),
            ..good(&resource)
        };
        let status = status(&scenario, now());
        assert_eq!(status.sidecars.clone().unwrap().summary, "1/2");
        condition(&status, conditions::SIDECARS_SYNCED)
    };
    let (holds, reason, message) = synced_at(5);
    assert_eq!((holds.as_str(), reason.as_str()), ("True", "Synced"));
    assert!(message.contains("pod b starting"), "{message}");
    assert_eq!(synced_at(65).1, "SidecarsBehind");

    // A deployment none of whose pods serves is not ready yet.
    let scenario = Scenario {
        pods: Some(vec![(pod_of_age("a", 5), None)]),
        ..good(&resource)
    };
    assert_eq!(
        condition(&status(&scenario, now()), conditions::SIDECARS_SYNCED).1,
        "SidecarsBehind"
    );
}

#[test]
fn a_new_leader_leaves_the_condition_as_it_was_until_the_sidecars_have_come_back() {
    let mut resource = resource("https://tools.example.com/mcp");
    let before = status(&good(&resource), now());
    resource.status = Some(before.clone());
    let awaited = Sidecar {
        is_awaited: true,
        ..Sidecar::default()
    };
    let pods = Some(vec![(pod_of_age("a", 600), Some(awaited.into()))]);
    let scenario = Scenario {
        pods: pods.clone(),
        ..good(&resource)
    };
    assert_eq!(status(&scenario, now()), before);

    // Of a resource that has changed nothing was said yet.
    resource.metadata.generation = Some(4);
    let scenario = Scenario {
        pods,
        ..good(&resource)
    };
    assert_eq!(
        condition(&status(&scenario, now()), conditions::SIDECARS_SYNCED).1,
        "SidecarsBehind"
    );
}

#[test]
fn a_credential_that_ends_soon_is_told_and_the_resource_is_ready_all_the_same() {
    let resource = resource("https://tools.example.com/mcp");
    let mut scenario = good(&resource);
    scenario.expiries = vec![CredentialExpiry {
        credential: "client-secret",
        holder: "Secret oauth, named by spec.f".to_owned(),
        end: Some("2026-12-01T00:00:00Z".parse().unwrap()),
        lifetime: None,
    }];
    assert_eq!(ready(&scenario), pair("True", "ExpiresWithin14Days"));
    let status = status(&scenario, now());
    let (holds, reason, message) = condition(&status, conditions::CREDENTIAL_EXPIRING);
    assert_eq!((&*holds, &*reason), ("True", "ExpiresWithin14Days"));
    assert!(message.contains("2026-12-01T00:00:00Z"), "{message}");

    scenario.expiries.clear();
    let told = super::tests::status(&scenario, now()).conditions;
    assert!(
        told.iter()
            .all(|condition| condition.type_ != conditions::CREDENTIAL_EXPIRING)
    );
}
