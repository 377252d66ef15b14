//! The echo: an MCP server of the check's own, on loopback, that takes one token and keeps what arrives with each
//! JSON-RPC method.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The one tool that the server has.
pub const TOOL: &str = "echo";

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct EchoServer {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

#[derive(Clone)]
struct Echo {
    /// The whole `Authorization` header.
    expected: Arc<str>,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl EchoServer {
    /// Serves until the runtime ends. Requests without this token are refused, as a protected server does.
    pub async fn start(token: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let echo = Echo {
            expected: format!("Bearer {token}").into(),
            seen: seen.clone(),
        };
        let routes = Router::new().route("/mcp", post(answer)).with_state(echo);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { address, seen })
    }

    /// Headers of the last request of this method.
    pub fn last(&self, method: &str) -> Option<HeaderMap> {
        let seen = self.seen.lock();
        let of_method = seen.iter().rev().find(|(seen, _)| seen == method);
        of_method.map(|(_, headers)| headers.clone())
    }
}

async fn answer(State(echo): State<Echo>, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or_default().to_owned();
    let authorization = headers.get(header::AUTHORIZATION);
    let is_known = authorization.is_some_and(|found| found.as_bytes() == echo.expected.as_bytes());
    let result = result(&method, &message);
    echo.seen.lock().push((method, headers));
    if !is_known {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    match message.get("id") {
        Some(id) => axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response(),
        // A notification.
        None => StatusCode::ACCEPTED.into_response(),
    }
}

fn result(method: &str, message: &Value) -> Value {
    match method {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "mcp-auth check", "version": env!("CARGO_PKG_VERSION")},
        }),
        "tools/list" => json!({"tools": [{
            "name": TOOL,
            "description": "Keeps the headers that it is called with",
            "inputSchema": {"type": "object", "properties": {}},
        }]}),
        "tools/call" => json!({"content": [{"type": "text", "text": "ok"}], "isError": false}),
        _ => json!({}),
    }
}
