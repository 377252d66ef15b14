//! OTLP in JSON: protobuf's JSON mapping with identifiers in hex, and 64-bit numbers as text (OTLP 1.x, "JSON Protobuf
//! Encoding").

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::queue::Signal;

/// What the records are made by, as OpenTelemetry's scope.
const SCOPE: &str = "mcp-auth";
/// `SPAN_KIND_CLIENT`.
const CLIENT: u8 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// `SEVERITY_NUMBER_INFO`.
const INFO: u8 = 9;

/// An attribute.
#[derive(Clone, Debug, Serialize)]
pub struct KeyValue {
    key: &'static str,
    value: AnyValue,
}

#[derive(Clone, Debug, Serialize)]
enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue", serialize_with = "as_text")]
    Number(i64),
    #[serde(rename = "boolValue")]
    Flag(bool),
}

/// A log record that is an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    #[serde(serialize_with = "nanoseconds")]
    pub time_unix_nano: Timestamp,
    #[serde(serialize_with = "nanoseconds")]
    pub observed_time_unix_nano: Timestamp,
    severity_number: u8,
    severity_text: &'static str,
    pub event_name: &'static str,
    body: AnyValue,
    pub attributes: Vec<KeyValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
}

/// A span of a call to another program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanRecord<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_state: Option<&'a str>,
    name: String,
    kind: u8,
    #[serde(serialize_with = "nanoseconds")]
    start_time_unix_nano: Timestamp,
    #[serde(serialize_with = "nanoseconds")]
    end_time_unix_nano: Timestamp,
    attributes: Vec<KeyValue>,
    status: Status,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u8,
}

/// As the JSON of OTLP has identifiers of spans.
pub fn hex_span_id(span_id: u64) -> String {
    format!("{span_id:016x}")
}

impl<'a> SpanRecord<'a> {
    /// `ids`: of the trace and of the span. `times`: from the request to the end of the answer.
    pub fn new(
        ids: (String, String),
        parent_span_id: Option<String>,
        trace_state: Option<&'a str>,
        name: String,
        times: (Timestamp, Timestamp),
        attributes: Vec<KeyValue>,
        has_failed: bool,
    ) -> Self {
        Self {
            trace_id: ids.0,
            span_id: ids.1,
            parent_span_id,
            trace_state,
            name,
            kind: CLIENT,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            attributes,
            status: Status {
                code: if has_failed { ERROR } else { 0 },
            },
        }
    }
}

impl KeyValue {
    pub fn text(key: &'static str, value: impl Into<String>) -> Self {
        Self {
            key,
            value: AnyValue::Text(value.into()),
        }
    }

    pub fn number(key: &'static str, value: i64) -> Self {
        Self {
            key,
            value: AnyValue::Number(value),
        }
    }

    pub fn flag(key: &'static str, value: bool) -> Self {
        Self {
            key,
            value: AnyValue::Flag(value),
        }
    }
}

impl LogRecord {
    pub fn new(event_name: &'static str, time: Timestamp, body: String) -> Self {
        Self {
            time_unix_nano: time,
            observed_time_unix_nano: Timestamp::now(),
            severity_number: INFO,
            severity_text: "INFO",
            event_name,
            body: AnyValue::Text(body),
            attributes: Vec::new(),
            trace_id: None,
            span_id: None,
        }
    }
}

/// Attributes of the resource in the form that [`request`] takes.
pub fn resource(attributes: &[KeyValue]) -> String {
    // Plain values in memory, which cannot fail; an empty resource is one too.
    serde_json::to_string(attributes).unwrap_or_else(|_| "[]".to_owned())
}

/// The request with these records, each of which is JSON already.
pub fn request(signal: Signal, resource: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let (resources, scopes, list) = match signal {
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        Signal::Spans => ("resourceSpans", "scopeSpans", "spans"),
    };
    let version = env!("CARGO_PKG_VERSION");
    let beginning = format!(
        r#"{{"{resources}":[{{"resource":{{"attributes":{resource}}},"{scopes}":[{{"scope":{{"name":"{SCOPE}","version":"{version}"}},"{list}":["#
    );
    let separated = records.join(&b","[..]);
    [beginning.as_bytes(), &separated, b"]}]}]}"].concat()
}

fn as_text<S: Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

fn nanoseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.as_nanosecond())
}
