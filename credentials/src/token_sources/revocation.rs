//! Whether the token of a deleted resource is revoked (RFC 7009), and its revocation in the background.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_oauth as oauth;
use tracing::{info, warn};

use super::{Source, SourceKind, TokenSources};
use crate::resource_ref::ResourceRef;

/// Longest time that it may take.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(30);

impl TokenSources {
    /// Ends the source of a resource. The token that is to be revoked then, and the client that does it: where that is
    /// wished for, and no other resource of the namespace has the token, however it came by it.
    pub(super) fn end(&self, resource: &ResourceRef) -> Option<(oauth::Client, Arc<oauth::Token>)> {
        let mut sources = self.sources.lock();
        let (client, token) = match sources.remove(resource)?.kind {
            SourceKind::OAuth2(active) => active.revocation(),
            // The Secret went first, as with `kubectl delete -f` of both.
            SourceKind::Orphaned(orphaned) => orphaned.into_revocation(),
            SourceKind::None | SourceKind::Secret(_) => None,
        }?;
        let has_it = |source: &Source| {
            let of_other = source.token();
            of_other.is_some_and(|other| other.access_token.secret() == token.access_token.secret())
        };
        let mut others = sources
            .iter()
            .filter(|(other, _)| other.namespace == resource.namespace);
        if let Some((other, _)) = others.find(|(_, source)| has_it(source)) {
            let ResourceRef { namespace, name } = resource;
            let other = &other.name;
            info!(
                namespace,
                name, other, "the token is not revoked: another resource has it"
            );
            return None;
        }
        Some((client, token))
    }
}

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
