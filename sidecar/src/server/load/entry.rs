//! One connection over HTTP/1.1, or one request over HTTP/2, as load shedding sees it. It is only ever used by its
//! own worker's thread.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::interim::InterimAnswers;
use crate::http::body_progress::BodyProgress;
use crate::proxy::response_body::ResponseBody;

/// What the task of a connection is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// To close the connection.
    End,
    /// To hold nothing but the socket until the next request.
    Park,
    /// To take no more requests.
    Retire,
}

/// What of its client it waits for, in the order in which they end if somebody has to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Waiting {
    /// That it takes the answer.
    Unread,
    /// The rest of a request's headers.
    Head,
    /// The rest of a request's body, of which next to nothing comes.
    Body,
    /// The first byte of its first request.
    First,
    /// The next request.
    Next,
}

const FIRST: u8 = 0;
const NEXT: u8 = 1;
const HEAD: u8 = 2;
const SERVING: u8 = 3;
/// Its connection is gone, or has become a tunnel.
const GONE: u8 = 4;

pub struct Entry {
    phase: AtomicU8,
    since: AtomicU64,
    /// Since when its client takes nothing; 0 while it does.
    unread_since: AtomicU64,
    /// The answer is ahead of its client, or the socket takes no more.
    is_body_unread: AtomicBool,
    is_socket_full: AtomicBool,
    /// Bytes of headers that have not ended.
    head: AtomicUsize,
    /// What the connection's read buffer has grown by.
    grown: AtomicUsize,
    /// What of a body was charged as being on its way.
    in_flight: AtomicUsize,
    held: AtomicUsize,
    is_answering: AtomicBool,
    has_request: AtomicBool,
    is_http2: AtomicBool,
    has_ended: AtomicBool,
    is_parked: AtomicBool,
    /// It has waited for so long that it is to be parked.
    is_quiet: AtomicBool,
    is_retired: AtomicBool,
    /// Of the connection's task, which hears all of the above by it: it looks at them whenever it runs, for the price of a
    /// few instructions.
    waker: AtomicWaker,
    /// The body of the answer, so that ending it frees what is behind it.
    pub body: Mutex<Option<ResponseBody>>,
    body_progress: Arc<BodyProgress>,
    /// Of a connection over HTTP/2: its requests that have not been ended.
    streams: AtomicUsize,
    connection: Option<Arc<Entry>>,
    socket: OnceLock<Arc<Mutex<TcpStream>>>,
    interim: OnceLock<Arc<InterimAnswers>>,
}

impl Entry {
    pub fn connection(now: u64) -> Self {
        Self::new(FIRST, now, None)
    }

    /// A request over HTTP/2.
    pub fn stream(now: u64, connection: Arc<Self>) -> Self {
        connection.phase.store(SERVING, Relaxed);
        connection.streams.fetch_add(1, Relaxed);
        Self::new(SERVING, now, Some(connection))
    }

    fn new(phase: u8, now: u64, connection: Option<Arc<Self>>) -> Self {
        Self {
            phase: AtomicU8::new(phase),
            since: AtomicU64::new(now),
            unread_since: AtomicU64::new(0),
            is_body_unread: AtomicBool::new(false),
            is_socket_full: AtomicBool::new(false),
            head: AtomicUsize::new(0),
            grown: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            is_answering: AtomicBool::new(false),
            has_request: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            is_parked: AtomicBool::new(false),
            is_quiet: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            body: Mutex::new(None),
            body_progress: Arc::default(),
            streams: AtomicUsize::new(0),
            connection,
            socket: OnceLock::new(),
            interim: OnceLock::new(),
        }
    }

    pub fn waiting(&self) -> Option<(Waiting, u64)> {
        if self.has_ended() {
            return None;
        }
        let unread_since = self.unread_since.load(Relaxed);
        if unread_since > 0 {
            return Some((Waiting::Unread, unread_since));
        }
        if let Some(since) = self.body_progress.slow_since() {
            return Some((Waiting::Body, since));
        }
        let waiting = match self.phase.load(Relaxed) {
            FIRST => Waiting::First,
            NEXT => Waiting::Next,
            HEAD => Waiting::Head,
            _ => return None,
        };
        Some((waiting, self.since.load(Relaxed)))
    }

    /// Bytes came: how many of them the read buffer holds by now. Headers stay in it until they end, and of a body what was
    /// read at once.
    pub fn read(&self, bytes: usize, now: impl FnOnce() -> u64) -> Option<usize> {
        match self.phase.load(Relaxed) {
            HEAD => Some(self.head.fetch_add(bytes, Relaxed) + bytes),
            FIRST | NEXT if !self.is_http2() => {
                self.phase.store(HEAD, Relaxed);
                self.since.store(now(), Relaxed);
                self.head.store(bytes, Relaxed);
                Some(bytes)
            }
            SERVING if !self.is_http2() => Some(bytes),
            _ => None,
        }
    }

    /// The read buffer has grown by so many bytes in all: how many of them are new.
    pub fn grow(&self, grown: usize) -> usize {
        let before = self.grown.fetch_max(grown, Relaxed);
        grown.saturating_sub(before)
    }

    /// So many bytes of a body are on their way at most: how many of them are new.
    pub fn fly(&self, bytes: usize) -> usize {
        if self.phase.load(Relaxed) != SERVING {
            return 0;
        }
        let before = self.in_flight.fetch_max(bytes, Relaxed);
        bytes.saturating_sub(before)
    }

    /// None of a body is on its way any more: what was.
    pub fn land(&self) -> usize {
        match self.in_flight.load(Relaxed) {
            0 => 0,
            _ => self.in_flight.swap(0, Relaxed),
        }
    }

    /// The read buffer is gone, and another will be of the smallest size: what it had grown by.
    pub fn shrink(&self) -> usize {
        self.grown.swap(0, Relaxed)
    }

    /// The headers of a request have come.
    pub fn request_began(&self) {
        self.has_request.store(true, Relaxed);
        self.body_progress.begin();
        self.phase.store(SERVING, Relaxed);
        self.head.store(0, Relaxed);
    }

    pub fn is_answered(&self) {
        self.is_answering.store(true, Relaxed);
    }

    /// The answer is over, in one way or another: whether there was one.
    pub fn answered(&self) -> bool {
        self.is_answering.swap(false, Relaxed)
    }

    pub fn waits_for_next(&self, now: u64) {
        if self.phase.load(Relaxed) == SERVING {
            self.since.store(now, Relaxed);
            self.phase.store(NEXT, Relaxed);
        }
    }

    /// The answer is ahead of its client, or not any more: whether that changes whether the client takes
    /// anything.
    pub fn set_body_unread(&self, is_unread: bool, now: impl FnOnce() -> u64) -> bool {
        let before = self.is_body_unread.swap(is_unread, Relaxed);
        before != is_unread && self.update_unread(now)
    }

    pub fn set_socket_full(&self, is_full: bool, now: impl FnOnce() -> u64) -> bool {
        let before = self.is_socket_full.swap(is_full, Relaxed);
        before != is_full && self.update_unread(now)
    }

    fn update_unread(&self, now: impl FnOnce() -> u64) -> bool {
        let is_unread = self.is_body_unread.load(Relaxed) || self.is_socket_full.load(Relaxed);
        let was_unread = self.is_unread();
        if is_unread != was_unread {
            let since = if is_unread { now() } else { 0 };
            self.unread_since.store(since, Relaxed);
        }
        is_unread != was_unread
    }

    pub fn is_unread(&self) -> bool {
        self.unread_since.load(Relaxed) > 0
    }

    pub fn interim_answers(&self) -> &Arc<InterimAnswers> {
        self.interim.get_or_init(Arc::default)
    }

    /// Where there are any to be written.
    pub fn waiting_interim_answers(&self) -> Option<&InterimAnswers> {
        self.interim
            .get()
            .filter(|interim| interim.is_waiting())
            .map(Arc::as_ref)
    }

    pub fn body_progress(&self) -> &Arc<BodyProgress> {
        &self.body_progress
    }

    pub fn set_socket(&self, socket: Arc<Mutex<TcpStream>>) {
        // There is one for each connection, and this is called once.
        let _ = self.socket.set(socket);
    }

    /// Whether the client of a request over HTTP/1.1 has closed its side.
    pub fn client_has_gone(&self) -> bool {
        if self.phase.load(Relaxed) != SERVING || self.is_http2() || self.has_ended() {
            return false;
        }
        let Some(socket) = self.socket.get() else {
            return false;
        };
        let readiness = socket.lock().ready(Interest::READABLE).now_or_never();
        matches!(readiness, Some(Ok(readiness)) if readiness.is_read_closed())
    }

    /// `false`: it was told before.
    pub fn end(&self) -> bool {
        let first = !self.has_ended.swap(true, Relaxed);
        if first {
            if self.connection.is_some() {
                *self.body.lock() = None;
            }
            self.waker.wake();
        }
        first
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match self.has_ended() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// It has waited for its next request for some time.
    pub fn is_quiet(&self) {
        if !self.is_http2() && !self.is_parked() {
            self.is_quiet.store(true, Relaxed);
            self.waker.wake();
        }
    }

    pub fn poll_signal(&self, cx: &Context<'_>) -> Poll<Signal> {
        if self.poll_ended(cx).is_ready() {
            return Poll::Ready(Signal::End);
        }
        if self.is_retired.load(Relaxed) && self.is_retired.swap(false, Relaxed) {
            return Poll::Ready(Signal::Retire);
        }
        // What has come since then counts.
        if self.is_quiet.load(Relaxed)
            && self.is_quiet.swap(false, Relaxed)
            && matches!(self.waiting(), Some((Waiting::Next, _)))
        {
            return Poll::Ready(Signal::Park);
        }
        Poll::Pending
    }

    /// Told once.
    pub fn retire(&self) {
        self.is_retired.store(true, Relaxed);
        self.waker.wake();
    }

    pub fn is_parked(&self) -> bool {
        self.is_parked.load(Relaxed)
    }

    pub fn set_parked(&self, is_parked: bool) {
        self.is_parked.store(is_parked, Relaxed);
    }

    /// That of a connection which is watched.
    pub fn socket(&self) -> Option<&Arc<Mutex<TcpStream>>> {
        self.socket.get()
    }

    /// Its socket may go on, as a tunnel that is bounded elsewhere.
    pub fn leave(&self) {
        self.has_ended.store(true, Relaxed);
        self.phase.store(GONE, Relaxed);
        drop(self.waker.take());
    }

    pub fn charge(&self, bytes: usize) -> bool {
        let counts = !self.has_ended();
        if counts {
            self.held.fetch_add(bytes, Relaxed);
        }
        counts
    }

    /// How much of it was held.
    pub fn discharge(&self, bytes: usize) -> usize {
        let held = self.held.load(Relaxed);
        let bytes = bytes.min(held);
        self.held.store(held - bytes, Relaxed);
        bytes
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    pub fn has_request(&self) -> bool {
        self.has_request.load(Relaxed)
    }

    pub fn becomes_http2(&self) {
        self.is_http2.store(true, Relaxed);
    }

    pub fn is_http2(&self) -> bool {
        self.is_http2.load(Relaxed)
    }

    /// Of a request over HTTP/2.
    pub fn of_connection(&self) -> Option<&Arc<Self>> {
        self.connection.as_ref()
    }

    /// A request of this connection was ended: whether it was the last that was alive.
    pub fn stream_ended(&self) -> bool {
        self.streams.fetch_sub(1, Relaxed) == 1
    }
}
