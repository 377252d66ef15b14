//! Finds an authorization server: from an issuer to its metadata (RFC 8414, OpenID Connect Discovery 1.0), from an
//! MCP server to its issuer (RFC 9728).

/// What an authorization server says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerMetadata {
    pub issuer: String,
    pub token_endpoint: String,
    /// Of `mtls_endpoint_aliases` (RFC 8705 section 5): for clients that authenticate by certificate or bind tokens to it.
    pub mtls_token_endpoint: Option<String>,
    pub revocation_endpoint: Option<String>,
    /// Scopes that the MCP server's challenge or metadata name, for a registration without scopes of its own.
    pub scopes: Vec<String>,
}
