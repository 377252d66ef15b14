//! What an MCP server has against a token, and what the operator says of that. Pure.

use mcp_auth_protocol::sync::RefusedBecause;

use crate::proxy::metrics::Why;
use crate::proxy::respond::{Refusal, Renewal, Whose};
use crate::proxy::routes::{Server, Usable};

#[derive(Debug)]
pub enum Objection {
    Unauthorized,
    InsufficientScope(Vec<String>),
}

impl Objection {
    pub fn why(&self) -> Why {
        match self {
            Self::Unauthorized => Why::Unauthorized,
            Self::InsufficientScope(_) => Why::InsufficientScope,
        }
    }

    /// Whether whoever answered this one should have answered the other with it.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::InsufficientScope(one), Self::InsufficientScope(other)) => {
                other.iter().all(|scope| one.contains(scope))
            }
            (Self::Unauthorized, Self::Unauthorized) => true,
            _ => false,
        }
    }

    pub fn refusal(&self, resource: &str, whose: Whose, renewal: Renewal) -> Refusal {
        let resource = resource.into();
        match self {
            Self::Unauthorized => Refusal::TokenRefused {
                resource,
                whose,
                status: 401,
                renewal,
            },
            Self::InsufficientScope(scopes) => Refusal::InsufficientScope {
                resource,
                whose,
                scopes: scopes.clone(),
                declined: match renewal {
                    Renewal::Declined { message } => Some(message),
                    Renewal::NotAsked
                    | Renewal::NoneCame { .. }
                    | Renewal::RefusedToo
                    | Renewal::RefusedToUser => None,
                },
            },
        }
    }

    /// The answer, where it is about the service's token in use and the operator has no better one to this end.
    pub fn declined(&self, server: &Server, usable: &Usable) -> Option<Refusal> {
        let said = usable.declined().filter(|said| self.is_in(&said.why))?;
        let message = said.message.as_str().into();
        Some(self.refusal(&server.resource, Whose::Service, Renewal::Declined { message }))
    }

    /// A demand for scopes is declined with each one of them: all would have to be granted.
    fn is_in(&self, declined: &RefusedBecause) -> bool {
        match (self, declined) {
            (Self::Unauthorized, RefusedBecause::Unauthorized) => true,
            (Self::InsufficientScope(demanded), RefusedBecause::InsufficientScope(declined)) => {
                // A demand that names no scope is one too.
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
        let demand = |names: &[&str]| Objection::InsufficientScope(scopes(names));
        let declined = |names: &[&str]| RefusedBecause::InsufficientScope(scopes(names));
        assert!(demand(&["a", "b"]).is_in(&declined(&["b", "c"])));
        assert!(!demand(&["a"]).is_in(&declined(&["b"])));
        assert!(demand(&[]).is_in(&declined(&[])));
        assert!(!demand(&["a"]).is_in(&declined(&[])) && !demand(&[]).is_in(&declined(&["a"])));
        assert!(Objection::Unauthorized.is_in(&RefusedBecause::Unauthorized));
        assert!(!Objection::Unauthorized.is_in(&declined(&["a"])));
        assert!(!demand(&["a"]).is_in(&RefusedBecause::Unauthorized));
    }
}
