//! A claim that does not fit, and what to check then.

/// A claim that does not fit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("its claim {claim} is {found}, expected {expected}")]
pub struct ClaimMismatchError {
    pub claim: &'static str,
    pub expected: String,
    pub found: String,
}

impl ClaimMismatchError {
    /// What to check.
    pub(crate) fn hint(&self) -> &'static str {
        match self.claim {
            "iss" => "check issuer and tokenUrl; or set tokenCheck.mode: Report",
            "aud" => {
                "let the authorization server issue tokens for this resource, or list what it calls it in \
                 tokenCheck.acceptedAudiences"
            }
            "scope" => "check scopes, and what the authorization server lets this client have",
            "cnf.jkt" => {
                "the token is bound to another key; check the proxies before the authorization server"
            }
            _ => "check the clocks of this machine and of the authorization server",
        }
    }
}
