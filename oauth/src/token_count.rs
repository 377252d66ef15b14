//! Token count: how many tokens an authorization server has issued today (UTC), and how many it will have issued by
//! midnight, for servers that sell them by number.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// Users' tokens of the last hour tell how many there will be in the hours to come.
const USERS_WINDOW_MINUTES: i64 = 60;

/// What is counted of one client. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct TokenCount(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// Requests for the service's token, since the start.
    requests: u64,
    day: Option<Date>,
    issued: u64,
    /// When the service's token was issued last.
    service_at: Option<Timestamp>,
    /// Users' tokens, by the minute since 1970.
    users: VecDeque<(i64, u64)>,
}

/// The tokens of a day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IssuedToday {
    pub day: Date,
    pub issued: u64,
    /// By the end of the day, if it goes on like this.
    pub forecast: u64,
}

impl IssuedToday {
    /// Whether it still is that day.
    pub fn is_of(&self, now: Timestamp) -> bool {
        self.day == day(now)
    }

    /// When that day is over, at the latest.
    pub fn ends_at(now: Timestamp) -> Timestamp {
        end_of_day(now)
    }
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

impl TokenCount {
    /// Goes on with what another process has counted, and with when it got the service's token that is in use. What was
    /// counted here since is not lost, and what is of another day does not count.
    pub fn resume(&self, at: Date, issued: u64, service_at: Option<Timestamp>, now: Timestamp) {
        let mut counted = self.0.lock();
        counted.begin_day(now);
        counted.service_at = counted.service_at.or(service_at);
        if counted.day == Some(at) {
            counted.issued = counted.issued.saturating_add(issued);
        }
    }

    /// Counts for another client from now on. What was issued to the one before, of today.
    pub fn begin_anew(&self, now: Timestamp) -> IssuedToday {
        let today = self.today(None, now);
        let mut counted = self.0.lock();
        counted.issued = 0;
        counted.service_at = None;
        counted.users.clear();
        IssuedToday {
            forecast: today.issued,
            ..today
        }
    }

    /// Requests for the service's token so far.
    pub fn requests(&self) -> u64 {
        self.0.lock().requests
    }

    /// When the service's token was issued last.
    pub fn service_issued_at(&self) -> Option<Timestamp> {
        self.0.lock().service_at
    }

    pub(crate) fn record_request(&self) {
        self.0.lock().requests += 1;
    }

    /// Whether users got tokens within the last hour: what is expected of them changes by itself.
    pub fn has_recent_users(&self, now: Timestamp) -> bool {
        let mut counted = self.0.lock();
        counted.forget_users_before(minute(now));
        !counted.users.is_empty()
    }

    /// A token was issued, whatever becomes of it.
    pub fn record_issued(&self, to_user: bool, now: Timestamp) {
        let mut counted = self.0.lock();
        counted.begin_day(now);
        counted.issued += 1;
        if !to_user {
            counted.service_at = Some(now);
            return;
        }
        let minute = minute(now);
        counted.forget_users_before(minute);
        match counted.users.back_mut() {
            Some((last, users)) if *last == minute => *users += 1,
            _ => counted.users.push_back((minute, 1)),
        }
    }

    /// `next_attempt_at` is when the service's next token is requested.
    pub fn today(&self, next_attempt_at: Option<Timestamp>, now: Timestamp) -> IssuedToday {
        let mut counted = self.0.lock();
        counted.begin_day(now);
        counted.forget_users_before(minute(now));
        let end = end_of_day(now);
        // In whole seconds, as a status has them: the next leader, which goes on from there, expects the same.
        let seconds = |from: Timestamp, to: Timestamp| {
            u64::try_from(to.as_second() - from.as_second()).unwrap_or_default()
        };
        let users: u64 = counted.users.iter().map(|(_, users)| users).sum();
        let users = users.saturating_mul(seconds(now, end)) / 3600;
        // As far apart as the last one and the next.
        let service = match (counted.service_at, next_attempt_at.map(|at| at.max(now))) {
            // One that is due at midnight is of the day that begins then.
            (Some(last), Some(next)) if next < end => seconds(next, end).div_ceil(seconds(last, next).max(1)),
            _ => 0,
        };
        IssuedToday {
            day: day(now),
            issued: counted.issued,
            forecast: counted.issued.saturating_add(users).saturating_add(service),
        }
    }
}

impl Counted {
    fn begin_day(&mut self, now: Timestamp) {
        let today = day(now);
        if self.day != Some(today) {
            self.day = Some(today);
            self.issued = 0;
        }
    }

    fn forget_users_before(&mut self, minute: i64) {
        while self
            .users
            .front()
            .is_some_and(|(first, _)| *first <= minute - USERS_WINDOW_MINUTES || *first > minute)
        {
            self.users.pop_front();
        }
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

fn end_of_day(now: Timestamp) -> Timestamp {
    let of_day = SignedDuration::from_secs(now.as_second().rem_euclid(24 * 60 * 60));
    let day = SignedDuration::from_hours(24);
    let end = now.saturating_add(day - of_day);
    end.expect("a duration holds no calendar units")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six hours before midnight.
    const EVENING: &str = "2030-01-01T18:00:00Z";

    fn evening() -> Timestamp {
        EVENING.parse().unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        Timestamp::from_second(evening().as_second() + seconds).unwrap()
    }

    #[test]
    fn a_token_that_is_renewed_every_forty_minutes_comes_eight_more_times_before_midnight() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        let today = count.today(Some(after(2400)), after(0));
        // At 18:40, 19:20 and so on, to 23:20: the one at 0:00 is of the next day.
        assert_eq!((today.issued, today.forecast), (1, 1 + 8));
        // Every 2401 s: to 23:20:08.
        assert_eq!(count.today(Some(after(2401)), after(0)).forecast, 1 + 8);
        // Every 2399 s: once more, at 23:59:51.
        assert_eq!(count.today(Some(after(2399)), after(0)).forecast, 1 + 9);
        assert_eq!(today.day.to_string(), "2030-01-01");
    }

    #[test]
    fn a_forecast_does_not_depend_on_when_it_is_asked_for() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        let at = |seconds| count.today(Some(after(2400)), after(seconds));
        assert_eq!(at(0), at(2399));
    }

    #[test]
    fn a_token_that_lives_beyond_midnight_is_the_last_of_its_day() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        assert_eq!(count.today(Some(after(7 * 3600)), after(0)).forecast, 1);
        assert_eq!(count.today(None, after(0)).forecast, 1);
    }

    #[test]
    fn users_tokens_of_the_last_hour_are_expected_each_hour() {
        let count = TokenCount::default();
        for second in 0..30 {
            count.record_issued(true, after(60 * second));
        }
        let today = count.today(None, after(1800));
        assert_eq!(today.issued, 30);
        // Five and a half hours.
        assert_eq!(today.forecast, 30 + 165);
        let later = count.today(None, after(2 * 3600));
        assert_eq!((later.issued, later.forecast), (30, 30));
    }

    #[test]
    fn at_midnight_it_begins_anew() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        count.record_issued(true, after(6 * 3600 - 1));
        assert_eq!(count.today(None, after(6 * 3600 - 1)).issued, 2);
        let tomorrow = count.today(None, after(6 * 3600));
        assert_eq!(tomorrow.issued, 0);
        assert_eq!(tomorrow.day.to_string(), "2030-01-02");
    }

    #[test]
    fn another_client_begins_with_nothing() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        count.record_issued(true, after(1));
        let left = count.begin_anew(after(2));
        assert_eq!((left.issued, left.forecast), (2, 2));
        let today = count.today(Some(after(600)), after(3));
        assert_eq!((today.issued, today.forecast), (0, 0));
        assert!(!count.has_recent_users(after(3)));
    }

    #[test]
    fn another_process_goes_on_with_the_count_of_the_same_day_only() {
        let count = TokenCount::default();
        count.record_issued(false, after(0));
        count.resume(day(evening()), 40, None, after(1));
        assert_eq!(count.today(None, after(2)).issued, 41);
        let tomorrow = TokenCount::default();
        tomorrow.resume(day(evening()), 40, None, after(6 * 3600));
        assert_eq!(tomorrow.today(None, after(6 * 3600)).issued, 0);
    }

    #[test]
    fn another_process_expects_as_many_tokens_as_the_one_before() {
        let count = TokenCount::default();
        let issued_at = Timestamp::from_millisecond(evening().as_millisecond() + 700).unwrap();
        count.record_issued(false, issued_at);
        let before = count.today(Some(after(600)), after(1));
        let next = TokenCount::default();
        // A status has whole seconds.
        next.resume(before.day, before.issued, Some(evening()), after(2));
        assert_eq!(next.today(Some(after(600)), after(2)), before);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_endless_forecast() {
        let count = TokenCount::default();
        count.record_issued(false, after(100));
        count.record_issued(true, after(100));
        let today = count.today(Some(after(0)), after(0));
        assert!(today.forecast <= 2 + 6 * 3600 + 1, "{today:?}");
    }
}
