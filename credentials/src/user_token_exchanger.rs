//! Tokens of users' own by token exchange (RFC 8693): token sources publish the exchanger, and whoever has
//! the user's subject token asks it.

use std::sync::Arc;

use mcp_auth_oauth::{
    Client, Clock, Error, Policy, TenantQuota, Token, TokenCount, UserTokenLimit, UserTokens,
};
use mcp_auth_protocol::reasons;
use mcp_auth_protocol::sync::Credential;
use mcp_auth_protocol::timeouts::AUTHORIZATION_SERVER;
use parking_lot::Mutex;
use secrecy::SecretString;

use crate::bearer::bearer;
use crate::replicated_user_tokens::UserTokenScope;

/// Exchanges users' tokens at one authorization server, and keeps what it got.
pub struct UserTokenExchanger {
    client: Mutex<Client>,
    users: UserTokens,
    /// What other replicas have, and are given.
    replicated: UserTokenScope,
    clock: Clock,
    /// The limit of users' tokens that was published last ([`UserTokens::limited_to`]).
    limited_to: Mutex<Option<UserTokenLimit>>,
    usage: Mutex<Usage>,
    on_change: Arc<dyn Fn() + Send + Sync>,
}

/// How far the tokens of today are towards a quota.
#[derive(Default)]
struct Usage {
    count: TokenCount,
    /// Tokens a day.
    quota: Option<u64>,
    /// What was published last: twentieths of the quota, and whether more than all of it is to be expected.
    published: (u64, bool),
    /// It is published time and again by itself.
    is_repeated: bool,
}

/// Why a user gets no token now.
#[derive(Clone, Debug, Eq, thiserror::Error, PartialEq)]
pub enum ExchangeError {
    #[error("the authorization server has not answered for {0} s")]
    Slow(u64),
    #[error("{message}")]
    Failed {
        /// The authorization server's error code, or the kind of failure.
        code: String,
        message: String,
    },
}

impl ExchangeError {
    /// One of [`reasons`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Slow(_) => reasons::EXCHANGE_SLOW,
            Self::Failed { .. } => reasons::EXCHANGE_FAILED,
        }
    }
}

impl UserTokenExchanger {
    /// `on_change` is called when [`Self::limited_to`] changes.
    pub fn new(
        client: Client,
        policy: Policy,
        clock: Clock,
        (replicated, quota): (UserTokenScope, TenantQuota),
        on_change: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            client: Mutex::new(client),
            users: UserTokens::new(policy, clock.clone()).within(quota),
            replicated,
            clock,
            limited_to: Mutex::default(),
            usage: Mutex::default(),
            on_change,
        }
    }

    /// Counts what is issued here too.
    pub fn with_count(self, count: TokenCount) -> Self {
        self.usage.lock().count = count;
        self
    }

    /// How many tokens a day the client may have, before it is told.
    pub fn set_quota(&self, quota: Option<u64>) {
        self.usage.lock().quota = quota;
    }

    /// Whether the count is published time and again by itself. Where it is not, the next user's token is news.
    pub fn set_usage_repeated(&self, is_repeated: bool) {
        self.usage.lock().is_repeated = is_repeated;
    }

    /// How many tokens the namespace may keep, where that is why tokens are not kept.
    pub fn limited_to(&self) -> Option<UserTokenLimit> {
        *self.limited_to.lock()
    }

    /// Asks in a changed way from now on. The tokens there are serve until they expire.
    pub fn change(&self, client: Client) {
        *self.client.lock() = client;
        self.users.reset_failures();
    }

    /// The credential for this subject, within [`AUTHORIZATION_SERVER`]. `refused`: the MCP server did not
    /// take this one.
    pub async fn credential(
        &self,
        subject: &SecretString,
        refused: Option<&str>,
    ) -> Result<Credential, ExchangeError> {
        // The request itself goes on, and a later one finds its result.
        let token = tokio::time::timeout(AUTHORIZATION_SERVER, self.token(subject, refused)).await;
        let token = token.map_err(|_| ExchangeError::Slow(AUTHORIZATION_SERVER.as_secs()))?;
        let token = token.map_err(|error| ExchangeError::Failed {
            code: error.code().to_owned(),
            message: error.message(),
        })?;
        Ok(bearer(&token))
    }

    /// Each user's token would be a status to write.
    fn is_usage_news(&self) -> bool {
        let mut usage = self.usage.lock();
        let now = self.clock.now();
        if !usage.is_repeated && usage.count.has_recent_users(now) {
            return true;
        }
        let Some(quota) = usage.quota else { return false };
        let today = usage.count.today(None, now);
        let twentieths = today.issued.saturating_mul(20) / quota.max(1);
        let now = (twentieths, today.forecast > quota);
        std::mem::replace(&mut usage.published, now) != now
    }

    async fn token(&self, subject: &SecretString, refused: Option<&str>) -> Result<Arc<Token>, Error> {
        // What an earlier leader exchanged is as good as what this one would.
        if let Some(token) = self.replicated.find(subject, self.clock.now()) {
            self.users.insert_if_unknown(subject, token);
        }
        if let Some(id) = refused {
            self.users.report_rejected(subject, id);
        }
        let client = self.client.lock().clone();
        let token = self
            .users
            .get(subject, || {
                let (client, subject) = (client.clone(), subject.clone());
                async move { client.exchange_token(&subject).await }
            })
            .await?;
        let limited_to = self.users.limited_to();
        let is_news = std::mem::replace(&mut *self.limited_to.lock(), limited_to) != limited_to;
        if is_news || self.is_usage_news() {
            (self.on_change)();
        }
        self.replicated.record(subject, Arc::clone(&token));
        Ok(token)
    }
}
