//! Session table: what the sidecar keeps of a server's sessions, by their `Mcp-Session-Id`. It is bounded and in
//! memory only; whoever uses it does without what it has forgotten.

use hashlink::LruCache;
use http::HeaderName;
use parking_lot::Mutex;

/// Names the session of a request to an MCP server with streamable HTTP.
pub const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// Sessions of one server that are kept; beyond, the one that was used least recently goes.
const MAX_SESSIONS: usize = 2048;
/// Longest identifier that is kept. Those of the official SDKs have 32 to 36 bytes.
const MAX_ID_BYTES: usize = 256;

/// The sessions of one server.
pub struct Sessions {
    sessions: Mutex<LruCache<Box<[u8]>, Session>>,
}

#[derive(Default)]
struct Session {
    /// It was opened for no user where the server demands one, as discovery does.
    is_nobodys: bool,
}

impl Sessions {
    /// Records that the session was opened for no user.
    pub fn record_nobodys(&self, id: &[u8]) {
        if !id.is_empty() && id.len() <= MAX_ID_BYTES {
            let session = Session { is_nobodys: true };
            self.sessions.lock().insert(id.into(), session);
        }
    }

    /// Whether the session is known to have been opened for no user.
    pub fn is_nobodys(&self, id: &[u8]) -> bool {
        let mut sessions = self.sessions.lock();
        sessions.get(id).is_some_and(|session| session.is_nobodys)
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            sessions: Mutex::new(LruCache::new(MAX_SESSIONS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_sessions_are_kept_as_there_is_room_for() {
        let sessions = Sessions::default();
        for number in 0..=MAX_SESSIONS {
            sessions.record_nobodys(number.to_string().as_bytes());
        }
        assert!(!sessions.is_nobodys(b"0"), "the oldest has gone");
        assert!(sessions.is_nobodys(b"1"));
        let long = [b'x'; MAX_ID_BYTES + 1];
        sessions.record_nobodys(&long);
        assert!(!sessions.is_nobodys(&long));
        assert!(sessions.is_nobodys(b"2"), "nothing went for it");
    }
}
