//! What a sidecar has learned of its servers, by the server's name: a status looks for one server of a hundred in each of
//! thousands of sidecars.

use mcp_auth_protocol::reachability::ServerReachability;

/// Sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnedServers(Box<[ServerReachability]>);

impl LearnedServers {
    pub fn get(&self, server: &str) -> Option<&ServerReachability> {
        let index = self.0.binary_search_by(|known| known.server.as_str().cmp(server));
        index.ok().map(|index| &self.0[index])
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
    fn each_server_is_found_whatever_the_order_and_the_first_statement_of_one_counts() {
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
        let state = |server| all.get(server).map(|known| known.state);
        assert_eq!(state("files"), Some(Reachability::Connected));
        assert_eq!(state("mail"), Some(Reachability::NotContacted));
        assert_eq!(state("tools"), Some(Reachability::Answered));
        assert_eq!(state("elsewhere"), None);
    }
}
