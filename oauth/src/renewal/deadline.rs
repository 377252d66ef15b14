//! A deadline that survives clock changes: a moment to wait for that comes whatever is done to the wall
//! clock. Set forward, as after the machine slept, the clock reaches it early; set back, it would reach it
//! late or never, and the timer that was started with the deadline does. A token that ended early costs a
//! request; one that is used after its end, or never renewed, costs calls.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::Clock;
use crate::clock::MAX_SLEEP;

/// Longest wait by the timer: longer than any token lives, and far from the timer's limits.
const MAX_WAIT: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// A moment by wall clock and timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub at: Timestamp,
    timer: Instant,
}

impl Deadline {
    pub fn at(at: Timestamp, clock: &Clock) -> Self {
        let wait = Duration::try_from(at.duration_since(clock.now())).unwrap_or(Duration::ZERO);
        Self {
            at,
            timer: Instant::now() + wait.min(MAX_WAIT),
        }
    }

    /// Whether its moment has come.
    pub fn has_passed(&self, clock: &Clock) -> bool {
        self.at <= clock.now() || self.timer <= Instant::now()
    }

    /// Returns once its moment has come.
    pub async fn wait(&self, clock: &Clock) {
        // Each round either ends the wait or sleeps for at least the timer's granularity.
        while !self.has_passed(clock) {
            let by_clock = Duration::try_from(self.at.duration_since(clock.now())).unwrap_or(Duration::ZERO);
            let by_timer = self.timer.saturating_duration_since(Instant::now());
            tokio::time::sleep(by_clock.min(by_timer).min(MAX_SLEEP)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::time_after;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn passes_at_its_moment_and_not_before() {
        let clock = Clock::starting_at(start());
        let deadline = Deadline::at(time_after(start(), HOUR), &clock);
        assert!(!deadline.has_passed(&clock));
        deadline.wait(&clock).await;
        assert_eq!(clock.now(), time_after(start(), HOUR));
        assert!(deadline.has_passed(&clock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_back_does_not_delay_it() {
        let clock = Clock::starting_at(start());
        let deadline = Deadline::at(time_after(start(), HOUR), &clock);
        let began = Instant::now();
        clock.set_by(-365 * 24 * 3600);
        deadline.wait(&clock).await;
        assert_eq!(began.elapsed(), HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_forward_brings_it_at_the_next_look() {
        let clock = Clock::starting_at(start());
        let deadline = Deadline::at(time_after(start(), HOUR), &clock);
        let began = Instant::now();
        let waiting = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            clock.set_by(3600);
        };
        tokio::join!(deadline.wait(&clock), waiting);
        assert!(began.elapsed() <= Duration::from_secs(60) + MAX_SLEEP);
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_has_come_and_the_end_of_time_has_not() {
        let clock = Clock::starting_at(start());
        assert!(Deadline::at(Timestamp::MIN, &clock).has_passed(&clock));
        assert!(!Deadline::at(Timestamp::MAX, &clock).has_passed(&clock));
    }
}
