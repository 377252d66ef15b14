//! Deltas: from the last snapshot of a stream, and what the operator says has changed of it, to the next.

use std::collections::HashSet;

use mcp_auth_protocol::sync::{Snapshot, SnapshotDelta};

use super::SyncError;

/// The next snapshot of a stream. `last` is the one before it, as it was sent.
pub fn next_snapshot(last: Option<Snapshot>, delta: SnapshotDelta) -> Result<Snapshot, SyncError> {
    let Some(last) = last.filter(|last| last.revision == delta.base) else {
        return Err(SyncError::OtherBase);
    };
    let (names, unreadable_names) = (
        delta.servers.iter().map(|server| server.route.server.as_str()),
        delta
            .unreadable
            .iter()
            .filter_map(|entry| entry.server.as_deref()),
    );
    let removed = delta.removed.iter().map(String::as_str);
    let touched: HashSet<_> = names.chain(unreadable_names).chain(removed).collect();
    let mut servers = last.servers;
    servers.retain(|server| !touched.contains(server.route.server.as_str()));
    let mut unreadable = last.unreadable;
    unreadable.retain(|entry| {
        let name = entry.server.as_deref();
        name.is_none_or(|name| !touched.contains(name))
    });
    servers.extend(delta.servers);
    servers.sort_by(|one, other| one.route.server.cmp(&other.route.server));
    for entry in delta.unreadable {
        if !unreadable.contains(&entry) {
            unreadable.push(entry);
        }
    }
    Ok(Snapshot {
        revision: delta.revision,
        servers,
        sent_at: delta.sent_at,
        unreadable,
        ..last
    })
}

#[cfg(test)]
mod tests {
    use mcp_auth_protocol::sync::SnapshotLine;
    use serde_json::{Value, json};

    use super::*;

    fn server(name: &str, token: &str) -> Value {
        json!({
            "resource": name, "server": name, "url": "https://tools.example.com/mcp",
            "transport": "StreamableHttp", "credential": {"kind": "bearer", "id": token, "token": token},
        })
    }

    fn whole(servers: Value) -> Snapshot {
        let text = json!({"revision": "1", "operatorCa": "PEM", "fingerprintKey": "k", "servers": servers});
        serde_json::from_value(text).unwrap()
    }

    fn delta(base: &str, servers: Value, removed: &[&str]) -> SnapshotDelta {
        let line =
            json!({"revision": "2", "base": base, "servers": servers, "removed": removed, "sentAt": 7});
        match serde_json::from_value(line).unwrap() {
            SnapshotLine::Delta(delta) => delta,
            SnapshotLine::Whole(_) => panic!("it has a base"),
        }
    }

    #[test]
    fn a_delta_makes_the_snapshot_that_would_have_been_sent_whole() {
        let last = whole(json!([
            server("files", "f1"),
            server("mail", "m1"),
            server("tools", "t1")
        ]));
        let change = delta(
            "1",
            json!([server("docs", "d1"), server("tools", "t2")]),
            &["mail"],
        );
        let next = next_snapshot(Some(last), change).unwrap();
        let mut expected = whole(json!([
            server("docs", "d1"),
            server("files", "f1"),
            server("tools", "t2")
        ]));
        expected.revision = "2".into();
        assert_eq!(next, expected);
        assert_eq!(next.sent_at, Some(7));
    }

    #[test]
    fn a_delta_of_another_snapshot_is_an_error_and_not_a_mixture() {
        let change = || delta("0", json!([server("tools", "t2")]), &[]);
        for last in [None, Some(whole(json!([server("tools", "t1")])))] {
            let error = next_snapshot(last, change()).unwrap_err();
            assert_eq!(error.reason(), "StreamInvalid");
        }
    }

    #[test]
    fn a_server_that_cannot_be_read_any_more_does_not_stay_as_it_was_and_comes_back() {
        let mut odd = server("tools", "t2");
        odd["transport"] = json!("Quic");
        let last = whole(json!([server("files", "f1"), server("tools", "t1")]));
        let next = next_snapshot(Some(last), delta("1", json!([odd]), &[])).unwrap();
        let names: Vec<_> = next.servers.iter().map(|server| &server.route.server).collect();
        assert_eq!(names, ["files"]);
        assert_eq!(next.unreadable[0].server.as_deref(), Some("tools"));

        let again = next_snapshot(Some(next), delta("2", json!([server("tools", "t3")]), &[])).unwrap();
        assert_eq!(again.servers.len(), 2);
        assert!(again.unreadable.is_empty());
    }
}
