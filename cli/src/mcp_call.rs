//! One real `tools/list` through a pod: as LiteLLM sends it, to the sidecar's outbound port, by way of the API server
//! (port-forward). The sidecar adds the token, which never comes here.

mod message;
mod pod_connection;

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use thiserror::Error;

use crate::cluster::Cluster;
use crate::error::CliError;
use message::answer_to;
use pod_connection::PodPort;

pub use pod_connection::PodAddress;

/// Newest version of MCP that is asked for; the server may choose another one.
const PROTOCOL_VERSION: &str = "2025-06-18";
const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
/// Longest time of one request, and longest answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// JSON-RPC error of a sidecar that lets only LiteLLM call (docs/errors.md, `caller_not_allowed`).
const CALLER_NOT_ALLOWED: i64 = -32070;
/// Characters of a server's words that a message repeats.
const MAX_WORDS: usize = 200;

/// What the server said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ToolList {
    /// Name that the server gives itself.
    pub server: String,
    /// Version of MCP that it chose.
    pub protocol: String,
    pub tools: usize,
}

#[derive(Debug, Error)]
pub enum McpCallError {
    /// Its API server cannot be asked, or may not be.
    #[error(transparent)]
    Cluster(#[from] CliError),
    #[error("the connection into the pod broke off: {0}")]
    Connection(String),
    /// The sidecar knows LiteLLM by a secret that is not for this program.
    #[error("the sidecar lets only LiteLLM call this port")]
    CallerNotAllowed,
    #[error("no answer to {method} within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent { method: &'static str },
    #[error("{method} was answered with {status}{words}")]
    Status {
        method: &'static str,
        status: StatusCode,
        words: String,
    },
    #[error("the answer to {method} is no JSON-RPC response: {problem}")]
    NoResponse { method: &'static str, problem: String },
    #[error("the server answers {method} with an error: {words}")]
    JsonRpc { method: &'static str, words: String },
}

/// A session with an MCP server, through a pod's sidecar.
struct Session<'a> {
    port: PodPort<'a>,
    path: String,
    /// Headers that the server or the protocol asks for once it has begun.
    headers: Vec<(&'static str, String)>,
}

/// The answer to a request, with the session that its header names.
struct Answer {
    response: Value,
    session: Option<String>,
}

impl ToolList {
    /// "crm lists 3 tools (MCP 2025-06-18)"
    pub fn describe(&self) -> String {
        let Self {
            server,
            protocol,
            tools,
        } = self;
        format!("{server} lists {tools} tools (MCP {protocol})")
    }
}

/// Begins a session and lists the tools. `server` is LiteLLM's name of the server, `path` that of its URL.
pub async fn list_tools(
    cluster: &Cluster,
    address: &PodAddress,
    server: &str,
    path: &str,
) -> Result<ToolList, McpCallError> {
    let mut session = Session {
        port: PodPort::new(cluster, address),
        path: format!("/{server}{path}"),
        headers: Vec::new(),
    };
    let begun = session.request(1, "initialize", initialize()).await?;
    let result = &begun.response;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let protocol = text(&result["protocolVersion"]);
    session.headers.push((VERSION, protocol.clone()));
    session
        .headers
        .extend(begun.session.map(|session| (SESSION, session)));
    session.notify("notifications/initialized").await?;
    let listed = session.request(2, "tools/list", json!({})).await?;
    let tools = listed.response["tools"].as_array();
    Ok(ToolList {
        server: text(&result["serverInfo"]["name"]),
        protocol,
        tools: tools
            .ok_or_else(|| McpCallError::NoResponse {
                method: "tools/list",
                problem: "it has no list of tools".to_owned(),
            })?
            .len(),
    })
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
        let session = head
            .headers
            .get(SESSION)
            .and_then(|session| session.to_str().ok());
        let response =
            answer_to(id, &body).map_err(|problem| McpCallError::NoResponse { method, problem })?;
        match response.get("error") {
            Some(error) => Err(McpCallError::JsonRpc {
                method,
                words: words(
                    error["message"]
                        .as_str()
                        .unwrap_or("without a message")
                        .as_bytes(),
                ),
            }),
            None => Ok(Answer {
                session: session.map(str::to_owned),
                response: response["result"].clone(),
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
        let exchange = async {
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(&self.path)
                .header(HOST, self.port.host())
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream");
            for (name, value) in &self.headers {
                request = request.header(*name, value);
            }
            let body = Full::new(Bytes::from(message.to_string()));
            let request = request.body(body).map_err(connection_error)?;
            let mut connection = self.port.connect().await?;
            let response = connection
                .sender
                .send_request(request)
                .await
                .map_err(connection_error)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok::<_, McpCallError>((head, body.map_err(connection_error)?.to_bytes()))
        };
        let (head, body) = tokio::time::timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| McpCallError::Silent { method })??;
        match head.status.is_success() {
            true => Ok((head, body)),
            false if is_not_for_us(&body) => Err(McpCallError::CallerNotAllowed),
            false => Err(McpCallError::Status {
                method,
                status: head.status,
                words: match body.is_empty() {
                    true => String::new(),
                    false => format!(": {}", words(&body)),
                },
            }),
        }
    }
}

fn connection_error(error: impl ToString) -> McpCallError {
    McpCallError::Connection(error.to_string())
}

fn is_not_for_us(body: &[u8]) -> bool {
    let response: Value = serde_json::from_slice(body).unwrap_or_default();
    response["error"]["code"] == CALLER_NOT_ALLOWED
}

/// The beginning of what a server says; of a JSON-RPC error or a problem document, the message.
fn words(text: &[u8]) -> String {
    let document: Value = serde_json::from_slice(text).unwrap_or_default();
    let message = [&document["error"]["message"], &document["detail"]];
    let message = message.into_iter().find_map(|message| message.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(text), Into::into);
    text.chars().take(MAX_WORDS).collect()
}
