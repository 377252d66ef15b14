//! What token sources count.

use mcp_auth_credentials::{ResourceRef, TokenMetrics, TokenUsage};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;
use super::labels::ResourceLabels;

impl TokenMetrics for Metrics {
    fn token_requested(&self, resource_ref: &ResourceRef, times: u64) {
        self.0
            .token_requests
            .get_or_create(&resource_ref.into())
            .inc_by(times);
    }

    fn token_refused(&self, resource_ref: &ResourceRef) {
        self.0.token_refusals.get_or_create(&resource_ref.into()).inc();
    }

    fn set_circuit_open(&self, resource_ref: &ResourceRef, open: bool) {
        self.0
            .circuit_open
            .get_or_create(&resource_ref.into())
            .set(open.into());
    }

    fn set_clock_offset(&self, resource_ref: &ResourceRef, seconds: i64) {
        self.0
            .clock_offset
            .get_or_create(&resource_ref.into())
            .set(seconds);
    }

    fn set_usage(&self, resource_ref: &ResourceRef, usage: Option<TokenUsage>) {
        let labels = ResourceLabels::from(resource_ref);
        let usage = usage.as_ref();
        let quota = usage.and_then(|usage| usage.quota);
        // What is too little so far is not told: an alert would end, and begin anew.
        let is_told = |usage: &&TokenUsage| {
            let is_beyond = quota.is_some_and(|quota| usage.of_client().1 > quota);
            is_beyond || !usage.is_partial
        };
        let of_client = quota.and(usage).filter(is_told);
        if of_client.is_some() || quota.is_none() {
            set_or_remove(
                &self.0.client_tokens_forecast,
                &labels,
                of_client.map(|usage| usage.of_client().1),
            );
        }
        for (family, tokens) in [
            (&self.0.tokens_issued, usage.map(|usage| usage.today.issued)),
            (&self.0.tokens_forecast, usage.map(|usage| usage.today.forecast)),
            (&self.0.tokens_quota, quota),
        ] {
            set_or_remove(family, &labels, tokens);
        }
    }
}

fn set_or_remove(family: &Family<ResourceLabels, Gauge>, labels: &ResourceLabels, tokens: Option<u64>) {
    match tokens {
        Some(tokens) => {
            let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
            family.get_or_create(labels).set(tokens);
        }
        None => drop(family.remove(labels)),
    }
}
