//! Access groups of LiteLLM's configuration that have protected servers and others. LiteLLM 1.110.2 sends a client's
//! `x-mcp-GROUP-HEADER` to each server of the group; the sidecar removes it where one of them is protected
//! ([`RouteTable::is_for_group`](crate::proxy::routes::RouteTable::is_for_group)), so that the others do not get it either. A
//! notice says so to the resources of the protected ones.

use std::collections::{BTreeMap, BTreeSet};

use mcp_auth_protocol::sync::{Problem, notices};

use super::error::ConfigError;
use super::named::{MAX_NAMED, listed, shortened};
use super::node::{Budget, Node, Pair};

/// In the entry of a server: a list of names.
pub const KEY: &str = "access_groups";

#[derive(Default)]
struct Group<'a> {
    /// As it is written where it is first met.
    name: String,
    protected: BTreeSet<&'a str>,
    others: BTreeSet<&'a str>,
    /// Those of the others whose own name, or alias, is the group's: nothing tells headers for either apart.
    namesakes: BTreeSet<&'a str>,
}

/// The names in the value of [`KEY`].
pub fn names(groups: Option<&Node>) -> Vec<String> {
    let groups = groups.and_then(Node::as_sequence).unwrap_or_default();
    let groups = groups.iter().filter_map(|group| group.as_str());
    groups.map(ToOwned::to_owned).collect()
}

/// What there is to say to the protected servers that have others beside them. `servers` is what LiteLLM will read as
/// `mcp_servers`.
pub fn notices(
    servers: &[Pair],
    is_protected: impl Fn(&str) -> bool,
    budget: &mut Budget,
) -> Result<Vec<Problem>, ConfigError> {
    let groups = mixed_groups(servers, is_protected, budget)?;
    let protected: BTreeSet<&str> = groups
        .iter()
        .flat_map(|group| &group.protected)
        .copied()
        .collect();
    if protected.len() > MAX_NAMED {
        // The operator keeps few notices of a sidecar.
        return Ok(vec![notice(&groups.iter().collect::<Vec<_>>())]);
    }
    let of_server = |server: &str| {
        let groups = groups.iter().filter(|group| group.protected.contains(server));
        notice(&groups.collect::<Vec<_>>()).for_server(server)
    };
    Ok(protected.into_iter().map(of_server).collect())
}

fn mixed_groups<'a>(
    servers: &'a [Pair],
    is_protected: impl Fn(&str) -> bool,
    budget: &mut Budget,
) -> Result<Vec<Group<'a>>, ConfigError> {
    let mut groups = BTreeMap::<String, Group<'_>>::new();
    let mut names_of_others = Vec::new();
    for (key, entry) in servers {
        let (Some(server), Some(entry)) = (key.as_str(), entry.as_mapping()) else {
            continue;
        };
        let is_protected = is_protected(server);
        for name in names(entry.get(KEY, budget)?.as_deref()) {
            let group = groups.entry(in_headers(&name)).or_default();
            if group.name.is_empty() {
                group.name = name;
            }
            match is_protected {
                true => group.protected.insert(server),
                false => group.others.insert(server),
            };
        }
        if !is_protected {
            names_of_others.push((in_headers(server), server));
            let alias = entry.get("alias", budget)?;
            let alias = alias.as_ref().and_then(|alias| alias.as_str());
            names_of_others.extend(alias.map(|alias| (in_headers(alias), server)));
        }
    }
    for (name, server) in names_of_others {
        if let Some(group) = groups.get_mut(&name) {
            group.others.insert(server);
            group.namesakes.insert(server);
        }
    }
    let is_mixed = |group: &Group<'_>| !group.protected.is_empty() && !group.others.is_empty();
    Ok(groups.into_values().filter(is_mixed).collect())
}

/// Of these together.
fn notice(groups: &[&Group<'_>]) -> Problem {
    let names: Vec<_> = groups.iter().map(|group| &*group.name).collect();
    let others: BTreeSet<_> = groups.iter().flat_map(|group| &group.others).copied().collect();
    let namesake = groups.iter().find_map(|group| group.namesakes.first());
    let rename =
        namesake.map(|server| format!(", and give the group another name than {}", shortened(server)));
    let message = format!(
        "of clients' headers x-mcp-GROUP-HEADER for the access group {} only credentials reach {}, which no McpServerAuth \
         protects, since protected servers are in it too: send them as x-mcp-SERVER-HEADER{}",
        listed(&names),
        listed(&others.into_iter().collect::<Vec<_>>()),
        rename.unwrap_or_default(),
    );
    Problem::new(notices::GROUP_HEADERS_DROPPED, message)
}

/// As LiteLLM compares names of headers.
fn in_headers(name: &str) -> String {
    name.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    /// Servers whose name begins with `p` are protected.
    fn told(servers: &str) -> Vec<(Option<String>, String)> {
        let mut budget = Budget::default();
        let node = parse(servers).unwrap().unwrap();
        let pairs = node.as_mapping().unwrap().flatten(&mut budget).unwrap();
        let notices = notices(&pairs, |server| server.starts_with('p'), &mut budget).unwrap();
        let told = notices.into_iter().map(|notice| {
            assert_eq!(notice.reason, "GroupHeadersDropped");
            assert!(notice.message.len() <= 512, "its end, the way out, is kept");
            (notice.server, notice.message)
        });
        told.collect()
    }

    #[test]
    fn a_group_with_servers_of_both_kinds_is_told_to_the_protected_ones() {
        let [one, two] = &told(
            "{p1: {access_groups: [Staff, guests]}, p2: {access_groups: [ staff ]}, other: {access_groups: [staff]}, \
             p3: {access_groups: [guests]}, far: {access_groups: [others]}}",
        )[..] else {
            panic!("two of three servers share a group with another one");
        };
        assert_eq!([one.0.as_deref(), two.0.as_deref()], [Some("p1"), Some("p2")]);
        assert_eq!(one.1, two.1);
        assert_eq!(
            one.1,
            "of clients' headers x-mcp-GROUP-HEADER for the access group Staff only credentials reach other, which no \
             McpServerAuth protects, since protected servers are in it too: send them as x-mcp-SERVER-HEADER"
        );
    }

    #[test]
    fn a_group_with_servers_of_one_kind_is_not_told() {
        assert_eq!(
            told("{p: {access_groups: [staff]}, other: {access_groups: [guests]}}"),
            []
        );
        assert_eq!(
            told("{other: {access_groups: [other]}, odd: {access_groups: staff}, p: {}}"),
            []
        );
        assert_eq!(told("{p: {access_groups: [p, 7]}, other: none}"), []);
    }

    #[test]
    fn a_group_that_is_called_like_a_server_is_told_and_what_to_do() {
        for other in ["crm: {}", "other: {alias: CRM}"] {
            let told = told(&format!("{{p: {{access_groups: [crm]}}, {other}}}"));
            let [(server, message)] = &told[..] else {
                panic!("{told:?}")
            };
            let name = other.split(':').next().unwrap();
            assert_eq!(server.as_deref(), Some("p"));
            assert!(
                message.contains(&format!("credentials reach {name}, which")),
                "{message}"
            );
            assert!(
                message.ends_with(&format!("another name than {name}")),
                "{message}"
            );
        }
    }

    #[test]
    fn many_servers_are_told_of_together_and_long_names_cut() {
        let group = "g".repeat(100);
        let entries: Vec<_> = ["p", "other", "more"]
            .into_iter()
            .flat_map(|kind| (0..4).map(move |number| (kind, number)))
            .map(|(kind, number)| {
                let (name, group) = (format!("{kind}{number}{}", "n".repeat(90)), &group);
                format!("{name}: {{access_groups: [{group}1, {group}2, {group}3, {group}4, {name}]}}")
            })
            .collect();
        let clash = format!("p9: {{access_groups: [other0{}]}}", "n".repeat(90));
        let told = told(&format!("{{{}, {clash}}}", entries.join(", ")));
        let [(None, message)] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(
            message.contains(" and 5 more, which") && message.contains("another name than other0n"),
            "{message}"
        );
    }
}
