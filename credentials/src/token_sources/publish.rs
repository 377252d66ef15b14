//! Publishing what token sources have: on each change, and when it changes by itself.

use std::sync::Arc;

use jiff::Timestamp;

use super::client_usages::{CountedClient, CountedResource, CurrentUsage};
use super::snapshot::SourceSnapshot;
use super::{AbortOnDrop, Source, SourceKind, TokenSources, usage};
use crate::audit_keys::{AuditKeys, AuditKeysState};
use crate::conditions::unavailable;
use crate::not_served::NotServedError;
use crate::resource_ref::ResourceRef;
use crate::store::{CredentialState, Issuance, ServerConnection, TokenSnapshot};

impl Source {
    /// By what its tokens are counted.
    fn counted(&mut self, token: &TokenSnapshot, now: Timestamp) -> CountedResource {
        let (client, name, service) = match &self.kind {
            SourceKind::OAuth2(active) => (active.client(), active.client_name(), active.service_token()),
            // Its references cannot be read now, or are not to be, and what it took is that client's all the same.
            SourceKind::None | SourceKind::Orphaned(_) if self.resumed.has_client => {
                (CountedClient::Unknown, None, None)
            }
            SourceKind::None | SourceKind::Orphaned(_) | SourceKind::Secret(_) => {
                (CountedClient::Alone, None, None)
            }
        };
        let mut former_client = None;
        let client = match client {
            CountedClient::Known(client) => {
                former_client = self
                    .client
                    .replace(client.clone())
                    .filter(|before| *before != client);
                CountedClient::Known(client)
            }
            CountedClient::Alone => {
                former_client = self.client.take();
                CountedClient::Alone
            }
            CountedClient::Unknown => {
                let before = self.client.clone();
                let before = before.or_else(|| self.resumed.client(name.as_deref()));
                before.map_or(CountedClient::Unknown, CountedClient::Known)
            }
        };
        let is_pending = match &self.problem {
            Some(problem) => problem.is_pending(),
            None => {
                let is_looked_for = client == CountedClient::Unknown && token.last_error.is_none();
                token.is_pending() || is_looked_for
            }
        };
        CountedResource {
            former_client: former_client.map(|before| (before, self.count.begin_anew(now))),
            count: self.count.clone(),
            is_awaited: self.resumed.has_client && is_pending,
            client,
            service,
            quota: self.quota,
        }
    }
}

impl TokenSources {
    /// Publishes what a source has now, if it still is one.
    fn publish(&self, resource: &ResourceRef) {
        // Held until it is published, so that nothing older is published after it.
        if let Some(source) = self.sources.lock().get_mut(resource) {
            self.publish_source(resource, source);
        }
    }

    pub(super) fn publish_source(&self, resource: &ResourceRef, source: &mut Source) {
        let now = self.clock.now();
        if matches!(&source.kind, SourceKind::Orphaned(orphaned) if orphaned.is_expired(now)) {
            source.kind = SourceKind::None;
            source.connection = ServerConnection::default();
        }
        let (snapshot, next_change) = match &mut source.kind {
            SourceKind::None => (SourceSnapshot::default(), None),
            SourceKind::OAuth2(active) => {
                self.metrics.token_requested(resource, active.new_requests());
                (active.snapshot(now), None)
            }
            SourceKind::Secret(secret) => (secret.snapshot(now), secret.next_change(now)),
            SourceKind::Orphaned(orphaned) => (orphaned.snapshot(), orphaned.next_change(now)),
        };
        let mut snapshot = snapshot;
        let counted = source.counted(&snapshot.token, now);
        let CurrentUsage {
            mut usage,
            client_quota,
            news_of,
        } = self.usages.lock().update(resource, counted, now);
        self.publish_soon(news_of);
        if let Some(usage) = &mut usage {
            source.resumed.tell(usage, now);
        }
        let of_usage = usage::next_change(&source.count, usage.as_ref(), now);
        let next_change = next_change.into_iter().chain(of_usage).min();
        snapshot.token.usage = usage;
        if let Some(exchanger) = &snapshot.exchanger {
            exchanger.set_quota(client_quota);
            exchanger.set_usage_repeated(source.count.has_recent_users(now));
        }
        if snapshot.token.in_use.is_some()
            || snapshot.token.users_only.is_some()
            || source.problem.as_ref().is_some_and(NotServedError::ends_use)
        {
            source.superseded = None;
        }
        source.superseded = source
            .superseded
            .filter(|token| token.expires_at.is_none_or(|at| at > now));
        snapshot.token.superseded = source.superseded;
        source.timer = next_change.map(|at| self.publish_at(resource, at));
        self.metrics
            .set_circuit_open(resource, snapshot.token.circuit_open);
        self.metrics
            .set_clock_offset(resource, snapshot.token.clock_offset);
        self.metrics.set_usage(resource, snapshot.token.usage.clone());
        let audit_keys = source.audit_keys.as_ref().map(AuditKeys::state);
        let AuditKeysState { keys, problem } = audit_keys.unwrap_or_default();
        let issuance = Issuance {
            problem: source.problem.clone(),
            token: snapshot.token,
            audit_keys_problem: problem,
        };
        let state = CredentialState {
            credential_identity: source.credential_identity.clone(),
            generation: source.generation,
            credential: snapshot.credential.unwrap_or_else(|| unavailable(&issuance)),
            connection: source.connection.clone(),
            audit_keys: keys,
            declined: snapshot.declined,
            exchanger: snapshot.exchanger,
            issuance,
            seed: snapshot.seed,
        };
        self.credentials.publish(resource, state);
    }

    /// What is said of these changes with another resource that has the same client. They are published once the sources are
    /// free.
    pub(super) fn publish_soon(&self, resources: Vec<ResourceRef>) {
        for resource in resources {
            let publish = self.publisher(&resource);
            tokio::spawn(async move { publish() });
        }
    }

    fn publish_at(&self, resource: &ResourceRef, at: Timestamp) -> AbortOnDrop {
        let (clock, publish) = (self.clock.clone(), self.publisher(resource));
        AbortOnDrop::spawn(async move {
            clock.sleep_until(at).await;
            publish();
        })
    }

    /// Publishes what a source has, when its task says so. It does not keep the sources alive: a replica that
    /// no longer leads drops them, and must request no token any more.
    pub(super) fn publisher(&self, resource: &ResourceRef) -> impl Fn() + Send + Sync + 'static {
        let sources = Arc::downgrade(&self.sources);
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        let (credentials, resource) = (self.credentials.clone(), resource.clone());
        let (limiter, user_token_quotas) = (self.limiter.clone(), self.user_token_quotas.clone());
        let (shared_tokens, usages) = (self.shared_tokens.clone(), Arc::clone(&self.usages));
        move || {
            if let Some(sources) = sources.upgrade() {
                let sources = Self {
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    credentials: credentials.clone(),
                    limiter: limiter.clone(),
                    shared_tokens: shared_tokens.clone(),
                    user_token_quotas: user_token_quotas.clone(),
                    usages: Arc::clone(&usages),
                    sources,
                };
                sources.publish(&resource);
            }
        }
    }
}
