//! Audit log: one line of JSON for each request to an MCP server whose resource wants one: who called what, and
//! what came of it. `docs/audit.md` describes the lines.
//!
//! A request pays for little of it: an [`AuditedCall`] notes what is at hand anyway ([`record`]) and hands it
//! to a bounded queue when the call has ended. A thread of its own ([`writer`]) reads the message
//! ([`message`]), finds the user ([`user`], by a token that [`jwt`] verifies) and writes the line ([`line`]) to the [`output`], or
//! hands it to the OTLP exporter as a [`log_record`]. Where that is
//! slower than the calls, lines are dropped and counted; a call never waits.

mod client_key;
mod fingerprint;
mod jwt;
mod line;
mod log_record;
mod message;
mod output;
mod record;
mod user;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request};
use mcp_auth_protocol::sync::Pod;

use crate::proxy::metrics::{AuditDrop, Metrics};
use crate::proxy::otlp::Exporter;
use crate::proxy::request_id::RequestId;
use crate::proxy::routes::McpServer;

pub use client_key::ClientKeys;
pub use fingerprint::{Fingerprint, Fingerprinter};
pub use jwt::JwtVerifier;
use output::LineWriter;
pub use output::Output;
use record::CallRecord;
pub(crate) use record::TRACEPARENT;
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
}

/// Where what is recorded goes.
pub struct Destinations {
    pub lines: Output,
    /// Absent where there is no OpenTelemetry collector that could be called.
    pub exporter: Option<Exporter>,
}

impl From<Output> for Destinations {
    fn from(lines: Output) -> Self {
        Self {
            lines,
            exporter: None,
        }
    }
}

/// The identifier of the trace that a request is part of, by its `traceparent` or, as LiteLLM's OpenTelemetry has it, by its
/// message.
pub fn trace_id(traceparent: Option<&HeaderValue>, body: Option<&[u8]>) -> Option<String> {
    let stated = traceparent.and_then(|value| value.to_str().ok());
    if let Some(id) = stated.and_then(line::trace_id) {
        return Some(id.to_owned());
    }
    let messages = message::read(body?);
    let traceparent = messages.iter().find_map(|message| message.traceparent.as_deref());
    traceparent.and_then(line::trace_id).map(str::to_owned)
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
        let Destinations { lines, exporter } = destinations.into();
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
        }));
        let writer = Writer::new(pod, sink, Arc::downgrade(&log.0));
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

    /// The record of a request that begins, if the server's resource wants one.
    pub(crate) fn begin<B>(
        &self,
        server: &Arc<McpServer>,
        request: &Request<B>,
        id: RequestId,
        started: Instant,
    ) -> Option<AuditedCall> {
        server.audit.as_ref()?;
        let record = CallRecord::new(server, request, id, started);
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
    fn the_trace_is_that_of_the_header_or_else_of_the_message() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let header = HeaderValue::try_from(format!("00-{id}-00f067aa0ba902b7-01")).unwrap();
        let other = "0af7651916cd43dd8448eb211c80319c";
        let meta = format!(r#"{{"_meta":{{"traceparent":"00-{other}-b7ad6b7169203331-01"}}}}"#);
        let body = format!(r#"{{"id":1,"method":"tools/call","params":{meta}}}"#);
        let body = Some(body.as_bytes());
        let invalid = HeaderValue::from_static("no trace");
        for (traceparent, body, expected) in [
            (Some(&header), body, Some(id)),
            (Some(&header), None, Some(id)),
            (None, body, Some(other)),
            (Some(&invalid), body, Some(other)),
            (Some(&invalid), None, None),
            (None, Some(&b"{}"[..]), None),
        ] {
            assert_eq!(trace_id(traceparent, body).as_deref(), expected);
        }
    }
}
