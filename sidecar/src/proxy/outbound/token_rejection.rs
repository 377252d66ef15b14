//! Token rejection: why an MCP server rejected a token, turned into the error that the client gets.

use mcp_auth_protocol::sync::RejectionCause;

use crate::proxy::error::{ProxyError, RenewalOutcome, TokenOwner};
use crate::proxy::metrics::RetryCause;
use crate::proxy::routes::{McpServer, UsableServer};

#[derive(Debug)]
pub enum TokenRejection {
    Unauthorized,
    InsufficientScope(Vec<String>),
}

impl TokenRejection {
    pub fn cause(&self) -> RetryCause {
        match self {
            Self::Unauthorized => RetryCause::Unauthorized,
            Self::InsufficientScope(_) => RetryCause::InsufficientScope,
        }
    }

    /// Whether a token that answers this rejection should have prevented the `later` one.
    pub fn covers(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::InsufficientScope(scopes), Self::InsufficientScope(later)) => {
                later.iter().all(|scope| scopes.contains(scope))
            }
            (Self::Unauthorized, Self::Unauthorized) => true,
            _ => false,
        }
    }

    pub fn to_error(&self, resource: &str, owner: TokenOwner, renewal: RenewalOutcome) -> ProxyError {
        let resource = resource.into();
        match self {
            Self::Unauthorized => ProxyError::TokenRefused {
                resource,
                owner,
                status: 401,
                renewal,
            },
            Self::InsufficientScope(scopes) => ProxyError::InsufficientScope {
                resource,
                owner,
                scopes: scopes.clone(),
                declined: match renewal {
                    RenewalOutcome::Declined { message } => Some(message),
                    RenewalOutcome::NotRequested
                    | RenewalOutcome::TimedOut { .. }
                    | RenewalOutcome::RejectedToo
                    | RenewalOutcome::RejectedForUser => None,
                },
            },
        }
    }

    /// The error, if the operator has said of the service's token in use that it has no better one for this
    /// rejection.
    pub fn declined_error(&self, server: &McpServer, usable: &UsableServer) -> Option<ProxyError> {
        let declined = usable
            .declined()
            .filter(|declined| self.is_declined_by(&declined.why))?;
        let message = declined.message.as_str().into();
        Some(self.to_error(
            &server.resource,
            TokenOwner::Service,
            RenewalOutcome::Declined { message },
        ))
    }

    /// One declined scope is enough: the server demands all of them.
    fn is_declined_by(&self, declined: &RejectionCause) -> bool {
        match (self, declined) {
            (Self::Unauthorized, RejectionCause::Unauthorized) => true,
            (Self::InsufficientScope(demanded), RejectionCause::InsufficientScope(declined)) => {
                // A server may demand more scope without naming any.
                demanded.is_empty() && declined.is_empty()
                    || demanded.iter().any(|scope| declined.contains(scope))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn one_declined_scope_is_enough_and_another_reason_is_not() {
        let rejection = |names: &[&str]| TokenRejection::InsufficientScope(scopes(names));
        let declined = |names: &[&str]| RejectionCause::InsufficientScope(scopes(names));
        assert!(rejection(&["a", "b"]).is_declined_by(&declined(&["b", "c"])));
        assert!(!rejection(&["a"]).is_declined_by(&declined(&["b"])));
        assert!(rejection(&[]).is_declined_by(&declined(&[])));
        assert!(
            !rejection(&["a"]).is_declined_by(&declined(&[]))
                && !rejection(&[]).is_declined_by(&declined(&["a"]))
        );
        assert!(TokenRejection::Unauthorized.is_declined_by(&RejectionCause::Unauthorized));
        assert!(!TokenRejection::Unauthorized.is_declined_by(&declined(&["a"])));
        assert!(!rejection(&["a"]).is_declined_by(&RejectionCause::Unauthorized));
    }
}
