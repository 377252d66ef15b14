//! The token sources: one for each resource, kept in step with what the resource and its Secrets say, and
//! never at the price of a token that still serves.
//!
//! Whenever the token of a source changes, by a renewal, a rejection or its end, its whole
//! [`CredentialState`](crate::CredentialState) is published straight into [`Credentials`].

mod active_source;
mod client_usages;
mod orphaned_token;
mod publish;
mod resumed;
mod revocation;
mod secret_token;
mod snapshot;
mod step_up_policy;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_oauth::{
    ClientIdentity, Clock, KeySetLocation, Limits, Policy, Registration, RequestLimiter, SharedTokens, Token,
    TokenCount, UserTokenQuotas,
};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::task::AbortHandle;

use crate::audit_keys::AuditKeys;
use crate::credential_identity::{CredentialIdentity, RequestDigest};
use crate::not_served::NotServedError;
use crate::resource_ref::ResourceRef;
use crate::store::{Credentials, ServerConnection, SupersededToken, TokenUsage};
use crate::token_refresh_requests::TokenRefreshRequest;
use active_source::{ActiveSource, Surroundings};
use client_usages::ClientUsages;
use orphaned_token::OrphanedToken;
use resumed::Resumed;
pub use resumed::{known_server, stated_quota};
use secret_token::SecretToken;
pub use step_up_policy::StepUpPolicy;

/// The source of the token, and what the sidecar needs besides it to trust and to be trusted by the MCP
/// server.
#[derive(Clone, Debug)]
pub struct Desired {
    pub source: DesiredSource,
    pub connection: ServerConnection,
    /// Where the keys are that users' tokens are verified by for the audit log.
    pub audit_keys: Option<KeySetLocation>,
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum DesiredSource {
    OAuth2(Box<ClientConfiguration>),
    /// It is in a Secret.
    Secret(SecretString),
}

/// The client configuration: how tokens are requested of an authorization server.
#[derive(Clone, Debug)]
pub struct ClientConfiguration {
    pub registration: Registration,
    pub policy: Policy,
    /// Of each request.
    pub limits: Limits,
    /// Equal where a token source would ask in the same way.
    pub request_digest: RequestDigest,
    /// Whether users get tokens of their own.
    pub exchanges: bool,
    /// Whether the service has a token of its own.
    pub service_token: bool,
    pub revoke_on_deletion: bool,
    /// Tokens a day.
    pub quota: Option<u64>,
    pub step_up: StepUpPolicy,
}

/// Counts what token sources do, in the registry of the program.
pub trait TokenMetrics: Send + Sync + 'static {
    /// An MCP server rejected the token.
    fn token_refused(&self, resource: &ResourceRef);
    fn token_requested(&self, resource: &ResourceRef, times: u64);
    fn set_circuit_open(&self, resource: &ResourceRef, open: bool);
    /// Seconds that the authorization server's clock is ahead.
    fn set_clock_offset(&self, resource: &ResourceRef, seconds: i64);
    /// Nothing: none was issued, and there is no quota.
    fn set_usage(&self, resource: &ResourceRef, usage: Option<TokenUsage>);
}

/// Dropping it ends all sources, and the requests under way.
pub struct TokenSources {
    clock: Clock,
    metrics: Arc<dyn TokenMetrics>,
    credentials: Credentials,
    /// Of all sources together.
    limiter: RequestLimiter,
    shared_tokens: SharedTokens,
    user_token_quotas: UserTokenQuotas,
    /// Locked with the sources only, and after them.
    usages: Arc<Mutex<ClientUsages>>,
    sources: Arc<Mutex<HashMap<ResourceRef, Source>>>,
}

/// Where the token of a resource comes from, as it is now.
struct Source {
    credential_identity: CredentialIdentity,
    generation: Option<i64>,
    connection: ServerConnection,
    audit_keys: Option<AuditKeys>,
    /// What keeps it from being as the spec says.
    problem: Option<NotServedError>,
    kind: SourceKind,
    /// Of the resource, whatever its source is.
    count: TokenCount,
    /// Whose tokens it counts, as the last configuration had it.
    client: Option<ClientIdentity>,
    resumed: Resumed,
    /// Tokens a day, as the last configuration had it.
    quota: Option<u64>,
    /// [`mcp_auth_crds::Server::url`].
    url: String,
    /// While there is no token: the one of before a change of the resource, for the same URL.
    superseded: Option<SupersededToken>,
    /// Publishes once more when the token changes by itself.
    timer: Option<AbortOnDrop>,
}

enum SourceKind {
    /// There is no token, and none is requested.
    None,
    OAuth2(Box<ActiveSource>),
    Secret(SecretToken),
    Orphaned(OrphanedToken),
}

impl Source {
    /// The token that sidecars are given.
    fn token(&self) -> Option<Arc<Token>> {
        match &self.kind {
            SourceKind::None => None,
            SourceKind::OAuth2(active) => active.token(),
            SourceKind::Secret(secret) => Some(secret.token()),
            SourceKind::Orphaned(orphaned) => Some(orphaned.token()),
        }
    }

    /// The token that sidecars were given, or still go on with.
    fn usable_by_sidecars(&self, now: Timestamp) -> Option<SupersededToken> {
        let given = self.token().map(|token| SupersededToken {
            expires_at: token.expires_at,
        });
        let usable = given.or(self.superseded);
        usable.filter(|token| token.expires_at.is_none_or(|at| at > now))
    }
}

/// A task that ends when this is dropped.
struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl TokenSources {
    pub fn new(clock: Clock, metrics: impl TokenMetrics, credentials: Credentials) -> Self {
        Self {
            clock,
            metrics: Arc::new(metrics),
            credentials,
            limiter: RequestLimiter::default(),
            shared_tokens: SharedTokens::default(),
            user_token_quotas: UserTokenQuotas::default(),
            usages: Arc::default(),
            sources: Arc::default(),
        }
    }

    /// Keeps no more users' tokens than these quotas grant each namespace.
    pub fn with_user_token_quotas(mut self, quotas: UserTokenQuotas) -> Self {
        self.user_token_quotas = quotas;
        self
    }

    /// Gets the token of a resource as it is desired from now on: starts a source, changes it, keeps it, or
    /// stops it. Whatever it has is published before this returns.
    pub fn apply(&self, resource: &McpServerAuth, desired: Result<Desired, NotServedError>) {
        let resource_ref = ResourceRef::from(resource);
        let credential_identity = CredentialIdentity::for_resource(resource);
        let mut sources = self.sources.lock();
        let mut previous = sources.remove(&resource_ref).or_else(|| self.resumed(resource));
        let resumed = previous
            .as_mut()
            .map(|previous| std::mem::take(&mut previous.resumed).changed(resource));
        let resumed = resumed.unwrap_or_else(|| Resumed::of(resource));
        let url = &resource.spec.server.url;
        let superseded = previous.as_ref().filter(|previous| previous.url == *url);
        let superseded = superseded.and_then(|previous| previous.usable_by_sidecars(self.clock.now()));
        let count = match &previous {
            Some(previous) => previous.count.clone(),
            None => self.resumed_count(resource),
        };
        let quota = match &desired {
            Ok(Desired { source, .. }) => match source {
                DesiredSource::OAuth2(configuration) => configuration.quota,
                DesiredSource::Secret(_) => None,
            },
            Err(_) => match &previous {
                Some(previous) => previous.quota,
                None => resource.spec.oauth2.as_ref().and_then(stated_quota),
            },
        };
        let client = previous.as_ref().and_then(|previous| previous.client.clone());
        let previous = previous.filter(|previous| {
            previous
                .credential_identity
                .is_same_credential(&credential_identity)
        });
        let (previous, previous_connection, previous_keys) = match previous {
            Some(previous) => (previous.kind, previous.connection, previous.audit_keys),
            None => (SourceKind::None, ServerConnection::default(), None),
        };
        let audit_keys = match &desired {
            Ok(desired) => desired.audit_keys.clone().map(|location| {
                let on_change = self.publisher(&resource_ref);
                AuditKeys::start(location, previous_keys, &self.clock, on_change)
            }),
            // They go with the token that serves on.
            Err(_) => previous_keys,
        };
        let (kind, connection, problem) = match desired {
            // Sidecars may go on using its token, so it is not revoked.
            Err(error) if error.ends_use() => (SourceKind::None, ServerConnection::default(), Some(error)),
            Err(error) => match self.orphan(previous) {
                Some(orphaned) => (SourceKind::Orphaned(orphaned), previous_connection, Some(error)),
                None => (SourceKind::None, ServerConnection::default(), Some(error)),
            },
            Ok(Desired {
                source, connection, ..
            }) => {
                let of_resource = (&resource_ref, &credential_identity, &count);
                match self.change_source(of_resource, previous, source) {
                    (SourceKind::None, problem) => (SourceKind::None, ServerConnection::default(), problem),
                    (kind, problem) => (kind, connection, problem),
                }
            }
        };
        let mut source = Source {
            credential_identity,
            generation: resource.metadata.generation,
            connection,
            audit_keys,
            problem,
            kind,
            count,
            client,
            resumed,
            quota,
            url: url.clone(),
            superseded,
            timer: None,
        };
        self.publish_source(&resource_ref, &mut source);
        sources.insert(resource_ref, source);
    }

    /// What is published of the sources, and was by those of other replicas.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Ends the source of a resource that was deleted, and revokes its token if that was wished for.
    pub fn remove(&self, resource: &ResourceRef) {
        let revocation = self.end(resource);
        self.credentials.withdraw(resource);
        let news_of = self.usages.lock().remove(resource, self.clock.now());
        self.publish_soon(news_of);
        if let Some((client, token)) = revocation {
            tokio::spawn(revocation::revoke(resource.clone(), client, token));
        }
    }

    /// Ends all sources, with their requests under way. What they published stays until another replica's
    /// newer tokens replace it: sidecars are served by it, and a source that is started again goes on with it.
    pub fn stop(&self) {
        let mut sources = self.sources.lock();
        sources.clear();
        self.usages.lock().clear();
    }

    /// Asks for a better token than the one that an MCP server rejected.
    pub fn request_refresh(&self, request: &TokenRefreshRequest) {
        let mut sources = self.sources.lock();
        let Some(source) = sources.get_mut(&request.resource) else {
            return;
        };
        self.metrics.token_refused(&request.resource);
        match &mut source.kind {
            SourceKind::None => return,
            SourceKind::OAuth2(active) => active.request_refresh(request),
            SourceKind::Secret(secret) => secret.request_refresh(request, self.clock.now()),
            SourceKind::Orphaned(orphaned) => orphaned.request_refresh(request),
        }
        self.publish_source(&request.resource, source);
    }

    /// The source as the spec desires it, and the problem that prevents that.
    fn change_source(
        &self,
        (resource_ref, identity, count): (&ResourceRef, &CredentialIdentity, &TokenCount),
        previous: SourceKind,
        desired: DesiredSource,
    ) -> (SourceKind, Option<NotServedError>) {
        match (desired, previous) {
            (DesiredSource::Secret(text), SourceKind::Secret(secret)) if secret.holds(&text) => {
                (SourceKind::Secret(secret), None)
            }
            (DesiredSource::Secret(text), SourceKind::Orphaned(orphaned))
                if orphaned.is_resumed_with(&text) =>
            {
                let token = orphaned.into_seed().token;
                (SourceKind::Secret(SecretToken::resume(token)), None)
            }
            (DesiredSource::Secret(text), _) => {
                let secret = SecretToken::new(&text, self.clock.now());
                (SourceKind::Secret(secret), None)
            }
            (DesiredSource::OAuth2(configuration), SourceKind::OAuth2(mut active)) => {
                let problem = active.change(*configuration).err();
                (SourceKind::OAuth2(active), problem)
            }
            (DesiredSource::OAuth2(configuration), previous) => {
                // The orphaned token serves until the Secret that came back has brought a new one.
                let seed = match previous {
                    SourceKind::Orphaned(orphaned) if !orphaned.is_expired(self.clock.now()) => {
                        Some(orphaned.into_seed())
                    }
                    _ => None,
                };
                let on_change = self.publisher(resource_ref);
                let user_tokens = self.credentials.user_tokens().of_resource(resource_ref, identity);
                let namespace = &resource_ref.namespace;
                let quota = self.user_token_quotas.of_tenant(namespace);
                let surroundings = Surroundings {
                    namespace: namespace.clone(),
                    limiter: self.limiter.of_tenant(namespace),
                    shared_tokens: self.shared_tokens.clone(),
                    user_tokens: (user_tokens, quota),
                    count: count.clone(),
                    clock: self.clock.clone(),
                };
                match ActiveSource::start(*configuration, seed, surroundings, on_change) {
                    Ok(active) => (SourceKind::OAuth2(Box::new(active)), None),
                    Err(error) => (SourceKind::None, Some(error)),
                }
            }
        }
    }

    /// The references do not resolve any more: the token in use serves on, and no new one is requested with a
    /// secret that was deleted.
    fn orphan(&self, kind: SourceKind) -> Option<OrphanedToken> {
        let orphaned = match kind {
            SourceKind::None => return None,
            SourceKind::OAuth2(active) => OrphanedToken::new(active.token()?, active.revoker()),
            SourceKind::Secret(secret) => OrphanedToken::new(secret.token(), None),
            SourceKind::Orphaned(orphaned) => orphaned,
        };
        (!orphaned.is_expired(self.clock.now())).then_some(orphaned)
    }
}

#[cfg(test)]
mod tests;
