//! The renewal schedule: when the next token request is made, a pure decision, after a success from the
//! token's life, after a failure from the number of failures and what the server asked for.

use std::time::Duration;

use jiff::Timestamp;
use mcp_auth_resilience::exponential;

use crate::clock::time_after;
use crate::{Policy, RetryAfter, Token};

/// Share of the wait by which a renewal may come earlier, so that tokens issued together are not renewed
/// together.
const JITTER: f64 = 0.1;
/// Renewals that succeed are at least this far apart where the token's life allows it, whatever was asked
/// for.
const MIN_WAIT: Duration = Duration::from_secs(10);
/// No two requests begin within this time, even for tokens that live no longer.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Bounds of the wait after failures.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The same while there is no token that calls could go out with, for as many failures in a row, which take some six minutes:
/// by as much as this calls may fail for longer than the authorization server does. How many requests that comes to for one
/// server is bounded by [`crate::RequestLimiter`].
const MAX_BACKOFF_WITHOUT_TOKEN: Duration = Duration::from_secs(5);
const SHORT_PAUSES: u32 = 120;
/// The same after failures that last until somebody changes something. A change of the resource or of a Secret
/// is noticed at once; this is for changes at the authorization server, which nobody tells of. The first waits are
/// short, since a server that is being set up, or that is ill for a moment, fails in the same ways.
const MIN_PERMANENT_BACKOFF: Duration = Duration::from_secs(2);
const MAX_PERMANENT_BACKOFF: Duration = Duration::from_secs(10 * 60);

/// No two requests for one token begin within this time, but for those that a resource server demanded.
pub(crate) fn earliest_next(now: Timestamp) -> Timestamp {
    time_after(now, MIN_INTERVAL)
}

/// A wait, shortened at random by a tenth at the most, so that what began together does not go on together.
pub(crate) fn with_jitter(wait: Duration, random: fn() -> f64) -> Duration {
    wait.mul_f64(1.0 - JITTER * random())
}

/// When a token is renewed: ahead of its end, never after it. A token that seems to come from the future,
/// because the clock was set back since, is renewed as one that was issued now.
pub(crate) fn refresh_at(token: &Token, policy: &Policy, now: Timestamp) -> Timestamp {
    let life = token.stated_life().unwrap_or(policy.assumed_lifetime);
    let wait = life.saturating_sub(policy.refresh_before.span(life));
    let wait = with_jitter(wait, policy.random);
    let shortest = MIN_WAIT.min(life / 2).max(MIN_INTERVAL);
    time_after(token.issued_at.min(now), wait.max(shortest).min(life))
}

/// How long the pause after this many failures in a row may be.
pub(crate) fn longest_backoff(has_token: bool, failures: u32) -> Duration {
    match has_token || failures > SHORT_PAUSES {
        true => MAX_BACKOFF,
        false => MAX_BACKOFF_WITHOUT_TOKEN,
    }
}

/// When the next request is made after `failures` of them in a row: exponential with full jitter up to `longest`, and no
/// earlier than the server asked for.
pub(crate) fn retry_at(
    now: Timestamp,
    failures: u32,
    retry_after: Option<RetryAfter>,
    longest: Duration,
    policy: &Policy,
) -> Timestamp {
    let ceiling = exponential(MIN_BACKOFF, failures, longest);
    let wait = MIN_BACKOFF + (ceiling - MIN_BACKOFF).mul_f64((policy.random)());
    // Later at random: everyone who is told the same time would otherwise come back together.
    let requested = retry_after.map_or(Duration::ZERO, |header| {
        header.wait(now).mul_f64(1.0 + JITTER * (policy.random)())
    });
    time_after(now, wait.max(requested))
}

/// The same after failures in a row that last until somebody changes something.
pub(crate) fn retry_permanent_at(now: Timestamp, failures: u32, policy: &Policy) -> Timestamp {
    let doublings = failures.saturating_sub(1);
    let wait = exponential(MIN_PERMANENT_BACKOFF, doublings, MAX_PERMANENT_BACKOFF);
    time_after(now, with_jitter(wait, policy.random))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::{IssuedToken, RefreshBefore};

    const NOW: i64 = 1_900_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn policy(refresh_before: &str, random: fn() -> f64) -> Policy {
        Policy {
            refresh_before: refresh_before.parse().unwrap(),
            random,
            ..Policy::default()
        }
    }

    fn token(life: Option<u64>) -> Token {
        let mut token = Token::issue(IssuedToken::bearer("t"), now(), now()).unwrap();
        token.expires_at = life.map(|life| time_after(now(), Duration::from_secs(life)));
        token
    }

    /// Milliseconds from issue to renewal.
    fn renewed_after(life: Option<u64>, refresh_before: &str, random: fn() -> f64) -> i128 {
        refresh_at(&token(life), &policy(refresh_before, random), now())
            .duration_since(now())
            .as_millis()
    }

    fn retried_after(failures: u32, retry_after: Option<&str>, random: fn() -> f64) -> i128 {
        let header = retry_after.map(|value| RetryAfter::parse(value).unwrap());
        retry_at(now(), failures, header, MAX_BACKOFF, &policy("33%", random))
            .duration_since(now())
            .as_millis()
    }

    #[test]
    fn renews_at_two_thirds_of_the_lifetime() {
        assert_eq!(renewed_after(Some(3600), "33%", || 0.0), 2_412_000);
    }

    #[test]
    fn renews_the_stated_time_before_the_end() {
        assert_eq!(renewed_after(Some(3600), "5m", || 0.0), 3_300_000);
    }

    #[test]
    fn jitter_only_makes_it_earlier_and_by_a_tenth_at_most() {
        assert_eq!(renewed_after(Some(3600), "5m", || 1.0), 2_970_000);
    }

    #[test]
    fn a_token_of_unknown_life_is_renewed_as_if_it_lived_five_minutes() {
        assert_eq!(renewed_after(None, "60s", || 0.0), 240_000);
    }

    #[test]
    fn a_share_of_almost_everything_does_not_renew_all_the_time() {
        assert_eq!(renewed_after(Some(60), "99%", || 1.0), 10_000);
    }

    #[test]
    fn a_token_of_one_second_is_renewed_once_a_second() {
        for share in ["1%", "99%", "5m"] {
            assert_eq!(renewed_after(Some(1), share, || 1.0), 1000);
        }
    }

    #[test]
    fn a_token_that_was_handed_over_with_less_than_a_second_is_renewed_by_its_end() {
        let mut token = token(Some(0));
        token.expires_at = Some(time_after(now(), Duration::from_millis(300)));
        assert_eq!(
            refresh_at(&token, &policy("33%", || 0.0), now()),
            token.expires_at.unwrap()
        );
    }

    #[test]
    fn a_token_from_the_future_is_renewed_as_if_it_were_of_now() {
        let token = token(Some(3600));
        let year = Duration::from_secs(365 * 24 * 3600);
        let set_back = crate::clock::time_before(now(), year);
        let at = refresh_at(&token, &policy("33%", || 0.0), set_back);
        assert_eq!(at, time_after(set_back, Duration::from_secs(2412)));
    }

    #[test]
    fn backoff_doubles_up_to_a_minute() {
        let longest: Vec<_> = (1..9)
            .map(|failures| retried_after(failures, None, || 1.0))
            .collect();
        assert_eq!(
            longest,
            [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]
        );
        assert_eq!(retried_after(u32::MAX, None, || 1.0), 60_000);
    }

    #[test]
    fn without_a_token_backoff_ends_at_five_seconds_for_minutes_and_a_server_that_asks_for_more_gets_it() {
        let retried_after = |failures, retry_after| {
            let policy = policy("33%", || 1.0);
            retry_at(
                now(),
                failures,
                retry_after,
                longest_backoff(false, failures),
                &policy,
            )
            .duration_since(now())
            .as_secs()
        };
        assert_eq!(
            [1, 2, 3, 120, 121].map(|failures| retried_after(failures, None)),
            [2, 4, 5, 5, 60]
        );
        assert_eq!(retried_after(9, RetryAfter::parse("30")), 33);
    }

    #[test]
    fn backoff_is_spread_over_the_whole_range_and_never_below_a_second() {
        assert_eq!(retried_after(6, None, || 0.0), 1000);
        assert_eq!(retried_after(6, None, || 0.5), 30_500);
    }

    #[test]
    fn waits_as_long_as_the_server_asks_in_seconds_or_by_date() {
        assert_eq!(retried_after(1, Some("120"), || 0.0), 120_000);
        let date = httpdate::fmt_http_date(SystemTime::from(time_after(now(), Duration::from_secs(90))));
        assert_eq!(retried_after(1, Some(&date), || 0.0), 90_000);
    }

    #[test]
    fn a_server_cannot_shorten_the_backoff() {
        assert_eq!(retried_after(3, Some("0"), || 1.0), 8000);
        assert_eq!(
            retried_after(3, Some("Sun, 06 Nov 1994 08:49:37 GMT"), || 1.0),
            8000
        );
    }

    #[test]
    fn a_server_cannot_ask_for_more_than_ten_minutes() {
        for value in [
            "86400",
            "99999999999999999999999",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(retried_after(1, Some(value), || 0.0), 600_000, "{value}");
        }
    }

    #[test]
    fn everyone_who_is_told_to_wait_does_not_come_back_at_the_same_moment() {
        assert_eq!(retried_after(1, Some("120"), || 1.0), 132_000);
    }

    #[test]
    fn permanent_failures_are_asked_about_again_after_seconds_and_in_the_end_after_ten_minutes() {
        let waits: Vec<_> = (1..12)
            .map(|failures| retry_permanent_at(now(), failures, &policy("33%", || 0.0)))
            .map(|at| at.duration_since(now()).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        let earliest = retry_permanent_at(now(), u32::MAX, &policy("33%", || 1.0));
        assert_eq!(earliest.duration_since(now()).as_secs(), 540);
    }

    #[test]
    fn a_token_of_unknown_life_is_renewed_by_the_life_that_is_assumed() {
        let policy = Policy {
            assumed_lifetime: Duration::from_secs(7200),
            ..policy("50%", || 0.0)
        };
        let at = refresh_at(&token(None), &policy, now());
        assert_eq!(at, time_after(now(), Duration::from_secs(3600)));
    }

    proptest! {
        #[test]
        fn renewal_is_never_after_the_end_and_never_a_hot_loop(
            life in 1_u64..400_000_000, percent in 1_u8..=99, span in 1_u64..400_000_000, by_share: bool,
        ) {
            let refresh_before = if by_share {
                RefreshBefore::Share(percent)
            } else {
                RefreshBefore::Duration(Duration::from_secs(span))
            };
            let token = token(Some(life));
            for random in [|| 0.0, || 0.999_999] as [fn() -> f64; 2] {
                let policy = Policy { refresh_before, random, ..Policy::default() };
                let at = refresh_at(&token, &policy, now());
                prop_assert!(at <= token.expires_at.unwrap());
                prop_assert!(at >= time_after(now(), MIN_INTERVAL));
            }
        }
    }
}
