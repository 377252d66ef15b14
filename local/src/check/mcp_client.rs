//! As much of an MCP client as the check needs, over streamable HTTP: `initialize`, `tools/list`, `tools/call`.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use thiserror::Error;

const PROTOCOL_VERSION: &str = "2025-06-18";
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Of a server's text in a message.
const MAX_TEXT_CHARS: usize = 600;

#[derive(Debug, Error)]
pub enum McpError {
    #[error("{method} gets no answer: {why}")]
    NoAnswer { method: &'static str, why: &'static str },
    #[error("{method} is answered with status {status}: {text}")]
    Status {
        method: &'static str,
        status: StatusCode,
        text: String,
    },
    #[error("{method} is answered with an error: {text}")]
    Rpc { method: &'static str, text: String },
    #[error("{method} is answered with something that is no JSON-RPC")]
    NotJsonRpc { method: &'static str },
}

/// One session.
pub struct McpClient {
    client: Client,
    url: String,
    headers: HeaderMap,
    next_id: u64,
}

impl McpClient {
    /// Opens a session. `headers` go with each request.
    pub async fn open(client: &Client, url: &str, headers: HeaderMap) -> Result<Self, McpError> {
        let mut session = Self {
            client: client.clone(),
            url: url.to_owned(),
            headers,
            next_id: 1,
        };
        let params = json!({
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "mcp-auth check", "version": env!("CARGO_PKG_VERSION")},
        });
        let (result, answered) = session.request("initialize", params).await?;
        if let Some(id) = answered.get(SESSION) {
            session.headers.insert(SESSION, id.clone());
        }
        let version = result["protocolVersion"].as_str().unwrap_or(PROTOCOL_VERSION);
        if let Ok(version) = HeaderValue::from_str(version) {
            session.headers.insert("mcp-protocol-version", version);
        }
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        // Servers without sessions have nothing to say to it.
        let _ = session.send("notifications/initialized", &initialized).await?;
        Ok(session)
    }

    /// The names of the tools.
    pub async fn tools(&mut self) -> Result<Vec<String>, McpError> {
        let (result, _) = self.request("tools/list", json!({})).await?;
        let tools = result["tools"].as_array().cloned().unwrap_or_default();
        let names = tools.iter().filter_map(|tool| tool["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Calls a tool without arguments.
    pub async fn call(&mut self, tool: &str) -> Result<(), McpError> {
        let params = json!({"name": tool, "arguments": {}});
        let (result, _) = self.request("tools/call", params).await?;
        match result["isError"].as_bool() {
            Some(true) => Err(McpError::Rpc {
                method: "tools/call",
                text: shortened(&result["content"][0]["text"]),
            }),
            _ => Ok(()),
        }
    }

    async fn request(&mut self, method: &'static str, params: Value) -> Result<(Value, HeaderMap), McpError> {
        let id = self.next_id;
        self.next_id += 1;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let response = self.send(method, &message).await?;
        let headers = response.headers().clone();
        let answer = messages(&read(method, response).await?)
            .into_iter()
            .find(|answer| answer["id"] == id)
            .ok_or(McpError::NotJsonRpc { method })?;
        match answer.get("error") {
            Some(error) => Err(McpError::Rpc {
                method,
                text: shortened(&error["message"]),
            }),
            None => Ok((answer["result"].clone(), headers)),
        }
    }

    async fn send(&self, method: &'static str, message: &Value) -> Result<Response, McpError> {
        let request = self
            .client
            .post(&self.url)
            .headers(self.headers.clone())
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json")
            .timeout(REQUEST_TIMEOUT)
            .body(message.to_string());
        let response = request.send().await.map_err(|error| McpError::NoAnswer {
            method,
            why: match error.is_timeout() {
                true => "it takes longer than a minute",
                false => "the connection failed",
            },
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = read(method, response).await.unwrap_or_default();
        Err(McpError::Status {
            method,
            status,
            text: shortened(&problem(text)),
        })
    }
}

async fn read(method: &'static str, mut response: Response) -> Result<String, McpError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|_| McpError::NoAnswer {
            method,
            why: "the answer breaks off",
        })?;
        let Some(chunk) = chunk else { break };
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(McpError::NoAnswer {
                method,
                why: "the answer is larger than 8 MiB",
            });
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The JSON-RPC messages of an answer, which is one, or a stream of events.
fn messages(body: &str) -> Vec<Value> {
    if let Ok(message) = serde_json::from_str(body) {
        return vec![message];
    }
    let data = body.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim_start()).ok())
        .collect()
}

/// What the body of an error says: a JSON-RPC error, a problem (RFC 9457), or any text.
fn problem(body: String) -> Value {
    let json: Value = serde_json::from_str(&body).unwrap_or_default();
    let stated = [&json["error"]["message"], &json["detail"]];
    let stated = stated.into_iter().find(|text| text.is_string());
    stated.cloned().unwrap_or(Value::String(body))
}

fn shortened(text: &Value) -> String {
    let text = text.as_str().unwrap_or("without a message");
    text.trim().chars().take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json_or_a_stream_of_events() {
        let message = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
        let as_json = messages(&message.to_string());
        let stream = format!(": ping\r\n\r\nevent: message\r\ndata: {message}\r\n\r\n");
        assert_eq!(messages(&stream), [message]);
        assert_eq!(as_json, messages(&stream));
        assert!(messages("<html>").is_empty());
    }

    #[test]
    fn an_error_is_what_its_body_says() {
        for (body, expected) in [
            (
                r#"{"jsonrpc": "2.0", "error": {"code": 1, "message": "rejected"}}"#,
                "rejected",
            ),
            (
                r#"{"title": "Service Unavailable", "detail": "no token"}"#,
                "no token",
            ),
            ("<html>", "<html>"),
        ] {
            assert_eq!(problem(body.to_owned()), expected);
        }
    }
}
