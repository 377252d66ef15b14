//! The clock: wall-clock time, and waiting for it. Times are wall-clock times, because they end up in
//! statuses and on other machines.
//!
//! [`Clock::system`] reads the wall clock each time: a token's end is then noticed even after the machine
//! slept, which a monotonic clock would not count. [`Clock::starting_at`] counts from a given moment on by
//! tokio's timer, so that under a paused runtime a test decides what time it is and hours pass at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Longest sleep without a look at the wall clock, which may have been set or may have stood still meanwhile.
pub(crate) const MAX_SLEEP: Duration = Duration::from_secs(30);

/// A source of the current time.
#[derive(Clone, Debug)]
pub struct Clock {
    simulated: Option<Arc<SimulatedTime>>,
}

/// A clock independent of the machine's, for tests.
#[derive(Debug)]
struct SimulatedTime {
    wall: Timestamp,
    started: Instant,
    /// Seconds by which it was set since.
    set_by: AtomicI64,
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self { simulated: None }
    }

    /// A clock that shows `now` at this moment and goes as tokio's timer goes.
    pub fn starting_at(now: Timestamp) -> Self {
        Self {
            simulated: Some(Arc::new(SimulatedTime {
                wall: now,
                started: Instant::now(),
                set_by: AtomicI64::new(0),
            })),
        }
    }

    pub fn now(&self) -> Timestamp {
        match &self.simulated {
            None => Timestamp::now(),
            Some(simulated) => {
                let set_by = SignedDuration::from_secs(simulated.set_by.load(Ordering::Relaxed));
                time_after(simulated.wall, simulated.started.elapsed())
                    .saturating_add(set_by)
                    .expect("a duration holds no calendar units")
            }
        }
    }

    /// Sets this clock and its clones forward or back, as an administrator may do with the wall clock; the
    /// timer goes on. The machine's own clock is not touched.
    pub fn set_by(&self, seconds: i64) {
        if let Some(simulated) = &self.simulated {
            simulated.set_by.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    /// Returns once `then` is reached.
    pub async fn sleep_until(&self, then: Timestamp) {
        // Each round either ends the wait or sleeps for at least the timer's granularity.
        while let Ok(remaining) = Duration::try_from(then.duration_since(self.now()))
            && !remaining.is_zero()
        {
            tokio::time::sleep(remaining.min(MAX_SLEEP)).await;
        }
    }
}

/// `span` before `at`, or the beginning of time where that is nearer.
pub(crate) fn time_before(at: Timestamp, span: Duration) -> Timestamp {
    at.saturating_sub(span)
        .expect("a duration holds no calendar units")
}

/// `span` after `at`, or the end of time where that is nearer.
pub(crate) fn time_after(at: Timestamp, span: Duration) -> Timestamp {
    at.saturating_add(span)
        .expect("a duration holds no calendar units")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sleeps_to_the_very_moment() {
        let start: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        let then = time_after(start, Duration::from_secs(3600));
        clock.sleep_until(then).await;
        assert_eq!(clock.now(), then);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_sleep_for_a_time_that_has_passed() {
        let start: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        clock.sleep_until(Timestamp::UNIX_EPOCH).await;
        assert_eq!(clock.now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn can_be_set_while_it_goes() {
        let start: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        tokio::time::sleep(Duration::from_secs(60)).await;
        clock.set_by(-3600);
        assert_eq!(clock.clone().now(), time_before(start, Duration::from_secs(3540)));
    }

    #[test]
    fn time_ends_where_timestamps_end() {
        assert_eq!(time_after(Timestamp::MAX, Duration::MAX), Timestamp::MAX);
    }
}
