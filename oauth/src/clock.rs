//! What time it is. Times are wall-clock times, because they end up in statuses and on other machines.
//!
//! [`Clock::system`] reads the wall clock each time: a token's end is then noticed even after the machine slept,
//! which a monotonic clock would not count. [`Clock::starting_at`] counts from a given moment on by tokio's
//! timer, so that under a paused runtime a test decides what time it is and hours pass at once.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Longest sleep without a look at the wall clock, which may have been set or may have stood still meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A source of the current time.
#[derive(Clone, Debug)]
pub struct Clock {
    base: Option<(Timestamp, Instant)>,
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self { base: None }
    }

    /// A clock that shows `now` at this moment and goes as tokio's timer goes.
    pub fn starting_at(now: Timestamp) -> Self {
        Self {
            base: Some((now, Instant::now())),
        }
    }

    pub fn now(&self) -> Timestamp {
        match self.base {
            None => Timestamp::now(),
            Some((wall, started)) => after(wall, started.elapsed()),
        }
    }

    /// Returns once `then` is reached.
    pub async fn sleep_until(&self, then: Timestamp) {
        // Each round either ends the wait or sleeps for at least the timer's granularity.
        while let Ok(left) = Duration::try_from(then.duration_since(self.now()))
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }
}

/// `span` after `at`, or the end of time where that is nearer.
pub(crate) fn after(at: Timestamp, span: Duration) -> Timestamp {
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
        let then = after(start, Duration::from_secs(3600));
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

    #[test]
    fn time_ends_where_timestamps_end() {
        assert_eq!(after(Timestamp::MAX, Duration::MAX), Timestamp::MAX);
    }
}
