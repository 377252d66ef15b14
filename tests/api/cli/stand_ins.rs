//! An MCP server and a LiteLLM by script, on loopback. Between them is the real sidecar.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use mcp_auth_tests::sidecar_process::Endpoint;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// LiteLLM's.
pub const KEY: &str = "sk-the-key-of-a-litellm-in-tests";
/// Keys that may not use the server `tools`, as LiteLLM 1.110.2 and 1.80.17 answer them.
pub const KEY_REFUSED: &str = "sk-a-key-that-1.110.2-refuses-tools";
pub const KEY_WITHOUT_TOOLS: &str = "sk-a-key-that-1.80.17-lists-no-tools";

/// An MCP server that refuses whatever has no token.
pub struct McpServer {
    pub address: SocketAddr,
    lists: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// A LiteLLM whose MCP endpoint asks the sidecar for the tools of its server each time.
pub struct LiteLlm {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Where its MCP server is, as the overlay says.
    endpoint: OnceLock<Endpoint>,
    /// As one does whose entry lacks the sidecar's header.
    drops_context: AtomicBool,
}

/// A request: the lines of its head, and the JSON of its body.
struct Request {
    head: String,
    message: Value,
}

impl Drop for McpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for LiteLlm {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl McpServer {
    pub async fn start() -> Self {
        let lists = Arc::<Mutex<Vec<String>>>::default();
        let shared = lists.clone();
        let (address, task) = serve(move |request| {
            let lists = shared.clone();
            async move { server_answer(&request, &lists) }
        })
        .await;
        Self { address, lists, task }
    }

    /// The cookies of the last `tools/list`.
    pub fn last_cookies(&self) -> String {
        let lists = self.lists.lock().expect("no test panics meanwhile");
        lists.last().cloned().expect("its tools were listed")
    }
}

fn server_answer(request: &Request, lists: &Mutex<Vec<String>>) -> String {
    if request.header("authorization").is_none() {
        return http("401 Unauthorized", &Value::Null);
    }
    if request.message["method"] == "tools/list" {
        let cookie = request.header("cookie").unwrap_or_default().to_owned();
        lists.lock().expect("no test panics meanwhile").push(cookie);
    }
    answer(
        &request.message,
        "crm",
        &json!([{"name": "search"}, {"name": "create"}]),
    )
}

impl LiteLlm {
    /// It has no MCP server yet.
    pub async fn start() -> Self {
        let state = Arc::<State>::default();
        let shared = state.clone();
        let (address, task) = serve(move |request| {
            let state = shared.clone();
            async move { state.answer(&request).await }
        })
        .await;
        Self { address, state, task }
    }

    pub fn configure(&self, endpoint: Endpoint) {
        assert!(self.state.endpoint.set(endpoint).is_ok(), "it is configured once");
    }

    /// Looks for its server's tools, as LiteLLM does when it starts.
    pub async fn discover(&self) {
        self.state.tools(None).await;
    }

    pub fn drop_context(&self) {
        self.state.drops_context.store(true, Ordering::Relaxed);
    }
}

impl State {
    async fn answer(&self, request: &Request) -> String {
        let key = request.header("x-litellm-api-key").unwrap_or_default();
        let key = key.strip_prefix("Bearer ").unwrap_or(key);
        if ![KEY, KEY_REFUSED, KEY_WITHOUT_TOOLS].contains(&key) {
            let message = format!("Virtual Key expected. Received={key}");
            return http("401 Unauthorized", &json!({"error": {"message": message}}));
        }
        if request.head.starts_with("GET /v1/mcp/server ") {
            let servers = match key {
                KEY => json!([{"server_id": "1", "server_name": "tools", "alias": null}]),
                _ => json!([{"server_id": "2", "server_name": "others", "alias": null}]),
            };
            return http("200 OK", &servers);
        }
        if key == KEY_REFUSED {
            let refusal = "The key is not allowed to access the requested MCP servers: tools";
            return http("403 Forbidden", &json!({"detail": {"error": refusal}}));
        }
        if !request.head.starts_with("POST /mcp/ ") || request.header("x-mcp-servers") != Some("tools") {
            return http("404 Not Found", &Value::Null);
        }
        let tools = match &request.message["method"] {
            method if method == "tools/list" && key == KEY_WITHOUT_TOOLS => json!([]),
            method if method == "tools/list" => self.tools(request.header("mcpauth-context")).await,
            _ => Value::Null,
        };
        answer(&request.message, "litellm-mcp-server", &tools)
    }

    /// None where the server answers none, as LiteLLM says it.
    async fn tools(&self, context: Option<&str>) -> Value {
        let endpoint = self.endpoint.get().expect("it is configured");
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let mut request = reqwest::Client::new().post(&endpoint.url).json(&message);
        for (name, value) in &endpoint.static_headers {
            request = request.header(name, value);
        }
        if let Some(context) = context.filter(|_| !self.drops_context.load(Ordering::Relaxed)) {
            request = request.header("mcpauth-context", context);
        }
        let listed = async { request.send().await?.error_for_status()?.json::<Value>().await };
        match listed.await {
            Ok(answer) => answer["result"]["tools"].clone(),
            Err(_) => json!([]),
        }
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// What an MCP server of this name answers to a message.
fn answer(message: &Value, name: &str, tools: &Value) -> String {
    let result = match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": name, "version": "1"},
        }),
        Some("tools/list") => json!({"tools": tools}),
        _ => return http("202 Accepted", &Value::Null),
    };
    http(
        "200 OK",
        &json!({"jsonrpc": "2.0", "id": message["id"], "result": result}),
    )
}

fn http(status: &str, body: &Value) -> String {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// One request on each connection.
async fn serve<F>(
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = String> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                if let Some(request) = read(&mut stream).await {
                    // Who asked may be gone.
                    let _ = stream.write_all(answer(request).await.as_bytes()).await;
                }
            });
        }
    });
    (address, task)
}

/// A request, and the one JSON object of its body, which a GET has not.
async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut request = Vec::new();
    // Head and body may come apart.
    loop {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return None,
        }
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let message = match head.starts_with("GET ") {
            true => Ok(Value::Null),
            false => serde_json::from_str(body),
        };
        if let Ok(message) = message {
            return Some(Request {
                head: head.to_owned(),
                message,
            });
        }
    }
}
