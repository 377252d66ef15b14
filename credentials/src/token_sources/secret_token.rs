//! A token that another program mints and keeps in a Secret. Where it is a JWT, it states its expiry.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_crds::reasons;
use mcp_auth_oauth::{self as oauth, IssuedToken, ReportedClaims};
use mcp_auth_protocol::sync::RejectionCause;
use secrecy::{ExposeSecret, SecretString};

use super::snapshot::{SourceSnapshot, declined, in_use};
use crate::bearer::bearer;
use crate::store::{LastError, TokenInUse, TokenSnapshot};
use crate::token_refresh_requests::TokenRefreshRequest;
use crate::token_seed::TokenSeed;

/// How long the rejection of such a token counts: no event says that a server accepts it again.
const REJECTION_TTL: Duration = Duration::from_secs(10 * 60);

pub struct SecretToken {
    token: Arc<oauth::Token>,
    rejected_until: Option<Timestamp>,
}

impl SecretToken {
    pub fn new(text: &SecretString, now: Timestamp) -> Self {
        let claims = oauth::read_claims(text.expose_secret());
        let end = claims.and_then(|claims| claims.expires_at);
        let expires_at = end.and_then(|end| Timestamp::from_second(end).ok());
        let issued = IssuedToken {
            claims: ReportedClaims::of_given_token(text.expose_secret()).map(Arc::new),
            ..IssuedToken::bearer(text.expose_secret())
        };
        let token = oauth::Token::handed_over(issued, now, expires_at);
        Self::resume(Arc::new(token))
    }

    /// Goes on with what another replica read of the same Secret.
    pub fn resume(token: Arc<oauth::Token>) -> Self {
        Self {
            token,
            rejected_until: None,
        }
    }

    pub fn holds(&self, text: &SecretString) -> bool {
        self.token.access_token.secret() == text.expose_secret()
    }

    pub fn token(&self) -> Arc<oauth::Token> {
        self.token.clone()
    }

    pub fn request_refresh(&mut self, request: &TokenRefreshRequest, now: Timestamp) {
        if request.token == self.token.id && request.why == RejectionCause::Unauthorized {
            self.rejected_until = Some(now + REJECTION_TTL);
        }
    }

    /// When its snapshot changes by itself.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let times = [self.token.expires_at, self.rejected_until];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    pub fn snapshot(&self, now: Timestamp) -> SourceSnapshot {
        if let Some(end) = self.token.expires_at
            && self.token.is_expired(now)
        {
            return expired(end);
        }
        let is_rejected = self.rejected_until.is_some_and(|until| now < until);
        let message = "the token comes from the Secret of spec.bearerToken: whatever mints it has to \
                       put a better one there";
        SourceSnapshot {
            token: TokenSnapshot {
                in_use: Some(TokenInUse {
                    // Only the program that minted it knows when.
                    issued_at: None,
                    ..in_use(&self.token)
                }),
                rejected: is_rejected,
                ..TokenSnapshot::default()
            },
            credential: Some(bearer(&self.token)),
            declined: is_rejected.then(|| declined(&self.token, message)),
            exchanger: None,
            seed: Some(TokenSeed::of_token(self.token.clone())),
        }
    }
}

fn expired(end: Timestamp) -> SourceSnapshot {
    let message = format!(
        "the token in the Secret expired at {end}: whatever mints it has to put a new one there \
         (spec.bearerToken)"
    );
    SourceSnapshot {
        token: TokenSnapshot {
            last_error: Some(LastError {
                at: end,
                reason: reasons::EXPIRED.to_owned(),
                condition: reasons::EXPIRED,
                message,
            }),
            ..TokenSnapshot::default()
        },
        ..SourceSnapshot::default()
    }
}
