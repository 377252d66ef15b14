//! How early a token is renewed, as its owner writes it: `90s`, `5m`, `1h30m`, or `33%` of its life.

use std::str::FromStr;
use std::time::Duration;

use crate::token::ASSUMED_LIFETIME;

/// How a token source behaves.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub refresh_before: RefreshBefore,
    /// Longest time that one exchange may take, all its requests included: discovery (30 s at the most), a turn at
    /// the server (40 s), and the token request (10 s). What takes longer is a failure.
    pub deadline: Duration,
    /// Life that a token is renewed by where the authorization server does not state one.
    pub assumed_lifetime: Duration,
    /// Random numbers of `0.0..1.0`. A function of its own, so that tests can fix them.
    pub random: fn() -> f64,
}

/// How long before its end a token is renewed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefreshBefore {
    /// A time span; where half of the token's life is shorter, that.
    Duration(Duration),
    /// A share of the token's life in percent, 1 to 99.
    Share(u8),
}

/// A time span as the fields of a resource state it: `90s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeSpan(pub Duration);

/// A value that is no time span.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{value:?} {problem}: write a duration such as 90s, 5m or 1h30m")]
pub struct TimeSpanError {
    value: String,
    problem: &'static str,
}

/// A value that is neither a duration nor a share.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "refreshBefore {value:?} {problem}: write a duration such as 90s, 5m or 1h30m, or a share of the \
     token's life from 1% to 99%"
)]
pub struct RefreshBeforeError {
    value: String,
    problem: &'static str,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            refresh_before: RefreshBefore::default(),
            deadline: Duration::from_secs(85),
            assumed_lifetime: ASSUMED_LIFETIME,
            random: rand::random::<f64>,
        }
    }
}

impl Default for RefreshBefore {
    /// A third of its life: the token is renewed when two thirds are over.
    fn default() -> Self {
        Self::Share(33)
    }
}

impl Policy {
    /// Whether tokens are renewed at the same times.
    pub fn is_same_schedule(&self, other: &Self) -> bool {
        self.refresh_before == other.refresh_before && self.assumed_lifetime == other.assumed_lifetime
    }
}

impl RefreshBefore {
    /// The time span for a token of this life.
    pub(crate) fn span(self, life: Duration) -> Duration {
        match self {
            // A span that leaves no life at all would make a new token out of date at once.
            Self::Duration(span) => span.min(life / 2),
            Self::Share(percent) => life / 100 * u32::from(percent.min(99)),
        }
    }
}

impl FromStr for RefreshBefore {
    type Err = RefreshBeforeError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parsed = match value.strip_suffix('%') {
            Some(percent) => share(percent),
            None => duration(value).map(Self::Duration),
        };
        parsed.map_err(|problem| RefreshBeforeError {
            value: shorten(value),
            problem,
        })
    }
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        duration(value).map(Self).map_err(|problem| TimeSpanError {
            value: shorten(value),
            problem,
        })
    }
}

/// Its author must recognise the value; a part of it is enough for that.
fn shorten(value: &str) -> String {
    value.chars().take(32).collect()
}

fn share(percent: &str) -> Result<RefreshBefore, &'static str> {
    match parse_digits(percent) {
        Some(percent @ 1..=99) => Ok(RefreshBefore::Share(percent as u8)),
        Some(_) => Err("is out of range"),
        None => Err("is not a share"),
    }
}

/// Hours, minutes and seconds, each at most once and in this order.
fn duration(value: &str) -> Result<Duration, &'static str> {
    let mut rest = value;
    let mut seconds = 0_u64;
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, following)) = rest.split_once(unit) {
            let number = parse_digits(number).ok_or("is not a duration")?;
            seconds = number
                .checked_mul(length)
                .and_then(|more| seconds.checked_add(more))
                .ok_or("is out of range")?;
            rest = following;
        }
    }
    match (rest, seconds) {
        ("", 1..) => Ok(Duration::from_secs(seconds)),
        ("", 0) if value.is_empty() => Err("is empty"),
        ("", 0) => Err("is zero"),
        _ => Err("is not a duration"),
    }
}

/// Digits alone; the standard parser would also take a sign.
fn parse_digits(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> RefreshBefore {
        RefreshBefore::Duration(Duration::from_secs(seconds))
    }

    #[test]
    fn reads_durations_and_shares() {
        for (value, expected) in [
            ("90s", seconds(90)),
            ("5m", seconds(300)),
            ("1h30m", seconds(5400)),
            ("1h1s", seconds(3601)),
            ("0h5m0s", seconds(300)),
            ("33%", RefreshBefore::Share(33)),
            ("1%", RefreshBefore::Share(1)),
            ("99%", RefreshBefore::Share(99)),
        ] {
            assert_eq!(value.parse(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn refuses_what_is_neither_and_says_what_to_write() {
        for value in [
            "",
            "0s",
            "0%",
            "100%",
            "%",
            "-5m",
            "+5m",
            "5",
            "5 m",
            "1.5h",
            "30m1h",
            "5m5m",
            "s",
            "1d",
            "5M",
            "-1%",
            "33 %",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            let error = value.parse::<RefreshBefore>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("refreshBefore {value:?} is ")),
                "{error}"
            );
            assert!(error.contains("such as 90s, 5m or 1h30m"), "{error}");
        }
    }

    #[test]
    fn a_time_span_is_a_duration_and_no_share() {
        assert_eq!("2h".parse(), Ok(TimeSpan(Duration::from_secs(7200))));
        for value in ["", "0s", "33%", "1d", "-5m"] {
            let error = value.parse::<TimeSpan>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{value:?} is ")), "{error}");
            assert!(error.contains("such as 90s, 5m or 1h30m"), "{error}");
        }
    }

    #[test]
    fn an_endless_value_is_not_repeated_in_full() {
        let error = "x".repeat(10_000).parse::<RefreshBefore>().unwrap_err();
        assert!(error.to_string().len() < 250);
    }

    #[test]
    fn a_span_longer_than_the_life_leaves_half_of_it() {
        assert_eq!(
            seconds(300).span(Duration::from_secs(60)),
            Duration::from_secs(30)
        );
        assert_eq!(
            seconds(300).span(Duration::from_secs(3600)),
            Duration::from_secs(300)
        );
    }

    proptest! {
        #[test]
        fn reading_never_panics(value in "\\PC*") {
            let _ = value.parse::<RefreshBefore>();
        }

        #[test]
        fn every_duration_comes_back(hours in 0_u64..1000, minutes in 0_u64..1000, secs in 1_u64..1000) {
            let value = format!("{hours}h{minutes}m{secs}s");
            prop_assert_eq!(value.parse(), Ok(seconds(hours * 3600 + minutes * 60 + secs)));
        }

        #[test]
        fn near_misses_never_panic(value in "[0-9]{0,22}[hms%]?[0-9]{0,22}[hms%]?") {
            let _ = value.parse::<RefreshBefore>();
        }
    }
}
