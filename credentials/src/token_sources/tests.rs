use jiff::SignedDuration;
use mcp_auth_crds::reasons;
use mcp_auth_oauth as oauth;
use mcp_auth_protocol::sync::{Credential, RejectionCause};
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;
use crate::changes::Changes;
use crate::not_served::NotServedReason;
use crate::store::CredentialState;

mod resume;
mod revocation;
mod usage;

struct NoMetrics;

impl TokenMetrics for NoMetrics {
    fn token_refused(&self, _: &ResourceRef) {}
    fn token_requested(&self, _: &ResourceRef, _: u64) {}
    fn set_circuit_open(&self, _: &ResourceRef, _: bool) {}
    fn set_clock_offset(&self, _: &ResourceRef, _: i64) {}
    fn set_usage(&self, _: &ResourceRef, _: Option<TokenUsage>) {}
}

struct Operator {
    sources: TokenSources,
    credentials: Credentials,
    status_due: UnboundedReceiver<ResourceRef>,
}

fn operator() -> Operator {
    let (sender, status_due) = mpsc::unbounded_channel();
    let credentials = Credentials::new(Changes::default(), sender);
    let clock = Clock::starting_at(now());
    Operator {
        sources: TokenSources::new(clock, NoMetrics, credentials.clone()),
        credentials,
        status_due,
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn resource() -> McpServerAuth {
    serde_json::from_value(json!({
        "apiVersion": "mcpauth.dev/v1alpha1",
        "kind": "McpServerAuth",
        "metadata": {"name": "tools", "namespace": "apps", "generation": 1},
        "spec": {
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
        },
    }))
    .unwrap()
}

/// A client of the server of [`client_credentials`], with these fields besides.
fn client(name: &str, fields: serde_json::Value) -> McpServerAuth {
    let mut oauth2 = json!({
        "tokenUrl": "http://127.0.0.1:1/token",
        "clientAuthentication": {
            "method": "ClientSecretBasic",
            "clientSecretRef": {"name": "oauth", "key": "secret"},
        },
    });
    oauth2
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let mut client = resource();
    client.metadata.name = Some(name.into());
    client.spec.bearer_token = None;
    client.spec.oauth2 = Some(serde_json::from_value(oauth2).unwrap());
    client
}

/// A JWT that ends a minute after the test begins: `{"exp":1800000060}`.
fn expiring() -> Desired {
    secret("eyJhbGciOiJub25lIn0.eyJleHAiOjE4MDAwMDAwNjB9.c2ln")
}

fn secret(text: &str) -> Desired {
    Desired {
        source: DesiredSource::Secret(text.into()),
        connection: ServerConnection {
            ca_bundle: Some("pem".into()),
            client_certificate: None,
            egress_proxy: None,
        },
        audit_keys: None,
    }
}

/// Tokens are requested where no server listens.
fn client_credentials() -> Desired {
    let url = "http://127.0.0.1:1/token";
    let secret = oauth::ClientAuthentication::SecretBasic("t0p-s3cret".into());
    Desired {
        source: DesiredSource::OAuth2(Box::new(ClientConfiguration {
            registration: Registration {
                allow_insecure_http: true,
                ..Registration::new(url, "litellm", secret)
            },
            policy: Policy::default(),
            limits: Limits::default(),
            request_digest: RequestDigest::new(&resource().spec, &[]),
            exchanges: false,
            service_token: true,
            revoke_on_deletion: false,
            quota: None,
            step_up: StepUpPolicy::Off { why: "it is off" },
        })),
        connection: ServerConnection::default(),
        audit_keys: None,
    }
}

fn gone() -> NotServedError {
    NotServedError::new(NotServedReason::SecretNotFound, "it is gone")
}

fn id(state: &CredentialState) -> String {
    match &state.credential {
        Credential::Bearer { id, .. } => id.clone(),
        Credential::Unavailable { reason, .. } => panic!("no token: {reason}"),
    }
}

/// The reason why there is no token, and whether one of before is kept.
fn unavailability(state: &CredentialState) -> (&str, bool) {
    match &state.credential {
        Credential::Unavailable { reason, keep, .. } => (reason, *keep),
        Credential::Bearer { .. } => panic!("there is a token"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_is_taken_back_without_a_reconciliation() {
    let mut operator = operator();
    operator.sources.apply(&resource(), Ok(expiring()));
    id(&operator.credentials.get(&resource()));
    operator.status_due.recv().await.unwrap();

    let due = operator.status_due.recv().await.unwrap();
    assert_eq!(due, ResourceRef::from(&resource()));
    let state = operator.credentials.get(&resource());
    assert_eq!(unavailability(&state), (reasons::EXPIRED, true));
    assert_eq!(
        operator.sources.clock.now(),
        now() + SignedDuration::from_secs(60)
    );
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_published_at_once_and_counts_for_a_time() {
    let mut operator = operator();
    operator.sources.apply(&resource(), Ok(secret("opaque")));
    operator.status_due.recv().await.unwrap();
    let token = id(&operator.credentials.get(&resource()));
    operator.sources.request_refresh(&TokenRefreshRequest {
        resource: ResourceRef::from(&resource()),
        token: token.clone(),
        why: RejectionCause::Unauthorized,
    });
    operator.status_due.recv().await.unwrap();
    let rejected = operator.credentials.get(&resource());
    assert_eq!(rejected.declined.unwrap().token, token);

    operator.status_due.recv().await.unwrap();
    let later = operator.credentials.get(&resource());
    assert_eq!(later.declined, None);
    assert_eq!(id(&later), token);
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_secret_is_gone_serves_until_it_expires_and_is_then_taken_back() {
    let mut operator = operator();
    operator.sources.apply(&resource(), Ok(expiring()));
    operator.sources.apply(&resource(), Err(gone()));
    let orphaned = operator.credentials.get(&resource());
    id(&orphaned);
    assert_eq!(orphaned.connection.ca_bundle.as_deref(), Some("pem"));
    assert_eq!(orphaned.issuance.problem, Some(gone()));

    for _ in 0..3 {
        operator.status_due.recv().await.unwrap();
    }
    let state = operator.credentials.get(&resource());
    assert_eq!(unavailability(&state), (reasons::SECRET_NOT_FOUND, true));
    assert_eq!(state.connection, ServerConnection::default());
}

#[tokio::test]
async fn a_conflict_takes_the_token_back_and_keeps_none_of_before() {
    let operator = operator();
    operator.sources.apply(&resource(), Ok(secret("opaque")));
    let conflict = NotServedError::new(NotServedReason::Conflict, "another serves it");
    operator.sources.apply(&resource(), Err(conflict));
    let state = operator.credentials.get(&resource());
    assert_eq!(unavailability(&state), (reasons::CONFLICT, false));
}

#[tokio::test]
async fn a_resource_that_was_deleted_leaves_nothing_behind() {
    let operator = operator();
    operator.sources.apply(&resource(), Ok(secret("opaque")));
    operator.sources.remove(&ResourceRef::from(&resource()));
    assert!(operator.credentials.published(&resource()).is_none());
    assert!(operator.sources.sources.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_token_request_is_published_without_a_reconciliation() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    operator.sources.apply(&resource(), Ok(client_credentials()));
    let state = operator.credentials.get(&resource());
    assert_eq!(unavailability(&state), (reasons::PENDING, true));
    loop {
        operator.status_due.recv().await.unwrap();
        let state = operator.credentials.get(&resource());
        if state.issuance.token.last_error.is_some() {
            assert_eq!(unavailability(&state), (reasons::REQUEST_FAILED, true));
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stops_leading_requests_no_token_any_more() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    operator.sources.apply(&resource(), Ok(expiring()));
    let mut other = resource();
    other.metadata.name = Some("other".into());
    operator.sources.apply(&other, Ok(client_credentials()));
    operator.sources.stop();
    let state = operator.credentials.get(&resource());
    assert!(
        matches!(state.credential, Credential::Bearer { .. }),
        "sidecars are served from memory"
    );
    while operator.status_due.try_recv().is_ok() {}
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    assert!(
        operator.status_due.try_recv().is_err(),
        "nothing is requested or published"
    );
}

#[tokio::test(start_paused = true)]
async fn no_source_outlives_the_token_sources() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    operator.sources.apply(&resource(), Ok(expiring()));
    let mut other = resource();
    other.metadata.name = Some("other".into());
    operator.sources.apply(&other, Ok(client_credentials()));
    let sources = Arc::downgrade(&operator.sources.sources);
    drop(operator.sources);
    assert!(sources.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_changed_resource_says_until_when_the_token_of_before_serves() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    let mut by_secret = resource();
    operator.sources.apply(&by_secret, Ok(expiring()));
    // Another authorization server: the token in use is not one that it issued.
    by_secret.spec.bearer_token = None;
    operator.sources.apply(&by_secret, Ok(client_credentials()));
    let told = |resource: &McpServerAuth| {
        let state = operator.credentials.get(resource);
        crate::conditions::token_issued(&state.issuance).message
    };
    let message = told(&by_secret);
    assert!(
        message.contains("go on with the token of before this change")
            && message.contains("2027-01-15T08:01:00Z"),
        "{message}"
    );
    // At another URL no sidecar uses it.
    by_secret.spec.server.url = "https://elsewhere.example.com/mcp".into();
    operator.sources.apply(&by_secret, Ok(client_credentials()));
    let message = told(&by_secret);
    assert!(!message.contains("of before"), "{message}");
}

/// Nothing listens at the token endpoint: a request would fail and be told.
#[tokio::test(start_paused = true)]
async fn where_only_users_have_tokens_none_is_requested_for_the_service() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    // Sidecars that have a token of before are to give it up.
    operator.sources.apply(&resource(), Ok(client_credentials()));
    let mut desired = client_credentials();
    let DesiredSource::OAuth2(configuration) = &mut desired.source else {
        panic!("it is a client");
    };
    configuration.exchanges = true;
    configuration.service_token = false;
    let mut users_only = resource();
    users_only.spec.server.name = "tools".into();
    users_only.spec.bearer_token = None;
    operator.sources.apply(&users_only, Ok(desired));
    while operator.status_due.try_recv().is_ok() {}
    tokio::time::sleep(std::time::Duration::from_secs(24 * 3600)).await;
    assert!(
        operator.status_due.try_recv().is_err(),
        "nothing came of anything"
    );
    let state = operator.credentials.get(&users_only);
    assert_eq!(unavailability(&state), (reasons::USER_TOKENS_ONLY, false));
    assert!(state.exchanger.is_some());
    let told = crate::conditions::token_issued(&state.issuance);
    assert_eq!(
        (told.holds, told.reason.as_str()),
        (Some(true), reasons::USER_TOKENS_ONLY)
    );
    assert!(told.message.contains("was asked nothing"), "{}", told.message);
}

#[tokio::test]
async fn where_only_users_have_tokens_an_authorization_server_that_is_not_there_is_told_before_the_first_user()
 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    let mut desired = client_credentials();
    let DesiredSource::OAuth2(configuration) = &mut desired.source else {
        panic!("it is a client");
    };
    configuration.exchanges = true;
    configuration.service_token = false;
    configuration.registration.server = oauth::ServerLocation::Issuer("http://127.0.0.1:1".into());
    operator.sources.apply(&resource(), Ok(desired));
    let told = |operator: &Operator| {
        crate::conditions::token_issued(&operator.credentials.get(&resource()).issuance)
    };
    let first = told(&operator);
    assert_eq!((first.holds, first.reason.as_str()), (None, reasons::PENDING));
    while told(&operator).holds.is_none() {
        operator.status_due.recv().await.unwrap();
    }
    let failed = told(&operator);
    assert_eq!(
        (failed.holds, failed.reason.as_str()),
        (Some(false), reasons::DISCOVERY_FAILED)
    );
    assert!(
        failed.message.contains("http://127.0.0.1:1")
            && failed.message.contains("no user's token can be exchanged"),
        "{}",
        failed.message
    );
    // What sidecars are told of requests for no user is the same all along.
    let state = operator.credentials.get(&resource());
    assert_eq!(unavailability(&state), (reasons::USER_TOKENS_ONLY, false));
    assert!(state.exchanger.is_some());
}

#[tokio::test]
async fn what_another_replica_has_counted_today_is_gone_on_with_and_what_it_counted_yesterday_is_not() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for (date, expected) in [("2027-01-15", 40), ("2027-01-14", 0), ("no day", 0)] {
        let operator = operator();
        let usage = json!({"date": date, "issued": 40, "forecast": 50});
        let status = json!({"token": {"usage": usage}});
        let resource = McpServerAuth {
            status: Some(serde_json::from_value(status).unwrap()),
            ..client("tools", json!({"clientId": "litellm"}))
        };
        let mut desired = client_credentials();
        if let DesiredSource::OAuth2(configuration) = &mut desired.source {
            configuration.quota = Some(100);
        }
        operator.sources.apply(&resource, Ok(desired));
        let usage = operator.credentials.get(&resource).issuance.token.usage.unwrap();
        assert_eq!((usage.today.issued, usage.quota), (expected, Some(100)), "{date}");
        // A change of the resource is no new day.
        operator.sources.apply(&resource, Err(gone()));
        operator.sources.apply(&resource, Ok(client_credentials()));
        let usage = operator.credentials.get(&resource).issuance.token.usage;
        assert_eq!(usage.map_or(0, |usage| usage.today.issued), expected, "{date}");
    }
}
