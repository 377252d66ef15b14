//! Header denylist: what no MCP server gets of the headers that LiteLLM sends.

/// The header denylist, without what HTTP and MCP themselves need on the way to a server: credentials for LiteLLM, where
/// the request came from, and the sidecar's own headers. Compared by length first.
pub fn is_not_for_servers(name: &str) -> bool {
    let is_listed = match name.len() {
        3 => name == "via",
        4 => name == "dpop",
        6 => name == "cookie",
        7 => name == "api-key" || name == "cookie2",
        9 => matches!(name, "forwarded" | "x-api-key" | "x-real-ip"),
        10 => name == "x-mcp-auth" || name == "set-cookie",
        11 => name == "set-cookie2",
        13 => name == "authorization",
        14 => name == "x-goog-api-key" || name == "http2-settings",
        16 => name == "www-authenticate",
        17 => name == "x-litellm-api-key",
        25 => name == "ocp-apim-subscription-key",
        _ => false,
    };
    is_listed
        || match name.as_bytes().first() {
            Some(b'm') => name.starts_with("mcpauth-"),
            Some(b'p') => name.starts_with("proxy-"),
            Some(b's') => name.starts_with("sec-websocket-"),
            Some(b'x') => name.starts_with("x-forwarded-") || name.starts_with("x-original-"),
            _ => false,
        }
}
