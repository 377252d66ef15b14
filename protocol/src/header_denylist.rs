//! Headers of a user's request that never say who the user is. The resource's CEL rules refuse them in
//! `spec.headerPassthrough` and `spec.oauth2.tokenExchange`, and the sidecar refuses them again wherever they
//! come from.

/// Names in lower case: credentials and cookies, headers of the connection and of the transport, and where a
/// request came from, which each proxy states anew.
pub const DENIED_HEADERS: [&str; 39] = [
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "cookie",
    "cookie2",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "ocp-apim-subscription-key",
    "origin",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-goog-api-key",
    "x-litellm-api-key",
    "x-mcp-auth",
    "x-original-forwarded-for",
    "x-original-host",
    "x-real-ip",
];

/// Prefixes of names in lower case: the body, proxies, the WebSocket, the MCP transport, and ours.
pub const DENIED_PREFIXES: [&str; 5] = ["content-", "mcp-", "mcpauth-", "proxy-", "sec-websocket-"];
