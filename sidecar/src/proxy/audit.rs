//! Audit log: one line of JSON for each request to an MCP server whose resource wants one: who called what, and
//! what came of it. `docs/audit.md` describes the lines.
//!
//! A request pays for little of it: an [`AuditedCall`] notes what is at hand anyway ([`record`]) and hands it
//! to a bounded queue when the call has ended. A thread of its own ([`writer`]) reads the message
//! ([`message`]), finds the user ([`user`], by a token that [`jwt`](super::jwt) verifies) and writes the line ([`line`]) to the [`output`], or
//! hands it to the OTLP exporter as a [`log_record`]. Where calls are traced, the call is a [`span_record`] as well. Where that is
//! slower than the calls, lines are dropped and counted; a call never waits.

mod client_key;
mod fingerprint_cache;
mod line;
mod line_time;
mod log_record;
mod message;
mod output;
mod record;
mod span_record;
mod user;
mod writer;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use mcp_auth_protocol::sync::Pod;

use crate::proxy::fingerprint::Fingerprinter;
use crate::proxy::metrics::{AuditDrop, Metrics};
use crate::proxy::otlp::Exporter;
use crate::proxy::request_id::RequestId;
use crate::proxy::routes::McpServer;
use crate::proxy::trace_context::TraceParent;

pub use client_key::ClientKeys;
use output::LineWriter;
pub use output::Output;
use record::CallRecord;
pub use record::{AuditedCall, Outcome};
use writer::{Sink, Writer};

/// Calls that wait to be written.
const MAX_QUEUED: usize = 4096;
/// Bytes that these hold, bodies included.
const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    queue: SyncSender<Item>,
    queued_bytes: AtomicUsize,
    fingerprinter: Fingerprinter,
    metrics: Metrics,
    exporter: Option<Exporter>,
    spans: bool,
}

/// Where what is recorded goes.
pub struct Destinations {
    pub lines: Output,
    /// Absent where there is no OpenTelemetry collector that could be called.
    pub exporter: Option<Exporter>,
    /// Whether each call is exported as a span too.
    pub spans: bool,
}

impl From<Output> for Destinations {
    fn from(lines: Output) -> Self {
        Self {
            lines,
            exporter: None,
            spans: false,
        }
    }
}

/// What the message of a request says of its trace, as LiteLLM's OpenTelemetry has it.
pub fn traceparent(body: &[u8]) -> Option<TraceParent> {
    let messages = message::read(body, false);
    let stated = messages.iter().find_map(|message| message.traceparent.as_deref());
    stated.and_then(TraceParent::parse)
}

/// The tool that a request's body calls: nothing for another method, and for several messages in one body.
pub fn called_tool(body: &[u8]) -> Option<String> {
    match message::read(body, false).as_mut_slice() {
        [message] => message.tool.take().map(Cow::into_owned),
        _ => None,
    }
}

/// The method of the first message of a request.
pub fn method(body: &[u8]) -> Option<String> {
    let message = message::read(body, false).into_iter().next()?;
    message.method.map(Cow::into_owned)
}

/// What the writer takes from the queue.
enum Item {
    Call(Box<CallRecord>),
    /// Confirmed once everything before it is written.
    Flush(SyncSender<()>),
}

impl AuditLog {
    /// Starts the thread that writes, which goes on as long as a clone of this is left. `pod` is named in each
    /// line. Without the thread every line is dropped, and counted.
    pub fn start(
        pod: &Pod,
        destinations: impl Into<Destinations>,
        fingerprinter: Fingerprinter,
        metrics: Metrics,
    ) -> Self {
        let Destinations {
            lines,
            exporter,
            spans,
        } = destinations.into();
        let span_exporter = exporter.clone().filter(|_| spans);
        let sink = match lines {
            Output::Stdout => Sink::Lines(LineWriter::new(None)),
            Output::File(path) => Sink::Lines(LineWriter::new(Some(path))),
            Output::Otlp => Sink::Exporter(exporter.clone()),
        };
        let (queue, items) = sync_channel(MAX_QUEUED);
        let log = Self(Arc::new(Inner {
            queue,
            queued_bytes: AtomicUsize::new(0),
            fingerprinter,
            metrics,
            exporter,
            spans,
        }));
        let fingerprinter = &log.0.fingerprinter;
        let writer = Writer::new(pod, sink, span_exporter, fingerprinter, Arc::downgrade(&log.0));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&items)) {
            tracing::error!(%error, "the audit log's thread cannot be started: nothing is recorded");
        }
        log
    }

    /// Makes the fingerprints of this log.
    pub fn fingerprinter(&self) -> Fingerprinter {
        self.0.fingerprinter.clone()
    }

    /// Whether calls are exported as spans.
    pub(crate) fn traces(&self) -> bool {
        self.0.spans
    }

    /// The record of a request that begins, if the server's resource wants a line or calls are exported as spans.
    pub(crate) fn begin<B>(
        &self,
        server: &Arc<McpServer>,
        request: &Request<B>,
        traceparent: Option<&HeaderValue>,
        id: RequestId,
        started: Instant,
    ) -> Option<AuditedCall> {
        if server.audit.is_none() && !self.0.spans {
            return None;
        }
        let record = CallRecord::new(server, request, traceparent, id, started);
        Some(AuditedCall::new(self.clone(), record))
    }

    /// Waits until the calls that have ended so far are written, or sent to the collector, but no longer than `timeout`.
    /// Whether they are.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let (confirm, confirmed) = sync_channel(1);
        if self.0.queue.try_send(Item::Flush(confirm)).is_err() || confirmed.recv_timeout(timeout).is_err() {
            return false;
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        let exporter = self.0.exporter.as_ref();
        exporter.is_none_or(|exporter| exporter.flush(remaining))
    }

    fn submit(&self, record: Box<CallRecord>) {
        let size = record.size();
        let queued = self.0.queued_bytes.fetch_add(size, Ordering::Relaxed);
        let full = match queued + size > MAX_QUEUED_BYTES {
            true => true,
            // The writer ends only with the last clone of this.
            false => matches!(
                self.0.queue.try_send(Item::Call(record)),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            ),
        };
        if full {
            self.0.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.0.metrics.audit_dropped(AuditDrop::QueueFull, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_trace() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let meta = format!(r#"{{"_meta":{{"traceparent":"00-{id}-b7ad6b7169203331-01"}}}}"#);
        let body = format!(r#"{{"id":1,"method":"tools/call","params":{meta}}}"#);
        let found = traceparent(body.as_bytes()).unwrap();
        assert_eq!(found.trace_id().to_string(), id);
        assert_eq!(traceparent(b"{}"), None);
    }
}
