//! Exponential backoff: from how often something failed in a row to how long to wait. A pure function, so that
//! schedules can be decided from a stored count. Each caller spreads the wait in its own way: some must
//! not exceed `max`, others may come earlier only.
//!
//! `backon` has none of that: its waits come from an iterator that has to live as long as the failures, its
//! jitter comes on top of the maximum, and its random numbers cannot be given by a test.

use std::time::Duration;

/// `min`, doubled this many times, and no more than `max`.
pub fn exponential(min: Duration, doublings: u32, max: Duration) -> Duration {
    min.saturating_mul(2_u32.saturating_pow(doublings)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_overflows_nothing() {
        let seconds = Duration::from_secs;
        let waits = [0, 1, 2, 3, u32::MAX].map(|doublings| exponential(seconds(10), doublings, seconds(60)));
        assert_eq!(waits, [10, 20, 40, 60, 60].map(seconds));
    }
}
