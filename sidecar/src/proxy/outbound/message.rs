//! JSON-RPC message: reads of a request's body what it asks for, and the identifier for an error.

use std::future::poll_fn;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::timeout;

use crate::http::request_body::RequestBody;
use crate::http::spurious_wakes::hold_wakes;

/// Longest body that is read as a message.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A body, as far as it has been read.
pub enum BodyRead {
    Whole(Bytes),
    /// Longer than [`MAX_BODY_BYTES`].
    Beginning {
        first: Bytes,
        rest: Incoming,
    },
    /// The client went away, or sent an invalid body.
    Failed,
}

/// What the messages of a body ask of the server, as far as it matters who asks. The later ones ask for more.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum MessageKind {
    /// Opens a session, keeps it alive, or lists what the server offers: what LiteLLM also sends for no user.
    Discovery,
    /// Answers a request of the server.
    Response,
    /// Anything else, and whatever is not plainly one of the others.
    Call,
}

#[derive(Default, Deserialize)]
struct JsonRpcMessage {
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    id: Value,
}

/// A message without other members. A server may take another one for one of these: Go's `encoding/json` reads `Method` as
/// `method`, and of both the later one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMessage {
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    result: Option<IgnoredAny>,
    #[serde(default)]
    error: Option<IgnoredAny>,
    #[serde(default, rename = "jsonrpc")]
    _jsonrpc: IgnoredAny,
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    #[serde(default, rename = "params")]
    _params: IgnoredAny,
}

/// Longest time that a client may take to send a short body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads up to [`MAX_BODY_BYTES`].
pub async fn read(body: Incoming) -> BodyRead {
    let mut reading = std::pin::pin!(read_frames(body));
    // Nearly always all of it is here already, and then there is nothing to time, nor anything more to read.
    let read = poll_fn(|cx| {
        let (read, wakes_connection) = hold_wakes(|| reading.as_mut().now_or_never());
        if wakes_connection && !matches!(read, Some(BodyRead::Whole(_))) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(read)
    });
    if let Some(read) = read.await {
        return read;
    }
    timeout(READ_TIMEOUT, reading).await.unwrap_or(BodyRead::Failed)
}

async fn read_frames(mut body: Incoming) -> BodyRead {
    let stated = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if stated > MAX_BODY_BYTES {
        return BodyRead::Beginning {
            first: Bytes::new(),
            rest: body,
        };
    }
    let mut single = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return BodyRead::Failed };
        let Ok(chunk) = frame.into_data() else { continue };
        // Nearly always there is a single chunk, which needs no copy.
        if single.is_empty() && joined.is_empty() {
            single = chunk;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut single));
            joined.extend_from_slice(&chunk);
        }
        if single.len() + joined.len() > MAX_BODY_BYTES {
            let first = if joined.is_empty() {
                single
            } else {
                joined.freeze()
            };
            return BodyRead::Beginning { first, rest: body };
        }
    }
    BodyRead::Whole(if joined.is_empty() {
        single
    } else {
        joined.freeze()
    })
}

impl BodyRead {
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Beginning { .. } | Self::Failed => None,
        }
    }

    /// The body to send on: `None` where it failed.
    pub fn into_body(self) -> Option<RequestBody> {
        match self {
            Self::Whole(bytes) => Some(RequestBody::Whole((!bytes.is_empty()).then_some(bytes))),
            Self::Beginning { first, rest } => Some(RequestBody::resumed(first, rest)),
            Self::Failed => None,
        }
    }
}

/// Methods of [`MessageKind::Discovery`], beside notifications and lists.
const DISCOVERY: [&str; 3] = ["initialize", "ping", "server/discover"];

/// The method by which a tool is called.
pub const TOOL_CALL: &str = "tools/call";
/// To prepare a search takes as long as three of them.
static TOOL_CALL_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(TOOL_CALL));

/// Whether a message of the body may call a tool.
pub fn may_call_tool(body: &[u8]) -> bool {
    TOOL_CALL_FINDER.find(body).is_some()
}

/// States the method beside the message (revision 2026-07-28 of MCP), for gateways that do not read bodies.
const METHOD_HEADER: &str = "mcp-method";

/// The kind of a body's messages; of a batch, of the one that asks for most. `None` is a body too long to read. A request
/// whose headers state another method than its body is a call: somebody behind us may go by the one or the other.
pub fn kind(body: Option<&Bytes>, headers: &HeaderMap) -> MessageKind {
    let Some(body) = body else {
        return MessageKind::Call;
    };
    // A field that is stated twice is an error here, since servers disagree about which one counts.
    if let Ok(message) = serde_json::from_slice::<PlainMessage>(body) {
        return match stated_methods(headers).all(|stated| Some(stated) == message.method.as_deref()) {
            true => message.kind(),
            false => MessageKind::Call,
        };
    }
    // Revisions with the header have no batches.
    if stated_methods(headers).next().is_some() {
        return MessageKind::Call;
    }
    let batch = serde_json::from_slice::<Vec<PlainMessage>>(body).unwrap_or_default();
    let kinds = batch.iter().map(PlainMessage::kind);
    kinds.max().unwrap_or(MessageKind::Call)
}

/// What the headers state as the method. Many servers (CGI, WSGI) take `_` in a name for `-`.
fn stated_methods(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let is_method = |name: &str| {
        let with_hyphens = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
        name.len() == METHOD_HEADER.len() && with_hyphens.eq(METHOD_HEADER.bytes())
    };
    let stated = headers.iter().filter(move |(name, _)| is_method(name.as_str()));
    // What is no text is no method that is allowed.
    stated.map(|(_, value)| value.to_str().unwrap_or_default())
}

impl PlainMessage {
    fn kind(&self) -> MessageKind {
        let answers = self.result.is_some() || self.error.is_some();
        match self.method.as_deref() {
            None if answers => MessageKind::Response,
            Some(method) if !answers && is_discovery(method) => MessageKind::Discovery,
            _ => MessageKind::Call,
        }
    }
}

/// Tasks are calls that somebody has made, so their list is for users only.
fn is_discovery(method: &str) -> bool {
    let is_list = method.ends_with("/list") && !method.starts_with("tasks/");
    is_list || method.starts_with("notifications/") || DISCOVERY.contains(&method)
}

/// Methods that may be carried out twice without harm: they only read, or say the same thing again. All that end in
/// `/list` are such, too.
const IDEMPOTENT: [&str; 10] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "ping",
    "prompts/get",
    "resources/read",
    "server/discover",
    "tasks/get",
];

/// Whether the body is plainly one message with a method that may be carried out twice.
pub fn is_idempotent(body: &Bytes) -> bool {
    let message = serde_json::from_slice::<JsonRpcMessage>(body).unwrap_or_default();
    let method = message.method.as_deref();
    method.is_some_and(|method| method.ends_with("/list") || IDEMPOTENT.contains(&method))
}

/// The message's identifier; `null` where there is none that JSON-RPC allows.
pub fn request_id(body: &Bytes) -> Value {
    let message = serde_json::from_slice::<JsonRpcMessage>(body).unwrap_or_default();
    allowed_id(message.id).unwrap_or_default()
}

/// Whether it is a request or a notification.
pub fn has_method(body: &Bytes) -> bool {
    serde_json::from_slice::<JsonRpcMessage>(body).is_ok_and(|message| message.method.is_some())
}

/// The identifier, if it is one that JSON-RPC allows.
pub fn allowed_id(id: Value) -> Option<Value> {
    matches!(id, Value::String(_) | Value::Number(_)).then_some(id)
}

/// The identifier of a tool call; `None` for anything else, and where the call has none that JSON-RPC allows.
pub fn tool_call_id(body: &Bytes) -> Option<Value> {
    let message = serde_json::from_slice::<JsonRpcMessage>(body).ok()?;
    let is_call = message.method.as_deref() == Some(TOOL_CALL);
    allowed_id(message.id).filter(|_| is_call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_plainly_is_discovery_is_for_nobody() {
        use MessageKind::{Call, Discovery, Response};
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, Discovery),
            (r#"{"id":1,"method":"resources/templates/list"}"#, Discovery),
            (r#"{"id":1,"method":"initialize","params":{}}"#, Discovery),
            (r#"{"id":1,"method":"server/discover"}"#, Discovery),
            (r#"{"method":"notifications/initialized"}"#, Discovery),
            (
                r#"[{"id":1,"method":"tools/list"},{"method":"ping","id":2}]"#,
                Discovery,
            ),
            (r#"{"id":1,"result":{"method":"tools/call"}}"#, Response),
            (r#"{"id":1,"error":{"code":1}}"#, Response),
            (r#"[{"id":1,"method":"ping"},{"id":1,"result":{}}]"#, Response),
            (r#"{"id":1,"method":"tools/call","params":{}}"#, Call),
            (r#"{"method":"tools\/c\u0061ll"}"#, Call),
            (r#"{"id":1,"method":"resources/read"}"#, Call),
            (r#"{"id":1,"method":"prompts/get"}"#, Call),
            (r#"{"id":1,"method":"completion/complete"}"#, Call),
            (r#"{"id":1,"method":"tasks/list"}"#, Call),
            (r#"{"id":1,"method":"tasks/result"}"#, Call),
            (r#"{"id":1,"method":"Tools/List"}"#, Call),
            (r#"{"id":1,"method":"ping","result":{}}"#, Call),
            (r#"{"method":"tools/list","method":"tools/call"}"#, Call),
            (r#"{"method":"tools/list","Method":"tools/call"}"#, Call),
            (r#"[{"method":"tools/list","METHOD":"tools/call"}]"#, Call),
            (
                r#"[{"id":1,"method":"tools/list"},{"id":2,"method":"tools/call"}]"#,
                Call,
            ),
            (r#"[]"#, Call),
            (r#"{"id":1}"#, Call),
            (r#"{"method":7}"#, Call),
            ("no JSON", Call),
            ("", Call),
        ] {
            assert_eq!(
                kind(Some(&Bytes::from_static(body.as_bytes())), &HeaderMap::new()),
                expected,
                "{body}"
            );
        }
        assert_eq!(kind(None, &HeaderMap::new()), Call);
    }

    #[test]
    fn what_states_another_method_beside_the_message_is_a_call() {
        use MessageKind::{Call, Discovery, Response};
        const LIST: &str = r#"{"id":1,"method":"tools/list"}"#;
        for (headers, body, expected) in [
            (&[("mcp-method", "tools/list")][..], LIST, Discovery),
            (&[("mcp-name", "tools/call")], LIST, Discovery),
            (&[("mcp-method", "tools/call")], LIST, Call),
            (&[("mcp-method", "Tools/List")], LIST, Call),
            (&[("mcp-method", "")], LIST, Call),
            (
                &[("mcp-method", "tools/list"), ("mcp-method", "tools/call")],
                LIST,
                Call,
            ),
            (
                &[("mcp-method", "tools/list"), ("mcp_method", "tools/call")],
                LIST,
                Call,
            ),
            (
                &[("mcp-method", "tools/list")],
                r#"{"id":1,"method":"tools/call"}"#,
                Call,
            ),
            (
                &[("mcp-method", "tools/list")],
                r#"[{"id":1,"method":"tools/list"}]"#,
                Call,
            ),
            (&[], r#"{"id":1,"result":{}}"#, Response),
            (&[("mcp-method", "tools/call")], r#"{"id":1,"result":{}}"#, Call),
        ] {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            let found = kind(Some(&Bytes::from_static(body.as_bytes())), &headers);
            assert_eq!(found, expected, "{headers:?} {body}");
        }
    }

    #[test]
    fn what_only_reads_may_be_carried_out_twice() {
        for (body, expected) in [
            (r#"{"id":1,"method":"tools/list"}"#, true),
            (r#"{"id":1,"method":"resources/templates/list"}"#, true),
            (r#"{"id":1,"method":"initialize","params":{}}"#, true),
            (r#"{"method":"notifications/initialized"}"#, true),
            (r#"{"id":1,"method":"tools/call"}"#, false),
            (r#"{"id":1,"method":"tasks/cancel"}"#, false),
            (r#"{"id":1,"result":{}}"#, false),
            (r#"{"method":"tools/list","method":"tools/call"}"#, false),
            (r#"[{"method":"tools/list"}]"#, false),
            ("no JSON", false),
        ] {
            assert_eq!(
                is_idempotent(&Bytes::from_static(body.as_bytes())),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn only_a_single_tool_call_has_the_id_of_one() {
        for (body, expected) in [
            (r#"{"id":7,"method":"tools/call"}"#, Some(json!(7))),
            (
                r#"{"id":"a","method":"tools/call","params":{}}"#,
                Some(json!("a")),
            ),
            (r#"{"method":"tools/call"}"#, None),
            (r#"{"id":7,"method":"tools/list"}"#, None),
            (r#"[{"id":7,"method":"tools/call"}]"#, None),
            ("", None),
        ] {
            assert_eq!(
                tool_call_id(&Bytes::from_static(body.as_bytes())),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn the_id_is_a_string_or_a_number() {
        for (body, expected) in [
            (r#"{"id":"a","method":"x"}"#, json!("a")),
            (r#"{"id":7}"#, json!(7)),
            (r#"{"id":{"a":1}}"#, json!(null)),
            (r#"[{"id":7}]"#, json!(null)),
            ("", json!(null)),
        ] {
            assert_eq!(
                request_id(&Bytes::from_static(body.as_bytes())),
                expected,
                "{body}"
            );
        }
    }
}
