//! What sidecars demand of tokens, from sync to reconcile: a token that an MCP server refused, or scopes it lacks.

use mcp_auth_protocol::sync::RefusedBecause;
use tokio::sync::mpsc;

use crate::key::Key;

/// One sidecar's word on the token in use. Many that say the same are one demand in the end: the token source
/// looks at the token's identifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    pub key: Key,
    /// Identifier of the refused token.
    pub token: String,
    pub why: RefusedBecause,
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Demands(mpsc::UnboundedSender<Demand>);

impl Demands {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Demand>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub fn make(&self, demand: Demand) {
        // Without a receiver this replica does not lead, and has no tokens.
        let _ = self.0.send(demand);
    }
}
