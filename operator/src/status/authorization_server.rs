//! The discovered authorization server, as the status remembers it.

use mcp_auth_crds::AuthorizationServerStatus;
use mcp_auth_credentials::known_server;

use super::StatusInputs;

/// What was discovered, now or by an earlier run: the issuer that is kept to must not be forgotten by a
/// restart.
pub fn authorization_server(inputs: &StatusInputs<'_>) -> Option<AuthorizationServerStatus> {
    let spec = &inputs.resource.spec;
    // With `tokenUrl` there is nothing to discover.
    spec.oauth2.as_ref().filter(|oauth2| oauth2.token_url.is_none())?;
    let discovered = inputs
        .issuance
        .token
        .server
        .as_ref()
        .map(|server| AuthorizationServerStatus {
            issuer: server.issuer.clone(),
            token_endpoint: server.token_endpoint.clone(),
            resource: spec.server.url.clone(),
        });
    discovered.or_else(|| known_server(inputs.resource).cloned())
}
