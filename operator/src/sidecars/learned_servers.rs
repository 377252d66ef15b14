//! What a sidecar has learned of its servers, each once.

use mcp_auth_protocol::reachability::ServerReachability;

/// Sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnedServers(Box<[ServerReachability]>);

impl LearnedServers {
    pub fn iter(&self) -> impl Iterator<Item = &ServerReachability> {
        self.0.iter()
    }

    pub fn to_vec(&self) -> Vec<ServerReachability> {
        self.0.to_vec()
    }
}

impl From<Vec<ServerReachability>> for LearnedServers {
    fn from(mut learned: Vec<ServerReachability>) -> Self {
        learned.sort_by(|one, other| one.server.cmp(&other.server));
        // The first that a sidecar says of a server counts.
        learned.dedup_by(|later, first| later.server == first.server);
        Self(learned.into())
    }
}

#[cfg(test)]
mod tests {
    use mcp_auth_protocol::reachability::Reachability;

    use super::*;

    #[test]
    fn of_each_server_the_first_statement_counts_and_their_order_says_nothing() {
        let learned = |server: &str, state| ServerReachability {
            server: server.into(),
            state,
            since: 1,
            detail: String::new(),
        };
        let all = LearnedServers::from(vec![
            learned("tools", Reachability::Answered),
            learned("files", Reachability::Connected),
            learned("mail", Reachability::NotContacted),
            learned("files", Reachability::NoAnswer),
        ]);
        let states: Vec<_> = all
            .iter()
            .map(|known| (known.server.as_str(), known.state))
            .collect();
        let expected = [
            ("files", Reachability::Connected),
            ("mail", Reachability::NotContacted),
            ("tools", Reachability::Answered),
        ];
        assert_eq!(states, expected);
    }
}
