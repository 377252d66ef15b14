//! Step-up policy: which of the scopes that an MCP server demands may be requested, and what is kept of those that may
//! not. A server's challenge comes by way of a sidecar, so neither of them may choose the scopes of a token that every
//! sidecar gets.

use std::collections::BTreeSet;

use mcp_auth_oauth::is_scope_token;

/// What is kept of demanded scopes that are not requested, for each token.
const MAX_SCOPES: usize = 32;
const MAX_SCOPE_BYTES: usize = 256;

/// Which scopes are requested because the MCP server demands them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StepUpPolicy {
    /// None, and this is why.
    Off { why: &'static str },
    /// These. `registered` are requested in any case, where the resource says which.
    Allowed {
        allowed: Vec<String>,
        registered: Vec<String>,
    },
}

impl StepUpPolicy {
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Off { .. })
    }

    /// What may be requested besides what the resource requests in any case.
    pub fn allowed(&self) -> &[String] {
        match self {
            Self::Off { .. } => &[],
            Self::Allowed { allowed, .. } => allowed,
        }
    }

    pub fn is_narrower_than(&self, other: &Self) -> bool {
        other
            .allowed()
            .iter()
            .any(|scope| !self.allowed().contains(scope))
    }

    /// The demanded scopes that may not be requested: all those that neither the resource lists nor the token has,
    /// since a challenge names those too that a call needs and the token has. One is enough to request none: a token with
    /// half of what a call needs is of no use to it.
    pub fn scopes_beyond(&self, demanded: &[String], token_scope: Option<&str>) -> Vec<String> {
        let token_scopes: BTreeSet<&str> = token_scope.unwrap_or_default().split(' ').collect();
        let is_beyond = |scope: &&String| match self {
            Self::Off { .. } => true,
            Self::Allowed { allowed, registered } => {
                !allowed.contains(scope)
                    && !registered.contains(scope)
                    && !token_scopes.contains(scope.as_str())
            }
        };
        demanded.iter().filter(is_beyond).cloned().collect()
    }
}

/// Scopes that were demanded of one token and not requested. It only grows, and to a bound: reports that name ever other
/// scopes change it a few times and no more.
pub struct ScopesNotRequested {
    pub token: String,
    scopes: BTreeSet<String>,
}

impl ScopesNotRequested {
    pub fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            scopes: BTreeSet::new(),
        }
    }

    pub fn add(&mut self, scopes: Vec<String>) {
        for scope in scopes {
            if self.scopes.len() < MAX_SCOPES && scope.len() <= MAX_SCOPE_BYTES {
                self.scopes.insert(scope);
            }
        }
    }

    /// As the sidecar wrote them.
    pub fn scopes(&self) -> Vec<String> {
        self.scopes.iter().cloned().collect()
    }

    /// For people. Nothing that is no scope by RFC 6749 is repeated.
    pub fn for_people(&self) -> String {
        let (scopes, others): (Vec<&str>, Vec<_>) = self
            .scopes
            .iter()
            .map(String::as_str)
            .partition(|scope| is_scope_token(scope));
        match (scopes.is_empty(), others.is_empty()) {
            (_, true) => scopes.join(" "),
            (true, false) => "text that is no scope by RFC 6749".to_owned(),
            (false, false) => format!("{}, and text that is no scope by RFC 6749", scopes.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    const OFF: StepUpPolicy = StepUpPolicy::Off { why: "it is off" };

    fn allowed(allowed: &str) -> StepUpPolicy {
        StepUpPolicy::Allowed {
            allowed: scopes(allowed),
            registered: scopes("tools:call"),
        }
    }

    #[test]
    fn only_listed_scopes_and_those_of_the_token_may_be_demanded() {
        let policy = allowed("tools:write");
        assert!(
            policy
                .scopes_beyond(&scopes("tools:write tools:call has"), Some("has"))
                .is_empty()
        );
        assert_eq!(
            policy.scopes_beyond(&scopes("tools:write admin"), Some("has")),
            ["admin"]
        );
        assert_eq!(
            policy
                .scopes_beyond(&scopes("tools:writer Tools:Write"), None)
                .len(),
            2
        );
    }

    #[test]
    fn without_listed_scopes_and_where_it_is_off_nothing_is_requested() {
        assert_eq!(allowed("").scopes_beyond(&scopes("admin"), None), ["admin"]);
        assert_eq!(
            OFF.scopes_beyond(&scopes("tools:call"), Some("tools:call")),
            ["tools:call"]
        );
    }

    #[test]
    fn what_is_no_scope_is_not_repeated_to_people_and_the_list_is_bounded() {
        let mut kept = ScopesNotRequested::new("one");
        kept.add(vec!["<script> \n".into(), "x".repeat(MAX_SCOPE_BYTES + 1)]);
        assert_eq!(kept.for_people(), "text that is no scope by RFC 6749");
        kept.add(scopes("admin"));
        assert_eq!(kept.for_people(), "admin, and text that is no scope by RFC 6749");
        for number in 0..1000 {
            kept.add(vec![format!("scope{number}")]);
        }
        assert_eq!(kept.scopes().len(), MAX_SCOPES);
    }

    #[test]
    fn a_policy_narrows_another_where_it_leaves_out_what_that_allows() {
        assert!(allowed("a").is_narrower_than(&allowed("a b")));
        assert!(OFF.is_narrower_than(&allowed("a")));
        assert!(!allowed("a b").is_narrower_than(&allowed("b")));
        assert!(!OFF.is_narrower_than(&OFF));
    }
}
