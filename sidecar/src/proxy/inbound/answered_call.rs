//! Answered calls: a user's tool call to LiteLLM, and its answer, as [`ToolCalls`] wants to know of them. Both are read
//! only once the answer has gone through, and the answer only where the call did not come to the outbound half.

use std::sync::Arc;

use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::de::IgnoredAny;
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
/// Between the name of a server and that of its tool.
const SEPARATOR: char = '-';

/// One request to LiteLLM's MCP endpoint, judged when it is dropped.
pub struct AnsweredCall {
    routes: Routes,
    path: PathAndQuery,
    started: Instant,
    request: Arc<BodyTap>,
    response: BodyTap,
}

impl AnsweredCall {
    /// Nothing for a request that calls no tool by its path.
    pub fn begin(routes: &Routes, path: &PathAndQuery) -> Option<Self> {
        is_mcp_path(path.path()).then(|| Self {
            routes: routes.clone(),
            path: path.clone(),
            started: Instant::now(),
            request: Arc::default(),
            response: BodyTap::default(),
        })
    }

    /// For the body of the request.
    pub fn request_tap(&self) -> Arc<BodyTap> {
        self.request.clone()
    }

    /// For the body of the answer.
    pub fn response_tap(&self) -> &BodyTap {
        &self.response
    }
}

impl Drop for AnsweredCall {
    fn drop(&mut self) {
        // Nothing came, or not all of it is here.
        if self.response.bytes() == 0 || self.request.bytes() != self.request.kept() as u64 {
            return;
        }
        let Some(tool) = audit::called_tool(&self.request.beginning()) else {
            return;
        };
        let server = server_of(&self.routes.table(), self.path.path(), &tool);
        if let Some(server) = server {
            let is_good = || has_result(&self.response.beginning());
            server.tool_calls.answered(self.started, is_good);
        }
    }
}

/// Whether LiteLLM serves MCP at this path: `/mcp`, `/mcp/SERVER` or `/SERVER/mcp`, below its `SERVER_ROOT_PATH`.
fn is_mcp_path(path: &str) -> bool {
    let mut last = path.trim_end_matches('/').rsplit('/');
    last.next() == Some("mcp") || last.next() == Some("mcp")
}

/// The server of ours that is called, by the path or else by the tool's name.
fn server_of(table: &RouteTable, path: &str, tool: &str) -> Option<Arc<McpServer>> {
    if LITELLM_TOOLS.contains(&tool) {
        return None;
    }
    let mut last = path.trim_end_matches('/').rsplit('/');
    let (last, before) = (last.next().unwrap_or_default(), last.next().unwrap_or_default());
    let named = if last == "mcp" { before } else { last };
    let prefix = || tool.split_once(SEPARATOR).map(|(server, _)| server);
    let server = table.server(named).or_else(|| table.server(prefix()?));
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
    use super::*;

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
            "/v1/mcp/server/1",
            "/mcp/tools/x",
        ] {
            assert!(!is_mcp_path(path), "{path}");
        }
    }
}
