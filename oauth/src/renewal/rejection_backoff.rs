//! Rejection backoff: when a token that its resource server rejects (401) gets a successor. The first time at
//! once. A server that refuses the successor too, and the next one, gets them further and further apart: then
//! it is not the token that is wrong.

use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_resilience::exponential;

use crate::clock::time_after;
use crate::renewal::schedule;

/// Wait before the successor of a token that is itself the successor of a refused one; doubles each time.
const MIN_WAIT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(5 * 60);
/// A token that its resource server took for this long was a good one.
const PROBATION_TIME: Duration = Duration::from_secs(10 * 60);

/// Rejections in a row, of one token after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RejectionBackoff {
    pub in_a_row: u32,
    /// When a successor of the token in use may be asked for. `None`: it is not refused.
    retry_at: Option<Timestamp>,
    /// When the token in use is past its probation. `None`: it is on none.
    probation_ends_at: Option<Timestamp>,
}

impl RejectionBackoff {
    /// The token in use was refused. Returns when its successor may be asked for.
    pub fn reject(&mut self, now: Timestamp, random: fn() -> f64) -> Timestamp {
        if self.probation_ends_at.is_some_and(|at| at <= now) {
            self.reset();
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let doublings = self.in_a_row.saturating_sub(2);
        let wait = match self.in_a_row {
            1 => Duration::ZERO,
            _ => exponential(MIN_WAIT, doublings, MAX_WAIT),
        };
        let retry_at = time_after(now, schedule::with_jitter(wait, random));
        self.retry_at = Some(retry_at);
        self.probation_ends_at = None;
        retry_at
    }

    /// When a successor of the token in use may be asked for. `None`: it is not refused.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// When the token in use is past its probation, if it is on one.
    pub fn probation_ends_at(&self) -> Option<Timestamp> {
        self.probation_ends_at
    }

    /// A token took over. `by_schedule`: from one that had come to its regular end.
    pub fn token_replaced(&mut self, now: Timestamp, by_schedule: bool) {
        if by_schedule && self.retry_at.is_none() {
            self.reset();
        }
        self.retry_at = None;
        self.probation_ends_at = (self.in_a_row > 0).then(|| time_after(now, PROBATION_TIME));
    }

    /// The token in use is gone, without a successor.
    pub fn token_lost(&mut self) {
        self.retry_at = None;
        self.probation_ends_at = None;
    }

    /// The token in use is past its probation, or the next one will be asked for in another way: refusals so
    /// far say nothing any more. Whether the token in use is refused stays as it is.
    pub fn reset(&mut self) {
        self.in_a_row = 0;
        self.probation_ends_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + second).unwrap()
    }

    fn second(at: Timestamp) -> i64 {
        at.as_second() - 1_900_000_000
    }

    #[test]
    fn the_first_gets_a_successor_at_once_and_those_in_a_row_later_and_later() {
        let mut rejections = RejectionBackoff::default();
        let waits: Vec<_> = (0..9)
            .map(|_| {
                let retry_at = second(rejections.reject(at(0), || 0.0));
                rejections.token_replaced(at(0), false);
                retry_at
            })
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(rejections.in_a_row, 9);
    }

    #[test]
    fn endlessly_many_in_a_row_overflow_nothing() {
        let mut rejections = RejectionBackoff {
            in_a_row: u32::MAX,
            ..RejectionBackoff::default()
        };
        assert_eq!(second(rejections.reject(at(0), || 0.0)), 300);
    }

    #[test]
    fn a_token_that_lived_unrefused_for_ten_minutes_ends_the_row() {
        for (lived, retry_at) in [(599, 599 + 10), (600, 600)] {
            let mut rejections = RejectionBackoff::default();
            rejections.reject(at(0), || 0.0);
            rejections.token_replaced(at(0), false);
            assert_eq!(second(rejections.reject(at(lived), || 0.0)), retry_at);
        }
    }

    #[test]
    fn a_regular_renewal_ends_the_row_unless_the_token_before_was_refused() {
        let mut rejections = RejectionBackoff::default();
        rejections.reject(at(0), || 0.0);
        rejections.token_replaced(at(0), true);
        assert_eq!(rejections.in_a_row, 1);
        rejections.token_replaced(at(60), true);
        assert_eq!((rejections.in_a_row, rejections.probation_ends_at()), (0, None));
    }

    #[test]
    fn a_refused_token_is_past_no_probation() {
        let mut rejections = RejectionBackoff::default();
        rejections.reject(at(0), || 0.0);
        rejections.token_replaced(at(0), false);
        assert_eq!(rejections.probation_ends_at().map(second), Some(600));
        rejections.reject(at(1), || 0.0);
        assert_eq!(rejections.probation_ends_at(), None);
    }
}
