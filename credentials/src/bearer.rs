//! A token as sidecars are given it.

use jiff::Timestamp;
use mcp_auth_oauth::Token;
use mcp_auth_protocol::sync::Credential;

/// What a sidecar is given of a token.
pub fn bearer(token: &Token) -> Credential {
    Credential::Bearer {
        id: token.id.clone(),
        token: token.access_token.secret().as_str().into(),
        proof_key: token.proof_key.as_ref().map(|key| key.to_pem()),
        expires_at: token.expires_at.map(Timestamp::as_second),
    }
}
