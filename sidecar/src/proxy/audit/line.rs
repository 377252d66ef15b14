//! The line of a call. Its fields are a contract, which `docs/audit.schema.json` states: a change that takes one
//! away, or gives it another meaning, takes another [`VERSION`].

use jiff::Timestamp;
use serde::Serialize;

use super::fingerprint::Fingerprint;
use super::user::User;
use crate::proxy::request_id::RequestId;

/// Of the schema.
pub const VERSION: &str = "mcpauth.dev/audit/v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    pub schema: &'static str,
    /// When the request came, in UTC.
    pub time: String,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub server: &'a str,
    pub resource: &'a str,
    pub http_method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argument_names: Option<&'a [String]>,
    /// Messages in the body, where it is a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    pub request: RequestId,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub duration_ms: f64,
    pub server_ms: f64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub replayed: bool,
}

/// RFC 3339 in UTC, to the microsecond.
pub fn time(timestamp: Timestamp) -> String {
    format!("{timestamp:.6}")
}

/// The trace's identifier in a `traceparent` (W3C Trace Context section 3.2).
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.trim().split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        text.len() == length && text.bytes().all(is_digit)
    };
    let is_valid =
        is_hex(version, 2) && version != "ff" && is_hex(id, 32) && id.bytes().any(|byte| byte != b'0');
    is_valid.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_trace_has_an_identifier() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        assert_eq!(trace_id(&format!("01-{id}-00f067aa0ba902b7-01-more")), Some(id));
        for other in [
            String::new(),
            "00".to_owned(),
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            "00-ada@example.com-1-1".to_owned(),
        ] {
            assert_eq!(trace_id(&other), None, "{other}");
        }
    }

    #[test]
    fn times_are_of_one_length_and_in_utc() {
        let time = time("2026-11-29T17:50:00.1234567+01:00".parse().unwrap());
        assert_eq!(time, "2026-11-29T16:50:00.123456Z");
    }
}
