//! What the operator counts, for Prometheus. All under the prefix `mcpauth_operator`.
//!
//! | metric | labels | what |
//! |---|---|---|
//! | `admission_reviews_total` | `outcome` | pods looked at by the webhook |
//! | `sync_refusals_total` | `reason` | sidecars that were not served |
//! | `sidecars` | – | sidecars connected now |
//! | `token_requests_total` | `namespace`, `name` | requests to token endpoints |
//! | `token_refusals_total` | `namespace`, `name` | sidecars' reports of a rejected token |
//! | `circuit_open` | `namespace`, `name` | 1 while the circuit breaker lets no token request out |
//! | `user_exchanges_total` | `outcome` | requests of sidecars for a user's own token |
//! | `token_expiry_timestamp_seconds` | `namespace`, `name` | end of the token in use, Unix time |
//! | `ready` | `namespace`, `name` | 1 where the resource's condition Ready is true, else 0 |
//! | `reconcile_errors_total` | `reason` | reconciliations that could not be finished |
//! | `leader` | – | 1 where this replica leads |

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::resource_ref::ResourceRef;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    admission_reviews: Family<Outcome, Counter>,
    sync_refusals: Family<Reason, Counter>,
    sidecars: Gauge,
    token_requests: Family<Resource, Counter>,
    token_refusals: Family<Resource, Counter>,
    circuit_open: Family<Resource, Gauge>,
    user_exchanges: Family<Outcome, Counter>,
    token_expiry: Family<Resource, Gauge<f64, AtomicU64>>,
    ready: Family<Resource, Gauge>,
    reconcile_errors: Family<Reason, Counter>,
    leader: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Outcome {
    outcome: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Resource {
    namespace: String,
    name: String,
}

impl From<&ResourceRef> for Resource {
    fn from(key: &ResourceRef) -> Self {
        Self {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// How a request for a user's token ended.
#[derive(Clone, Copy, Debug)]
pub enum Exchange {
    Issued,
    Failed,
}

/// Counts a sidecar as connected until it is dropped.
pub struct Connected(Metrics);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.sidecars.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mcpauth_operator");
        let inner = Inner {
            admission_reviews: Family::default(),
            sync_refusals: Family::default(),
            sidecars: Gauge::default(),
            token_requests: Family::default(),
            token_refusals: Family::default(),
            circuit_open: Family::default(),
            user_exchanges: Family::default(),
            token_expiry: Family::default(),
            ready: Family::default(),
            reconcile_errors: Family::default(),
            leader: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "admission_reviews",
            "Pods looked at by the webhook",
            inner.admission_reviews.clone(),
        );
        registry.register(
            "sync_refusals",
            "Sidecars that were not served",
            inner.sync_refusals.clone(),
        );
        registry.register("sidecars", "Sidecars connected now", inner.sidecars.clone());
        registry.register(
            "token_requests",
            "Requests to token endpoints",
            inner.token_requests.clone(),
        );
        registry.register(
            "token_refusals",
            "Reports of sidecars that an MCP server refused the token",
            inner.token_refusals.clone(),
        );
        registry.register(
            "circuit_open",
            "Whether the circuit breaker lets no token request out",
            inner.circuit_open.clone(),
        );
        registry.register(
            "user_exchanges",
            "Requests of sidecars for a user's own token",
            inner.user_exchanges.clone(),
        );
        registry.register_with_unit(
            "token_expiry_timestamp",
            "End of the token in use, Unix time",
            Unit::Seconds,
            inner.token_expiry.clone(),
        );
        registry.register(
            "ready",
            "Whether the resource's condition Ready is true",
            inner.ready.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciliations that could not be finished",
            inner.reconcile_errors.clone(),
        );
        registry.register("leader", "Whether this replica leads", inner.leader.clone());
        Self(Arc::new(Inner { registry, ..inner }))
    }
}

impl Metrics {
    /// The Prometheus text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry)
            .expect("writing to a string cannot fail");
        text
    }

    pub fn reviewed(&self, outcome: &str) {
        self.0
            .admission_reviews
            .get_or_create(&Outcome {
                outcome: outcome.to_owned(),
            })
            .inc();
    }

    pub fn sync_refused(&self, reason: &'static str) {
        self.0.sync_refusals.get_or_create(&Reason { reason }).inc();
    }

    pub fn sidecar_connected(&self) -> Connected {
        self.0.sidecars.inc();
        Connected(self.clone())
    }

    pub fn reconcile_failed(&self, reason: &'static str) {
        self.0.reconcile_errors.get_or_create(&Reason { reason }).inc();
    }

    pub fn leads(&self, leads: bool) {
        self.0.leader.set(leads.into());
    }

    pub fn resource(&self, key: &ResourceRef, ready: bool, expires_at: Option<i64>) {
        self.0.ready.get_or_create(&key.into()).set(ready.into());
        match expires_at {
            Some(at) => drop(self.0.token_expiry.get_or_create(&key.into()).set(at as f64)),
            None => drop(self.0.token_expiry.remove(&key.into())),
        }
    }

    pub fn token_requested(&self, key: &ResourceRef, times: u64) {
        self.0.token_requests.get_or_create(&key.into()).inc_by(times);
    }

    pub fn token_refused(&self, key: &ResourceRef) {
        self.0.token_refusals.get_or_create(&key.into()).inc();
    }

    pub fn circuit(&self, key: &ResourceRef, open: bool) {
        self.0.circuit_open.get_or_create(&key.into()).set(open.into());
    }

    pub fn exchanged(&self, outcome: Exchange) {
        let outcome = match outcome {
            Exchange::Issued => "issued",
            Exchange::Failed => "failed",
        };
        let outcome = outcome.to_owned();
        self.0.user_exchanges.get_or_create(&Outcome { outcome }).inc();
    }

    /// Forgets a deleted resource.
    pub fn forget(&self, key: &ResourceRef) {
        self.0.ready.remove(&key.into());
        self.0.token_expiry.remove(&key.into());
        self.0.token_requests.remove(&key.into());
        self.0.token_refusals.remove(&key.into());
        self.0.circuit_open.remove(&key.into());
    }
}
