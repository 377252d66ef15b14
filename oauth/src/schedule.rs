//! When to ask for the next token: pure decisions, with the randomness handed in.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::Token;

/// Renewal is spread over this share of the time before it, so that a fleet of resources made at once does not
/// ask at once for ever.
const JITTER: f64 = 0.1;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// However short a token lives, requests are no closer than this.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// How long before its end a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RefreshBefore {
    Time(Duration),
    /// Of its life, from 0 to 1.
    Share(f64),
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "{0:?} is neither a duration, such as 90s, 5m or 1h30m, nor a share of the token's life, such as 33%"
)]
pub struct InvalidRefreshBefore(String);

impl std::str::FromStr for RefreshBefore {
    type Err = InvalidRefreshBefore;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidRefreshBefore(text.chars().take(32).collect());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.parse().map_err(|_| invalid())?;
            return (1..=99)
                .contains(&percent)
                .then(|| Self::Share(f64::from(percent) / 100.0))
                .ok_or_else(invalid);
        }
        let mut rest = text;
        let mut seconds = 0_u64;
        for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
            if let Some((number, after)) = rest.split_once(unit) {
                let number: u64 = number.parse().map_err(|_| invalid())?;
                let part = number.checked_mul(factor).ok_or_else(invalid)?;
                seconds = seconds.checked_add(part).ok_or_else(invalid)?;
                rest = after;
            }
        }
        if text.is_empty() || !rest.is_empty() {
            return Err(invalid());
        }
        Ok(Self::Time(Duration::from_secs(seconds)))
    }
}

/// When a source asks.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub refresh_before: RefreshBefore,
}

impl Schedule {
    /// When to renew a token that was just issued. `random` is from 0 to 1.
    pub fn renew_at(&self, token: &Token, random: f64) -> SystemTime {
        let life = token
            .expires_at
            .duration_since(token.issued_at)
            .unwrap_or_default();
        let before = match self.refresh_before {
            // A time as long as the life would mean to renew without end: half the life is the most.
            RefreshBefore::Time(time) => time.min(life / 2),
            RefreshBefore::Share(share) => life.mul_f64(share.clamp(0.0, 0.99)),
        };
        let wait = (life - before).mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0));
        token.issued_at + wait.max(SHORTEST_INTERVAL)
    }

    /// How long to wait after the n-th failure in a row, from 1 on: exponential, with full jitter above half, and
    /// never shorter than the server asked for.
    pub fn back_off(&self, failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let doubled =
            FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled
            .min(LONGEST_BACKOFF)
            .mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
        wait.max(retry_after.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn renew_after(refresh_before: &str, life: u64, random: f64) -> f64 {
        let token = Token {
            access_token: "t".into(),
            issued_at: UNIX_EPOCH,
            expires_at: UNIX_EPOCH + Duration::from_secs(life),
            scope: None,
        };
        let schedule = Schedule {
            refresh_before: refresh_before.parse().unwrap(),
        };
        schedule
            .renew_at(&token, random)
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    }

    #[test]
    fn renews_ahead_by_time_or_by_share() {
        assert_eq!(renew_after("5m", 3600, 0.0), 3300.0);
        assert_eq!(renew_after("33%", 300, 0.0), 201.0);
    }

    #[test]
    fn jitter_renews_earlier_and_never_later() {
        assert_eq!(renew_after("50%", 1000, 1.0), 450.0);
    }

    #[test]
    fn a_time_longer_than_the_life_renews_at_half_of_it() {
        assert_eq!(renew_after("1h", 60, 0.0), 30.0);
    }

    #[test]
    fn a_token_of_a_second_is_not_renewed_in_a_hot_loop() {
        assert_eq!(renew_after("99%", 1, 1.0), 1.0);
    }

    #[test]
    fn backs_off_exponentially_up_to_a_minute() {
        let schedule = Schedule {
            refresh_before: RefreshBefore::Share(0.33),
        };
        let waits: Vec<u64> = (1..=8)
            .map(|n| schedule.back_off(n, None, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(schedule.back_off(u32::MAX, None, 0.0).as_secs(), 30);
        assert_eq!(
            schedule
                .back_off(1, Some(Duration::from_secs(120)), 0.0)
                .as_secs(),
            120
        );
    }

    #[test]
    fn what_is_neither_duration_nor_share_is_refused() {
        for text in [
            "",
            "5",
            "m",
            "5x",
            "0%",
            "100%",
            "s5",
            "5m5h",
            "99999999999999999999h",
        ] {
            assert!(text.parse::<RefreshBefore>().is_err(), "{text}");
        }
        assert_eq!(
            "1h30m".parse(),
            Ok(RefreshBefore::Time(Duration::from_secs(5400)))
        );
    }

    proptest! {
        #[test]
        fn no_refresh_before_panics(text in ".*") {
            let _ = text.parse::<RefreshBefore>();
        }

        #[test]
        fn renewal_is_never_after_expiry_of_a_token_worth_keeping(life in 1_u64..1_000_000_000, random in 0.0..1.0, share in 1_u8..100) {
            let after = renew_after(&format!("{share}%"), life, random);
            prop_assert!(after <= life as f64);
        }
    }
}
