//! What a token source has in common with others: limits, shared tokens, and the count of its resource.

use std::sync::Arc;

use mcp_auth_oauth::{
    self as oauth, Clock, Limits, Policy, RequestLimiter, SharedRequester, SharedTokens, TenantQuota,
    TokenCount,
};

use super::OnChange;
use crate::not_served::{NotServedError, NotServedReason};
use crate::references::fields;
use crate::replicated_user_tokens::UserTokenScope;
use crate::user_token_exchanger::UserTokenExchanger;

/// What a source has in common with others, or with its resource's source of before.
#[derive(Clone)]
pub struct Surroundings {
    pub namespace: String,
    pub limiter: RequestLimiter,
    pub shared_tokens: SharedTokens,
    pub user_tokens: (UserTokenScope, TenantQuota),
    pub count: TokenCount,
    pub clock: Clock,
}

impl Surroundings {
    pub(super) fn client(
        &self,
        registration: oauth::Registration,
        limits: Limits,
    ) -> Result<oauth::Client, NotServedError> {
        let client = client(registration, limits)?;
        Ok(client
            .with_limiter(self.limiter.clone())
            .with_count(self.count.clone()))
    }

    /// The client, as it shares its tokens with those of equal registrations of the namespace.
    pub(super) fn sharing(&self, client: oauth::Client) -> (oauth::Client, SharedRequester) {
        let slot = self.shared_tokens.slot(&self.namespace, client.token_digest());
        let client = match &slot {
            Some(slot) => client.with_shared_hints(slot),
            None => client,
        };
        let requester = SharedRequester::new(client.clone(), slot, self.clock.clone());
        (client, requester)
    }

    pub(super) fn exchanger(
        &self,
        client: &oauth::Client,
        policy: Policy,
        on_change: &OnChange,
    ) -> Arc<UserTokenExchanger> {
        let exchanger = UserTokenExchanger::new(
            client.clone(),
            policy,
            self.clock.clone(),
            self.user_tokens.clone(),
            Arc::clone(on_change),
        );
        Arc::new(exchanger.with_count(self.count.clone()))
    }
}

fn client(registration: oauth::Registration, limits: Limits) -> Result<oauth::Client, NotServedError> {
    let (part, ca_bundle) = match registration.grant {
        oauth::Grant::GitHubApp(_) => ("spec.githubApp", fields::GITHUB_CA),
        oauth::Grant::ClientCredentials | oauth::Grant::JwtBearer(_) | oauth::Grant::TokenExchange(_) => {
            ("spec.oauth2", fields::TOKEN_ENDPOINT_CA)
        }
    };
    oauth::Client::with_limits(registration, limits).map_err(|error| {
        let (reason, field) = match error {
            oauth::Error::InvalidCaBundle { .. } => (NotServedReason::InvalidSpec, ca_bundle),
            oauth::Error::InvalidCertificate { .. } => (NotServedReason::SecretInvalid, fields::CERTIFICATE),
            _ => (NotServedReason::InvalidSpec, part),
        };
        NotServedError::new(reason, format!("{field}: {}", error.message()))
    })
}
