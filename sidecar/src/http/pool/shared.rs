//! HTTP/2 connections, which carry many requests at once: one for each worker and target, another only while
//! the other side takes no more streams on it.
//!
//! Unlike those of HTTP/1.1 they are driven by tasks of their own, on the worker's runtime: none of the
//! requests that share one could do it for the others. A request that is dropped resets its stream, and only
//! that.

use parking_lot::{Mutex, MutexGuard};
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::error::RequestError;
use super::first_read_notifier::FirstReadNotifier;
use super::idle_limit::DEFAULT_IDLE;
use crate::http::request_body::RequestBody;

/// Longest time a connection is kept without a request. Servers that close theirs earlier say so with GOAWAY,
/// so that a request on its way at that moment is known not to have been processed.
pub const IDLE_TIMEOUT: Duration = DEFAULT_IDLE;
/// With requests under way, the other side is asked for a sign of life this often ...
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// ... and has this long to give it. Streams may be silent for hours, and their server gone meanwhile.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the other side's settings, which say how many streams it takes. They come with the first
/// flight.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// What is held of an answer for a client that reads slowly: a long answer over a long way needs it. Little more than an answer
/// counts that is not taken ([`load`](crate::server)).
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all together: so much that a few slow clients do not hold up the others, and so little that those of several
/// servers fit into what the bounds of memory leave for what is not counted to the byte.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Longest headers of an answer, all together.
const MAX_RESPONSE_HEADERS_BYTES: u32 = 128 * 1024;

/// A worker's HTTP/2 connections to one target.
#[derive(Default)]
pub struct Shared {
    connections: Mutex<Vec<Multiplexed>>,
    /// Held by the request that opens a connection, so that requests that come meanwhile share it.
    pub opening: tokio::sync::Mutex<()>,
    /// The newest connection turned out to be HTTP/1.1, so there is nothing to wait for.
    is_http1: AtomicBool,
}

/// A connection, and one of its streams taken.
pub struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    state: Arc<ConnectionState>,
}

/// One of a connection's streams, free again when this is dropped.
pub struct Stream(Arc<ConnectionState>);

struct ConnectionState {
    streams: AtomicUsize,
    /// As the other side has it, as of the newest request.
    limit: AtomicUsize,
    last_used: Mutex<Instant>,
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

    /// Whether a connection that another request opens may be shared.
    pub fn may_be_shared(&self) -> bool {
        !self.is_http1.load(Ordering::Relaxed)
    }

    /// What the newest connection negotiated.
    pub fn negotiated(&self, http2: bool) {
        self.is_http1.store(!http2, Ordering::Relaxed);
    }

    /// Speaks HTTP/2 over `io`, for this request and those that come.
    pub async fn open<T>(&self, io: T) -> Result<(Multiplexed, Stream), hyper::Error>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let (notify, mut first_read) = oneshot::channel();
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_RESPONSE_HEADERS_BYTES)
            .handshake(FirstReadNotifier::new(io, notify))
            .await?;
        let settings = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => Pin::new(&mut first_read).poll(cx).map(|_| Ok(())),
        });
        if let Ok(outcome) = timeout(SETTINGS_TIMEOUT, settings).await {
            outcome?;
        }
        let state = Arc::new(ConnectionState {
            streams: AtomicUsize::new(0),
            limit: AtomicUsize::new(connection.current_max_send_streams()),
            last_used: Mutex::new(Instant::now()),
        });
        let driven = state.clone();
        tokio::spawn(async move {
            let outcome = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                let limit = connection.current_max_send_streams();
                driven.limit.store(limit, Ordering::Relaxed);
                polled
            });
            if let Err(error) = outcome.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        });
        let connection = Multiplexed { sender, state };
        let multiplexed = connection.begin();
        self.lock().push(connection);
        Ok(multiplexed)
    }

    /// Gives it no more requests. Those under way come to their end.
    pub fn retire(&self, connection: &Multiplexed) {
        self.lock()
            .retain(|kept| !Arc::ptr_eq(&kept.state, &connection.state));
    }

    /// Closes connections that were idle for long, or that the other side has closed.
    pub fn sweep(&self) {
        self.lock().retain(|connection| {
            let state = &connection.state;
            let in_use = state.streams.load(Ordering::Relaxed) > 0;
            !connection.sender.is_closed() && (in_use || state.last_used().elapsed() < IDLE_TIMEOUT)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Multiplexed>> {
        self.connections.lock()
    }
}

impl Multiplexed {
    /// Sends a request and waits for the head of its answer. `stream` is given back with it.
    pub async fn send_request(
        &mut self,
        request: Request<RequestBody>,
        stream: Stream,
    ) -> Result<(Response<Incoming>, Stream), RequestError> {
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response, stream)),
            Err(failed) => Err(failed.into()),
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

impl ConnectionState {
    fn last_used(&self) -> MutexGuard<'_, Instant> {
        self.last_used.lock()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *self.0.last_used() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the other side processed a request that it did not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamFailure {
    /// It has certainly not processed it (RFC 9113 section 8.7).
    Unprocessed,
    /// It gave up this request, and may have processed it.
    Reset,
    /// Its answer is malformed over HTTP/2, such as one with `Connection`.
    Malformed,
    /// The connection is gone, and it may have processed it.
    Connection,
}

impl StreamFailure {
    pub fn classify(error: &hyper::Error) -> Self {
        let error = error
            .source()
            .and_then(|source| source.downcast_ref::<h2::Error>());
        match error {
            // Streams up to the last that GOAWAY names go on, and end in another way if they do.
            Some(error) if error.is_remote() && error.is_go_away() => Self::Unprocessed,
            Some(error) if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Self::Unprocessed
            }
            Some(error)
                if error.is_reset()
                    && error.is_library()
                    && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) =>
            {
                Self::Malformed
            }
            Some(error) if error.is_reset() => Self::Reset,
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::pool::HttpError;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::advance;

    /// Settings that take one stream at a time.
    const ONE_STREAM: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
    const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// A connection to a peer that begins with these bytes.
    async fn opened(begins: &[u8]) -> (Shared, (Multiplexed, Stream), DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(begins).await.unwrap();
        let shared = Shared::default();
        let multiplexed = shared.open(TokioIo::new(ours)).await.unwrap();
        (shared, multiplexed, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_not_taken_that_the_other_side_does_not_have() {
        let (shared, (_connection, first), _theirs) = opened(&ONE_STREAM).await;
        assert!(shared.take().is_none());
        drop(first);
        let (_connection, _second) = shared.take().expect("the first is free again");
        assert!(shared.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_to_say_what_it_takes_does_not_hold_up_requests() {
        let before = Instant::now();
        let (shared, _first, _theirs) = opened(b"").await;
        assert_eq!(before.elapsed(), SETTINGS_TIMEOUT);
        assert!(shared.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_gives_no_sign_of_life_is_given_up() {
        let (shared, (mut connection, stream), _theirs) = opened(&NO_SETTINGS).await;
        let before = Instant::now();
        let request = Request::post("https://localhost/mcp");
        let request = request.body(RequestBody::Whole(None)).unwrap();
        let failed = connection.send_request(request, stream).await.err();
        let Some(RequestError::Connection(failed)) = failed else {
            panic!("it cannot have answered");
        };
        assert_eq!(before.elapsed(), PING_INTERVAL + PING_TIMEOUT);
        let HttpError::Http2(error) = &failed.error else {
            panic!("it is of HTTP/2");
        };
        assert_eq!(StreamFailure::classify(error), StreamFailure::Connection);
        drop(connection);
        tokio::task::yield_now().await;
        assert!(shared.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_is_closed_and_one_with_a_stream_is_not() {
        let (shared, (connection, stream), mut theirs) = opened(&NO_SETTINGS).await;
        drop(connection);
        advance(IDLE_TIMEOUT).await;
        shared.sweep();
        assert_eq!(shared.lock().len(), 1, "it is in use");
        drop(stream);
        advance(Duration::from_millis(59_999)).await;
        shared.sweep();
        assert_eq!(shared.lock().len(), 1, "it was in use a moment ago");
        advance(Duration::from_millis(1)).await;
        shared.sweep();
        assert_eq!(shared.lock().len(), 0);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
    }
}
