//! What a token source has at a moment: the part of a [`crate::CredentialState`] that is its
//! own.

use std::sync::Arc;

use mcp_auth_oauth as oauth;
use mcp_auth_protocol::sync::{Credential, DeclinedRefresh, RejectionCause};

use crate::store::{TokenInUse, TokenSnapshot};
use crate::token_seed::TokenSeed;
use crate::user_token_exchanger::UserTokenExchanger;

/// Without a token: of a resource that has no source.
#[derive(Default)]
pub struct SourceSnapshot {
    pub token: TokenSnapshot,
    pub credential: Option<Credential>,
    /// What sidecars demanded of the token and is not to be had.
    pub declined: Option<DeclinedRefresh>,
    pub exchanger: Option<Arc<UserTokenExchanger>>,
    pub seed: Option<TokenSeed>,
}

/// Says that there is no better token than this one.
pub fn declined(token: &oauth::Token, message: &str) -> DeclinedRefresh {
    DeclinedRefresh {
        token: token.id.clone(),
        why: RejectionCause::Unauthorized,
        message: message.to_owned(),
    }
}

pub fn in_use(token: &oauth::Token) -> TokenInUse {
    TokenInUse {
        issued_at: Some(token.issued_at),
        expires_at: token.expires_at,
        kind: Some(match (token.token_type, token.certificate_bound) {
            (oauth::TokenType::DPoP, _) => "DPoP",
            (oauth::TokenType::Bearer, true) => "Bearer (certificate-bound)",
            (oauth::TokenType::Bearer, false) => "Bearer",
        }),
        scope: token.scope.clone(),
        by_alternate_secret: token.by_alternate_secret,
        mismatch: token.mismatch.as_ref().map(ToString::to_string),
        claims: token.claims.clone(),
    }
}
