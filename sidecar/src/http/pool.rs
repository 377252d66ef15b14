//! Connection pool: connections kept for the next request, one pool for each worker and target. Those of
//! HTTP/2 are in [`shared`].
//!
//! An HTTP/1.1 connection is driven by the request that uses it, not by a task of its own: that saves a
//! wake-up and a hand-over in each direction, and a request that is dropped closes its connection at once.
//! The lock is only ever taken by the pool's own worker, so no thread waits for it.

mod answer_deadline;
mod error;
mod first_read_notifier;
mod idle_limit;
pub mod shared;

use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::http::io::Io;
use crate::http::request_body::RequestBody;
use crate::http::spurious_wakes::hold_wakes;
use answer_deadline::{AnswerDeadline, AnswerDeadlines};
pub use error::RequestError;
pub use idle_limit::DEFAULT_IDLE;
use idle_limit::IdleLimit;
use shared::{Shared, Stream};

/// Connections that wait beyond this number do so for a short time only: a burst is over, and each takes a file
/// descriptor.
const KEPT_FOR_LONG: usize = 16;
const SURPLUS_IDLE: Duration = Duration::from_secs(4);
/// Most headers of an answer.
const MAX_RESPONSE_HEADERS: usize = 256;
/// What is read ahead of a client that takes its answer slowly, and so the longest headers of an answer.
const MAX_BUFFER: usize = 64 * 1024;
/// Connections that wait, for each worker and target.
const MAX_IDLE: usize = 256;

pub struct Pool {
    idle_limit: IdleLimit,
    /// In the order they came back, so the last one has waited least.
    idle: Mutex<Vec<Idle>>,
    /// Longest wait for the head of an answer.
    answer_timeout: Option<Duration>,
    deadlines: AnswerDeadlines,
    pub shared: Shared,
}

struct Idle {
    connection: Connection,
    idle_since: Instant,
}

/// An HTTP/1.1 connection that carries one request at a time.
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driver: Pin<Box<http1::Connection<TokioIo<Io>, RequestBody>>>,
    closed: bool,
    deadline: AnswerDeadline,
}

/// An answer's body together with what it comes over.
pub struct Lease {
    body: Incoming,
    source: LeasedFrom,
    is_complete: bool,
}

enum LeasedFrom {
    /// Goes back to its pool after a whole body, and is closed otherwise.
    Own {
        connection: Option<Connection>,
        home: Arc<Pool>,
    },
    /// Is reset with the body, unless that was whole.
    Shared { _stream: Stream },
}

impl Pool {
    /// Connections wait for as long as `idle`, unless the server shows that it keeps them for less; requests wait for the
    /// head of an answer for as long as `answer_timeout`, up to two sweeps longer.
    pub fn new(idle: Duration, answer_timeout: Option<Duration>) -> Self {
        Self {
            idle_limit: IdleLimit::new(idle),
            idle: Mutex::default(),
            answer_timeout,
            deadlines: AnswerDeadlines::default(),
            shared: Shared::default(),
        }
    }

    /// An HTTP/1.1 connection over `io`, which becomes one of this pool with its first answer.
    pub async fn open(&self, io: Io) -> Result<Connection, hyper::Error> {
        let connection = Connection::open(io).await?;
        if self.answer_timeout.is_some() {
            self.deadlines.watch(&connection.deadline);
        }
        Ok(connection)
    }

    /// An answer has come over one of the connections.
    pub fn answered(&self, headers: &HeaderMap) {
        self.idle_limit.answered(headers);
    }

    /// A connection that was open a moment ago.
    pub fn take(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some(mut last) = idle.pop() {
            if last.idle_since.elapsed() >= self.idle_limit.current() {
                // All others have waited longer.
                idle.clear();
                return None;
            }
            if last.connection.is_usable() {
                return Some(last.connection);
            }
            self.idle_limit.closed_after(last.idle_since.elapsed());
        }
        None
    }

    /// Closes what has waited too long or was closed by the other side, and ends requests that wait too long for their
    /// answer.
    pub fn sweep(&self) {
        let limit = self.idle_limit.current();
        let mut idle = self.lock();
        let mut surplus = idle.len().saturating_sub(KEPT_FOR_LONG);
        idle.retain_mut(|idle| {
            let limit = match surplus {
                0 => limit,
                _ => limit.min(SURPLUS_IDLE),
            };
            surplus = surplus.saturating_sub(1);
            let waited = idle.idle_since.elapsed();
            let is_usable = idle.connection.is_usable();
            if !is_usable {
                self.idle_limit.closed_after(waited);
            }
            is_usable && waited < limit
        });
        drop(idle);
        if let Some(answer_timeout) = self.answer_timeout {
            self.deadlines.sweep(answer_timeout);
        }
        self.shared.sweep();
    }

    fn put(&self, mut connection: Connection) {
        // Most have come to rest with the answer's last byte. Whether they are still open is seen when they are taken.
        if connection.is_at_rest() || connection.is_usable() {
            let mut idle = self.lock();
            if idle.len() < MAX_IDLE {
                idle.push(Idle {
                    connection,
                    idle_since: Instant::now(),
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }
}

impl Connection {
    async fn open(io: Io) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_RESPONSE_HEADERS)
            .handshake(TokioIo::new(io))
            .await?;
        Ok(Self {
            sender,
            driver: Box::pin(driver),
            closed: false,
            deadline: AnswerDeadline::default(),
        })
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send_request(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Self), RequestError> {
        self.deadline.begin();
        let answer = {
            let mut answer = std::pin::pin!(self.sender.try_send_request(request));
            std::future::poll_fn(|cx| {
                if !self.closed {
                    self.closed = self.driver.as_mut().poll(cx).is_ready();
                }
                // It comes by the connection, which has just been polled.
                match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => self.deadline.poll(cx).map(|()| None),
                    Poll::Ready(answer) => Poll::Ready(Some(answer)),
                }
            })
            .await
        };
        self.deadline.end();
        match answer {
            Some(Ok(response)) => Ok((response, self)),
            Some(Err(failed)) => Err(failed.into()),
            None => Err(RequestError::Timeout),
        }
    }

    /// Whether it is open, and waits for a request.
    fn is_at_rest(&self) -> bool {
        !self.closed && self.sender.is_ready()
    }

    /// Lets the connection finish what it is at, and notice that it was closed. Nobody needs waking: the pool
    /// asks again.
    fn is_usable(&mut self) -> bool {
        if !self.closed {
            let mut cx = Context::from_waker(Waker::noop());
            self.closed = self.driver.as_mut().poll(&mut cx).is_ready();
        }
        self.is_at_rest()
    }
}

impl Lease {
    pub fn new(body: Incoming, connection: Connection, home: Arc<Pool>) -> Self {
        Self {
            body,
            source: LeasedFrom::Own {
                connection: Some(connection),
                home,
            },
            is_complete: false,
        }
    }

    pub fn shared(body: Incoming, stream: Stream) -> Self {
        Self {
            body,
            source: LeasedFrom::Shared { _stream: stream },
            is_complete: false,
        }
    }

    /// What has come of the body. Over HTTP/1.1 it comes by a poll of the connection, which whoever asks for more makes: to
    /// wake the task, the body for a part that has come or the connection for one that was taken, would poll all once more
    /// for nothing.
    fn take_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.source {
            LeasedFrom::Own { .. } => {
                let mut unwoken = Context::from_waker(Waker::noop());
                hold_wakes(|| Pin::new(&mut self.body).poll_frame(&mut unwoken)).0
            }
            LeasedFrom::Shared { .. } => Pin::new(&mut self.body).poll_frame(cx),
        }
    }
}

impl Body for Lease {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        // The body first: that it is wanted is what makes the connection read on.
        let mut frame = this.take_frame(cx);
        if frame.is_pending()
            && let LeasedFrom::Own {
                connection: Some(connection),
                ..
            } = &mut this.source
            && !connection.closed
        {
            connection.closed = connection.driver.as_mut().poll(cx).is_ready();
            frame = this.take_frame(cx);
        }
        this.is_complete |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if (self.is_complete || self.body.is_end_stream())
            && let LeasedFrom::Own { connection, home } = &mut self.source
            && let Some(connection) = connection.take()
        {
            home.put(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::http::spurious_wakes::WakeFilter;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    const IDLE: Duration = Duration::from_secs(4);

    async fn connections(number: usize) -> (Vec<Connection>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..number {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            ours.push(Connection::open(Io::Plain(stream)).await.unwrap());
            theirs.push(listener.accept().await.unwrap().0);
        }
        (ours, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_used_once_it_has_waited_too_long() {
        let pool = Pool::new(IDLE, None);
        let (ours, _theirs) = connections(2).await;
        let mut ours = ours.into_iter();
        pool.put(ours.next().unwrap());
        tokio::time::advance(IDLE - Duration::from_millis(1)).await;
        pool.put(ours.next().unwrap());
        assert_eq!(pool.lock().len(), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        pool.sweep();
        assert_eq!(
            pool.lock().len(),
            1,
            "the first has waited too long, the second has not"
        );
        assert!(pool.take().is_some());
        assert!(pool.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_pause_nothing_is_left_to_take() {
        let pool = Pool::new(IDLE, None);
        let (ours, _theirs) = connections(3).await;
        ours.into_iter().for_each(|connection| pool.put(connection));
        tokio::time::advance(IDLE).await;
        assert!(pool.take().is_none());
        assert!(pool.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_a_few_connections_are_kept_for_long() {
        let pool = Pool::new(DEFAULT_IDLE, None);
        let (ours, _theirs) = connections(20).await;
        ours.into_iter().for_each(|connection| pool.put(connection));
        tokio::time::advance(SURPLUS_IDLE).await;
        pool.sweep();
        assert_eq!(pool.lock().len(), KEPT_FOR_LONG);
        tokio::time::advance(DEFAULT_IDLE - SURPLUS_IDLE - Duration::from_millis(1)).await;
        pool.sweep();
        assert!(pool.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_early_is_given_less_time_from_then_on() {
        let pool = Pool::new(DEFAULT_IDLE, None);
        let (ours, theirs) = connections(1).await;
        ours.into_iter().for_each(|connection| pool.put(connection));
        tokio::time::advance(Duration::from_secs(6)).await;
        drop(theirs);
        while !pool.lock().is_empty() {
            pool.sweep();
            tokio::task::yield_now().await;
        }
        let (ours, _theirs) = connections(1).await;
        ours.into_iter().for_each(|connection| pool.put(connection));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(pool.take().is_none(), "it would be closed a moment later");
    }

    #[tokio::test]
    async fn a_connection_that_the_other_side_closed_is_swept() {
        let pool = Pool::new(IDLE, None);
        let (ours, theirs) = connections(1).await;
        ours.into_iter().for_each(|connection| pool.put(connection));
        pool.sweep();
        assert_eq!(pool.lock().len(), 1);
        drop(theirs);
        let swept = async {
            while !pool.lock().is_empty() {
                pool.sweep();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), swept)
            .await
            .expect("it is noticed");
    }

    /// Wakes the test's own task as well.
    struct CountedWaker(AtomicUsize, Waker);

    impl Wake for CountedWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            self.1.wake_by_ref();
        }
    }

    #[tokio::test]
    async fn an_event_stream_wakes_its_task_for_what_comes_and_not_for_what_was_taken() {
        let pool = Arc::new(Pool::new(IDLE, None));
        let (mut ours, mut theirs) = connections(1).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
        theirs[0].write_all(head).await.unwrap();
        let request = Request::get("/").body(RequestBody::Whole(None)).unwrap();
        let sent = ours.remove(0).send_request(request).await;
        let (answer, connection) = sent.unwrap_or_else(|_| panic!("it has answered"));
        let mut lease = Lease::new(answer.into_body(), connection, pool);
        let filter = WakeFilter::new();
        let task = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let waker = Arc::new(CountedWaker(AtomicUsize::new(0), task));
        let wakes = || waker.0.load(Ordering::Relaxed);
        let counted = Waker::from(waker.clone());
        let mut poll = || {
            let frame = filter.poll(&Context::from_waker(&counted), |cx| {
                Pin::new(&mut lease).poll_frame(cx)
            });
            frame.map(|frame| frame.unwrap().unwrap().into_data().unwrap())
        };
        for event in [&b"a"[..], b"b", b"c"] {
            let begun = wakes();
            let received = loop {
                match poll() {
                    Poll::Ready(part) => break part,
                    // Until the socket says that there is something: nothing else wakes.
                    Poll::Pending => {
                        let before = wakes();
                        let woken = std::future::poll_fn(|_| match wakes() > before {
                            true => Poll::Ready(()),
                            false => Poll::Pending,
                        });
                        tokio::time::timeout(Duration::from_secs(30), woken)
                            .await
                            .expect("it is woken");
                    }
                }
            };
            assert_eq!(received, event);
            assert!(poll().is_pending());
            assert!(wakes() - begun <= 1, "{} wakes for one event", wakes() - begun);
            let next = [b"1\r\n", &[event[0] + 1][..], b"\r\n"].concat();
            theirs[0].write_all(&next).await.unwrap();
        }
    }
}
