//! Clock offset: how far a server's clock is from this one's, learned from the `Date` of its answers (RFC 9110 section
//! 6.6.1). What is said about times to that server, in assertions and proofs, is said by its clock.

use std::sync::atomic::{AtomicI64, Ordering};

use http::HeaderMap;
use http::header::DATE;
use jiff::{SignedDuration, Timestamp};

/// Less than this is what servers take no offence at.
const NEGLIGIBLE_SECONDS: i64 = 5;

/// More is a wrong date, not a clock: assertions that are good that long after they were made are not for a server to bring
/// about.
const MAX_SECONDS: i64 = 24 * 60 * 60;

/// Shared by all who ask the same server. Zero until an answer says otherwise.
#[derive(Debug, Default)]
pub struct ClockOffset(AtomicI64);

/// When the server sent its answer, by its own clock; `None` where it does not say so (RFC 9110 section 5.6.7).
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()
}

impl ClockOffset {
    /// Seconds that the server's clock is ahead.
    pub fn seconds(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What the server's clock shows when this one shows `now`.
    pub fn at_server(&self, now: Timestamp) -> Timestamp {
        now.saturating_add(SignedDuration::from_secs(self.seconds()))
            .expect("a duration holds no calendar units")
    }

    /// The server said its time somewhen between these two. `Date` has whole seconds, and a slow answer says little: what is
    /// known holds as long as it may be true. Returns whether the offset is another now.
    pub fn learn(&self, date: Timestamp, sent_at: Timestamp, received_at: Timestamp) -> bool {
        let date = date.as_second();
        let least = date.saturating_sub(received_at.as_second());
        let most = date.saturating_add(1).saturating_sub(sent_at.as_second());
        // This clock was set while the request was under way.
        if least > most {
            return false;
        }
        let known = self.seconds();
        let nearest = known.clamp(least, most).clamp(-MAX_SECONDS, MAX_SECONDS);
        let learned = match nearest {
            _ if nearest == known => known,
            _ if nearest.abs() < NEGLIGIBLE_SECONDS => 0,
            _ => nearest,
        };
        if learned != known {
            self.0.store(learned, Ordering::Relaxed);
        }
        learned != known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).unwrap()
    }

    #[test]
    fn a_clock_that_is_ahead_or_behind_is_learned_and_counted_in() {
        for ahead in [-80_000, -61, 7, 45, 80_000] {
            let offset = ClockOffset::default();
            assert!(offset.learn(at(ahead), at(0), at(0)));
            assert!(!offset.learn(at(ahead), at(0), at(0)), "that is known");
            assert!(
                (offset.seconds() - ahead).abs() <= 1,
                "{ahead}: {}",
                offset.seconds()
            );
            assert_eq!(offset.at_server(at(0)), at(offset.seconds()));
        }
    }

    #[test]
    fn seconds_that_differ_by_nothing_but_rounding_and_time_on_the_way_are_no_offset() {
        let offset = ClockOffset::default();
        for (date, sent, received) in [(0, 0, 0), (-1, 0, 0), (1, 0, 1), (0, 0, 9), (4, 0, 0), (-4, 0, 0)] {
            offset.learn(at(date), at(sent), at(received));
            assert_eq!(offset.seconds(), 0, "{date} {sent} {received}");
        }
    }

    #[test]
    fn what_is_known_stays_while_answers_agree_with_it_and_goes_when_the_clock_is_set_right() {
        let offset = ClockOffset::default();
        offset.learn(at(45), at(0), at(0));
        let known = offset.seconds();
        for (date, sent, received) in [(145, 100, 100), (146, 100, 101), (150, 100, 110)] {
            offset.learn(at(date), at(sent), at(received));
            assert_eq!(offset.seconds(), known);
        }
        offset.learn(at(200), at(200), at(200));
        assert_eq!(offset.seconds(), 0);
    }

    #[test]
    fn no_answer_has_assertions_dated_further_away_than_a_day() {
        const DAY: i64 = 86_400;
        for (date, expected) in [(40 * 365 * DAY, DAY), (-90_000, -DAY)] {
            let offset = ClockOffset::default();
            offset.learn(at(date), at(0), at(0));
            assert_eq!(offset.seconds(), expected);
        }
    }

    #[test]
    fn times_that_no_clock_shows_are_harmless() {
        let offset = ClockOffset::default();
        offset.learn(Timestamp::MAX, Timestamp::MIN, Timestamp::MIN);
        let _ = offset.at_server(Timestamp::MAX);
        offset.learn(Timestamp::MIN, Timestamp::MAX, Timestamp::MAX);
        let _ = offset.at_server(Timestamp::MIN);
        offset.learn(at(0), at(10), at(0));
    }
}
