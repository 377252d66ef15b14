//! A snapshot as lines: whole, or as the change from the one that a stream was sent before. Each is made once, for all
//! streams that need the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use jiff::Timestamp;
use mcp_auth_protocol::sync::{Server, Snapshot};
use parking_lot::Mutex;

/// Lines that are kept for other streams. More are made anew: streams that are far behind are few.
const MAX_KEPT_LINES: usize = 8;

pub struct SerialisedSnapshot {
    pub revision: String,
    /// What stands before the servers, but for the revision.
    head: String,
    /// Sorted by name, and shared with the snapshots that have the same.
    servers: Vec<Arc<SerialisedServer>>,
    lines: Mutex<Vec<KeptLine>>,
}

pub struct SerialisedServer {
    pub name: String,
    json: String,
}

impl SerialisedServer {
    pub fn new(server: Server) -> Self {
        Self {
            json: serde_json::to_string(&server).expect("a server is plain values"),
            name: server.route.server,
        }
    }

    /// Of its JSON.
    pub fn bytes(&self) -> usize {
        self.json.len()
    }
}

struct KeptLine {
    /// Of the snapshot that the line is the change from; none: it is the whole.
    base: Option<String>,
    sent_at: i64,
    line: Bytes,
}

impl SerialisedSnapshot {
    /// `snapshot`, with a revision of its own and these servers in place of what it has.
    pub fn new(mut snapshot: Snapshot, servers: Vec<Arc<SerialisedServer>>) -> Self {
        snapshot.servers.clear();
        snapshot.revision.clear();
        let text = serde_json::to_string(&snapshot).expect("a snapshot is plain values");
        let head = text
            .strip_prefix(r#"{"revision":"""#)
            .and_then(|text| text.strip_suffix("]}"));
        Self {
            revision: revision(),
            head: head
                .expect("the revision is its first field, and the servers the last")
                .to_owned(),
            servers,
            lines: Mutex::default(),
        }
    }

    pub fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    pub fn has_content_of(&self, other: &Self) -> bool {
        let is_same = |(one, other)| is_same_server(one, other);
        self.head == other.head
            && self.servers.len() == other.servers.len()
            && self.servers.iter().zip(&other.servers).all(is_same)
    }

    /// The line that makes this of `base`, which the stream was sent last; the whole where there is none, or where
    /// more than servers differ.
    pub fn line(&self, base: Option<&Self>) -> Bytes {
        self.line_at(base, Timestamp::now().as_second())
    }

    fn line_at(&self, base: Option<&Self>, sent_at: i64) -> Bytes {
        let base = base.filter(|base| base.head == self.head);
        let mut lines = self.lines.lock();
        let is_for_base = |kept: &KeptLine| kept.base.as_ref() == base.map(|base| &base.revision);
        let index = lines.iter().position(is_for_base);
        if let Some(kept) = index.map(|index| &lines[index])
            && kept.sent_at == sent_at
        {
            return kept.line.clone();
        }
        let line = match base {
            None => self.whole(sent_at),
            Some(base) => self.delta(base, sent_at),
        };
        let kept = KeptLine {
            base: base.map(|base| base.revision.clone()),
            sent_at,
            line: line.clone(),
        };
        match index {
            Some(index) => lines[index] = kept,
            None if lines.len() < MAX_KEPT_LINES => lines.push(kept),
            None => {}
        }
        line
    }

    fn whole(&self, sent_at: i64) -> Bytes {
        let (revision, head) = (&self.revision, &self.head);
        let servers: Vec<_> = self.servers.iter().map(|server| server.json.as_str()).collect();
        let servers = servers.join(",");
        format!("{{\"revision\":\"{revision}\"{head}{servers}],\"sentAt\":{sent_at}}}\n").into()
    }

    fn delta(&self, base: &Self, sent_at: i64) -> Bytes {
        let (revision, base_revision) = (&self.revision, &base.revision);
        let mut changed = Vec::new();
        let mut removed = Vec::new();
        let mut before = base.servers.iter().peekable();
        for server in &self.servers {
            while let Some(gone) = before.next_if(|before| before.name < server.name) {
                removed.push(gone.name.as_str());
            }
            let same = before.next_if(|before| before.name == server.name);
            if same.is_none_or(|before| !is_same_server(before, server)) {
                changed.push(server.json.as_str());
            }
        }
        removed.extend(before.map(|gone| gone.name.as_str()));
        let changed = changed.join(",");
        let removed = serde_json::to_string(&removed).expect("names are text");
        format!(
            "{{\"revision\":\"{revision}\",\"base\":\"{base_revision}\",\"servers\":[{changed}],\
             \"removed\":{removed},\"sentAt\":{sent_at}}}\n"
        )
        .into()
    }
}

fn is_same_server(one: &Arc<SerialisedServer>, other: &Arc<SerialisedServer>) -> bool {
    Arc::ptr_eq(one, other) || one.json == other.json
}

/// Never the same again, of whichever content and replica: an echo of an old one must not pass for the newest.
fn revision() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static START: LazyLock<u128> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos())
    });
    format!("{:x}-{}", *START, COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use mcp_auth_protocol::sync::{SnapshotDelta, SnapshotLine};
    use serde_json::json;

    use super::*;

    /// Of servers by name, with their tokens.
    fn snapshot(authority: &str, servers: &[(&str, &str)]) -> SerialisedSnapshot {
        let server = |(name, token): &(&str, &str)| {
            json!({
                "resource": name, "server": name, "url": "https://tools.example.com/mcp",
                "transport": "StreamableHttp", "credential": {"kind": "bearer", "id": token, "token": token},
            })
        };
        let servers: Vec<_> = servers.iter().map(server).collect();
        let text = json!({
            "revision": "", "operatorCa": authority, "fingerprintKey": "k", "servers": servers,
        });
        let snapshot: Snapshot = serde_json::from_value(text).unwrap();
        let servers = snapshot.servers.iter().cloned();
        let servers = servers
            .map(|server| SerialisedServer::new(server).into())
            .collect();
        SerialisedSnapshot::new(snapshot, servers)
    }

    fn read(line: &Bytes) -> SnapshotLine {
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(line).unwrap()
    }

    fn delta(line: &Bytes) -> SnapshotDelta {
        match read(line) {
            SnapshotLine::Delta(delta) => delta,
            SnapshotLine::Whole(_) => panic!("the whole was sent"),
        }
    }

    fn is_whole(line: &Bytes) -> bool {
        matches!(read(line), SnapshotLine::Whole(_))
    }

    #[test]
    fn a_stream_is_sent_the_servers_that_changed_and_the_names_of_those_that_are_gone() {
        let before = snapshot("PEM", &[("a", "1"), ("b", "1"), ("d", "1"), ("z", "1")]);
        let after = snapshot("PEM", &[("b", "1"), ("c", "1"), ("d", "2")]);
        let delta = delta(&after.line_at(Some(&before), 7));
        assert_eq!(
            (&delta.revision, &delta.base),
            (&after.revision, &before.revision)
        );
        let names: Vec<_> = delta.servers.iter().map(|server| &server.route.server).collect();
        assert_eq!(names, ["c", "d"]);
        assert_eq!(delta.removed, ["a", "z"]);
        assert_eq!(delta.sent_at, Some(7));
    }

    #[test]
    fn of_a_hundred_servers_one_renewed_token_sends_one() {
        let names: Vec<_> = (0..100).map(|index| format!("tools-{index:03}")).collect();
        let servers = |renewed: &str| -> SerialisedSnapshot {
            let token = |name: &str| if name == renewed { "2" } else { "1" };
            let servers: Vec<_> = names.iter().map(|name| (name.as_str(), token(name))).collect();
            snapshot("PEM", &servers)
        };
        let (before, after) = (servers(""), servers("tools-050"));
        let (whole, change) = (after.line_at(None, 7), after.line_at(Some(&before), 7));
        assert!(
            change.len() * 20 < whole.len(),
            "{} of {}",
            change.len(),
            whole.len()
        );
    }

    #[test]
    fn the_whole_is_sent_first_and_where_the_authority_has_changed() {
        let before = snapshot("PEM", &[("a", "1")]);
        assert!(is_whole(&before.line_at(None, 7)));
        let after = snapshot("PEM PEM", &[("a", "1")]);
        assert!(is_whole(&after.line_at(Some(&before), 7)));
        assert!(!after.has_content_of(&before));
    }

    #[test]
    fn streams_that_need_the_same_line_share_it_and_each_says_when_it_was_sent() {
        let (before, after) = (snapshot("PEM", &[("a", "1")]), snapshot("PEM", &[("a", "2")]));
        for base in [None, Some(&before)] {
            let [first, second] = [(); 2].map(|()| after.line_at(base, 7));
            assert_eq!(first.as_ptr(), second.as_ptr());
            let later = after.line_at(base, 8);
            assert!(std::str::from_utf8(&later).unwrap().ends_with(",\"sentAt\":8}\n"));
        }
        assert_eq!(after.lines.lock().len(), 2, "what was sent earlier is not kept");
    }

    #[test]
    fn streams_that_are_behind_by_many_different_snapshots_do_not_fill_the_memory() {
        let after = snapshot("PEM", &[("a", "last")]);
        for number in 0..3 * MAX_KEPT_LINES {
            let before = snapshot("PEM", &[("a", &number.to_string())]);
            assert_eq!(delta(&after.line_at(Some(&before), 7)).base, before.revision);
        }
        assert_eq!(after.lines.lock().len(), MAX_KEPT_LINES);
    }
}
