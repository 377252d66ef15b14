//! What becomes of a token that its resource server refuses (401): the first time another one is asked for at once.
//! A server that refuses the successor too, and the next one, gets them further and further apart: then it is not
//! the token that is wrong.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;
use crate::renewal::schedule;

/// Wait before the successor of a token that is itself the successor of a refused one; doubles each time.
const SHORTEST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// A token that nobody refused for this long was a good one.
const PROBATION: Duration = Duration::from_secs(10 * 60);

/// Refusals in a row, of one token after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refusals {
    pub in_a_row: u32,
    /// When a successor of the token in use may be asked for. `None`: it is not refused.
    again_at: Option<Timestamp>,
    /// When the token in use is past its probation. `None`: it is on none.
    trusted_at: Option<Timestamp>,
}

impl Refusals {
    /// The token in use was refused. Returns when its successor may be asked for.
    pub fn refuse(&mut self, now: Timestamp, random: fn() -> f64) -> Timestamp {
        if self.trusted_at.is_some_and(|at| at <= now) {
            self.trust();
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let doubled = self.in_a_row.saturating_sub(2);
        let wait = match self.in_a_row {
            1 => Duration::ZERO,
            _ => SHORTEST_WAIT
                .saturating_mul(2_u32.saturating_pow(doubled))
                .min(LONGEST_WAIT),
        };
        let again_at = after(now, schedule::earlier(wait, random));
        self.again_at = Some(again_at);
        self.trusted_at = None;
        again_at
    }

    /// When a successor of the token in use may be asked for. `None`: it is not refused.
    pub fn again_at(&self) -> Option<Timestamp> {
        self.again_at
    }

    /// When the token in use is past its probation, if it is on one.
    pub fn trusted_at(&self) -> Option<Timestamp> {
        self.trusted_at
    }

    /// A token took over. `by_schedule`: from one that had come to its regular end.
    pub fn succeed(&mut self, now: Timestamp, by_schedule: bool) {
        if by_schedule && self.again_at.is_none() {
            self.trust();
        }
        self.again_at = None;
        self.trusted_at = (self.in_a_row > 0).then(|| after(now, PROBATION));
    }

    /// The token in use is gone, without a successor.
    pub fn lose(&mut self) {
        self.again_at = None;
        self.trusted_at = None;
    }

    /// The token in use is past its probation, or the next one will be asked for in another way: refusals so far say
    /// nothing any more. Whether the token in use is refused stays as it is.
    pub fn trust(&mut self) {
        self.in_a_row = 0;
        self.trusted_at = None;
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
        let mut refusals = Refusals::default();
        let waits: Vec<_> = (0..9)
            .map(|_| {
                let again_at = second(refusals.refuse(at(0), || 0.0));
                refusals.succeed(at(0), false);
                again_at
            })
            .collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(refusals.in_a_row, 9);
    }

    #[test]
    fn endlessly_many_in_a_row_overflow_nothing() {
        let mut refusals = Refusals {
            in_a_row: u32::MAX,
            ..Refusals::default()
        };
        assert_eq!(second(refusals.refuse(at(0), || 0.0)), 300);
    }

    #[test]
    fn a_token_that_lived_unrefused_for_ten_minutes_ends_the_row() {
        for (lived, again_at) in [(599, 599 + 10), (600, 600)] {
            let mut refusals = Refusals::default();
            refusals.refuse(at(0), || 0.0);
            refusals.succeed(at(0), false);
            assert_eq!(second(refusals.refuse(at(lived), || 0.0)), again_at);
        }
    }

    #[test]
    fn a_regular_renewal_ends_the_row_unless_the_token_before_was_refused() {
        let mut refusals = Refusals::default();
        refusals.refuse(at(0), || 0.0);
        refusals.succeed(at(0), true);
        assert_eq!(refusals.in_a_row, 1);
        refusals.succeed(at(60), true);
        assert_eq!((refusals.in_a_row, refusals.trusted_at()), (0, None));
    }

    #[test]
    fn a_refused_token_is_past_no_probation() {
        let mut refusals = Refusals::default();
        refusals.refuse(at(0), || 0.0);
        refusals.succeed(at(0), false);
        assert_eq!(refusals.trusted_at().map(second), Some(600));
        refusals.refuse(at(1), || 0.0);
        assert_eq!(refusals.trusted_at(), None);
    }
}
