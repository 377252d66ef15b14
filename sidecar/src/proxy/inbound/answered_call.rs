//! Answered calls: a user's tool call to LiteLLM, and its answer, as [`ToolCalls`] wants to know of them. The request
//! is read once the answer begins, and the answer, once it has gone through, only where the call did not come to the outbound half.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::http::body_tap::BodyTap;
use crate::proxy::audit;
use crate::proxy::routes::{McpServer, RouteTable, Routes};

/// Tools that LiteLLM answers itself (`VIRTUAL_TOOL_NAMES` and `MCP_PROXY_TOOL_NAMES` of 1.110.2).
const LITELLM_TOOLS: [&str; 7] = [
    "agent_search",
    "call_tool",
    "get_tool_schema",
    "mcp_tool_call",
    "mcp_tool_search",
    "search_tools",
    "skill_search",
];
/// Longest request that is looked at. Nobody has authenticated who sends it.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Longest answer that is looked at.
const MAX_ANSWER_BYTES: usize = 32 * 1024;
/// Requests that are looked at at once, 1.3 MiB for all. Others pass unseen: enough are seen, one after the other.
const MAX_LOOKED_AT: usize = 32;

/// To read a call and its answer costs a fifth of what else is done for it. So many are read since the start, and then one in
/// this time: where few call each of them, where many call enough to tell.
const READ_AT_START: u32 = 500;
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The calls that are looked at now.
pub struct UserCalls {
    /// Between the name of a server and that of its tool.
    separator: Arc<str>,
    places: Arc<Semaphore>,
    started: Instant,
    read_at_start: AtomicU32,
    /// In milliseconds since `started`.
    next_read: AtomicU64,
}

/// One request to LiteLLM's MCP endpoint, until its answer begins.
pub struct UserCall {
    routes: Routes,
    separator: Arc<str>,
    path: PathAndQuery,
    started: Instant,
    request: Arc<BodyTap>,
    place: Option<OwnedSemaphorePermit>,
}

/// A tool call to a server of ours whose answer has begun, judged when it is dropped.
pub struct AnsweredCall {
    server: Arc<McpServer>,
    started: Instant,
    response: BodyTap,
    _place: OwnedSemaphorePermit,
}

impl UserCalls {
    /// `separator` is what LiteLLM puts between the name of a server and that of its tool.
    pub fn new(separator: impl Into<Arc<str>>) -> Self {
        Self {
            separator: separator.into(),
            places: Arc::new(Semaphore::new(MAX_LOOKED_AT)),
            started: Instant::now(),
            read_at_start: AtomicU32::new(0),
            next_read: AtomicU64::new(0),
        }
    }

    /// Nothing for a request that calls no tool by its path, and where enough are looked at.
    pub fn begin(&self, routes: &Routes, path: &PathAndQuery) -> Option<UserCall> {
        if !is_mcp_path(path.path()) || !self.is_due() {
            return None;
        }
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(UserCall {
            routes: routes.clone(),
            separator: self.separator.clone(),
            path: path.clone(),
            started: Instant::now(),
            request: Arc::new(BodyTap::keeping(MAX_REQUEST_BYTES)),
            place: Some(place),
        })
    }

    fn is_due(&self) -> bool {
        if self.read_at_start.load(Ordering::Relaxed) < READ_AT_START {
            self.read_at_start.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.started.elapsed());
        let due = self.next_read.load(Ordering::Relaxed);
        let next = now.saturating_add(millis(READ_INTERVAL));
        let is_taken = || {
            self.next_read
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        now >= due && is_taken().is_ok()
    }
}

impl UserCall {
    /// For the body of the request.
    pub fn request_tap(&self) -> Arc<BodyTap> {
        self.request.clone()
    }

    /// LiteLLM begins to answer, and so has read the request. Nothing where it calls no tool of a server of ours.
    pub fn answered(mut self) -> Option<AnsweredCall> {
        let tool = audit::called_tool(&self.request.take_whole()?)?;
        let server = server_of(&self.routes.table(), self.path.path(), &tool, &self.separator)?;
        Some(AnsweredCall {
            server,
            started: self.started,
            response: BodyTap::keeping(MAX_ANSWER_BYTES),
            _place: self.place.take()?,
        })
    }
}

impl Drop for UserCall {
    fn drop(&mut self) {
        // The body of the request may live on, which is counted no more.
        drop(self.request.take_whole());
    }
}

impl AnsweredCall {
    /// For the body of the answer.
    pub fn response_tap(&self) -> &BodyTap {
        &self.response
    }
}

impl Drop for AnsweredCall {
    fn drop(&mut self) {
        // Nothing came.
        if self.response.bytes() == 0 {
            return;
        }
        let is_good = || {
            self.response
                .take_whole()
                .is_some_and(|answer| has_result(&answer))
        };
        self.server.tool_calls.answered(self.started, is_good);
    }
}

/// Whether LiteLLM serves MCP at this path: `/mcp`, `/mcp/SERVER` or `/SERVER/mcp`, below its `SERVER_ROOT_PATH`. At
/// `/v1/mcp/` its servers are managed.
fn is_mcp_path(path: &str) -> bool {
    let mut last = path.trim_end_matches('/').rsplit('/');
    last.next() == Some("mcp") || last.next() == Some("mcp") && last.next() != Some("v1")
}

/// The server of ours that is called, by the path or else by the tool's name. LiteLLM takes its alias for its name in both.
fn server_of(table: &RouteTable, path: &str, tool: &str, separator: &str) -> Option<Arc<McpServer>> {
    if LITELLM_TOOLS.contains(&tool) {
        return None;
    }
    let mut last = path.trim_end_matches('/').rsplit('/');
    let (last, before) = (last.next().unwrap_or_default(), last.next().unwrap_or_default());
    let named = if last == "mcp" { before } else { last };
    let prefix = || tool.split_once(separator).map(|(server, _)| server);
    let server = table
        .server_or_alias(named)
        .or_else(|| table.server_or_alias(prefix()?));
    server.cloned()
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Option<ToolResult>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolResult {
    #[serde(default)]
    is_error: bool,
}

/// Whether this is the whole answer of a tool that has worked: JSON, or an event stream with it. Of an answer that is too
/// long to be kept nothing can be said.
fn has_result(body: &[u8]) -> bool {
    let is_good = |json: &[u8]| {
        let answer = serde_json::from_slice::<Answer>(json);
        answer.is_ok_and(|answer| {
            answer.error.is_none() && answer.result.is_some_and(|result| !result.is_error)
        })
    };
    let mut events = body
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"data:"));
    is_good(body) || events.any(|data| is_good(data.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use bytes::Bytes;
    use prometheus_client::registry::Registry;
    use tokio::sync::watch;

    use super::*;
    use crate::proxy::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn the_first_calls_are_read_and_then_one_a_second() {
        let calls = UserCalls::new("-");
        let read = |of: u32| (0..of).filter(|_| calls.is_due()).count();
        assert_eq!(read(READ_AT_START), 500);
        assert_eq!(read(1000), 1);
        tokio::time::advance(READ_INTERVAL).await;
        assert_eq!(read(1000), 1);
    }

    #[test]
    fn an_answer_is_good_where_a_tool_has_worked() {
        let good = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":false}}"#;
        for body in [
            good.to_owned(),
            r#"{"id":1,"result":{"content":[]}}"#.to_owned(),
            format!("event: message\r\ndata: {good}\r\n\r\n"),
            format!(": ping\n\ndata: {{\"method\":\"notifications/progress\"}}\n\ndata: {good}\n\n"),
        ] {
            assert!(has_result(body.as_bytes()), "{body}");
        }
        for body in [
            "",
            "Internal Server Error",
            r#"{"id":1,"error":{"code":-32601,"message":"no such tool"}}"#,
            r#"{"id":1,"result":{"content":[],"isError":true}}"#,
            r#"{"id":1,"result":{"content":["#,
            "data: {\"method\":\"notifications/progress\"}\n\n",
        ] {
            assert!(!has_result(body.as_bytes()), "{body}");
        }
    }

    fn routes() -> Routes {
        Routes::new(
            NonZeroUsize::MIN,
            Metrics::new(&mut Registry::default()),
            watch::Sender::default(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_can_have_no_more_looked_at_than_there_is_room_for() {
        let (calls, routes) = (UserCalls::new("-"), routes());
        let path = PathAndQuery::from_static("/mcp");
        let mut begun: Vec<_> = (0..MAX_LOOKED_AT)
            .map(|_| calls.begin(&routes, &path).unwrap())
            .collect();
        let taps: Vec<_> = begun.iter().map(UserCall::request_tap).collect();
        for tap in &taps {
            tap.pass(&Bytes::from(vec![b' '; 2 * MAX_REQUEST_BYTES]));
            assert_eq!(tap.kept(), MAX_REQUEST_BYTES);
        }
        assert!(calls.begin(&routes, &path).is_none());
        assert!(begun.pop().unwrap().answered().is_none(), "it calls no tool");
        begun.pop();
        assert_eq!(
            taps.iter().filter(|tap| tap.kept() > 0).count(),
            MAX_LOOKED_AT - 2,
            "a body that lives on keeps nothing"
        );
        tokio::time::advance(READ_INTERVAL).await;
        assert!(
            calls.begin(&routes, &path).is_some(),
            "the next one has its place"
        );
    }

    #[test]
    fn litellm_serves_mcp_at_three_kinds_of_path() {
        for path in [
            "/mcp",
            "/mcp/",
            "/mcp/tools",
            "/tools/mcp",
            "/root/tools/mcp/",
            "/root/mcp/tools",
        ] {
            assert!(is_mcp_path(path), "{path}");
        }
        for path in [
            "/",
            "/v1/chat/completions",
            "/mcp-rest/tools/call",
            "/v1/mcp/server",
            "/v1/mcp/server/1",
            "/mcp/tools/x",
        ] {
            assert!(!is_mcp_path(path), "{path}");
        }
    }
}
