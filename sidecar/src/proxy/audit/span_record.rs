//! A call as a span of OpenTelemetry, by its semantic conventions for MCP. It says nothing of the user: whoever may see traces
//! need not see who called.

use jiff::{SignedDuration, Timestamp};

use super::message::Message;
use super::record::{CallRecord, Outcome};
use crate::proxy::otlp::{KeyValue, SpanRecord, hex_span_id};
use crate::proxy::trace_context::Span;

/// JSON of the span of a call that began at `start`. `message` is its first.
pub fn span_record(
    record: &CallRecord,
    span: &Span,
    message: Option<&Message>,
    start: Timestamp,
) -> Option<Vec<u8>> {
    let method = message.and_then(|message| message.method.as_deref());
    let tool = message.and_then(|message| message.tool.as_deref());
    let name = match (method, tool) {
        (Some(method), Some(tool)) => format!("{method} {tool}"),
        (Some(method), None) => method.to_owned(),
        (None, _) => record.http_method.as_str().to_owned(),
    };
    let duration = SignedDuration::try_from(record.duration).unwrap_or(SignedDuration::ZERO);
    let (outcome, reason) = record.outcome.text();
    let status = record.status.map(|status| status.as_u16());
    let error = match (record.outcome, status) {
        (Outcome::Answered, Some(status @ 400..)) => Some(status.to_string()),
        (Outcome::Answered, _) => None,
        _ => Some(reason.unwrap_or(outcome).to_owned()),
    };
    let attributes = [
        Some(KeyValue::text("mcpauth.server", &*record.server.name)),
        Some(KeyValue::text("mcpauth.resource", &*record.server.resource)),
        Some(KeyValue::text("mcpauth.outcome", outcome)),
        Some(KeyValue::text("mcpauth.request", record.id.to_string())),
        Some(KeyValue::text("http.request.method", record.http_method.as_str())),
        method.map(|method| KeyValue::text("mcp.method.name", method)),
        tool.map(|tool| KeyValue::text("gen_ai.tool.name", tool)),
        status.map(|status| KeyValue::number("http.response.status_code", i64::from(status))),
        error.clone().map(|error| KeyValue::text("error.type", error)),
        record.replayed.then(|| KeyValue::flag("mcpauth.replayed", true)),
    ];
    let span = SpanRecord::new(
        (span.trace_id().to_string(), hex_span_id(span.span_id)),
        span.parent.map(hex_span_id),
        span.state.as_ref().and_then(|state| state.to_str().ok()),
        name,
        (start, start.checked_add(duration).unwrap_or(start)),
        attributes.into_iter().flatten().collect(),
        error.is_some(),
    );
    serde_json::to_vec(&span).ok()
}
