//! Token seed: a token with what another replica of the operator needs to go on with it, as if it had requested
//! it itself.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_oauth::Token;

use crate::credential_identity::RequestDigest;

#[derive(Clone)]
pub struct TokenSeed {
    pub token: Arc<Token>,
    /// Of the configuration that asks for its successor; nothing where none is asked for.
    pub request_digest: Option<RequestDigest>,
    /// When its successor is requested.
    pub next_attempt_at: Option<Timestamp>,
}

impl TokenSeed {
    /// Of a token whose successor is not requested.
    pub fn of_token(token: Arc<Token>) -> Self {
        Self {
            token,
            request_digest: None,
            next_attempt_at: None,
        }
    }
}

/// Tokens are told apart by their identifiers.
impl PartialEq for TokenSeed {
    fn eq(&self, other: &Self) -> bool {
        let parts = |seed: &Self| (seed.token.expires_at, seed.request_digest, seed.next_attempt_at);
        self.token.id == other.token.id && parts(self) == parts(other)
    }
}
