//! The signing key that the operator makes for a client, as the token source of the resource needs it.

use mcp_auth_oauth::SigningKey;

/// Named by its thumbprint, as it is published.
#[derive(Clone, Debug)]
pub struct ManagedKey {
    pub key: SigningKey,
    /// URL of the client ID metadata document: the client's name where the spec states none. `None`: there is no https
    /// URL to publish it at.
    pub client_id_metadata: Option<String>,
}
