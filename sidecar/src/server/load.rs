//! Load shedding: what the clients of one half hold on one worker, and who is ended first when that is too much.
//!
//! Nobody is authenticated here, since that is up to LiteLLM, so every connection counts by what it makes the
//! sidecar hold: the connection itself, headers that have not ended, an answer that is not taken. When the
//! memory for that is used up, those end that make no progress, the longest first: answers that are not taken,
//! then headers that have not ended, then requests whose body does not come, then connections that wait for a request. Other
//! requests under way come to their end; only where there is nobody to end instead is a new one refused.

mod entry;
mod interim;
mod parked;
mod request;
mod watched_io;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::bounds::Bounds;
pub use entry::Signal;
use entry::{Entry, Waiting};
pub use interim::InterimAnswers;
pub use request::{RequestInProgress, WatchedBody};
pub use watched_io::WatchedIo;

/// Between two sweeps, which is also what time is counted in here.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

// What is held at most, measured and rounded up.
/// A connection with its smallest read buffer.
const CONNECTION_BYTES: usize = 14 * 1024;
/// A connection that is parked: its socket and its task.
const PARKED_BYTES: usize = 3 * 1024;
/// The read buffer that every connection has; what it grows by counts until the connection is parked.
const FREE_READ_BYTES: usize = 8 * 1024;
/// As many times what is read of a body at once may be on its way to the next server: the buffer that it was read into, and what
/// is written there.
const BODY_BUFFERS: usize = 2;
/// A request under way, and the connection that it goes on over, without its headers.
const REQUEST_BYTES: usize = 24 * 1024;
/// One of its headers, in the tables of both sides, without name and value.
const HEADER_BYTES: usize = 128;
/// An answer that its client does not take: full buffers on both sides.
const UNREAD_BYTES: usize = 192 * 1024;
/// What a connection over HTTP/2 may have sent of bodies that are not passed on yet.
const HTTP2_BYTES: usize = 1024 * 1024;
/// An answer over HTTP/2 that was ended, until its client takes what is ready of it.
const HTTP2_ENDED_BYTES: usize = 64 * 1024;
/// One part of so many is freed at once, so that not every newcomer has to look through all connections.
const BATCH: usize = 32;

/// Of one half on one worker.
pub struct Load {
    bounds: Bounds,
    held: AtomicUsize,
    requests: AtomicUsize,
    /// Counts sweeps.
    clock: AtomicU32,
    /// Counts changes, so that of two within a sweep the earlier one is known.
    changes: AtomicU32,
    next_id: AtomicU64,
    /// How often a connection was parked.
    parked: AtomicU64,
    entries: Mutex<HashMap<u64, Arc<Entry>>>,
}

/// One connection, until this is dropped.
pub struct Connection {
    load: Arc<Load>,
    entry: Arc<Entry>,
    id: u64,
}

impl Load {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            held: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            // Zero stands for no time.
            clock: AtomicU32::new(1),
            changes: AtomicU32::new(0),
            next_id: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            entries: Mutex::default(),
        })
    }

    /// A connection that was accepted; `None` where there is no memory for it, and nobody to end for it.
    pub fn connection(self: &Arc<Self>) -> Option<Connection> {
        self.make_room(CONNECTION_BYTES, None).then(|| {
            let entry = Arc::new(Entry::connection(self.now()));
            self.charge(&entry, CONNECTION_BYTES);
            let id = self.enter(entry.clone());
            Connection {
                load: self.clone(),
                entry,
                id,
            }
        })
    }

    /// How often a connection was parked, and has freed what it held.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Tells connections over HTTP/1.1 to take no more requests: all of them, or those that have had one.
    pub fn retire(&self, even_without_request: bool) {
        let entries = self.entries.lock();
        let retired = entries.values();
        let retired = retired.filter(|entry| even_without_request || entry.has_request());
        retired.for_each(|entry| entry.retire());
    }

    /// Ends connections that wait for a request, the longest first, to make room for others.
    pub fn shed_idle(&self) {
        let mut most = self.bounds.connections.div_ceil(BATCH);
        let enough = || {
            most = most.saturating_sub(1);
            most == 0
        };
        self.shed(|waiting| waiting != Waiting::Unread, None, enough);
    }

    /// Ends what has waited for too long, and parks what has waited for some time.
    pub fn sweep(&self) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        let mut gone = Vec::new();
        for entry in self.entries.lock().values() {
            // Bytes after a request hide its client's end from the protocol, which reads no further before it has answered.
            if entry.client_has_gone() {
                gone.push(entry.clone());
            }
            entry.body_progress().look(|| self.now());
            if entry.body_progress().has_ended() {
                self.discharge(entry, entry.land());
            }
        }
        for entry in gone {
            self.end(&entry);
        }
        for (waiting, since, entry) in self.waiting(|_| true) {
            let limit = match waiting {
                Waiting::Unread => self.bounds.unread,
                Waiting::Head | Waiting::First => self.bounds.headers,
                Waiting::Next => self.bounds.keep_alive,
                // How long one may be silent is up to whoever reads it.
                Waiting::Body => continue,
            };
            // Whether a client of HTTP/2 without requests is there, pings tell.
            let is_exempt = entry.is_http2() && waiting != Waiting::Unread;
            let age = self.age(since);
            if !is_exempt && age > limit {
                self.end(&entry);
            } else if waiting == Waiting::Next && age >= SWEEP_INTERVAL {
                entry.is_quiet();
            }
        }
    }

    /// Whether so many bytes more may be held. Ends others than `newcomer` for that, if need be.
    fn make_room(&self, bytes: usize, newcomer: Option<&Entry>) -> bool {
        let held = || self.held.load(Ordering::Relaxed);
        let most = self.bounds.memory.saturating_sub(bytes);
        if held() > most {
            let goal = most.saturating_sub(self.bounds.memory / BATCH);
            self.shed(|_| true, newcomer, || held() <= goal);
        }
        held() <= most
    }

    /// Ends those that wait for their client, one after the other, until it is `enough`.
    fn shed(
        &self,
        wanted: impl Fn(Waiting) -> bool,
        newcomer: Option<&Entry>,
        mut enough: impl FnMut() -> bool,
    ) {
        let mut victims = self.waiting(wanted);
        // Who has waited for less than a sweep may well be getting on: such come last.
        victims.sort_unstable_by_key(|(waiting, since, _)| {
            (self.age(*since) < SWEEP_INTERVAL, *waiting, *since)
        });
        let mut ended = 0_usize;
        for (_, _, entry) in victims {
            if newcomer.is_some_and(|newcomer| std::ptr::eq(newcomer, &*entry)) {
                continue;
            }
            self.end(&entry);
            ended += 1;
            if enough() {
                break;
            }
        }
        if ended > 0 {
            tracing::warn!(
                ended,
                "clients hold too much: connections that made no progress were ended"
            );
        }
    }

    /// Those that wait for their client: for what, and since when.
    fn waiting(&self, wanted: impl Fn(Waiting) -> bool) -> Vec<(Waiting, u64, Arc<Entry>)> {
        let entries = self.entries.lock();
        let waiting = entries.values().filter_map(|entry| {
            let (waiting, since) = entry.waiting()?;
            wanted(waiting).then(|| (waiting, since, entry.clone()))
        });
        waiting.collect()
    }

    /// What it holds counts no more: it is freed as soon as its task runs.
    fn end(&self, entry: &Entry) {
        if !entry.end() {
            return;
        }
        self.request_is_over(entry);
        let kept = match entry.of_connection() {
            Some(_) => HTTP2_ENDED_BYTES,
            None => 0,
        };
        self.discharge(entry, entry.held().saturating_sub(kept));
        // The client may leave even the end of the answer untaken, so its connection goes with the last request
        // that was alive.
        if let Some(connection) = entry.of_connection()
            && connection.stream_ended()
        {
            self.end(connection);
        }
    }

    fn request_is_over(&self, entry: &Entry) {
        if entry.answered() {
            self.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, entry: Arc<Entry>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.entries.lock().insert(id, entry);
        id
    }

    fn leave(&self, id: u64) {
        let entry = self.entries.lock().remove(&id);
        if let Some(entry) = entry {
            self.request_is_over(&entry);
            self.discharge(&entry, entry.held());
            entry.leave();
        }
    }

    fn charge(&self, entry: &Entry, bytes: usize) {
        if entry.charge(bytes) {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn discharge(&self, entry: &Entry, bytes: usize) {
        self.held.fetch_sub(entry.discharge(bytes), Ordering::Relaxed);
    }

    /// Sweeps in the upper half, changes in the lower one.
    fn now(&self) -> u64 {
        let change = self.changes.fetch_add(1, Ordering::Relaxed);
        u64::from(self.clock.load(Ordering::Relaxed)) << 32 | u64::from(change)
    }

    fn age(&self, since: u64) -> Duration {
        let sweeps = u64::from(self.clock.load(Ordering::Relaxed)).saturating_sub(since >> 32);
        // The one that had begun counts for nothing.
        SWEEP_INTERVAL * u32::try_from(sweeps.saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

impl Connection {
    /// Returns when the connection is to be closed, to be parked, or to take no more requests.
    pub async fn signal(&self) -> Signal {
        poll_fn(|cx| self.entry.poll_signal(cx)).await
    }

    /// Returns when the connection is to be closed.
    pub async fn ended(&self) {
        poll_fn(|cx| self.entry.poll_ended(cx)).await;
    }

    /// It is to take no more requests.
    pub fn retire(&self) {
        self.entry.retire();
    }

    /// Counts what is read from and written to it.
    pub fn watch(&self, stream: TcpStream) -> WatchedIo<TcpStream> {
        let stream = Arc::new(Mutex::new(stream));
        self.entry.set_socket(stream.clone());
        self.watch_io(stream)
    }

    fn watch_io<T>(&self, io: Arc<Mutex<T>>) -> WatchedIo<T> {
        WatchedIo::new(io, self.load.clone(), self.entry.clone())
    }

    /// Those of the request that is being answered, over HTTP/1.1.
    pub fn interim_answers(&self) -> Arc<InterimAnswers> {
        self.entry.interim_answers().clone()
    }

    /// The client speaks HTTP/2. `false`: there is no memory for that.
    pub fn becomes_http2(&self) -> bool {
        let has_room = self.load.make_room(HTTP2_BYTES, Some(&self.entry));
        if has_room {
            self.load.charge(&self.entry, HTTP2_BYTES);
            self.entry.becomes_http2();
        }
        has_room
    }

    /// A request has come. `Err`: there is no room for it, and it is to be refused.
    pub fn request<B>(&self, request: &Request<B>) -> Result<RequestInProgress, RequestInProgress> {
        RequestInProgress::begin(&self.load, &self.entry, request)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.load.leave(self.id);
    }
}

#[cfg(test)]
mod tests;
