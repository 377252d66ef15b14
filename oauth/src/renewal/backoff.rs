//! Exponential backoff: from how often something failed in a row to how long to wait, for all that is tried
//! again here. Without jitter, which each adds in its own way.

use std::time::Duration;

/// `min`, doubled this many times, and no more than `max`.
pub(crate) fn exponential(min: Duration, doublings: u32, max: Duration) -> Duration {
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
