//! Metrics for Prometheus on one machine: the sidecar's, and of the operator's those of tokens, under the same names, so
//! that dashboards and alerts are the same. `docs/metrics.md` lists them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use mcp_auth_credentials::credential_expiry::{CREDENTIALS, CredentialExpiry};
use mcp_auth_credentials::{ResourceRef, TokenMetrics, TokenUsage};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct TokenFamilies {
    requests: Family<ResourceLabels, Counter>,
    refusals: Family<ResourceLabels, Counter>,
    circuit_open: Family<ResourceLabels, Gauge>,
    clock_offset: Family<ResourceLabels, Gauge>,
    tokens_issued: Family<ResourceLabels, Gauge>,
    tokens_forecast: Family<ResourceLabels, Gauge>,
    client_tokens_forecast: Family<ResourceLabels, Gauge>,
    tokens_quota: Family<ResourceLabels, Gauge>,
    issued: Family<ResourceLabels, Gauge<f64, AtomicU64>>,
    expiry: Family<ResourceLabels, Gauge<f64, AtomicU64>>,
    credential_expiry: Family<CredentialLabels, Gauge<f64, AtomicU64>>,
    credential_warning_level: Family<CredentialLabels, Gauge>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResourceLabels {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CredentialLabels {
    namespace: String,
    name: String,
    /// One of [`CREDENTIALS`].
    credential: &'static str,
}

impl From<&ResourceRef> for ResourceLabels {
    fn from(resource: &ResourceRef) -> Self {
        Self {
            namespace: resource.namespace.clone(),
            name: resource.name.clone(),
        }
    }
}

impl TokenFamilies {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("mcpauth_operator");
        registry.register(
            "token_requests",
            "Requests to token endpoints",
            self.requests.clone(),
        );
        registry.register(
            "token_refusals",
            "Reports that an MCP server refused the token",
            self.refusals.clone(),
        );
        registry.register(
            "circuit_open",
            "Whether the circuit breaker lets no token request out",
            self.circuit_open.clone(),
        );
        registry.register_with_unit(
            "clock_offset",
            "How far the authorization server's clock is ahead of this machine's",
            Unit::Seconds,
            self.clock_offset.clone(),
        );
        registry.register(
            "tokens_issued_today",
            "Tokens that were issued since midnight (UTC)",
            self.tokens_issued.clone(),
        );
        registry.register(
            "tokens_forecast_today",
            "Tokens that will be issued by midnight (UTC), if it goes on like this",
            self.tokens_forecast.clone(),
        );
        registry.register(
            "client_tokens_forecast_today",
            "Tokens that will be issued by midnight (UTC) to the client of a resource that states a quota, for all of its \
             resources in the namespace",
            self.client_tokens_forecast.clone(),
        );
        registry.register(
            "tokens_quota",
            "Tokens that may be issued in a day, as the resource states it",
            self.tokens_quota.clone(),
        );
        registry.register_with_unit(
            "token_issued_timestamp",
            "When the token in use was issued, Unix time",
            Unit::Seconds,
            self.issued.clone(),
        );
        registry.register_with_unit(
            "token_expiry_timestamp",
            "End of the token in use, Unix time",
            Unit::Seconds,
            self.expiry.clone(),
        );
        registry.register_with_unit(
            "credential_expiry_timestamp",
            "End of what a resource refers to, Unix time",
            Unit::Seconds,
            self.credential_expiry.clone(),
        );
        registry.register(
            "credential_warning_level",
            "How near that end is: 1 within 30 days, 2 within 14, 3 within 3, 4 over, else 0",
            self.credential_warning_level.clone(),
        );
    }

    /// Each kind of credential that ends, with its nearest end.
    pub fn set_credentials(&self, resource: &ResourceRef, expiries: &[CredentialExpiry], now: Timestamp) {
        for credential in CREDENTIALS {
            let labels = CredentialLabels {
                namespace: resource.namespace.clone(),
                name: resource.name.clone(),
                credential,
            };
            let of_kind = expiries.iter().filter(|expiry| expiry.credential == credential);
            match of_kind
                .filter_map(|expiry| Some((expiry.end?, expiry)))
                .min_by_key(|(end, _)| *end)
            {
                Some((end, expiry)) => {
                    let seconds = end.as_second() as f64;
                    self.credential_expiry.get_or_create(&labels).set(seconds);
                    let level = expiry.nearness(now) as i64;
                    self.credential_warning_level.get_or_create(&labels).set(level);
                }
                None => {
                    self.credential_expiry.remove(&labels);
                    self.credential_warning_level.remove(&labels);
                }
            }
        }
    }

    /// When the token in use was issued and when it ends, in Unix time, as far as that is known.
    pub fn set_life(&self, resource: &ResourceRef, issued: Option<i64>, expiry: Option<i64>) {
        for (family, time) in [(&self.issued, issued), (&self.expiry, expiry)] {
            match time {
                Some(time) => {
                    family.get_or_create(&resource.into()).set(time as f64);
                }
                None => {
                    family.remove(&resource.into());
                }
            }
        }
    }

    /// Drops what is known of a resource that is gone.
    pub fn remove(&self, resource: &ResourceRef) {
        self.set_life(resource, None, None);
        self.set_credentials(resource, &[], Timestamp::UNIX_EPOCH);
        self.circuit_open.remove(&resource.into());
        self.clock_offset.remove(&resource.into());
        self.set_usage(resource, None);
    }
}

impl TokenMetrics for TokenFamilies {
    fn token_refused(&self, resource: &ResourceRef) {
        self.refusals.get_or_create(&resource.into()).inc();
    }

    fn token_requested(&self, resource: &ResourceRef, times: u64) {
        self.requests.get_or_create(&resource.into()).inc_by(times);
    }

    fn set_circuit_open(&self, resource: &ResourceRef, open: bool) {
        self.circuit_open.get_or_create(&resource.into()).set(open.into());
    }

    fn set_clock_offset(&self, resource: &ResourceRef, seconds: i64) {
        self.clock_offset.get_or_create(&resource.into()).set(seconds);
    }

    fn set_usage(&self, resource: &ResourceRef, usage: Option<TokenUsage>) {
        let labels = ResourceLabels::from(resource);
        let usage = usage.as_ref();
        let quota = usage.and_then(|usage| usage.quota);
        for (family, tokens) in [
            (&self.tokens_issued, usage.map(|usage| usage.today.issued)),
            (&self.tokens_forecast, usage.map(|usage| usage.today.forecast)),
            (
                &self.client_tokens_forecast,
                quota.and(usage).map(|usage| usage.of_client().1),
            ),
            (&self.tokens_quota, quota),
        ] {
            match tokens {
                Some(tokens) => {
                    let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
                    family.get_or_create(&labels).set(tokens);
                }
                None => drop(family.remove(&labels)),
            }
        }
    }
}

/// `PORT`, which is one of loopback, or `ADDRESS:PORT`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let on_loopback = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let address = text.parse().ok().or(text.parse().ok().map(on_loopback));
    address.ok_or_else(|| {
        "must be a port, such as 9400, or an IP address with one, such as 0.0.0.0:9400".to_owned()
    })
}

/// Answers until the runtime ends.
pub async fn serve(listener: TcpListener, registry: Registry) {
    let routes = Router::new()
        .route("/metrics", get(answer))
        .with_state(Arc::new(registry));
    // It accepts for ever.
    let _ = axum::serve(listener, routes).await;
}

async fn answer(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documentation_names_exactly_the_metrics_of_tokens_that_there_are() {
        let document = include_str!("../../docs/metrics.md");
        let (_, section) = document.split_once("\n## One machine\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let documented: BTreeSet<_> = section
            .split('`')
            .filter(|word| word.starts_with("mcpauth_operator_"))
            .collect();
        let families = TokenFamilies::default();
        let labels = ResourceLabels {
            namespace: String::new(),
            name: "tools".into(),
        };
        let of_credential = CredentialLabels {
            namespace: String::new(),
            name: "tools".into(),
            credential: CREDENTIALS[0],
        };
        // Without a series a family is not exposed.
        for counter in [&families.requests, &families.refusals] {
            counter.get_or_create(&labels).inc();
        }
        for gauge in [
            &families.circuit_open,
            &families.clock_offset,
            &families.tokens_issued,
            &families.tokens_forecast,
            &families.client_tokens_forecast,
            &families.tokens_quota,
        ] {
            gauge.get_or_create(&labels).set(1);
        }
        for time in [&families.issued, &families.expiry] {
            time.get_or_create(&labels).set(1.0);
        }
        families.credential_expiry.get_or_create(&of_credential).set(1.0);
        families
            .credential_warning_level
            .get_or_create(&of_credential)
            .set(1);
        let mut registry = Registry::default();
        families.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let types = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let exposed: Vec<String> = types
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                _ => name.to_owned(),
            })
            .collect();
        assert_eq!(
            exposed.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            documented
        );
        assert_eq!(exposed.len(), 12, "each has a series here");
    }

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        assert_eq!(address("9400").unwrap().to_string(), "127.0.0.1:9400");
        assert_eq!(address("0.0.0.0:9400").unwrap().to_string(), "0.0.0.0:9400");
        assert_eq!(address("[::1]:9400").unwrap().to_string(), "[::1]:9400");
        for wrong in ["", "70000", "localhost:9400", "127.0.0.1"] {
            assert!(address(wrong).unwrap_err().contains("such as 9400"));
        }
    }
}
