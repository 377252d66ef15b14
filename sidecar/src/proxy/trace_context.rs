//! Trace context (W3C Trace Context): which trace a call is part of, by its `traceparent` or that of its message, and the
//! span of the call itself, whose identifier the MCP server gets as its parent.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::proxy::hex::Hex;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The caller records the trace (section 3.2.2.5 of Trace Context).
const SAMPLED: u8 = 1;
/// The flags that are defined: sampled, and a trace identifier that is random (level 2).
const KNOWN_FLAGS: u8 = 3;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// The span of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span {
    pub trace_id: u128,
    pub span_id: u64,
    /// `None`: the trace begins here.
    pub parent: Option<u64>,
    flags: u8,
    /// `tracestate` of the caller, which is passed on as it is.
    pub state: Option<HeaderValue>,
}

/// What becomes of the trace of one call.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Tracing {
    /// No spans are made here: trace context passes as it is.
    #[default]
    Off,
    /// The headers say nothing of a trace; the message may.
    Undecided,
    /// The caller does not record this trace, so nothing is recorded here either, and its context passes as it is.
    NotSampled,
    Span(Span),
}

impl TraceParent {
    /// `None` where it is no valid one: then the call is part of no trace (section 4.3).
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length| {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == length && text.bytes().all(is_digit)
        };
        // Later versions may append fields, but not to version 00.
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && (version != "00" || parts.next().is_none())
            && is_hex(trace_id, 32)
            && is_hex(span_id, 16)
            && is_hex(flags, 2);
        if !is_valid {
            return None;
        }
        let parsed = Self {
            trace_id: u128::from_str_radix(trace_id, 16).ok()?,
            span_id: u64::from_str_radix(span_id, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (parsed.trace_id != 0 && parsed.span_id != 0).then_some(parsed)
    }

    pub fn of_header(value: &HeaderValue) -> Option<Self> {
        Self::of_bytes(value.as_bytes())
    }

    /// Of a header's value.
    pub fn of_bytes(value: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(value).ok()?)
    }

    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }
}

/// In hex, as logs and collectors have it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceId(u128);

impl TraceId {
    /// Its two halves.
    pub fn hex(self) -> [Hex; 2] {
        [Hex::of((self.0 >> 64) as u64), Hex::of(self.0 as u64)]
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hex()
            .iter()
            .try_for_each(|half| formatter.write_str(half.as_str()))
    }
}

impl Span {
    fn below(parent: TraceParent, state: Option<HeaderValue>) -> Self {
        Self {
            trace_id: parent.trace_id,
            span_id: random_span_id(),
            parent: Some(parent.span_id),
            flags: parent.flags & KNOWN_FLAGS,
            state,
        }
    }

    /// Of a trace that begins here.
    fn root() -> Self {
        Self {
            trace_id: rand::random_range(1..=u128::MAX),
            span_id: random_span_id(),
            parent: None,
            flags: KNOWN_FLAGS,
            state: None,
        }
    }

    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// What the MCP server gets: the same trace, with this span as the parent.
    fn traceparent(&self) -> Option<HeaderValue> {
        let Self {
            trace_id,
            span_id,
            flags,
            ..
        } = self;
        HeaderValue::try_from(format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}")).ok()
    }
}

fn random_span_id() -> u64 {
    rand::random_range(1..=u64::MAX)
}

impl Tracing {
    /// By the headers of a request, where spans are made.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let stated = headers.get(TRACEPARENT).and_then(TraceParent::of_header);
        stated.map_or(Self::Undecided, |parent| {
            Self::below(parent, headers.get(TRACESTATE).cloned())
        })
    }

    fn below(parent: TraceParent, state: Option<HeaderValue>) -> Self {
        match parent.flags & SAMPLED {
            0 => Self::NotSampled,
            _ => Self::Span(Span::below(parent, state)),
        }
    }

    /// By the message, where the headers say nothing; without a trace there either, one begins here.
    pub fn decide(&mut self, of_message: impl FnOnce() -> Option<TraceParent>) -> &mut Self {
        if *self == Self::Undecided {
            *self = match of_message() {
                Some(parent) => Self::below(parent, None),
                None => Self::Span(Span::root()),
            };
        }
        self
    }

    pub fn span(&self) -> Option<&Span> {
        match self {
            Self::Span(span) => Some(span),
            Self::Off | Self::Undecided | Self::NotSampled => None,
        }
    }

    /// The headers that the MCP server gets.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        let Some(span) = self.span() else {
            return;
        };
        if let Some(traceparent) = span.traceparent() {
            headers.insert(TRACEPARENT, traceparent);
        }
        // Without a valid `traceparent` it belongs to no trace (section 4.3).
        if span.state.is_none() {
            headers.remove(TRACESTATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::try_from(traceparent).unwrap());
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        headers
    }

    fn sent(tracing: &Tracing, mut headers: HeaderMap) -> (Option<String>, bool) {
        tracing.propagate(&mut headers);
        let traceparent = headers
            .get(TRACEPARENT)
            .map(|value| value.to_str().unwrap().to_owned());
        (traceparent, headers.contains_key(TRACESTATE))
    }

    #[test]
    fn only_what_is_a_trace_has_an_identifier() {
        let parsed = TraceParent::parse(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(parsed.trace_id().to_string(), TRACE);
        assert!(TraceParent::parse(&format!("01-{TRACE}-00f067aa0ba902b7-01-more")).is_some());
        for other in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            "00-ada@example.com-1-1".to_owned(),
        ] {
            assert_eq!(TraceParent::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_span_keeps_the_trace_its_flags_and_its_state_and_becomes_the_parent() {
        let headers = headers(&format!("00-{TRACE}-00f067aa0ba902b7-03"));
        let tracing = Tracing::of_headers(&headers);
        let span = tracing.span().unwrap();
        assert_eq!(
            (span.trace_id().to_string().as_str(), span.parent),
            (TRACE, Some(0x00f0_67aa_0ba9_02b7))
        );
        assert_ne!(Some(span.span_id), span.parent);
        let expected = format!("00-{TRACE}-{:016x}-03", span.span_id);
        assert_eq!(sent(&tracing, headers), (Some(expected), true));
    }

    #[test]
    fn what_the_caller_does_not_record_passes_as_it_is() {
        let stated = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let headers = headers(&stated);
        let mut tracing = Tracing::of_headers(&headers);
        tracing.decide(|| panic!("the headers decide"));
        assert_eq!(tracing, Tracing::NotSampled);
        assert_eq!(sent(&tracing, headers), (Some(stated), true));
    }

    #[test]
    fn the_message_names_the_trace_where_headers_do_not_and_else_one_begins() {
        let mut of_message = Tracing::of_headers(&HeaderMap::new());
        of_message.decide(|| TraceParent::parse(&format!("00-{TRACE}-00f067aa0ba902b7-01")));
        assert_eq!(of_message.span().unwrap().trace_id().to_string(), TRACE);

        let invalid = headers("no trace");
        let mut root = Tracing::of_headers(&invalid);
        let span = root.decide(|| None).span().unwrap().clone();
        assert_eq!(span.parent, None);
        let (traceparent, has_state) = sent(&root, invalid);
        assert!(
            traceparent
                .unwrap()
                .starts_with(&format!("00-{}-", span.trace_id()))
        );
        assert!(!has_state, "it belongs to no trace");
    }

    #[test]
    fn nothing_is_touched_where_no_spans_are_made() {
        let headers = headers("anything");
        assert_eq!(sent(&Tracing::Off, headers), (Some("anything".to_owned()), true));
    }
}
