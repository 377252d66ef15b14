//! MCP calls of a user's: to LiteLLM's own MCP endpoint, in one of its pods, by way of the API server (port-forward).

mod message;
mod pod_port;

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use thiserror::Error;

use crate::error::CliError;
use message::answer_to;

pub use pod_port::{PodAddress, PodPort};

/// Newest version of MCP that is asked for; the server may choose another one.
const PROTOCOL_VERSION: &str = "2025-06-18";
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// By which LiteLLM is told the key, whatever other header it takes it from.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-litellm-api-key");
/// Longest time of one request. LiteLLM waits 30 s for the tools of a server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// Characters of a server's words that a message repeats.
const MAX_WORDS: usize = 200;
/// LiteLLM's short form of a key: this, and the key's last characters.
const SHORT_KEY: &str = "sk-...";
/// Hexadecimal digits that may be the hash by which LiteLLM's database knows a key (SHA-256 has 64), or a part of one.
const MIN_HASH_DIGITS: usize = 32;

#[derive(Debug, Error)]
pub enum McpCallError {
    /// Its API server cannot be asked, or may not be.
    #[error(transparent)]
    Cluster(#[from] CliError),
    #[error("the connection into the pod broke off: {0}")]
    Connection(String),
    #[error("no answer to {what} within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent { what: &'static str },
    #[error("LiteLLM answers {method} with {status}{words}")]
    Status {
        method: &'static str,
        status: StatusCode,
        words: String,
    },
    #[error("LiteLLM does not let this key use the server {server}{words}")]
    NotAllowed { server: String, words: String },
    #[error("LiteLLM's answer to {method} is no JSON-RPC response: {problem}")]
    NoResponse { method: &'static str, problem: String },
    #[error("LiteLLM answers {method} with an error: {words}")]
    JsonRpc { method: &'static str, words: String },
}

/// Whom LiteLLM is called as.
pub struct Caller<'a> {
    pub key: &'a SecretString,
    /// What goes with each request besides.
    pub headers: HeaderMap,
}

/// A session with LiteLLM's MCP endpoint.
struct Session<'a> {
    port: &'a PodPort<'a>,
    path: &'a str,
    key: &'a SecretString,
    headers: HeaderMap,
}

/// The answer to a request, with the session that its header names.
struct Answer {
    result: Value,
    session: Option<HeaderValue>,
}

/// Begins a session at this path of LiteLLM's, and counts the tools.
pub async fn count_tools(port: &PodPort<'_>, path: &str, caller: Caller<'_>) -> Result<usize, McpCallError> {
    let Caller { key, mut headers } = caller;
    headers.insert(KEY_HEADER, bearer(key)?);
    let mut session = Session {
        port,
        path,
        key,
        headers,
    };
    let begun = session.request(1, "initialize", initialize()).await?;
    let protocol = begun.result["protocolVersion"].as_str().unwrap_or_default();
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        session.headers.insert(VERSION, protocol);
    }
    if let Some(id) = begun.session {
        session.headers.insert(SESSION, id);
    }
    session.notify("notifications/initialized").await?;
    let listed = session.request(2, "tools/list", json!({})).await?;
    let tools = listed.result["tools"].as_array();
    tools.map(Vec::len).ok_or_else(|| McpCallError::NoResponse {
        method: "tools/list",
        problem: "it has no list of tools".to_owned(),
    })
}

/// The names of the MCP servers that this key may use, as LiteLLM lists them at this path; none where it does not say.
pub async fn servers_of_key(
    port: &PodPort<'_>,
    path: &str,
    key: &SecretString,
) -> Result<Option<Vec<String>>, McpCallError> {
    let request = Request::get(path).header(KEY_HEADER, bearer(key)?);
    let (head, body) = port
        .send("the list of MCP servers", request, String::new())
        .await?;
    let listed = serde_json::from_slice::<Value>(&body).ok();
    let listed = listed.filter(|_| head.status == StatusCode::OK);
    Ok(listed.as_ref().and_then(Value::as_array).map(|servers| {
        let names = |server: &Value| {
            let names = [&server["server_name"], &server["alias"]].map(Value::as_str);
            names.into_iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        };
        servers.iter().flat_map(names).collect()
    }))
}

/// Parameters of the first request.
pub fn initialize() -> Value {
    json!({
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": {"name": "kubectl-mcp-auth", "version": env!("CARGO_PKG_VERSION")},
    })
}

impl Session<'_> {
    async fn request(&self, id: u32, method: &'static str, params: Value) -> Result<Answer, McpCallError> {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let (head, body) = self.post(method, &message).await?;
        let response =
            answer_to(id, &body).map_err(|problem| McpCallError::NoResponse { method, problem })?;
        match response.get("error") {
            Some(error) => {
                let message = error["message"].as_str().unwrap_or("without a message");
                Err(McpCallError::JsonRpc {
                    method,
                    words: words(message.as_bytes(), self.key),
                })
            }
            None => Ok(Answer {
                session: head.headers.get(SESSION).cloned(),
                result: response["result"].clone(),
            }),
        }
    }

    async fn notify(&self, method: &'static str) -> Result<(), McpCallError> {
        self.post(method, &json!({"jsonrpc": "2.0", "method": method}))
            .await
            .map(drop)
    }

    /// One request on a connection of its own.
    async fn post(
        &self,
        method: &'static str,
        message: &Value,
    ) -> Result<(hyper::http::response::Parts, Bytes), McpCallError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let (head, body) = self.port.send(method, request, message.to_string()).await?;
        match head.status.is_success() {
            true => Ok((head, body)),
            false => Err(McpCallError::Status {
                method,
                status: head.status,
                words: match body.is_empty() {
                    true => String::new(),
                    false => format!(": {}", words(&body, self.key)),
                },
            }),
        }
    }
}

fn connection_error(error: impl ToString) -> McpCallError {
    McpCallError::Connection(error.to_string())
}

fn bearer(key: &SecretString) -> Result<HeaderValue, McpCallError> {
    let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()));
    let mut value = value.map_err(connection_error)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The beginning of what LiteLLM says; of an error document, the message. LiteLLM repeats a key that it does not take, or its end and
/// its hash.
fn words(text: &[u8], key: &SecretString) -> String {
    let document: Value = serde_json::from_slice(text).unwrap_or_default();
    let message = [
        &document["error"]["message"],
        &document["detail"]["error"],
        &document["detail"],
    ];
    let message = message.into_iter().find_map(|message| message.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(text), Into::into);
    let text = text.replace(key.expose_secret(), "(the key)");
    without_hashes(&without_short_keys(&text))
        .chars()
        .take(MAX_WORDS)
        .collect()
}

fn without_short_keys(text: &str) -> String {
    let mut parts = text.split(SHORT_KEY);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest =
            part.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter));
        text + "(the key)" + rest
    })
}

fn without_hashes(text: &str) -> String {
    let is_digit = |letter: char| letter.is_ascii_hexdigit();
    let mut rest = text;
    let mut told = String::with_capacity(text.len());
    while let Some(begin) = rest.find(is_digit) {
        let (before, run) = rest.split_at(begin);
        let end = run.find(|letter| !is_digit(letter)).unwrap_or(run.len());
        told.push_str(before);
        told.push_str(match end >= MIN_HASH_DIGITS {
            true => "(a hash)",
            false => &run[..end],
        });
        rest = &run[end..];
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn litellm_s_words_come_without_the_key_that_it_repeats() {
        let key = SecretString::from("sk-a-key-of-somebody");
        let body =
            br#"{"error":{"message":"Virtual Key expected. Received=sk-a-key-of-somebody, expected 'sk-'"}}"#;
        let told = words(body, &key);
        assert_eq!(told, "Virtual Key expected. Received=(the key), expected 'sk-'");
        let hash = "c6e0b6a9".repeat(8);
        let of_1_80 = format!(
            "Authentication Error, Invalid proxy server token passed. Received API Key = sk-...body, \
             Key Hash (Token) ={hash}. Unable to find token in cache or `LiteLLM_VerificationTokenTable`"
        );
        assert_eq!(
            words(of_1_80.as_bytes(), &key),
            "Authentication Error, Invalid proxy server token passed. Received API Key = (the key), \
             Key Hash (Token) =(a hash). Unable to find token in cache or `LiteLLM_VerificationTokenTable`"
        );
        assert_eq!(
            words("d\u{e9}j\u{e0} feed 0af7".as_bytes(), &key),
            "d\u{e9}j\u{e0} feed 0af7"
        );
        assert_eq!(
            words(br#"{"detail":{"error":"The key is not allowed"}}"#, &key),
            "The key is not allowed"
        );
        let long = format!("{}sk-a-key-of-somebody", "x".repeat(MAX_WORDS - 5));
        assert!(
            !words(long.as_bytes(), &key).contains("sk-a"),
            "no part of it either"
        );
    }
}
