//! The request that all proxies get: what LiteLLM's MCP client sends, with a user's cookies and, for the
//! sidecar, the user context that its inbound half has sealed.

pub const CALL: &[u8] = concat!(
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":"#,
    r#"{"name":"search_documents","arguments":{"query":"quarterly revenue","limit":10}}}"#
)
.as_bytes();

/// What LiteLLM shows the sidecar's outbound half; `proxies.py` gives the sidecar the same. All proxies get it.
pub const OUTBOUND_SECRET: &str = "dGhlIHNlY3JldCBvZiB0ZXN0cywgbm90IGZvciBwb2Q";
pub const OUTBOUND_SECRET_HEADER: &str = "mcpauth-outbound-secret";

/// The head of a request with `length` bytes of body, or of a GET.
pub fn head(authority: &str, path: &str, length: Option<usize>, context: Option<&str>) -> Vec<u8> {
    let method = if length.is_some() { "POST" } else { "GET" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\n\
         Host: {authority}\r\n\
         User-Agent: python-httpx/0.28.1\r\n\
         Accept: application/json, text/event-stream\r\n\
         Accept-Encoding: identity\r\n\
         Connection: keep-alive\r\n\
         Cookie: sid=0123456789abcdef0123456789abcdef; theme=dark; csrf=fedcba9876543210; \
         _ga=GA1.2.1234567890.1234567890\r\n\
         Mcp-Session-Id: 6f1b0c1e-5a5c-4f43-9b6e-1f5f8a0d9c11\r\n\
         Mcp-Protocol-Version: 2025-06-18\r\n\
         X-Litellm-Api-Key: sk-of-the-user\r\n\
         {OUTBOUND_SECRET_HEADER}: {OUTBOUND_SECRET}\r\n"
    );
    if let Some(context) = context {
        head.push_str(&format!("Mcpauth-Context: {context}\r\n"));
    }
    if let Some(length) = length {
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n"
        ));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The call of a tool.
pub fn call(authority: &str, path: &str, context: Option<&str>) -> Vec<u8> {
    let mut request = head(authority, path, Some(CALL.len()), context);
    request.extend_from_slice(CALL);
    request
}
