//! An orphaned token, whose Secret was deleted, or has yet to be read by a replica that goes on with the token of
//! another: no new one is requested, and it serves until it expires.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth as oauth;
use mcp_auth_protocol::sync::RejectionCause;
use secrecy::{ExposeSecret, SecretString};

use super::snapshot::{SourceSnapshot, declined, in_use};
use crate::bearer::bearer;
use crate::store::TokenSnapshot;
use crate::token_refresh_requests::TokenRefreshRequest;
use crate::token_seed::TokenSeed;

pub struct OrphanedToken {
    seed: TokenSeed,
    /// It is as good as when another replica, or an earlier lead of this one, had its source.
    resumed: bool,
    /// An MCP server does not take it any more.
    rejected: bool,
    /// Revokes it, if that is wished for.
    revoker: Option<Box<oauth::Client>>,
}

impl OrphanedToken {
    pub fn new(token: Arc<oauth::Token>, revoker: Option<Box<oauth::Client>>) -> Self {
        Self {
            seed: TokenSeed::of_token(token),
            resumed: false,
            rejected: false,
            revoker,
        }
    }

    /// Goes on with a token that another source requested.
    pub fn resume(seed: TokenSeed) -> Self {
        Self {
            seed,
            resumed: true,
            rejected: false,
            revoker: None,
        }
    }

    pub fn token(&self) -> Arc<oauth::Token> {
        self.seed.token.clone()
    }

    /// Whether its source, which another replica had, had this token from a Secret.
    pub fn is_resumed_with(&self, text: &SecretString) -> bool {
        self.resumed && self.seed.token.access_token.secret() == text.expose_secret()
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.seed.token.is_expired(now)
    }

    pub fn into_seed(self) -> TokenSeed {
        self.seed
    }

    pub fn into_revocation(self) -> Option<(oauth::Client, Arc<oauth::Token>)> {
        Some((*self.revoker?, self.seed.token))
    }

    pub fn request_refresh(&mut self, request: &TokenRefreshRequest) {
        if request.token == self.seed.token.id && request.why == RejectionCause::Unauthorized {
            self.rejected = true;
        }
    }

    /// When its snapshot changes by itself.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.seed.token.expires_at.filter(|at| *at > now)
    }

    pub fn snapshot(&self) -> SourceSnapshot {
        let message = "the Secret that a new token would be asked for with is gone or broken";
        SourceSnapshot {
            token: TokenSnapshot {
                in_use: Some(in_use(&self.seed.token)),
                next_attempt_at: self.seed.next_attempt_at,
                ..TokenSnapshot::default()
            },
            credential: Some(bearer(&self.seed.token)),
            declined: self.rejected.then(|| declined(&self.seed.token, message)),
            exchanger: None,
            seed: Some(self.seed.clone()),
        }
    }
}
