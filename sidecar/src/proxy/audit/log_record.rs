//! A line as a log record of OpenTelemetry. Its body is the line itself, so that there is one schema whatever way lines take;
//! what one filters by are attributes too, under the names of OpenTelemetry's semantic conventions where there are any.

use jiff::Timestamp;

use super::line::Line;
use crate::proxy::otlp::{KeyValue, LogRecord, hex_span_id};
use crate::proxy::routes::McpServer;
use crate::proxy::trace_context::Span;

/// The record's event.
const EVENT: &str = "mcpauth.audit";

/// JSON of the record of a call that began at `start`.
pub fn log_record(
    line: &Line<'_>,
    server: &McpServer,
    start: Timestamp,
    span: Option<&Span>,
) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    line.write(&mut text).ok()?;
    let mut record = LogRecord::new(EVENT, start, String::from_utf8(text).ok()?);
    record.trace_id = line.trace_id.map(|id| id.to_string());
    record.span_id = span.map(|span| hex_span_id(span.span_id));
    record.attributes = [
        Some(KeyValue::text("mcpauth.server", &*server.name)),
        Some(KeyValue::text("mcpauth.resource", &*server.resource)),
        Some(KeyValue::text("mcpauth.outcome", line.outcome)),
        line.method
            .map(|method| KeyValue::text("mcp.method.name", method)),
        line.tool.map(|tool| KeyValue::text("gen_ai.tool.name", tool)),
        line.user
            .and_then(|user| user.id.as_deref())
            .map(|id| KeyValue::text("user.id", id)),
        line.reason.map(|reason| KeyValue::text("error.type", reason)),
        line.status
            .map(|status| KeyValue::number("http.response.status_code", i64::from(status))),
        line.replayed.then(|| KeyValue::flag("mcpauth.replayed", true)),
    ]
    .into_iter()
    .flatten()
    .collect();
    serde_json::to_vec(&record).ok()
}
