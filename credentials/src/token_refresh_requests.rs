//! Token refresh requests of sidecars, from sync to the token sources: an MCP server rejected a token, or
//! demands scopes that it lacks.

use mcp_auth_protocol::sync::RejectionCause;
use tokio::sync::mpsc;

use crate::resource_ref::ResourceRef;

/// One sidecar's report on the token in use. Many that say the same are one request in the end: the token
/// source looks at the token's identifier.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRefreshRequest {
    pub resource: ResourceRef,
    /// Identifier of the rejected token.
    pub token: String,
    pub why: RejectionCause,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct TokenRefreshRequests(mpsc::UnboundedSender<TokenRefreshRequest>);

impl TokenRefreshRequests {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<TokenRefreshRequest>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub fn send(&self, request: TokenRefreshRequest) {
        // Without a receiver this replica does not lead, and has no tokens.
        let _ = self.0.send(request);
    }
}
