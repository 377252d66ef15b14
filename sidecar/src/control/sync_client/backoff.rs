//! Exponential backoff with jitter: the wait before the next attempt, twice as long each time, up to a limit,
//! and each time some part less by chance, so that a fleet of sidecars does not come back at the same moment.

use std::time::Duration;

#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new((first, max): (Duration, Duration)) -> Self {
        Self {
            first,
            max,
            next: first,
        }
    }

    /// `chance` is between 0 and 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again_after_success() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new((seconds(1), seconds(5)));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5].map(seconds));
        backoff.reset();
        assert_eq!(backoff.next(1.0), seconds(1));
    }

    #[test]
    fn chance_takes_up_to_half_off() {
        let mut backoff = Backoff::new((Duration::from_secs(4), Duration::from_secs(4)));
        assert_eq!(backoff.next(0.0), Duration::from_secs(2));
        assert_eq!(backoff.next(0.5), Duration::from_secs(3));
    }
}
