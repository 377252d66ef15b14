//! Time, injected: a wall clock that runs on tokio's clock, so that a test that pauses and advances that one
//! controls the expiry of tokens too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: SystemTime,
    start: Instant,
}

impl Clock {
    /// A clock that shows `base` now.
    pub fn starting_at(base: SystemTime) -> Self {
        Self {
            base,
            start: Instant::now(),
        }
    }

    pub fn system() -> Self {
        Self::starting_at(SystemTime::now())
    }

    pub fn now(&self) -> SystemTime {
        self.base + self.start.elapsed()
    }

    /// When tokio's clock will show `at`; now, if that is over.
    pub fn instant(&self, at: SystemTime) -> Instant {
        Instant::now() + at.duration_since(self.now()).unwrap_or(Duration::ZERO)
    }
}

/// Whole seconds since 1970.
pub(crate) fn unix_seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
