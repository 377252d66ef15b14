//! Revokes the token of a deleted resource (RFC 7009), in the background.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth as oauth;
use tracing::{info, warn};

use crate::resource_ref::ResourceRef;

/// Longest time that it may take.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(30);

pub async fn revoke(resource: ResourceRef, client: oauth::Client, token: Arc<oauth::Token>) {
    let ResourceRef { namespace, name } = resource;
    match tokio::time::timeout(REVOCATION_TIMEOUT, client.revoke(&token.access_token)).await {
        Ok(Ok(true)) => info!(namespace, name, "the token was revoked"),
        Ok(Ok(false)) => warn!(
            namespace,
            name,
            "the token lives until it expires: the authorization server offers no revocation, or none for \
             such tokens"
        ),
        Ok(Err(error)) => {
            warn!(
                namespace,
                name,
                reason = error.reason(),
                message = error.message(),
                "no revocation"
            );
        }
        Err(_) => warn!(namespace, name, "the token was not revoked in time"),
    }
}
