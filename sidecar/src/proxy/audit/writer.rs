//! The thread that turns records into lines and writes them. It gathers what comes within a moment, so that a
//! busy sidecar wakes it seldom and writes many lines at once.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mcp_auth_protocol::sync::Pod;

use super::fingerprint_cache::FingerprintCache;
use super::line::{Line, Origin};
use super::line_time::LineTime;
use super::log_record::log_record;
use super::message::{self, Message};
use super::output::LineWriter;
use super::record::{Body, CallRecord};
use super::span_record::span_record;
use super::user::identify;
use super::{Inner, Item};
use crate::proxy::fingerprint::{Fingerprinter, Kind, Parts};
use crate::proxy::metrics::AuditDrop;
use crate::proxy::otlp::{Exporter, Signal};
use crate::proxy::routes::McpServer;
use crate::proxy::trace_context::TraceParent;

/// Calls that end within this time of one another are written at once.
const GATHER: Duration = Duration::from_millis(20);
/// Most bytes that are written at once.
const MAX_WRITE: usize = 64 * 1024;
/// Most calls that are told by one reading of the clocks: calls may come as fast as they are taken, and users' tokens expire
/// meanwhile.
const MAX_CALLS_OF_READING: usize = 256;
/// Between two warnings about lines that could not be written.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Where lines go.
pub(super) enum Sink {
    Lines(LineWriter),
    /// `None`: there is no collector that could be called, so every line is lost.
    Exporter(Option<Exporter>),
}

pub(super) struct Writer {
    namespace: String,
    pod: String,
    sink: Sink,
    /// Where spans go, if calls are traced.
    spans: Option<Exporter>,
    users: FingerprintCache,
    sessions: FingerprintCache,
    /// Weak, so that this thread ends with the log.
    log: Weak<Inner>,
    /// The server of the last line, and how its lines begin.
    origin: Option<(Arc<McpServer>, Arc<[u8]>)>,
    clocks: Clocks,
    time: LineTime,
    lines: Vec<u8>,
    line_count: u64,
    warned: Option<Instant>,
}

impl Writer {
    pub fn new(
        pod: &Pod,
        sink: Sink,
        spans: Option<Exporter>,
        fingerprinter: &Fingerprinter,
        log: Weak<Inner>,
    ) -> Self {
        let cache = |kind| FingerprintCache::new(fingerprinter.clone(), kind);
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            sink,
            spans,
            users: cache(Kind::User),
            sessions: cache(Kind::Session),
            log,
            origin: None,
            clocks: Clocks::default(),
            time: LineTime::default(),
            lines: Vec::new(),
            line_count: 0,
            warned: None,
        }
    }

    /// Until there is no log left whose calls could come.
    pub fn run(mut self, items: &Receiver<Item>) {
        while let Ok(first) = items.recv() {
            let mut confirmations = Vec::new();
            self.clocks = Clocks::default();
            self.take(first, &mut confirmations);
            if confirmations.is_empty() {
                std::thread::sleep(GATHER);
            }
            // What comes after a flush is not waited for.
            while confirmations.is_empty()
                && let Ok(item) = items.try_recv()
            {
                self.take(item, &mut confirmations);
            }
            self.write();
            for confirm in confirmations {
                // Whoever asked may not wait any more.
                let _ = confirm.send(());
            }
        }
    }

    fn take(&mut self, item: Item, confirmations: &mut Vec<SyncSender<()>>) {
        match item {
            Item::Flush(confirm) => confirmations.push(confirm),
            Item::Call(record) => {
                if let Some(log) = self.log.upgrade() {
                    self.add(&record);
                    log.queued_bytes.fetch_sub(record.size(), Ordering::Relaxed);
                }
                if self.lines.len() >= MAX_WRITE {
                    self.write();
                    self.clocks = Clocks::default();
                }
            }
        }
    }

    /// One line for each message of the call.
    fn add(&mut self, record: &CallRecord) {
        let tapped;
        let (body, request_bytes) = match &record.body {
            Body::Unread => (&[][..], 0),
            Body::Whole(bytes) => (&bytes[..], bytes.len() as u64),
            Body::Streamed(tap) => {
                tapped = tap.beginning();
                (&tapped[..], tap.bytes())
            }
        };
        let settings = record.server.audit.as_ref();
        let with_argument_names = settings.is_some_and(|settings| settings.argument_names);
        let messages = message::read(body, with_argument_names);
        let now = self.clocks.of_next_call();
        let start = now.time_of(record.started);
        if let (Some(exporter), Some(span)) = (&self.spans, &record.span)
            && let Some(span) = span_record(record, span, messages.first(), start)
        {
            exporter.push(Signal::Spans, span);
        }
        let Some(settings) = settings else {
            return;
        };
        let user = identify(
            settings,
            record.server.usable(),
            record.context.as_ref(),
            &self.users,
            now.timestamp.as_second(),
        );
        let session = record.session.as_deref();
        let of_header = match &record.span {
            Some(span) => Some(span.trace_id()),
            None => {
                let stated = record.traceparent.as_deref().and_then(TraceParent::of_bytes);
                stated.map(TraceParent::trace_id)
            }
        };
        let origin = self.origin(&record.server);
        let batch_size = (messages.len() > 1).then_some(messages.len());
        let nothing = [Message::default()];
        let messages = match messages.as_slice() {
            [] => &nothing[..],
            messages => messages,
        };
        for message in messages {
            let trace_id = of_header.or_else(|| {
                let stated = message.traceparent.as_deref().and_then(TraceParent::parse);
                stated.map(TraceParent::trace_id)
            });
            let (outcome, reason) = record.outcome.text();
            let line = Line {
                time: self.time.format(start),
                origin: &origin,
                http_method: record.http_method.as_str(),
                method: message.method.as_deref(),
                tool: message.tool.as_deref(),
                argument_names: message.argument_names.as_deref(),
                batch_size,
                user: user.as_ref(),
                client_key: record.context.as_ref().and_then(|context| context.client_key()),
                session: session.map(|session| self.sessions.fingerprint(&Parts::from_iter([session]))),
                trace_id,
                request: record.id,
                outcome,
                reason,
                status: record.status.map(|status| status.as_u16()),
                duration: record.duration,
                server_time: record.upstream_time,
                request_bytes,
                response_bytes: record.response_bytes,
                replayed: record.replayed,
            };
            if let Sink::Exporter(Some(exporter)) = &self.sink {
                if let Some(record) = log_record(&line, &record.server, start, record.span.as_deref()) {
                    exporter.push(Signal::Logs, record);
                }
                continue;
            }
            // Writing plain values to memory cannot fail.
            if line.write(&mut self.lines).is_ok() {
                self.lines.push(b'\n');
                self.line_count += 1;
            }
        }
    }

    /// The beginning of the server's lines. Mostly the one before was for the same server.
    fn origin(&mut self, server: &Arc<McpServer>) -> Arc<[u8]> {
        if let Some((of, fields)) = &self.origin
            && Arc::ptr_eq(of, server)
        {
            return fields.clone();
        }
        let origin = Origin {
            namespace: &self.namespace,
            pod: &self.pod,
            server: &server.name,
            resource: &server.resource,
        };
        let fields: Arc<[u8]> = origin.fields().into();
        self.origin = Some((server.clone(), fields.clone()));
        fields
    }

    fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (lost, error) = match &mut self.sink {
            Sink::Lines(output) => match output.write(&self.lines) {
                Ok(()) => (0, None),
                Err((error, lost)) => (lost as u64, Some(error)),
            },
            // Those that the exporter took are not here.
            Sink::Exporter(_) => (self.line_count, None),
        };
        let is_due = self
            .warned
            .is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL);
        if lost > 0 && is_due {
            self.warned = Some(Instant::now());
            let error = error.map_or_else(
                || "the OpenTelemetry collector's settings cannot be used".to_owned(),
                |error| error.to_string(),
            );
            tracing::warn!(%error, lines = lost, "audit lines cannot be written and are lost");
        }
        if let Some(log) = self.log.upgrade() {
            log.metrics.audit_written(self.line_count - lost);
            log.metrics.audit_dropped(AuditDrop::WriteFailed, lost);
        }
        self.lines.clear();
        self.line_count = 0;
    }
}

/// Both clocks, which are read once for many calls.
#[derive(Default)]
struct Clocks {
    /// With the number of calls that it may still be used for.
    reading: Option<(Reading, usize)>,
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Reading {
    instant: Instant,
    timestamp: Timestamp,
}

impl Clocks {
    fn of_next_call(&mut self) -> Reading {
        let (reading, left) = match self.reading {
            Some((reading, left @ 1..)) => (reading, left - 1),
            Some((_, 0)) | None => (Reading::now(), MAX_CALLS_OF_READING - 1),
        };
        self.reading = Some((reading, left));
        reading
    }
}

impl Reading {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            timestamp: Timestamp::now(),
        }
    }

    /// The time of day at `instant`, by the clock of today: only the time between the two was measured.
    fn time_of(&self, instant: Instant) -> Timestamp {
        let shifted = match self.instant.checked_duration_since(instant) {
            Some(before) => SignedDuration::try_from(before).map(|before| self.timestamp.checked_sub(before)),
            None => SignedDuration::try_from(instant.duration_since(self.instant))
                .map(|after| self.timestamp.checked_add(after)),
        };
        match shifted {
            Ok(Ok(timestamp)) => timestamp,
            // Neither has an uptime of centuries.
            Ok(Err(_)) | Err(_) => self.timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_moment_is_as_far_from_the_clocks_as_the_moment() {
        let clock = Reading::now();
        let second = Duration::from_secs(1);
        for (instant, seconds) in [
            (clock.instant - second, -1),
            (clock.instant, 0),
            (clock.instant + second, 1),
        ] {
            let expected = clock.timestamp + SignedDuration::from_secs(seconds);
            assert_eq!(clock.time_of(instant), expected);
        }
    }

    #[test]
    fn the_clocks_are_read_anew_after_a_number_of_calls_however_fast_these_come() {
        let earlier = Reading {
            timestamp: Timestamp::UNIX_EPOCH,
            ..Reading::now()
        };
        let mut clocks = Clocks {
            reading: Some((earlier, MAX_CALLS_OF_READING)),
        };
        for _ in 0..MAX_CALLS_OF_READING {
            assert_eq!(clocks.of_next_call().timestamp, earlier.timestamp);
        }
        let before = Timestamp::now();
        assert!(clocks.of_next_call().timestamp >= before);
    }
}
