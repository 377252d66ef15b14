//! Refused sessions: where a session with an MCP server cannot be opened for a user's request, the sidecar opens one that
//! stands in for it, in which each tool call is answered by a tool's result that says why. LiteLLM shows users the text of
//! such a result, and of an error while a session is opened its status at most
//! ([ADR 18](../../../../docs/adr/0018-a-session-of-the-sidecars-own-says-why-there-is-none.md)).

use std::time::Duration;

use bytes::Bytes;
use hashlink::LruCache;
use http::HeaderValue;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::message;
use crate::proxy::error::ProxyError;
use crate::proxy::hex::Hex;

/// How the identifiers of sessions begin that stand in for one.
const PREFIX: &str = "mcpauth-refused-";
/// Sessions that are kept; beyond, the one that was used least recently goes.
const MAX_SESSIONS: usize = 512;
/// Longest name of a server and longest identifier of a session that are kept.
const MAX_NAME_BYTES: usize = 512;
/// How long one is kept after it was used last. LiteLLM calls a tool at once, or keeps the session for the next call.
const KEPT: Duration = Duration::from_secs(600);
/// Longest version of MCP that is repeated. They are dates.
const MAX_VERSION_BYTES: usize = 32;

/// Those of all servers.
pub struct RefusedSessions(Mutex<LruCache<Box<[u8]>, Refused>>);

struct Refused {
    error: ProxyError,
    /// A tool call was answered in it.
    has_told: bool,
    used: Instant,
}

/// A session that a request names, and that is not to reach the server.
#[derive(Clone, Debug)]
pub struct RefusedSession {
    key: Box<[u8]>,
    /// Why there is no other; `None` where that was forgotten.
    pub error: Option<ProxyError>,
    /// The server does not know it.
    pub is_stand_in: bool,
}

/// A message with which a client begins a session.
#[derive(Debug, PartialEq)]
pub enum OpeningMessage {
    /// And the version of MCP that it asks for.
    Initialize { id: Value, version: String },
    /// The notification that follows it.
    Initialized,
}

#[derive(Deserialize)]
struct Opening {
    method: String,
    #[serde(default)]
    id: Value,
    #[serde(default)]
    params: OpeningParams,
}

#[derive(Default, Deserialize)]
struct OpeningParams {
    #[serde(default, rename = "protocolVersion")]
    version: String,
}

impl RefusedSessions {
    /// Opens a session with `server` that stands in for one, and returns what names it.
    pub fn open(&self, server: &str, error: &ProxyError) -> Option<HeaderValue> {
        let [first, second] = [(); 2].map(|()| Hex::of(rand::random()));
        let id = format!("{PREFIX}{}{}", first.as_str(), second.as_str());
        let id = HeaderValue::try_from(id).ok()?;
        self.refuse(server, &id, error).then_some(id)
    }

    /// From now on tool calls of this session of the server's own are refused: `false` where it is not one that is kept.
    pub fn refuse(&self, server: &str, id: &HeaderValue, error: &ProxyError) -> bool {
        if server.len() > MAX_NAME_BYTES || id.len() > MAX_NAME_BYTES {
            return false;
        }
        let refused = Refused {
            error: error.clone(),
            has_told: false,
            used: Instant::now(),
        };
        self.0.lock().insert(key(server, id), refused);
        true
    }

    /// The one that a request to `server` names.
    pub fn find(&self, server: &str, id: Option<&HeaderValue>) -> Option<RefusedSession> {
        let id = id?;
        let is_stand_in = id.as_bytes().starts_with(PREFIX.as_bytes());
        let mut sessions = self.0.lock();
        if sessions.is_empty() && !is_stand_in || id.len() > MAX_NAME_BYTES {
            return None;
        }
        let key = key(server, id);
        let error = sessions.get_mut(&key).map(|refused| {
            // One of the server's own may be that of many clients, and is refused for no longer than it has to be.
            if is_stand_in {
                refused.used = Instant::now();
            }
            refused.error.clone()
        });
        (is_stand_in || error.is_some()).then_some(RefusedSession {
            key,
            error,
            is_stand_in,
        })
    }

    /// Whether a tool call of the session is the first one that is answered in it.
    pub fn is_first_call(&self, session: &RefusedSession) -> bool {
        let mut sessions = self.0.lock();
        sessions
            .get_mut(&session.key)
            .is_some_and(|refused| !std::mem::replace(&mut refused.has_told, true))
    }

    /// The server has opened a session of this name, which may be one that it gives to all.
    pub fn opened(&self, server: &str, id: &HeaderValue) {
        let mut sessions = self.0.lock();
        if !sessions.is_empty() {
            sessions.remove(&key(server, id));
        }
    }

    /// Its client has ended it.
    pub fn end(&self, session: &RefusedSession) {
        self.0.lock().remove(&session.key);
    }

    /// Forgets those that were not used for long.
    pub fn sweep(&self) {
        let mut sessions = self.0.lock();
        sessions.retain(|_, refused| refused.used.elapsed() < KEPT);
    }
}

impl Default for RefusedSessions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_SESSIONS)))
    }
}

impl OpeningMessage {
    pub fn read(message: &[u8]) -> Option<Self> {
        let opening = serde_json::from_slice::<Opening>(message).ok()?;
        match &*opening.method {
            "notifications/initialized" if opening.id.is_null() => Some(Self::Initialized),
            "initialize" => {
                let (version, id) = (opening.params.version, message::allowed_id(opening.id)?);
                let is_version = !version.is_empty()
                    && version.len() <= MAX_VERSION_BYTES
                    && version.bytes().all(|byte| byte.is_ascii_graphic());
                is_version.then_some(Self::Initialize { id, version })
            }
            _ => None,
        }
    }
}

/// Whether the message is one that has no answer.
pub fn is_notification(message: &Bytes) -> bool {
    message::has_method(message) && message::request_id(message).is_null()
}

/// No name of a server has a zero byte.
fn key(server: &str, id: &HeaderValue) -> Box<[u8]> {
    [server.as_bytes(), b"\0", id.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ERROR: ProxyError = ProxyError::UnknownServer;

    #[test]
    fn as_many_are_kept_as_there_is_room_for_and_each_for_its_server() {
        let sessions = RefusedSessions::default();
        let first = sessions.open("tools", &ERROR).unwrap();
        let found = |server: &str, id: &HeaderValue| {
            let found = sessions.find(server, Some(id))?;
            Some(found.error.is_some())
        };
        assert_eq!(found("tools", &first), Some(true));
        assert_eq!(found("others", &first), Some(false), "it is not the server's");
        assert_eq!(found("tools", &HeaderValue::from_static("of-the-server")), None);
        (0..MAX_SESSIONS).for_each(|_| drop(sessions.open("tools", &ERROR)));
        assert_eq!(found("tools", &first), Some(false), "it was forgotten");
        assert!(sessions.open(&"x".repeat(MAX_NAME_BYTES + 1), &ERROR).is_none());
        let long = HeaderValue::try_from("x".repeat(MAX_NAME_BYTES + 1)).unwrap();
        assert!(!sessions.refuse("tools", &long, &ERROR));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_used_is_forgotten() {
        let sessions = RefusedSessions::default();
        let [used, unused] = [(); 2].map(|()| sessions.open("tools", &ERROR).unwrap());
        tokio::time::advance(KEPT / 2).await;
        assert!(sessions.find("tools", Some(&used)).is_some());
        tokio::time::advance(KEPT / 2).await;
        sessions.sweep();
        assert!(sessions.find("tools", Some(&used)).unwrap().error.is_some());
        assert!(sessions.find("tools", Some(&unused)).unwrap().error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_of_the_servers_own_is_refused_until_the_server_opens_it_anew_or_ten_minutes_have_passed()
     {
        let sessions = RefusedSessions::default();
        let shared = HeaderValue::from_static("default");
        let is_refused = || sessions.find("tools", Some(&shared)).is_some();
        assert!(sessions.refuse("tools", &shared, &ERROR));
        assert!(is_refused());
        sessions.opened("tools", &shared);
        assert!(!is_refused());

        assert!(sessions.refuse("tools", &shared, &ERROR));
        tokio::time::advance(KEPT / 2).await;
        assert!(is_refused());
        tokio::time::advance(KEPT / 2).await;
        sessions.sweep();
        assert!(!is_refused(), "what others ask in it does not keep it");
    }

    #[test]
    fn only_what_plainly_opens_a_session_does() {
        let initialize = |version: &str| {
            let (id, version) = (json!("a"), version.to_owned());
            Some(OpeningMessage::Initialize { id, version })
        };
        for (message, expected) in [
            (
                r#"{"id":"a","method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
                initialize("2025-06-18"),
            ),
            (r#"{"id":"a","method":"initialize","params":{}}"#, None),
            (r#"{"id":"a","method":"initialize"}"#, None),
            (
                r#"{"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
                None,
            ),
            (
                r#"{"id":"a","method":"initialize","params":{"protocolVersion":"2 5"}}"#,
                None,
            ),
            (
                r#"{"method":"notifications/initialized"}"#,
                Some(OpeningMessage::Initialized),
            ),
            (r#"{"id":1,"method":"notifications/initialized"}"#, None),
            (r#"{"method":"notifications/cancelled"}"#, None),
            ("no JSON", None),
        ] {
            assert_eq!(OpeningMessage::read(message.as_bytes()), expected, "{message}");
        }
    }
}
