//! An orphaned token, whose Secret was deleted: no new one is requested, and it serves until it expires.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth as oauth;
use mcp_auth_protocol::sync::RejectionCause;

use super::snapshot::{SourceSnapshot, declined, in_use};
use crate::bearer::bearer;
use crate::store::TokenSnapshot;
use crate::token_refresh_requests::TokenRefreshRequest;

pub struct OrphanedToken {
    token: Arc<oauth::Token>,
    /// An MCP server does not take it any more.
    rejected: bool,
    /// Revokes it, if that is wished for.
    revoker: Option<Box<oauth::Client>>,
}

impl OrphanedToken {
    pub fn new(token: Arc<oauth::Token>, revoker: Option<Box<oauth::Client>>) -> Self {
        Self {
            token,
            rejected: false,
            revoker,
        }
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.token.is_expired(now)
    }

    pub fn token(&self) -> Arc<oauth::Token> {
        self.token.clone()
    }

    pub fn into_token(self) -> Arc<oauth::Token> {
        self.token
    }

    pub fn into_revocation(self) -> Option<(oauth::Client, Arc<oauth::Token>)> {
        Some((*self.revoker?, self.token))
    }

    pub fn request_refresh(&mut self, request: &TokenRefreshRequest) {
        if request.token == self.token.id && request.why == RejectionCause::Unauthorized {
            self.rejected = true;
        }
    }

    /// When its snapshot changes by itself.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.token.expires_at.filter(|at| *at > now)
    }

    pub fn snapshot(&self) -> SourceSnapshot {
        let message = "the Secret that a new token would be asked for with is gone or broken";
        SourceSnapshot {
            token: TokenSnapshot {
                in_use: Some(in_use(&self.token)),
                ..TokenSnapshot::default()
            },
            credential: Some(bearer(&self.token)),
            declined: self.rejected.then(|| declined(&self.token, message)),
            exchanger: None,
        }
    }
}
