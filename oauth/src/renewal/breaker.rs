//! Circuit breaker before an authorization server that fails: closed while it answers, open after failures in
//! a row or as long as it asks to be left alone, half open while one request tries whether it answers again.

use std::time::Duration;

use jiff::Timestamp;

use super::schedule;
use crate::{Error, Policy};

/// Failures in a row that open the circuit.
pub(crate) const FAILURE_THRESHOLD: u32 = 3;

/// Whether requests are made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Circuit {
    /// They are.
    #[default]
    Closed,
    /// None is, before this moment.
    Open { until: Timestamp },
    /// One is under way that decides; no other is made.
    HalfOpen,
}

/// Counts failures and decides by them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaker {
    pub circuit: Circuit,
    pub failures: u32,
    /// Of those, the last ones in a row that are permanent.
    permanent_failures: u32,
}

impl Breaker {
    /// A request failed. Returns when the next may be made, `longest` from now at the latest unless the server asked for more.
    pub fn failed(&mut self, now: Timestamp, error: &Error, longest: Duration, policy: &Policy) -> Timestamp {
        self.failures = self.failures.saturating_add(1);
        self.permanent_failures = 0;
        let until = schedule::retry_at(now, self.failures, error.retry_after(), longest, policy);
        self.open_until(until, error);
        until
    }

    /// The next request may be made at this time already.
    pub fn bring_forward(&mut self, at: Timestamp) {
        if let Circuit::Open { until } = &mut self.circuit {
            *until = at.min(*until);
        }
    }

    /// A request failed in a way that lasts until somebody changes something. Returns when the next may be made
    /// where nobody tells of a change.
    pub fn failed_permanently(&mut self, now: Timestamp, error: &Error, policy: &Policy) -> Timestamp {
        self.failures = self.failures.saturating_add(1);
        self.permanent_failures = self.permanent_failures.saturating_add(1);
        let until = schedule::retry_permanent_at(now, self.permanent_failures, policy);
        self.open_until(until, error);
        until
    }

    fn open_until(&mut self, until: Timestamp, error: &Error) {
        self.circuit = if self.failures >= FAILURE_THRESHOLD || error.retry_after().is_some() {
            Circuit::Open { until }
        } else {
            Circuit::Closed
        };
    }

    /// A request is made although the circuit is open, because its time is over.
    pub fn probe(&mut self) {
        if let Circuit::Open { .. } = self.circuit {
            self.circuit = Circuit::HalfOpen;
        }
    }

    /// The probe failed in a way that says nothing of the server: another one may be made at once.
    pub fn probe_again(&mut self, now: Timestamp) {
        if let Circuit::HalfOpen = self.circuit {
            self.circuit = Circuit::Open { until: now };
        }
    }

    /// The server answered, or what failed before is not what is asked now.
    pub fn close(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RetryAfter;

    fn now() -> Timestamp {
        Timestamp::from_second(1_900_000_000).unwrap()
    }

    fn failure(retry_after: Option<&str>) -> Error {
        Error::HttpStatus {
            status: 503,
            retry_after: retry_after.and_then(RetryAfter::parse),
        }
    }

    fn policy() -> Policy {
        Policy {
            random: || 1.0,
            ..Policy::default()
        }
    }

    #[test]
    fn opens_after_the_third_failure_in_a_row_until_the_backoff_is_over() {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
            assert_eq!(breaker.circuit, Circuit::Closed);
        }
        let until = breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
        assert_eq!(breaker.circuit, Circuit::Open { until });
        assert_eq!(until.duration_since(now()).as_secs(), 8);
    }

    #[test]
    fn opens_at_once_where_the_server_asks_to_be_left_alone() {
        let mut breaker = Breaker::default();
        let until = breaker.failed(now(), &failure(Some("120")), schedule::MAX_BACKOFF, &policy());
        assert_eq!(breaker.circuit, Circuit::Open { until });
        // And a tenth of it, since the random number is at its end.
        assert_eq!(until.duration_since(now()).as_secs(), 132);
    }

    #[test]
    fn a_failure_that_may_pass_ends_the_row_of_those_that_do_not() {
        let mut breaker = Breaker::default();
        let seconds = |until: Timestamp| until.duration_since(now()).as_secs();
        let policy = Policy {
            random: || 0.0,
            ..policy()
        };
        let permanent =
            |breaker: &mut Breaker| seconds(breaker.failed_permanently(now(), &Error::NoClientId, &policy));
        assert_eq!((permanent(&mut breaker), permanent(&mut breaker)), (2, 4));
        breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy);
        assert_eq!(permanent(&mut breaker), 2);
        assert_eq!(breaker.failures, 4);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_for_longer_and_one_that_does_not_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
        }
        breaker.probe();
        assert_eq!(breaker.circuit, Circuit::HalfOpen);
        let until = breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
        assert_eq!(breaker.circuit, Circuit::Open { until });
        assert_eq!(until.duration_since(now()).as_secs(), 16);
        breaker.probe();
        breaker.close();
        assert_eq!((breaker.circuit, breaker.failures), (Circuit::Closed, 0));
    }

    #[test]
    fn failures_with_a_success_between_them_leave_it_closed() {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
            breaker.failed(now(), &failure(None), schedule::MAX_BACKOFF, &policy());
            breaker.close();
            assert_eq!(breaker.circuit, Circuit::Closed);
        }
    }
}
