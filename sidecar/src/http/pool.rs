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
mod lease;
pub mod shared;

use parking_lot::{Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;

use crate::http::http1::{self, Http1Error};
use crate::http::io::Io;
use crate::http::request_body::RequestBody;
use answer_deadline::{AnswerDeadline, AnswerDeadlines};
pub use error::{HttpError, RequestError};
pub use idle_limit::DEFAULT_IDLE;
use idle_limit::IdleLimit;
pub use lease::Lease;
use shared::Shared;

/// Connections that wait beyond this number do so for a short time only: a burst is over, and each takes a file
/// descriptor.
const KEPT_FOR_LONG: usize = 16;
const SURPLUS_IDLE: Duration = Duration::from_secs(4);
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
    /// In a box: it moves with its request, and with the answer.
    protocol: Box<http1::Connection<Io, RequestBody>>,
    /// Absent where requests may wait for ever.
    deadline: Option<AnswerDeadline>,
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
    pub fn open(&self, io: Io) -> Result<Connection, Http1Error> {
        let mut connection = Connection::new(io);
        connection.protocol.look()?;
        if self.answer_timeout.is_some() {
            let deadline = connection.deadline.insert(AnswerDeadline::default());
            self.deadlines.watch(deadline);
        }
        Ok(connection)
    }

    /// An answer has come over one of the connections.
    pub fn answered(&self, connection: &Connection, headers: &HeaderMap) {
        // Hardly any answer states it: the map is not asked for each.
        if connection.protocol.has_keep_alive() {
            self.idle_limit.answered(headers);
        }
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
            if last.connection.protocol.look().is_ok() {
                return Some(last.connection);
            }
            let waited = last.idle_since.elapsed();
            self.idle_limit.closed_after(waited, waited);
        }
        None
    }

    /// Closes what has waited too long or was closed by the other side, and ends requests that wait too long for their
    /// answer.
    pub fn sweep(&self) {
        let limit = self.idle_limit.current();
        let mut idle = self.lock();
        let mut surplus = idle.len().saturating_sub(KEPT_FOR_LONG);
        let mut closed: Option<(Duration, Duration)> = None;
        idle.retain_mut(|idle| {
            let limit = match surplus {
                0 => limit,
                _ => limit.min(SURPLUS_IDLE),
            };
            surplus = surplus.saturating_sub(1);
            let waited = idle.idle_since.elapsed();
            let is_usable = idle.connection.protocol.look().is_ok();
            if !is_usable {
                let (shortest, longest) = closed.unwrap_or((waited, waited));
                closed = Some((shortest.min(waited), longest.max(waited)));
            }
            is_usable && waited < limit
        });
        drop(idle);
        if let Some((shortest, longest)) = closed {
            self.idle_limit.closed_after(shortest, longest);
        }
        if let Some(answer_timeout) = self.answer_timeout {
            self.deadlines.sweep(answer_timeout);
        }
        self.shared.sweep();
    }

    /// Takes it back after a whole answer. Whether it is still open is seen when it is taken.
    fn put(&self, connection: Connection) {
        if !connection.protocol.is_at_rest() {
            connection.protocol.shut_down();
            return;
        }
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                connection,
                idle_since: Instant::now(),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }
}

impl Connection {
    fn new(io: Io) -> Self {
        Self {
            protocol: Box::new(http1::Connection::new(io)),
            deadline: None,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send_request(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<()>, Self), RequestError> {
        if let Some(deadline) = &self.deadline {
            deadline.begin();
        }
        self.protocol.begin(request);
        let answer = std::future::poll_fn(|cx| match (self.protocol.poll_answer(cx), &self.deadline) {
            (Poll::Pending, Some(deadline)) => deadline.poll(cx).map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
            (Poll::Ready(answer), _) => Poll::Ready(Some(answer)),
        })
        .await;
        if let Some(deadline) = &self.deadline {
            deadline.end();
        }
        match answer {
            Some(Ok(response)) => Ok((response, self)),
            Some(Err(error)) => Err(HttpError::from(error).into()),
            None => Err(RequestError::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use http_body::Body;

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
            ours.push(Connection::new(Io::Plain(stream)));
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
        for _ in 0..2 {
            let (ours, theirs) = connections(1).await;
            ours.into_iter().for_each(|connection| pool.put(connection));
            tokio::time::advance(Duration::from_secs(6)).await;
            drop(theirs);
            while !pool.lock().is_empty() {
                pool.sweep();
                tokio::task::yield_now().await;
            }
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
        assert_eq!(answer.status(), http::StatusCode::OK);
        let mut lease = Lease::new(connection, pool);
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
