//! HTTP/2 connections, which carry many requests at once: one for each worker and target, another only while the other
//! side takes no more streams on it.
//!
//! Unlike those of HTTP/1.1 they are driven by tasks of their own, on the worker's runtime: none of the requests that
//! share one could do it for the others. A request that is dropped resets its stream, and only that.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::ExchangeError;
use super::heard::Heard;
use crate::body::RequestBody;

/// Longest time a connection is kept without a request. Servers that close theirs earlier say so with GOAWAY, so that
/// a request on its way at that moment is known not to have been processed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// With requests under way, the other side is asked for a sign of life this often ...
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// ... and has this long to give it. Streams may be silent for hours, and their server gone meanwhile.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the other side's settings, which say how many streams it takes. They come with the first flight.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// What an answer may have under way to a client that reads slowly: a long answer over a long way needs it.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all together, so that a few slow clients do not hold up the others.
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Longest headers of an answer, all together.
const MAX_HEADERS: u32 = 128 * 1024;

/// A worker's HTTP/2 connections to one target.
#[derive(Default)]
pub struct Shared {
    connections: Mutex<Vec<Multiplexed>>,
    /// Held by whoever opens a connection, so that those who come meanwhile share it.
    pub opening: tokio::sync::Mutex<()>,
    /// The newest connection turned out to be HTTP/1.1, so there is nothing to wait for.
    unshared: AtomicBool,
}

/// A connection, and one of its streams taken.
pub struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    state: Arc<State>,
}

/// One of a connection's streams, free again when this is dropped.
pub struct Stream(Arc<State>);

struct State {
    streams: AtomicUsize,
    /// As the other side has it, as of the newest request.
    limit: AtomicUsize,
    used: Mutex<Instant>,
}

impl Shared {
    /// A connection that takes another stream, and that stream.
    pub fn take(&self) -> Option<(Multiplexed, Stream)> {
        let mut connections = self.lock();
        connections.retain(|connection| !connection.sender.is_closed());
        // The first that has room, so that those opened in a rush fall idle after it.
        let free = connections.iter().find(|connection| connection.has_room())?;
        Some(free.begin())
    }

    /// Whether a connection that somebody else opens may be shared.
    pub fn may_be_shared(&self) -> bool {
        !self.unshared.load(Ordering::Relaxed)
    }

    /// What the newest connection negotiated.
    pub fn negotiated(&self, http2: bool) {
        self.unshared.store(!http2, Ordering::Relaxed);
    }

    /// Speaks HTTP/2 over `io`, for this request and those that come.
    pub async fn open<T>(&self, io: T) -> Result<(Multiplexed, Stream), hyper::Error>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let (hear, mut heard) = oneshot::channel();
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .handshake(Heard::new(io, hear))
            .await?;
        let settings = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Pin::new(&mut heard).poll(cx).map(|_| Ok(())),
        });
        if let Ok(ended) = timeout(SETTINGS_TIMEOUT, settings).await {
            ended?;
        }
        let state = Arc::new(State {
            streams: AtomicUsize::new(0),
            limit: AtomicUsize::new(connection.current_max_send_streams()),
            used: Mutex::new(Instant::now()),
        });
        let driven = state.clone();
        tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                let limit = connection.current_max_send_streams();
                driven.limit.store(limit, Ordering::Relaxed);
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        });
        let connection = Multiplexed { sender, state };
        let begun = connection.begin();
        self.lock().push(connection);
        Ok(begun)
    }

    /// Gives it no more requests. Those under way come to their end.
    pub fn retire(&self, connection: &Multiplexed) {
        self.lock()
            .retain(|kept| !Arc::ptr_eq(&kept.state, &connection.state));
    }

    /// Closes what nobody has used for long, or the other side has closed.
    pub fn sweep(&self) {
        self.lock().retain(|connection| {
            let state = &connection.state;
            let idle = state.streams.load(Ordering::Relaxed) == 0;
            !connection.sender.is_closed() && !(idle && state.used().elapsed() >= IDLE_TIMEOUT)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Multiplexed>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Multiplexed {
    /// Sends a request and waits for the head of its answer. `stream` is given back with it.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        stream: Stream,
    ) -> Result<(Response<Incoming>, Stream), Box<ExchangeError>> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response, stream)),
            Err(mut failed) => {
                let unsent = failed.take_message();
                let error = failed.into_error();
                Err(Box::new(ExchangeError { error, unsent }))
            }
        }
    }

    fn has_room(&self) -> bool {
        self.state.streams.load(Ordering::Relaxed) < self.state.limit.load(Ordering::Relaxed)
    }

    fn begin(&self) -> (Self, Stream) {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        let connection = Self {
            sender: self.sender.clone(),
            state: self.state.clone(),
        };
        (connection, Stream(self.state.clone()))
    }
}

impl State {
    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *self.0.used() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the other side said of a request that it did not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// It has certainly not processed it (RFC 9113 section 8.7).
    Unprocessed,
    /// It gave up this request, and may have processed it.
    Reset,
    /// The connection is gone, and it may have processed it.
    Connection,
}

impl Failure {
    pub fn of(error: &hyper::Error) -> Self {
        let error = error
            .source()
            .and_then(|source| source.downcast_ref::<h2::Error>());
        match error {
            // Streams up to the last that GOAWAY names go on, and end in another way if they do.
            Some(error) if error.is_remote() && error.is_go_away() => Self::Unprocessed,
            Some(error) if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Self::Unprocessed
            }
            Some(error) if error.is_reset() => Self::Reset,
            _ => Self::Connection,
        }
    }
}
