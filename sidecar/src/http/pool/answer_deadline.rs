//! Answer deadline: how long a request over HTTP/1.1 waits for the head of its answer. A timer for each request would take
//! a thousand instructions, so the sweeps look at all that wait, once a second: a wait ends up to two sweeps late, and never
//! early.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Nothing is waited for.
const NONE: u64 = 0;
/// A wait that no sweep has seen.
const NEW: u64 = 1;
const OVER: u64 = u64::MAX;

/// Of one connection, which waits for one answer at a time.
#[derive(Clone, Default)]
pub struct AnswerDeadline(Arc<Wait>);

#[derive(Default)]
struct Wait {
    /// One of the above, or when a sweep saw it first: milliseconds since [`AnswerDeadlines::start`].
    since: AtomicU64,
    waker: AtomicWaker,
}

/// Of all connections of a pool.
pub struct AnswerDeadlines {
    start: Instant,
    /// Those of connections that are gone are left out by the next sweep.
    waits: Mutex<Vec<Weak<Wait>>>,
}

impl AnswerDeadline {
    /// A wait begins.
    pub fn begin(&self) {
        self.0.since.store(NEW, Relaxed);
    }

    /// Ready once the wait has lasted too long.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        match self.0.since.load(Relaxed) {
            OVER => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// The wait is over.
    pub fn end(&self) {
        self.0.since.store(NONE, Relaxed);
        // An idle connection would keep the memory of whatever task used it last.
        drop(self.0.waker.take());
    }
}

impl AnswerDeadlines {
    /// Watches a connection for as long as it lasts.
    pub fn watch(&self, deadline: &AnswerDeadline) {
        self.waits.lock().push(Arc::downgrade(&deadline.0));
    }

    /// Ends the waits that have lasted for as long as `limit`.
    pub fn sweep(&self, limit: Duration) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // Never one of the numbers that mean something else.
        let now = millis(self.start.elapsed()).saturating_add(NEW + 1);
        self.waits.lock().retain(|wait| {
            let Some(wait) = wait.upgrade() else {
                return false;
            };
            match wait.since.load(Relaxed) {
                NONE | OVER => {}
                NEW => wait.since.store(now, Relaxed),
                since if now.saturating_sub(since) >= millis(limit) => {
                    wait.since.store(OVER, Relaxed);
                    wait.waker.wake();
                }
                _ => {}
            }
            true
        });
    }
}

impl Default for AnswerDeadlines {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            waits: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const SWEEP: Duration = Duration::from_secs(1);

    fn is_over(deadline: &AnswerDeadline) -> bool {
        deadline.poll(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_never_ended_early_and_at_most_two_sweeps_late() {
        let deadlines = AnswerDeadlines::default();
        let deadline = AnswerDeadline::default();
        deadlines.watch(&deadline);
        for offset in [1, 500, 999].map(Duration::from_millis) {
            tokio::time::advance(SWEEP - offset).await;
            let begun = Instant::now();
            deadline.begin();
            tokio::time::advance(offset).await;
            while !is_over(&deadline) {
                deadlines.sweep(LIMIT);
                tokio::time::advance(SWEEP).await;
            }
            let waited = begun.elapsed() - SWEEP;
            assert!(waited >= LIMIT && waited <= LIMIT + 2 * SWEEP, "{waited:?}");
            deadline.end();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_of_a_connection_has_all_the_time_and_what_does_not_wait_is_not_ended() {
        let deadlines = AnswerDeadlines::default();
        let deadline = AnswerDeadline::default();
        deadlines.watch(&deadline);
        for _ in 0..3 {
            deadline.begin();
            for _ in 0..10 {
                deadlines.sweep(LIMIT);
                tokio::time::advance(SWEEP).await;
            }
            assert!(!is_over(&deadline));
            deadline.end();
        }
        tokio::time::advance(10 * LIMIT).await;
        deadlines.sweep(LIMIT);
        deadline.begin();
        assert!(!is_over(&deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_and_connections_that_are_gone_are_forgotten() {
        let deadlines = Arc::new(AnswerDeadlines::default());
        let deadline = AnswerDeadline::default();
        deadlines.watch(&deadline);
        deadline.begin();
        let waiting = tokio::spawn(async move { std::future::poll_fn(|cx| deadline.poll(cx)).await });
        tokio::task::yield_now().await;
        deadlines.sweep(LIMIT);
        tokio::time::advance(LIMIT).await;
        deadlines.sweep(LIMIT);
        waiting.await.unwrap();
        deadlines.sweep(LIMIT);
        assert!(deadlines.waits.lock().is_empty());
    }
}
