//! What the next leader makes of the tokens that the one before it had.

use mcp_auth_http_auth::ProofKey;
use mcp_auth_oauth::{IssuedToken, Token, TokenType};
use secrecy::ExposeSecret;

use super::*;
use crate::replicated_credential::ReplicatedCredential;
use crate::token_seed::TokenSeed;

/// What a replica has published, as it arrives at another one.
fn replicated(state: &CredentialState) -> CredentialState {
    let line = serde_json::to_string(&ReplicatedCredential::from(state)).unwrap();
    let replicated: ReplicatedCredential = serde_json::from_str(&line).unwrap();
    replicated.into_state().unwrap()
}

/// The request digest of [`client_credentials`].
fn request_digest() -> RequestDigest {
    let DesiredSource::OAuth2(configuration) = client_credentials().source else {
        panic!("it is a client");
    };
    configuration.request_digest
}

/// A token of an hour that another replica was issued ten minutes ago.
fn seed(request_digest: RequestDigest) -> TokenSeed {
    let before = now() - SignedDuration::from_mins(10);
    let token = Token {
        proof_key: Some(Arc::new(ProofKey::generate())),
        token_type: TokenType::DPoP,
        scope: Some("tools:read".into()),
        ..Token::handed_over(
            IssuedToken::bearer("first-t0ken"),
            before,
            Some(before + SignedDuration::from_hours(1)),
        )
    };
    TokenSeed {
        token: Arc::new(token),
        request_digest: Some(request_digest),
        next_attempt_at: Some(now() + SignedDuration::from_mins(20)),
    }
}

/// A follower that has been given a token of this seed.
fn follower(seed: &TokenSeed) -> Operator {
    let operator = operator();
    let state = CredentialState {
        credential: crate::bearer(&seed.token),
        seed: Some(seed.clone()),
        ..CredentialState::pending(CredentialIdentity::for_resource(&resource()))
    };
    operator
        .credentials
        .publish(&ResourceRef::from(&resource()), replicated(&state));
    operator
}

fn pending() -> NotServedError {
    NotServedError::new(NotServedReason::Pending, "it is being read")
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_goes_on_with_the_token_and_requests_its_successor_when_the_first_would_have() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seed = seed(request_digest());
    let mut operator = follower(&seed);
    // The Secret has yet to be read.
    for desired in [Err(pending()), Ok(client_credentials())] {
        operator.sources.apply(&resource(), desired);
        let state = operator.credentials.get(&resource());
        let Credential::Bearer {
            id, token, proof_key, ..
        } = &state.credential
        else {
            panic!("the token serves on");
        };
        assert_eq!((&**id, token.expose_secret()), (&*seed.token.id, "first-t0ken"));
        assert!(proof_key.is_some());
        let in_use = state.issuance.token.in_use.unwrap();
        assert_eq!(
            (in_use.kind, in_use.scope.as_deref()),
            (Some("DPoP"), Some("tools:read"))
        );
        assert_eq!(in_use.issued_at, Some(seed.token.issued_at));
        assert_eq!(state.issuance.token.next_attempt_at, seed.next_attempt_at);
    }
    while operator.status_due.try_recv().is_ok() {}
    tokio::time::sleep(std::time::Duration::from_secs(19 * 60)).await;
    let state = operator.credentials.get(&resource());
    assert_eq!(state.issuance.token.last_error, None, "nothing was requested");
    loop {
        operator.status_due.recv().await.unwrap();
        if operator
            .credentials
            .get(&resource())
            .issuance
            .token
            .last_error
            .is_some()
        {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changed_between_two_leaders_is_used_at_once() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let DesiredSource::OAuth2(configuration) = client_credentials().source else {
        panic!("it is a client");
    };
    let other = RequestDigest::new(&resource().spec, &[("spec.oauth2", "older".into())]);
    assert_ne!(other, configuration.request_digest);
    let mut operator = follower(&seed(other));
    operator.sources.apply(&resource(), Ok(client_credentials()));
    loop {
        operator.status_due.recv().await.unwrap();
        let state = operator.credentials.get(&resource());
        assert!(
            matches!(state.credential, Credential::Bearer { .. }),
            "it serves on"
        );
        if state.issuance.token.last_error.is_some() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_secret_keeps_its_name_from_one_leader_to_the_next() {
    let first = operator();
    first.sources.apply(&resource(), Ok(expiring()));
    let published = first.credentials.get(&resource());
    let second = operator();
    second
        .credentials
        .publish(&ResourceRef::from(&resource()), replicated(&published));
    assert_eq!(
        second.credentials.get(&resource()).connection,
        published.connection
    );
    for desired in [Err(pending()), Ok(expiring())] {
        second.sources.apply(&resource(), desired);
        assert_eq!(id(&second.credentials.get(&resource())), id(&published));
    }
    second.sources.apply(&resource(), Ok(secret("another-t0ken")));
    assert_ne!(id(&second.credentials.get(&resource())), id(&published));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_url_or_one_that_is_over_is_not_gone_on_with() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut over = seed(request_digest());
    over.token = Arc::new(Token {
        expires_at: Some(now()),
        ..Token::clone(&over.token)
    });
    let operator = follower(&over);
    operator.sources.apply(&resource(), Ok(client_credentials()));
    unavailability(&operator.credentials.get(&resource()));

    let operator = follower(&seed(request_digest()));
    let mut moved = resource();
    moved.spec.server.url = "https://elsewhere.example.com/mcp".into();
    operator.sources.apply(&moved, Ok(client_credentials()));
    unavailability(&operator.credentials.get(&moved));
}

fn with_uid(uid: &str) -> McpServerAuth {
    let mut resource = resource();
    resource.metadata.uid = Some(uid.into());
    resource
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_was_created_anew_does_not_go_on_with_the_token_of_the_one_before() {
    let first = operator();
    first.sources.apply(&with_uid("1"), Ok(expiring()));
    let published = first.credentials.get(&with_uid("1"));
    let cut_off = operator();
    let resource_ref = ResourceRef::from(&resource());
    cut_off.credentials.publish(&resource_ref, replicated(&published));
    assert_eq!(id(&cut_off.credentials.get(&with_uid("1"))), id(&published));
    assert!(!cut_off.credentials.is_of_former_resource(&with_uid("1")));

    assert!(cut_off.credentials.is_of_former_resource(&with_uid("2")));
    unavailability(&cut_off.credentials.get(&with_uid("2")));
    assert!(!cut_off.credentials.has_token(&with_uid("2")));
    cut_off.sources.apply(&with_uid("2"), Err(pending()));
    unavailability(&cut_off.credentials.get(&with_uid("2")));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_tells_no_uid_leaves_its_token_to_the_next_leader() {
    let first = operator();
    first.sources.apply(&with_uid("1"), Ok(expiring()));
    let published = first.credentials.get(&with_uid("1"));
    let mut line = serde_json::to_value(ReplicatedCredential::from(&published)).unwrap();
    assert_eq!(line["resourceUid"], "1");
    assert!(
        line["credentialIdentity"].is_string(),
        "as older replicas read it"
    );
    line.as_object_mut().unwrap().remove("resourceUid");
    let older: ReplicatedCredential = serde_json::from_value(line).unwrap();
    let next = operator();
    next.credentials
        .publish(&ResourceRef::from(&resource()), older.into_state().unwrap());
    assert_eq!(id(&next.credentials.get(&with_uid("1"))), id(&published));
    next.sources.apply(&with_uid("1"), Err(pending()));
    assert_eq!(id(&next.credentials.get(&with_uid("1"))), id(&published));
    assert!(
        next.credentials.is_of_former_resource(&with_uid("2")),
        "from now on it is known whose it is"
    );
}

#[tokio::test(start_paused = true)]
async fn other_replicas_are_told_of_each_change_once() {
    let operator = operator();
    let mut revision = operator.credentials.subscribe();
    operator.sources.apply(&resource(), Ok(expiring()));
    let first = *revision.borrow_and_update();
    assert_eq!(operator.credentials.changed_since(0).len(), 1);
    operator.sources.apply(&resource(), Ok(expiring()));
    assert!(!revision.has_changed().unwrap(), "the same again is no change");
    assert!(operator.credentials.changed_since(first).is_empty());
    operator.sources.apply(&resource(), Ok(secret("another-t0ken")));
    assert_eq!(operator.credentials.changed_since(first).len(), 1);
    operator.sources.remove(&ResourceRef::from(&resource()));
    assert!(revision.has_changed().unwrap());
    assert!(operator.credentials.resources().is_empty());
}
