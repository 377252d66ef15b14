//! What the operator counts, for Prometheus. All under the prefix `mcpauth_operator`. `docs/metrics.md` lists
//! them, and a test compares it.

mod labels;
mod token_metrics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use mcp_auth_crds::reasons;
use mcp_auth_credentials::credential_expiry::CREDENTIALS;
use mcp_auth_credentials::{ResourceRef, TokenMetrics};
use mcp_auth_protocol::sync::notices;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use labels::{CertificateLabels, CredentialLabels, OutcomeLabels, PodLabels, ReasonLabels, ResourceLabels};

use crate::inject::{NOT_INJECTED_REASONS, SkipReason, WARNING_REASONS};

/// Why a pod has no sidecar that the webhook was never asked about, such as one that is older than the resource.
pub const NOT_REVIEWED: &str = "NotReviewed";

/// Why a pod gets no sidecar whose label says so, which the webhook is not asked about.
pub const OPTED_OUT: &str = SkipReason::OptedOut.as_str();
/// What pods are counted by whose sidecar has a problem of its own, whatever that is.
pub const SIDECAR_PROBLEM: &str = reasons::SIDECAR_PROBLEM;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Metrics(Arc<MetricFamilies>);

struct MetricFamilies {
    registry: Registry,
    admission_reviews: Family<OutcomeLabels, Counter>,
    sync_refusals: Family<ReasonLabels, Counter>,
    sidecars: Gauge,
    token_requests: Family<ResourceLabels, Counter>,
    token_refusals: Family<ResourceLabels, Counter>,
    circuit_open: Family<ResourceLabels, Gauge>,
    clock_offset: Family<ResourceLabels, Gauge>,
    tokens_issued: Family<ResourceLabels, Gauge>,
    tokens_forecast: Family<ResourceLabels, Gauge>,
    client_tokens_forecast: Family<ResourceLabels, Gauge>,
    tokens_quota: Family<ResourceLabels, Gauge>,
    user_exchanges: Family<OutcomeLabels, Counter>,
    token_issued: Family<ResourceLabels, Gauge<f64, AtomicU64>>,
    token_expiry: Family<ResourceLabels, Gauge<f64, AtomicU64>>,
    client_certificate_expiry: Family<ResourceLabels, Gauge<f64, AtomicU64>>,
    certificate_expiry: Family<CertificateLabels, Gauge<f64, AtomicU64>>,
    credential_expiry: Family<CredentialLabels, Gauge<f64, AtomicU64>>,
    credential_warning_level: Family<CredentialLabels, Gauge>,
    pods_not_injected: Family<PodLabels, Gauge>,
    pods_with_warnings: Family<PodLabels, Gauge>,
    pods_skipped: Family<PodLabels, Gauge>,
    workloads_refused: Family<PodLabels, Gauge>,
    sidecars_behind: Family<ResourceLabels, Gauge>,
    sidecars_outdated: Family<ResourceLabels, Gauge>,
    sidecars_too_old: Family<ResourceLabels, Gauge>,
    ready: Family<ResourceLabels, Gauge>,
    reconcile_errors: Family<ReasonLabels, Counter>,
    leader: Gauge,
    unknown_settings: Gauge,
}

/// What the status tells of a resource. Times are in seconds since 1970.
#[derive(Debug, Default)]
pub struct ResourceState {
    pub ready: bool,
    pub token_issued_at: Option<i64>,
    pub token_expires_at: Option<i64>,
    /// Of the certificate that is shown to the MCP server.
    pub client_certificate_expires_at: Option<i64>,
    /// Of each of [`CREDENTIALS`] that ends: when, and how near that is.
    pub credentials: BTreeMap<&'static str, (i64, i64)>,
    /// Selected pods without a sidecar, by the reason.
    pub pods_not_injected: BTreeMap<&'static str, i64>,
    /// Selected pods that injection warned of, by the reason.
    pub pods_with_warnings: BTreeMap<&'static str, i64>,
    /// Selected pods that get no sidecar, by the reason.
    pub pods_skipped: BTreeMap<&'static str, i64>,
    /// Workloads whose selected pods the webhook refuses, by the reason.
    pub workloads_refused: BTreeMap<&'static str, i64>,
    pub sidecars_behind: i64,
    pub sidecars_outdated: i64,
    pub sidecars_too_old: i64,
}

/// How a request for a user's token ended.
#[derive(Clone, Copy, Debug)]
pub enum ExchangeOutcome {
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
        let families = MetricFamilies {
            admission_reviews: Family::default(),
            sync_refusals: Family::default(),
            sidecars: Gauge::default(),
            token_requests: Family::default(),
            token_refusals: Family::default(),
            circuit_open: Family::default(),
            clock_offset: Family::default(),
            tokens_issued: Family::default(),
            tokens_forecast: Family::default(),
            client_tokens_forecast: Family::default(),
            tokens_quota: Family::default(),
            user_exchanges: Family::default(),
            token_issued: Family::default(),
            token_expiry: Family::default(),
            client_certificate_expiry: Family::default(),
            certificate_expiry: Family::default(),
            credential_expiry: Family::default(),
            credential_warning_level: Family::default(),
            pods_not_injected: Family::default(),
            pods_with_warnings: Family::default(),
            pods_skipped: Family::default(),
            workloads_refused: Family::default(),
            sidecars_behind: Family::default(),
            sidecars_outdated: Family::default(),
            sidecars_too_old: Family::default(),
            ready: Family::default(),
            reconcile_errors: Family::default(),
            leader: Gauge::default(),
            unknown_settings: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "admission_reviews",
            "Pods looked at by the webhook",
            families.admission_reviews.clone(),
        );
        registry.register(
            "sync_refusals",
            "Sidecars that were not served",
            families.sync_refusals.clone(),
        );
        registry.register("sidecars", "Sidecars connected now", families.sidecars.clone());
        registry.register(
            "token_requests",
            "Requests to token endpoints",
            families.token_requests.clone(),
        );
        registry.register(
            "token_refusals",
            "Reports of sidecars that an MCP server refused the token",
            families.token_refusals.clone(),
        );
        registry.register(
            "circuit_open",
            "Whether the circuit breaker lets no token request out",
            families.circuit_open.clone(),
        );
        registry.register_with_unit(
            "clock_offset",
            "How far the authorization server's clock is ahead of the operator's",
            Unit::Seconds,
            families.clock_offset.clone(),
        );
        registry.register(
            "tokens_issued_today",
            "Tokens that were issued since midnight (UTC)",
            families.tokens_issued.clone(),
        );
        registry.register(
            "tokens_forecast_today",
            "Tokens that will be issued by midnight (UTC), if it goes on like this",
            families.tokens_forecast.clone(),
        );
        registry.register(
            "client_tokens_forecast_today",
            "Tokens that will be issued by midnight (UTC) to the client of a resource that states a quota, for all of its \
             resources in the namespace",
            families.client_tokens_forecast.clone(),
        );
        registry.register(
            "tokens_quota",
            "Tokens that may be issued in a day, as the resource states it",
            families.tokens_quota.clone(),
        );
        registry.register(
            "user_exchanges",
            "Requests of sidecars for a user's own token",
            families.user_exchanges.clone(),
        );
        registry.register_with_unit(
            "token_issued_timestamp",
            "When the token in use was issued, Unix time",
            Unit::Seconds,
            families.token_issued.clone(),
        );
        registry.register_with_unit(
            "client_certificate_expiry_timestamp",
            "End of the certificate that is shown to the MCP server, Unix time",
            Unit::Seconds,
            families.client_certificate_expiry.clone(),
        );
        registry.register_with_unit(
            "credential_expiry_timestamp",
            "End of what a resource refers to, Unix time",
            Unit::Seconds,
            families.credential_expiry.clone(),
        );
        registry.register(
            "credential_warning_level",
            "How near that end is: 1 within 30 days, 2 within 14, 3 within 3, 4 over",
            families.credential_warning_level.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "End of the operator's own certificates, Unix time",
            Unit::Seconds,
            families.certificate_expiry.clone(),
        );
        registry.register(
            "pods_not_injected",
            "Selected pods that run without the sidecar",
            families.pods_not_injected.clone(),
        );
        registry.register(
            "pods_with_warnings",
            "Selected pods that injection or the sidecar warns of",
            families.pods_with_warnings.clone(),
        );
        registry.register(
            "pods_skipped",
            "Selected pods that get no sidecar, because they are not such as need one",
            families.pods_skipped.clone(),
        );
        registry.register(
            "workloads_refused",
            "Workloads whose selected pods the webhook refuses",
            families.workloads_refused.clone(),
        );
        registry.register(
            "sidecars_behind",
            "Sidecars that are not connected or do not use the newest routes and tokens",
            families.sidecars_behind.clone(),
        );
        registry.register(
            "sidecars_outdated",
            "Sidecars of another version than the operator",
            families.sidecars_outdated.clone(),
        );
        registry.register(
            "sidecars_too_old",
            "Sidecars that are older than the operator supports, which is one minor version",
            families.sidecars_too_old.clone(),
        );
        registry.register_with_unit(
            "token_expiry_timestamp",
            "End of the token in use, Unix time",
            Unit::Seconds,
            families.token_expiry.clone(),
        );
        registry.register(
            "ready",
            "Whether the resource's condition Ready is true",
            families.ready.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciliations that could not be finished",
            families.reconcile_errors.clone(),
        );
        registry.register("leader", "Whether this replica leads", families.leader.clone());
        registry.register(
            "unknown_settings",
            "Settings of sidecars that this version does not know",
            families.unknown_settings.clone(),
        );
        Self(Arc::new(MetricFamilies { registry, ..families }))
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
            .get_or_create(&OutcomeLabels {
                outcome: outcome.to_owned(),
            })
            .inc();
    }

    pub fn sync_refused(&self, reason: &'static str) {
        self.0.sync_refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub fn sidecar_connected(&self) -> Connected {
        self.0.sidecars.inc();
        Connected(self.clone())
    }

    pub fn reconcile_failed(&self, reason: &'static str) {
        self.0
            .reconcile_errors
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    pub fn leads(&self, leads: bool) {
        self.0.leader.set(leads.into());
    }

    pub fn set_unknown_settings(&self, count: usize) {
        self.0
            .unknown_settings
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn set_resource(&self, resource_ref: &ResourceRef, state: &ResourceState) {
        let labels = ResourceLabels::from(resource_ref);
        let families = &self.0;
        families.ready.get_or_create(&labels).set(state.ready.into());
        for (family, at) in [
            (&families.token_issued, state.token_issued_at),
            (&families.token_expiry, state.token_expires_at),
            (
                &families.client_certificate_expiry,
                state.client_certificate_expires_at,
            ),
        ] {
            match at {
                Some(at) => drop(family.get_or_create(&labels).set(at as f64)),
                None => drop(family.remove(&labels)),
            }
        }
        self.set_credentials(resource_ref, &state.credentials);
        families
            .sidecars_behind
            .get_or_create(&labels)
            .set(state.sidecars_behind);
        families
            .sidecars_outdated
            .get_or_create(&labels)
            .set(state.sidecars_outdated);
        families
            .sidecars_too_old
            .get_or_create(&labels)
            .set(state.sidecars_too_old);
        self.set_pods(resource_ref, state);
    }

    /// Of a resource: how many of its pods there are for each reason.
    fn set_pods(&self, resource_ref: &ResourceRef, state: &ResourceState) {
        let not_reviewed = NOT_INJECTED_REASONS.iter().chain([&NOT_REVIEWED]);
        let warnings = WARNING_REASONS.iter().chain(&notices::WARNINGS);
        let skipped = SkipReason::ALL.map(SkipReason::as_str);
        let families = [
            (
                &self.0.pods_not_injected,
                &state.pods_not_injected,
                not_reviewed.collect::<Vec<_>>(),
            ),
            (
                &self.0.pods_with_warnings,
                &state.pods_with_warnings,
                warnings.chain([&SIDECAR_PROBLEM]).collect(),
            ),
            (
                &self.0.pods_skipped,
                &state.pods_skipped,
                skipped.iter().collect(),
            ),
            (
                &self.0.workloads_refused,
                &state.workloads_refused,
                NOT_INJECTED_REASONS.iter().collect(),
            ),
        ];
        for (family, counted, reasons) in families {
            for reason in reasons {
                let labels = PodLabels::new(resource_ref, reason);
                match counted.get(reason) {
                    Some(pods) => drop(family.get_or_create(&labels).set(*pods)),
                    None => drop(family.remove(&labels)),
                }
            }
        }
    }

    /// Of a resource: each kind of credential with its end and how near that is.
    fn set_credentials(&self, resource_ref: &ResourceRef, credentials: &BTreeMap<&'static str, (i64, i64)>) {
        for credential in CREDENTIALS {
            let labels = CredentialLabels::new(resource_ref, credential);
            let (expiry, level) = (&self.0.credential_expiry, &self.0.credential_warning_level);
            match credentials.get(credential) {
                Some((end, nearness)) => {
                    expiry.get_or_create(&labels).set(*end as f64);
                    level.get_or_create(&labels).set(*nearness);
                }
                None => {
                    expiry.remove(&labels);
                    level.remove(&labels);
                }
            }
        }
    }

    /// The ends of the operator's own certificates, in seconds since 1970.
    pub fn set_certificates(&self, authority: Option<i64>, serving: Option<i64>) {
        for (certificate, end) in [("authority", authority), ("serving", serving)] {
            if let Some(end) = end {
                let labels = CertificateLabels { certificate };
                self.0.certificate_expiry.get_or_create(&labels).set(end as f64);
            }
        }
    }

    pub fn exchanged(&self, outcome: ExchangeOutcome) {
        let outcome = match outcome {
            ExchangeOutcome::Issued => "issued",
            ExchangeOutcome::Failed => "failed",
        };
        let outcome = outcome.to_owned();
        self.0
            .user_exchanges
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// Forgets a deleted resource.
    pub fn forget(&self, resource_ref: &ResourceRef) {
        self.0.ready.remove(&resource_ref.into());
        self.0.token_issued.remove(&resource_ref.into());
        self.0.token_expiry.remove(&resource_ref.into());
        self.0.client_certificate_expiry.remove(&resource_ref.into());
        self.set_credentials(resource_ref, &BTreeMap::new());
        self.0.sidecars_behind.remove(&resource_ref.into());
        self.0.sidecars_outdated.remove(&resource_ref.into());
        self.0.sidecars_too_old.remove(&resource_ref.into());
        self.set_pods(resource_ref, &ResourceState::default());
        self.0.token_requests.remove(&resource_ref.into());
        self.0.token_refusals.remove(&resource_ref.into());
        self.0.circuit_open.remove(&resource_ref.into());
        self.0.clock_offset.remove(&resource_ref.into());
        self.set_usage(resource_ref, None);
    }
}

#[cfg(test)]
mod tests;
