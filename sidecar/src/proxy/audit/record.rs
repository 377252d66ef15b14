//! What is noted of a request while it is under way. All of it is at hand anyway: nothing is parsed, formatted
//! or computed before the writer has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};

use super::AuditLog;
use crate::http::body_tap::BodyTap;
use crate::proxy::request_id::RequestId;
use crate::proxy::routes::McpServer;
use crate::proxy::trace_context::Span;
use crate::proxy::user_context::Context;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Longest body of which a copy is recorded. What the protocol reads a longer one into is hardly larger than that.
const MAX_COPIED_BYTES: usize = 4096;

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The MCP server's answer was passed on to its end.
    Answered,
    /// The sidecar answered with an error, whose reason it is.
    Failed(&'static str),
    /// The client went away before the end of the answer.
    Cancelled,
    /// The answer broke off.
    Broken,
}

impl Outcome {
    /// As lines and spans have it, with the reason of an error of the sidecar's.
    pub fn text(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Answered => ("answered", None),
            Self::Failed(reason) => ("failed", Some(reason)),
            Self::Cancelled => ("cancelled", None),
            Self::Broken => ("broken", None),
        }
    }
}

/// The body of a request.
pub(super) enum Body {
    Unread,
    Whole(Bytes),
    Streamed(Arc<BodyTap>),
}

/// Of headers and of a short body it has copies: a slice would keep the whole buffer that the protocol reads into until the line
/// is written, and each request of a connection would need a new one.
pub(super) struct CallRecord {
    pub id: RequestId,
    pub server: Arc<McpServer>,
    pub http_method: Method,
    pub session: Option<Box<[u8]>>,
    pub traceparent: Option<Box<[u8]>>,
    /// Of this call, where calls are traced and the caller records the trace.
    pub span: Option<Box<Span>>,
    pub context: Option<Context>,
    pub body: Body,
    pub started: Instant,
    pub duration: Duration,
    pub upstream_time: Duration,
    pub outcome: Outcome,
    pub status: Option<StatusCode>,
    pub replayed: bool,
    pub response_bytes: u64,
}

/// The record of one request, which is handed to the log when this is dropped: a request that is given up
/// halfway is recorded too.
pub struct AuditedCall {
    log: AuditLog,
    /// `None` only while it is dropped.
    record: Option<Box<CallRecord>>,
}

impl CallRecord {
    pub fn new<B>(
        server: &Arc<McpServer>,
        request: &Request<B>,
        traceparent: Option<&HeaderValue>,
        id: RequestId,
        started: Instant,
    ) -> Self {
        let copy = |value: &HeaderValue| -> Box<[u8]> { value.as_bytes().into() };
        Self {
            id,
            server: server.clone(),
            http_method: request.method().clone(),
            session: request.headers().get(SESSION).map(copy),
            traceparent: traceparent.map(copy),
            span: None,
            context: None,
            body: Body::Unread,
            started,
            duration: Duration::ZERO,
            upstream_time: Duration::ZERO,
            outcome: Outcome::Cancelled,
            status: None,
            replayed: false,
            response_bytes: 0,
        }
    }

    /// Bytes that it holds, more or less.
    pub fn size(&self) -> usize {
        let body = match &self.body {
            Body::Unread => 0,
            Body::Whole(bytes) => bytes.len(),
            Body::Streamed(tap) => tap.kept(),
        };
        size_of::<Self>() + body + self.context.as_ref().map_or(0, Context::size)
    }
}

impl AuditedCall {
    pub(super) fn new(log: AuditLog, record: CallRecord) -> Self {
        Self {
            log,
            record: Some(Box::new(record)),
        }
    }

    pub fn set_context(&mut self, context: Option<Context>) {
        self.note(|record| record.context = context);
    }

    pub fn set_span(&mut self, span: Span) {
        self.note(|record| record.span = Some(Box::new(span)));
    }

    /// The body as it was read.
    pub fn set_body(&mut self, body: &Bytes) {
        self.note(|record| record.body = Body::Whole(recorded(body)));
    }

    /// The body as it will be seen on its way.
    pub fn set_tap(&mut self, tap: Arc<BodyTap>) {
        self.note(|record| record.body = Body::Streamed(tap));
    }

    pub fn set_replayed(&mut self) {
        self.note(|record| record.replayed = true);
    }

    /// The head of the answer, and how long the MCP server took for it.
    pub fn set_answer(&mut self, status: StatusCode, upstream_time: Duration) {
        self.note(|record| {
            record.status = Some(status);
            record.upstream_time = upstream_time;
        });
    }

    /// The sidecar answers with an error.
    pub fn set_failed(&mut self, reason: &'static str) {
        self.note(|record| record.outcome = Outcome::Failed(reason));
    }

    /// How the answer ended. A call that has failed stays one.
    pub fn set_end(&mut self, outcome: Outcome) {
        self.note(|record| {
            if !matches!(record.outcome, Outcome::Failed(_)) {
                record.outcome = outcome;
            }
        });
    }

    pub fn add_response_bytes(&mut self, bytes: usize) {
        self.note(|record| record.response_bytes += bytes as u64);
    }

    fn note(&mut self, change: impl FnOnce(&mut CallRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }
}

impl Drop for AuditedCall {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.duration = record.started.elapsed();
            self.log.submit(record);
        }
    }
}

fn recorded(body: &Bytes) -> Bytes {
    match body.len() <= MAX_COPIED_BYTES {
        true => Bytes::copy_from_slice(body),
        false => body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_that_a_short_body_was_read_into_is_let_go_of_and_a_long_body_is_not_copied() {
        let read = Bytes::from(vec![b'x'; 2 * MAX_COPIED_BYTES]);
        let short = recorded(&read.slice(..MAX_COPIED_BYTES));
        assert!(read.is_unique());
        assert_eq!(short.len(), MAX_COPIED_BYTES);
        let long = recorded(&read.slice(..=MAX_COPIED_BYTES));
        assert_eq!(long.as_ptr(), read.as_ptr());
    }
}
