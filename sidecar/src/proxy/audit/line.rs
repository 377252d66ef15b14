//! The line of a call. Its fields are a contract, which `docs/audit.schema.json` states: a change that takes one
//! away, or gives it another meaning, takes another [`VERSION`].

use jiff::Timestamp;
use serde::Serialize;

use super::user::User;
use crate::proxy::fingerprint::Fingerprint;
use crate::proxy::request_id::RequestId;
use crate::proxy::trace_context::TraceId;

/// Of the schema.
pub const VERSION: &str = "mcpauth.dev/audit/v1";

/// What the lines of one server begin with, but for the time.
#[derive(Serialize)]
pub struct Origin<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub server: &'a str,
    pub resource: &'a str,
}

/// Schema, time and [`Origin`] come before these.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    /// When the request came, in UTC.
    #[serde(skip)]
    pub time: String,
    /// That of [`Origin::fields`].
    #[serde(skip)]
    pub origin: &'a [u8],
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
    pub trace_id: Option<TraceId>,
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

impl Origin<'_> {
    /// As members of an object, with a comma before them.
    pub fn fields(&self) -> Vec<u8> {
        let mut object = serde_json::to_vec(self).unwrap_or_default();
        object.pop();
        if let Some(brace) = object.first_mut() {
            *brace = b',';
        }
        object
    }
}

impl Line<'_> {
    /// Appends it as one object.
    pub fn write(&self, output: &mut Vec<u8>) -> serde_json::Result<()> {
        output.extend_from_slice(b"{\"schema\":\"");
        output.extend_from_slice(VERSION.as_bytes());
        output.extend_from_slice(b"\",\"time\":\"");
        output.extend_from_slice(self.time.as_bytes());
        output.push(b'"');
        output.extend_from_slice(self.origin);
        let brace = output.len();
        serde_json::to_writer(&mut *output, self)?;
        output[brace] = b',';
        Ok(())
    }
}

/// RFC 3339 in UTC, to the microsecond.
pub fn time(timestamp: Timestamp) -> String {
    format!("{timestamp:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_lines_begin_with_is_escaped_like_the_rest() {
        let origin = Origin {
            namespace: "n",
            pod: "p",
            server: "a\"b",
            resource: "c\nd",
        };
        let fields = String::from_utf8(origin.fields()).unwrap();
        assert_eq!(
            fields,
            r#","namespace":"n","pod":"p","server":"a\"b","resource":"c\nd""#
        );
    }

    #[test]
    fn times_are_of_one_length_and_in_utc() {
        let time = time("2026-11-29T17:50:00.1234567+01:00".parse().unwrap());
        assert_eq!(time, "2026-11-29T16:50:00.123456Z");
    }
}
