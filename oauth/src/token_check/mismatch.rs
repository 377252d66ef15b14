//! A claim that does not fit, and what to check then.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A claim that does not fit.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("its claim {claim} is {found}, expected {expected}")]
pub struct ClaimMismatchError {
    pub claim: Cow<'static, str>,
    pub expected: String,
    pub found: String,
}

impl ClaimMismatchError {
    /// Whether the token is not this client's to use at this MCP server, as opposed to one that may be of less
    /// use than expected.
    pub(crate) fn is_of_another_use(&self) -> bool {
        matches!(&*self.claim, "iss" | "aud" | "cnf.jkt" | "cnf.x5t#S256")
    }

    /// What to check.
    pub(crate) fn hint(&self) -> &'static str {
        match &*self.claim {
            "iss" => {
                "check issuer and tokenUrl; an authorization server whose tokens name it otherwise, as Entra's \
                 of version 1 do, is listed in tokenCheck.acceptedIssuers"
            }
            "aud" => {
                "let the authorization server issue tokens for this resource, or list what it calls it in \
                 tokenCheck.acceptedAudiences"
            }
            "scope" => "check scopes, and what the authorization server lets this client have",
            "cnf.jkt" => {
                "the token is bound to another key; check the proxies before the authorization server"
            }
            "cnf.x5t#S256" => {
                "the token is bound to another certificate than the one shown; check the proxies before the \
                 authorization server"
            }
            _ => "check the clocks of this machine and of the authorization server",
        }
    }
}
