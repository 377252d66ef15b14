//! What the data path counts. All names begin with `mcpauth_sidecar_`; no label value comes from a request.
//! `docs/metrics.md` lists them, and a test compares it.

mod histogram;
mod labels;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use sha2::{Digest, Sha256};

use crate::proxy::error::TokenOwner;
use crate::proxy::user_context::Gathered;
use histogram::DurationHistogram;
pub use labels::{AuditDrop, ContextResult, Half, RetryCause};
use labels::{
    CallLabels, ContextLabels, CookieLabels, DroppedLabels, DurationLabels, ErrorLabels, ExchangeLabels,
    ReplayLabels, RequestLabels, ServerLabels, TokenRefusedLabels,
};

/// Cheap to clone. The counters of every request are looked up once, here, so that counting is one atomic
/// addition.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    requests: [[Counter; CLASSES.len()]; 2],
    contexts: [Counter; ContextResult::ALL.len()],
    duplicates: Counter,
    malformed: Counter,
    cookies: Family<CookieLabels, Counter>,
    context_copies_dropped: Counter,
    errors: Family<ErrorLabels, Counter>,
    connects: Family<ServerLabels, Counter>,
    calls_past_sidecar: Family<ServerLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    durations: Family<DurationLabels, DurationHistogram>,
    tokens_refused: Family<TokenRefusedLabels, Counter>,
    replays: Family<ReplayLabels, Counter>,
    exchanges: Family<ExchangeLabels, Counter>,
    waiting: Gauge,
    audit_lines: Counter,
    audit_dropped: [Counter; 2],
    spans: Counter,
    spans_dropped: [Counter; 2],
}

/// What is counted of one MCP server.
pub struct ServerMetrics {
    calls: [Counter; CLASSES.len()],
    sidecar: DurationHistogram,
    server: DurationHistogram,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mcpauth_sidecar");
        let requests = Family::<RequestLabels, Counter>::default();
        let contexts = Family::<ContextLabels, Counter>::default();
        let dropped = Family::<DroppedLabels, Counter>::default();
        let errors = Family::<ErrorLabels, Counter>::default();
        let connects = Family::<ServerLabels, Counter>::default();
        let tokens_refused = Family::<TokenRefusedLabels, Counter>::default();
        let replays = Family::<ReplayLabels, Counter>::default();
        let exchanges = Family::<ExchangeLabels, Counter>::default();
        let waiting = Gauge::default();
        let calls = Family::<CallLabels, Counter>::default();
        registry.register(
            "calls",
            "Requests to MCP servers, by class of status",
            calls.clone(),
        );
        let durations = Family::<DurationLabels, DurationHistogram>::default();
        registry.register_with_unit(
            "call_duration",
            "Time until the head of an answer, in the sidecar and for the MCP server",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register(
            "tokens_refused",
            "Answers of MCP servers that reject a token, by its owner and the cause",
            tokens_refused.clone(),
        );
        registry.register("replays", "Requests sent again, by cause", replays.clone());
        registry.register(
            "exchanges",
            "Token exchanges for a user, by result",
            exchanges.clone(),
        );
        registry.register("waiting", "Requests that wait for a token now", waiting.clone());
        registry.register(
            "requests",
            "Requests answered, by half and class of status",
            requests.clone(),
        );
        registry.register(
            "refused",
            "Requests answered by the sidecar itself, by reason",
            errors.clone(),
        );
        registry.register(
            "contexts",
            "Requests, by the outcome of their user context",
            contexts.clone(),
        );
        registry.register(
            "context_names_dropped",
            "Allow-listed cookies and headers left out because the request states them twice or malformed",
            dropped.clone(),
        );
        let cookies = Family::<CookieLabels, Counter>::default();
        registry.register(
            "cookies",
            "Users' requests that carried an allow-listed cookie, by the fingerprint of its name",
            cookies.clone(),
        );
        let context_copies_dropped = Counter::default();
        registry.register(
            "context_copies_dropped",
            "User contexts for one server each that a listing of tools had no room for",
            context_copies_dropped.clone(),
        );
        registry.register(
            "upstream_connects",
            "Connections opened to MCP servers",
            connects.clone(),
        );
        let calls_past_sidecar = Family::<ServerLabels, Counter>::default();
        registry.register(
            "calls_past_sidecar",
            "Tool calls that LiteLLM answered and that did not come to the sidecar",
            calls_past_sidecar.clone(),
        );
        let audit_lines = Counter::default();
        registry.register("audit_lines", "Audit lines written", audit_lines.clone());
        let audit_dropped = Family::<DroppedLabels, Counter>::default();
        registry.register(
            "audit_lines_dropped",
            "Audit lines that were not written, by cause",
            audit_dropped.clone(),
        );
        let spans = Counter::default();
        registry.register(
            "spans",
            "Spans that the OpenTelemetry collector took",
            spans.clone(),
        );
        let spans_dropped = Family::<DroppedLabels, Counter>::default();
        registry.register(
            "spans_dropped",
            "Spans that the OpenTelemetry collector did not take, by cause",
            spans_dropped.clone(),
        );
        // Counters that seldom count are there from the start: else their first increase could not be seen.
        for why in [
            RetryCause::Unauthorized,
            RetryCause::InsufficientScope,
            RetryCause::DpopNonce,
            RetryCause::ConnectionEnded,
        ] {
            drop(replays.get_or_create(&ReplayLabels { why: why.as_str() }));
        }
        for why in [RetryCause::Unauthorized, RetryCause::InsufficientScope] {
            for whose in ["service", "user"] {
                let why = why.as_str();
                drop(tokens_refused.get_or_create(&TokenRefusedLabels { whose, why }));
            }
        }
        for result in ["issued", "failed"] {
            drop(exchanges.get_or_create(&ExchangeLabels { result }));
        }
        let dropped = |cause| dropped.get_or_create_owned(&DroppedLabels { cause });
        let spans_dropped = |cause| spans_dropped.get_or_create_owned(&DroppedLabels { cause });
        let audit_dropped = |cause| audit_dropped.get_or_create_owned(&DroppedLabels { cause });
        Self(Arc::new(Counters {
            requests: [Half::Inbound, Half::Outbound].map(|half| {
                let half = half.as_str();
                CLASSES.map(|status| requests.get_or_create_owned(&RequestLabels { half, status }))
            }),
            contexts: ContextResult::ALL.map(|result| {
                contexts.get_or_create_owned(&ContextLabels {
                    result: result.as_str(),
                })
            }),
            duplicates: dropped("duplicate"),
            malformed: dropped("malformed"),
            context_copies_dropped,
            errors,
            cookies,
            connects,
            calls_past_sidecar,
            calls,
            durations,
            tokens_refused,
            replays,
            exchanges,
            waiting,
            audit_lines,
            // In the order of `AuditDrop`.
            audit_dropped: [audit_dropped("queue_full"), audit_dropped("write_failed")],
            spans,
            spans_dropped: [spans_dropped("queue_full"), spans_dropped("write_failed")],
        }))
    }

    pub(crate) fn answered(&self, half: Half, status: StatusCode) {
        self.0.requests[half as usize][class(status)].inc();
    }

    pub(crate) fn count_error(&self, half: Half, reason: &'static str) {
        self.0
            .errors
            .get_or_create(&ErrorLabels {
                half: half.as_str(),
                reason,
            })
            .inc();
    }

    pub(crate) fn context(&self, result: ContextResult) {
        self.0.contexts[result as usize].inc();
    }

    pub(crate) fn count_gathered(&self, gathered: &Gathered) {
        let sealed = gathered.context.is_some();
        self.context(if sealed {
            ContextResult::Sealed
        } else {
            ContextResult::None
        });
        if gathered.duplicates > 0 {
            self.0.duplicates.inc_by(gathered.duplicates);
        }
        if gathered.malformed > 0 {
            self.0.malformed.inc_by(gathered.malformed);
        }
    }

    pub(crate) fn context_copy_dropped(&self) {
        self.0.context_copies_dropped.inc();
    }

    pub(crate) fn token_rejected(&self, owner: TokenOwner, why: RetryCause) {
        let whose = match owner {
            TokenOwner::Service => "service",
            TokenOwner::User => "user",
        };
        let labels = TokenRefusedLabels {
            whose,
            why: why.as_str(),
        };
        self.0.tokens_refused.get_or_create(&labels).inc();
    }

    pub(crate) fn replayed(&self, why: RetryCause) {
        let labels = ReplayLabels { why: why.as_str() };
        self.0.replays.get_or_create(&labels).inc();
    }

    pub(crate) fn exchanged(&self, issued: bool) {
        let result = if issued { "issued" } else { "failed" };
        self.0.exchanges.get_or_create(&ExchangeLabels { result }).inc();
    }

    /// `server` is a configured name.
    pub(crate) fn server(&self, server: &str) -> ServerMetrics {
        let server = || server.to_owned();
        let duration = |part| {
            let labels = DurationLabels {
                server: server(),
                part,
            };
            self.0.durations.get_or_create_owned(&labels)
        };
        ServerMetrics {
            calls: CLASSES.map(|status| {
                let labels = CallLabels {
                    server: server(),
                    status,
                };
                self.0.calls.get_or_create_owned(&labels)
            }),
            sidecar: duration("sidecar"),
            server: duration("server"),
        }
    }

    pub(crate) fn spans_exported(&self, spans: u64) {
        self.0.spans.inc_by(spans);
    }

    pub(crate) fn spans_dropped(&self, cause: AuditDrop, number: u64) {
        self.0.spans_dropped[cause as usize].inc_by(number);
    }

    pub(crate) fn audit_written(&self, lines: u64) {
        self.0.audit_lines.inc_by(lines);
    }

    pub(crate) fn audit_dropped(&self, cause: AuditDrop, number: u64) {
        self.0.audit_dropped[cause as usize].inc_by(number);
    }

    pub(crate) fn waiting(&self) -> &Gauge {
        &self.0.waiting
    }

    /// Requests with a cookie of this name. The label is the beginning of the name's SHA-256: what a site calls its
    /// session is nothing to be spread.
    pub fn cookie_arrivals(&self, name: &[u8]) -> Counter {
        let digest: [u8; 32] = Sha256::digest(name).into();
        let name = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.cookies.get_or_create_owned(&CookieLabels { name })
    }

    /// `server` is a configured name.
    pub(crate) fn calls_past_sidecar(&self, server: &str) -> Counter {
        self.0.calls_past_sidecar.get_or_create_owned(&ServerLabels {
            server: server.to_owned(),
        })
    }

    /// `server` is a configured name.
    pub(crate) fn connects(&self, server: &str) -> Counter {
        self.0.connects.get_or_create_owned(&ServerLabels {
            server: server.to_owned(),
        })
    }
}

impl ServerMetrics {
    /// Counts a request by its answer. `total` is the time until the head of the answer, and `upstream_time`
    /// how much of it the MCP server took: zero where it was not called.
    pub(crate) fn answered(&self, status: StatusCode, total: Duration, upstream_time: Duration) {
        self.calls[class(status)].inc();
        self.sidecar.observe(total.saturating_sub(upstream_time));
        if !upstream_time.is_zero() {
            self.server.observe(upstream_time);
        }
    }
}

/// Index among [`CLASSES`].
fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_counts_under_its_own_name() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        for (times, result) in ContextResult::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| metrics.context(result));
        }
        metrics.answered(Half::Outbound, StatusCode::NOT_FOUND);
        metrics.count_error(Half::Outbound, "unknown_server");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"mcpauth_sidecar_contexts_total{result="sealed"} 1"#,
            r#"mcpauth_sidecar_contexts_total{result="too_large"} 7"#,
            r#"mcpauth_sidecar_requests_total{half="outbound",status="4xx"} 1"#,
            r#"mcpauth_sidecar_requests_total{half="inbound",status="2xx"} 0"#,
            r#"mcpauth_sidecar_refused_total{half="outbound",reason="unknown_server"} 1"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
