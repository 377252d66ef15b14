//! What there is of a resource's token: for the status, and for the sidecars.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::reasons;
use mcp_auth_oauth as oauth;
use mcp_auth_protocol::sync::{Credential, Declined, RefusedBecause};

use super::resolve::Blocked;
use super::sources::Extras;
use super::status::{Held, LastError, Token};
use crate::credentials::bearer;
use crate::exchanges::Exchanger;

/// What there is for a resource now.
pub struct Obtained {
    pub references: Result<(), Blocked>,
    pub token: Token,
    pub credential: Option<Credential>,
    pub extras: Extras,
    /// What sidecars demanded of the token and is not to be had.
    pub declined: Option<Declined>,
    pub exchanger: Option<Arc<Exchanger>>,
}

impl Obtained {
    /// Of a resource that is not served.
    pub fn refused() -> Self {
        Self {
            references: Ok(()),
            token: Token::default(),
            credential: None,
            extras: Extras::default(),
            declined: None,
            exchanger: None,
        }
    }

    pub fn blocked(blocked: Blocked) -> Self {
        Self {
            references: Err(blocked),
            ..Self::refused()
        }
    }

    /// Of a token in a Secret: a JWT says until when it is good for something.
    pub fn given(token: &oauth::Token, is_refused: bool, now: Timestamp, extras: Extras) -> Self {
        if let Some(end) = token.expires_at
            && token.is_expired(now)
        {
            let message = format!(
                "the token in the Secret expired at {end}: whatever mints it has to put a new one there (spec.bearerToken)"
            );
            let error = LastError {
                at: end,
                reason: reasons::EXPIRED.to_owned(),
                condition: reasons::EXPIRED,
                message,
            };
            return Self {
                token: Token {
                    last_error: Some(error),
                    ..Token::default()
                },
                extras,
                ..Self::refused()
            };
        }
        let held = Held {
            // When it was minted is known to somebody else.
            issued_at: None,
            ..held(token)
        };
        let message = "the token comes from the Secret of spec.bearerToken: whatever mints it has to put a better one there";
        Self {
            token: Token {
                held: Some(held),
                refused: is_refused,
                ..Token::default()
            },
            credential: Some(bearer(token)),
            extras,
            declined: is_refused.then(|| declined(token, message)),
            ..Self::refused()
        }
    }

    /// Of a token whose Secret is gone.
    pub fn left(token: &oauth::Token, is_refused: bool, extras: Extras, problem: Option<Blocked>) -> Self {
        let message = "the Secret that a new token would be asked for with is gone or broken";
        Self {
            declined: is_refused.then(|| declined(token, message)),
            references: problem.map_or(Ok(()), Err),
            token: Token {
                held: Some(held(token)),
                ..Token::default()
            },
            credential: Some(bearer(token)),
            extras,
            ..Self::refused()
        }
    }
}

/// There is no better token than this one.
fn declined(token: &oauth::Token, message: &str) -> Declined {
    Declined {
        token: token.id.clone(),
        why: RefusedBecause::Unauthorized,
        message: message.to_owned(),
    }
}

pub fn held(token: &oauth::Token) -> Held {
    Held {
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
    }
}
