//! The thread that sends records to a collector, and what others hold of it.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_protocol::otlp::OtlpEndpoint;
use mcp_auth_resilience::exponential;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::client::{Client, ClientError, ExportError};
use super::encoding::{KeyValue, request, resource};
use super::headers::OtlpHeaders;
use super::queue::{Queue, Signal};
use crate::proxy::metrics::{AuditDrop, Metrics};

/// Records that come within this time of one another are sent at once.
const GATHER: Duration = Duration::from_millis(500);
/// Attempts at one batch, and the waits between them.
const MAX_ATTEMPTS: u32 = 6;
const MIN_RETRY_WAIT: Duration = Duration::from_secs(1);
const MAX_RETRY_WAIT: Duration = Duration::from_secs(30);
/// Between two warnings about records that were not taken.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How a collector is called.
#[derive(Clone, Debug)]
pub struct ExportSettings {
    pub endpoint: OtlpEndpoint,
    pub headers: OtlpHeaders,
    /// PEM certificates that are trusted besides the platform's.
    pub ca: Option<String>,
    /// Attributes of OpenTelemetry's resource: what sends.
    pub resource: Vec<KeyValue>,
}

/// Clones are one; with the last the thread ends, once it has sent what is there.
#[derive(Clone)]
pub struct Exporter(Arc<Handle>);

struct Handle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to send, or nobody is left who could bring something.
    changed: Notify,
    /// Nothing may wait any more, neither to gather nor to try again.
    hurried: Notify,
    /// A batch has been dealt with.
    settled: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    queues: [Queue; Signal::ALL.len()],
    /// A batch is under way.
    is_sending: bool,
    /// Those who wait for everything to be sent.
    flushing: usize,
    is_closed: bool,
}

impl ExportSettings {
    /// Whether an exporter can be started with them, for whoever wants to know beforehand. Nothing is sent.
    pub fn check(&self) -> Result<(), ClientError> {
        Client::new(self.endpoint.clone(), &self.headers, self.ca.as_deref()).map(drop)
    }
}

impl Exporter {
    /// Starts the thread. Without it every record is dropped, and counted.
    pub fn start(settings: ExportSettings, metrics: Metrics) -> Result<Self, ClientError> {
        let ExportSettings {
            endpoint,
            headers,
            ca,
            resource: attributes,
        } = settings;
        let client = Client::new(endpoint, &headers, ca.as_deref())?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            hurried: Notify::new(),
            settled: Condvar::new(),
            metrics,
        });
        let sender = Sender {
            shared: shared.clone(),
            client,
            resource: resource(&attributes),
            warned: None,
        };
        let thread = std::thread::Builder::new().name("otlp".to_owned());
        let started = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(sender.run());
                    // Looking up a name may hang in a thread of its own.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "the OTLP exporter cannot be started: nothing is sent"),
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "the OTLP exporter's thread cannot be started: nothing is sent");
        }
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Takes a record, which is JSON, unless too many wait.
    pub fn push(&self, signal: Signal, record: Vec<u8>) {
        let shared = &self.0.0;
        let has_room = shared.state.lock().queues[signal as usize].push(record);
        match has_room {
            true => shared.changed.notify_one(),
            false => shared.count_dropped(signal, AuditDrop::QueueFull, 1),
        }
    }

    /// Waits until everything is sent or given up, but no longer than `timeout`. Nothing waits to be tried again
    /// meanwhile. Whether nothing is left.
    pub fn flush(&self, timeout: Duration) -> bool {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        state.flushing += 1;
        shared.hurried.notify_one();
        let is_busy = |state: &mut State| state.has_work();
        let waited = shared.settled.wait_while_for(&mut state, is_busy, timeout);
        state.flushing -= 1;
        !waited.timed_out()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_one();
        self.0.hurried.notify_one();
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.is_sending || self.queues.iter().any(|queue| !queue.is_empty())
    }

    fn is_hurried(&self) -> bool {
        self.flushing > 0 || self.is_closed
    }
}

impl Shared {
    /// Waits, but not where somebody waits for everything to be sent.
    async fn wait(&self, duration: Duration) {
        let until = Instant::now() + duration;
        loop {
            if self.state.lock().is_hurried() {
                return;
            }
            tokio::select! {
                () = sleep_until(until) => return,
                // One that was meant for an earlier wait says nothing about this one.
                () = self.hurried.notified() => {}
            }
        }
    }

    fn count_dropped(&self, signal: Signal, cause: AuditDrop, records: u64) {
        match signal {
            Signal::Logs => self.metrics.audit_dropped(cause, records),
            Signal::Spans => self.metrics.spans_dropped(cause, records),
        }
    }

    fn count_sent(&self, signal: Signal, records: u64) {
        match signal {
            Signal::Logs => self.metrics.audit_written(records),
            Signal::Spans => self.metrics.spans_exported(records),
        }
    }
}

/// What the thread has.
struct Sender {
    shared: Arc<Shared>,
    client: Client,
    resource: String,
    warned: Option<Instant>,
}

impl Sender {
    async fn run(mut self) {
        loop {
            if !self.shared.state.lock().has_work() {
                if self.shared.state.lock().is_closed {
                    return;
                }
                self.shared.changed.notified().await;
                continue;
            }
            self.shared.wait(GATHER).await;
            for signal in Signal::ALL {
                let batch = {
                    let mut state = self.shared.state.lock();
                    state.is_sending = true;
                    state.queues[signal as usize].take_batch()
                };
                if !batch.is_empty() {
                    self.deliver(signal, &batch).await;
                }
            }
            self.shared.state.lock().is_sending = false;
            self.shared.settled.notify_all();
        }
    }

    /// Sends a batch, again where that may help, for a bounded time.
    async fn deliver(&mut self, signal: Signal, batch: &[Vec<u8>]) {
        let body: bytes::Bytes = request(signal, &self.resource, batch).into();
        let records = batch.len() as u64;
        let mut attempts = 0;
        let error = loop {
            attempts += 1;
            match self.client.send(signal, body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(records);
                    self.shared.count_sent(signal, records - rejected);
                    self.shared
                        .count_dropped(signal, AuditDrop::WriteFailed, rejected);
                    if rejected > 0 && self.is_warning_due() {
                        tracing::warn!(
                            rejected,
                            "the OpenTelemetry collector rejects records, which are lost"
                        );
                    }
                    return;
                }
                Err(error) => {
                    let is_hurried = self.shared.state.lock().is_hurried();
                    if attempts == MAX_ATTEMPTS || is_hurried || !error.is_retryable() {
                        break error;
                    }
                    self.wait_for_retry(&error, attempts).await;
                }
            }
        };
        self.shared.count_dropped(signal, AuditDrop::WriteFailed, records);
        if self.is_warning_due() {
            let endpoint = self.client.endpoint();
            tracing::warn!(%error, %endpoint, records, "OpenTelemetry records cannot be sent and are lost");
        }
    }

    async fn wait_for_retry(&self, error: &ExportError, attempts: u32) {
        let backoff = exponential(MIN_RETRY_WAIT, attempts - 1, MAX_RETRY_WAIT);
        let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_WAIT);
        // Spread, so that the sidecars of a fleet do not come back all at once.
        let spread = backoff.mul_f64(rand::random_range(0.5..1.0));
        self.shared.wait(spread.max(asked)).await;
    }

    fn is_warning_due(&mut self) -> bool {
        let is_due = self
            .warned
            .is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL);
        if is_due {
            self.warned = Some(Instant::now());
        }
        is_due
    }
}
