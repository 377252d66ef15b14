//! Whose token is revoked when a resource is deleted: that which no other resource of its namespace has.

use mcp_auth_oauth::IssuedToken;

use super::*;
use crate::token_seed::TokenSeed;

fn named(name: &str) -> McpServerAuth {
    let mut named = resource();
    named.metadata.name = Some(name.into());
    named
}

fn with(change: impl FnOnce(&mut ClientConfiguration)) -> Desired {
    let mut desired = client_credentials();
    if let DesiredSource::OAuth2(configuration) = &mut desired.source {
        configuration.revoke_on_deletion = true;
        change(configuration);
    }
    desired
}

/// As after a change of its Secret: it may have another value, or be one that does not work.
fn by_another_secret() -> Desired {
    with(|configuration| {
        configuration.registration.authentication = oauth::ClientAuthentication::SecretBasic("wr0ng".into());
        configuration.request_digest = RequestDigest::new(&resource().spec, &[("secret", "wr0ng".into())]);
    })
}

impl Operator {
    /// A resource that goes on with a token of an earlier leader.
    fn with_token(self, name: &str, token: &str) -> Self {
        let token = Token::handed_over(
            IssuedToken::bearer(token),
            now(),
            Some(now() + SignedDuration::from_hours(1)),
        );
        let DesiredSource::OAuth2(configuration) = client_credentials().source else {
            panic!("it is a client");
        };
        let seed = TokenSeed {
            token: Arc::new(token),
            request_digest: Some(configuration.request_digest),
            next_attempt_at: Some(now() + SignedDuration::from_mins(30)),
        };
        let state = CredentialState {
            credential: crate::bearer(&seed.token),
            seed: Some(seed),
            ..CredentialState::pending(CredentialIdentity::for_resource(&named(name)))
        };
        self.credentials.publish(&ResourceRef::from(&named(name)), state);
        self.sources.apply(&named(name), Ok(with(|_| {})));
        self
    }

    /// The token that is revoked because this resource was deleted.
    fn revoked_with(&self, name: &str) -> Option<String> {
        let (_, token) = self.sources.end(&ResourceRef::from(&named(name)))?;
        Some(token.access_token.secret().clone())
    }
}

fn two() -> Operator {
    let _ = rustls::crypto::ring::default_provider().install_default();
    operator()
        .with_token("calendar", "t0ken")
        .with_token("mail", "t0ken")
}

#[tokio::test(start_paused = true)]
async fn of_resources_that_are_deleted_together_the_last_one_s_token_is_revoked() {
    let operator = two();
    assert_eq!(operator.revoked_with("calendar"), None);
    assert_eq!(operator.revoked_with("mail").as_deref(), Some("t0ken"));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_not_revoked_under_a_resource_whose_secret_was_changed_or_is_gone() {
    for change in [Ok(by_another_secret()), Err(gone())] {
        let operator = two();
        operator.sources.apply(&named("mail"), change);
        id(&operator.credentials.get(&named("mail")));
        assert_eq!(operator.revoked_with("calendar"), None);
        assert_eq!(operator.revoked_with("mail").as_deref(), Some("t0ken"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_no_other_resource_has_is_revoked_though_an_equal_one_is_there() {
    let users_only = with(|configuration| {
        configuration.exchanges = true;
        configuration.service_token = false;
    });
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = super::operator().with_token("calendar", "t0ken");
    operator.sources.apply(&named("mail"), Ok(users_only));
    assert_eq!(operator.revoked_with("calendar").as_deref(), Some("t0ken"));

    let operator = super::operator()
        .with_token("calendar", "t0ken")
        .with_token("mail", "an0ther");
    assert_eq!(operator.revoked_with("calendar").as_deref(), Some("t0ken"));
    operator.sources.apply(&named("mail"), Ok(client_credentials()));
    assert_eq!(operator.revoked_with("mail"), None, "it is not wished for");
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_secret_went_first_is_revoked_with_the_last_resource_that_has_it() {
    let operator = two();
    for name in ["calendar", "mail"] {
        operator.sources.apply(&named(name), Err(gone()));
    }
    assert_eq!(operator.revoked_with("mail"), None);
    assert_eq!(operator.revoked_with("calendar").as_deref(), Some("t0ken"));
}
