//! The line of a call. Its fields are a contract, which `docs/audit.schema.json` states: a change that takes one
//! away, or gives it another meaning, takes another [`VERSION`].
//!
//! It is written by hand: serde would look for characters to escape in names of fields, numbers and digests too, and take four
//! times the instructions. A test compares it with what serde makes of the same fields.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use super::user::User;
use crate::proxy::fingerprint::Fingerprint;
use crate::proxy::hex::Hex;
use crate::proxy::request_id::RequestId;
use crate::proxy::trace_context::TraceId;

/// Of the schema.
pub const VERSION: &str = "mcpauth.dev/audit/v1";

/// Bytes of nearly all lines, without what [`Origin`] states.
const USUAL_LENGTH: usize = 768;

/// What the lines of one server begin with, but for the time.
#[derive(Serialize)]
pub struct Origin<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub server: &'a str,
    pub resource: &'a str,
}

/// Schema, time and [`Origin`] come before these.
#[cfg_attr(test, derive(Serialize), serde(rename_all = "camelCase"))]
pub struct Line<'a> {
    /// When the request came, as [`super::line_time`] has it.
    #[cfg_attr(test, serde(skip))]
    pub time: &'a [u8],
    /// That of [`Origin::fields`].
    #[cfg_attr(test, serde(skip))]
    pub origin: &'a [u8],
    pub http_method: &'a str,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub method: Option<&'a str>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub tool: Option<&'a str>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub argument_names: Option<&'a [Cow<'a, str>]>,
    /// Messages in the body, where it is a batch.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub batch_size: Option<usize>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub user: Option<&'a User>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub client_key: Option<Fingerprint>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub session: Option<Fingerprint>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub trace_id: Option<TraceId>,
    pub request: RequestId,
    pub outcome: &'static str,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub reason: Option<&'static str>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub status: Option<u16>,
    #[cfg_attr(test, serde(rename = "durationMs", serialize_with = "tests::milliseconds"))]
    pub duration: Duration,
    #[cfg_attr(test, serde(rename = "serverMs", serialize_with = "tests::milliseconds"))]
    pub server_time: Duration,
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

/// The beginning of a member that is not the first, as a constant: it is copied at once.
macro_rules! member {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

impl Line<'_> {
    /// Appends it as one object.
    pub fn write(&self, output: &mut Vec<u8>) -> serde_json::Result<()> {
        output.reserve(USUAL_LENGTH + self.origin.len());
        output.extend_from_slice(b"{\"schema\":\"");
        output.extend_from_slice(VERSION.as_bytes());
        output.extend_from_slice(b"\",\"time\":\"");
        output.extend_from_slice(self.time);
        output.push(b'"');
        output.extend_from_slice(self.origin);
        let mut fields = Fields(output);
        fields.plain(member!("httpMethod"), self.http_method);
        if let Some(method) = self.method {
            fields.json(member!("method"), method)?;
        }
        if let Some(tool) = self.tool {
            fields.json(member!("tool"), tool)?;
        }
        if let Some(names) = self.argument_names {
            fields.json(member!("argumentNames"), names)?;
        }
        if let Some(messages) = self.batch_size {
            fields.number(member!("batchSize"), messages);
        }
        match self.user {
            // Nearly all users are known by that alone.
            Some(User {
                id: None,
                source: None,
                verified: None,
                problem: None,
                fingerprint: Some(fingerprint),
            }) => {
                fields.digits(
                    concat!(member!("user"), r#"{"fingerprint":"#),
                    &[fingerprint.hex()],
                );
                fields.0.push(b'}');
            }
            Some(user) => fields.json(member!("user"), user)?,
            None => {}
        }
        if let Some(client_key) = self.client_key {
            fields.digits(member!("clientKey"), &[client_key.hex()]);
        }
        if let Some(session) = self.session {
            fields.digits(member!("session"), &[session.hex()]);
        }
        if let Some(trace_id) = self.trace_id {
            fields.digits(member!("traceId"), &trace_id.hex());
        }
        fields.digits(member!("request"), &[self.request.hex()]);
        fields.plain(member!("outcome"), self.outcome);
        if let Some(reason) = self.reason {
            fields.plain(member!("reason"), reason);
        }
        if let Some(status) = self.status {
            fields.number(member!("status"), status);
        }
        fields.milliseconds(member!("durationMs"), self.duration);
        fields.milliseconds(member!("serverMs"), self.server_time);
        fields.number(member!("requestBytes"), self.request_bytes);
        fields.number(member!("responseBytes"), self.response_bytes);
        let end: &[u8] = match self.replayed {
            true => b",\"replayed\":true}",
            false => b",\"replayed\":false}",
        };
        output.extend_from_slice(end);
        Ok(())
    }
}

/// Appends members to an object, each by its [`member`].
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    /// A text without characters that JSON escapes: one of the sidecar's own, or a method, which is a token of HTTP.
    #[inline(always)]
    fn plain(&mut self, member: &'static str, text: &str) {
        self.0.extend_from_slice(member.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    #[inline(always)]
    fn json(&mut self, member: &'static str, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
        self.0.extend_from_slice(member.as_bytes());
        serde_json::to_writer(&mut *self.0, value)
    }

    #[inline(always)]
    fn digits(&mut self, member: &'static str, numbers: &[Hex]) {
        self.0.extend_from_slice(member.as_bytes());
        self.0.push(b'"');
        for number in numbers {
            self.0.extend_from_slice(number.digits());
        }
        self.0.push(b'"');
    }

    #[inline(always)]
    fn number(&mut self, member: &'static str, number: impl itoa::Integer) {
        self.0.extend_from_slice(member.as_bytes());
        self.0
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// A number with a decimal point, to the microsecond.
    #[inline(always)]
    fn milliseconds(&mut self, member: &'static str, duration: Duration) {
        self.0.extend_from_slice(member.as_bytes());
        push_milliseconds(self.0, duration);
    }
}

fn push_milliseconds(output: &mut Vec<u8>, duration: Duration) {
    let (whole, rest) = (
        duration
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(duration.subsec_millis().into()),
        duration.subsec_micros() % 1000,
    );
    output.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    let digit = |number: u32| b'0' + (number % 10) as u8;
    let fraction = [b'.', digit(rest / 100), digit(rest / 10), digit(rest)];
    // Without zeros at the end, but for one that makes it a fraction.
    let zeros = fraction[2..]
        .iter()
        .rev()
        .take_while(|digit| **digit == b'0')
        .count();
    output.extend_from_slice(&fraction[..fraction.len() - zeros]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serializer;

    use super::*;
    use crate::proxy::trace_context::TraceParent;
    use crate::proxy::user_problem::UserProblem;

    /// As serde writes a number of them.
    pub(super) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
    }

    impl Serialize for RequestId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    impl Serialize for TraceId {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self)
        }
    }

    fn written(line: &Line<'_>) -> String {
        let mut output = b"before".to_vec();
        line.write(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    /// A line with nothing that may be left out.
    fn short<'a>() -> Line<'a> {
        Line {
            time: b"2026-11-29T16:50:00.123456Z",
            origin: br#","namespace":"n""#,
            http_method: "GET",
            method: None,
            tool: None,
            argument_names: None,
            batch_size: None,
            user: None,
            client_key: None,
            session: None,
            trace_id: None,
            request: RequestId::next(),
            outcome: "cancelled",
            reason: None,
            status: None,
            duration: Duration::ZERO,
            server_time: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            replayed: false,
        }
    }

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

    proptest! {
        #[test]
        fn a_line_is_what_serde_would_write(
            texts in proptest::array::uniform5(any::<String>()),
            numbers in any::<[u64; 4]>(),
            durations in proptest::array::uniform2(0..10_000_000_000_u64),
            (status, batch_size, flag) in any::<(u16, usize, bool)>(),
            left_out in any::<[bool; 10]>(),
        ) {
            let [method, tool, argument, id, source] = &texts;
            let names = [argument.into(), Cow::Borrowed("b")];
            let user = User {
                id: left_out[0].then(|| id.clone()),
                source: left_out[1].then(|| source.clone()),
                verified: left_out[1].then_some(flag),
                problem: flag.then_some(UserProblem::ClaimMissing),
                fingerprint: left_out[2].then_some(Fingerprint(numbers[0].to_be_bytes())),
            };
            let stated = format!("00-{:016x}{:016x}-00f067aa0ba902b7-01", numbers[1], numbers[2]);
            let line = Line {
                method: left_out[3].then_some(method),
                tool: left_out[4].then_some(tool),
                argument_names: left_out[5].then_some(&names),
                batch_size: left_out[6].then_some(batch_size),
                user: left_out[7].then_some(&user),
                client_key: left_out[8].then_some(Fingerprint(numbers[2].to_be_bytes())),
                session: left_out[9].then_some(Fingerprint(numbers[3].to_be_bytes())),
                trace_id: left_out[0].then(|| TraceParent::parse(&stated)).flatten().map(TraceParent::trace_id),
                reason: left_out[1].then_some("host_not_allowed"),
                status: left_out[2].then_some(status),
                duration: Duration::from_micros(durations[0]),
                server_time: Duration::from_nanos(durations[1]),
                request_bytes: numbers[0],
                response_bytes: numbers[1],
                replayed: flag,
                ..short()
            };
            let by_serde = serde_json::to_string(&line).unwrap();
            let begin = r#"{"schema":"mcpauth.dev/audit/v1","time":"2026-11-29T16:50:00.123456Z","namespace":"n","#;
            prop_assert_eq!(written(&line), format!("before{begin}{}", &by_serde[1..]));
        }
    }

    #[test]
    fn milliseconds_are_written_as_the_shortest_decimal_fraction() {
        for (microseconds, text) in [
            (0, "0.0"),
            (1, "0.001"),
            (10, "0.01"),
            (100, "0.1"),
            (1000, "1.0"),
            (182_417, "182.417"),
            (3_600_000_500, "3600000.5"),
        ] {
            let mut output = Vec::new();
            push_milliseconds(&mut output, Duration::from_micros(microseconds));
            assert_eq!(String::from_utf8(output).unwrap(), text);
        }
    }
}
