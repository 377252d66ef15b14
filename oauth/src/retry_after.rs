//! `Retry-After` (RFC 9110 section 10.2.3): when a server allows the next request.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Longest wait that a server can ask for: a mistaken `Retry-After` must not stop a service for a day.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// A `Retry-After` header (RFC 9110 section 10.2.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryAfter {
    Delay(Duration),
    Date(Timestamp),
}

impl RetryAfter {
    /// Reads the header's value; anything else than seconds or a date is as good as absent.
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Delay(Duration::from_secs(
                value.parse().unwrap_or(u64::MAX),
            )));
        }
        let date: SystemTime = httpdate::parse_http_date(value).ok()?;
        // The header knows some hours more of the year 9999 than a timestamp does.
        Some(Self::Date(Timestamp::try_from(date).unwrap_or(Timestamp::MAX)))
    }

    /// How long to wait from now on, within bounds.
    pub(crate) fn wait(self, now: Timestamp) -> Duration {
        let requested = match self {
            Self::Delay(delay) => delay,
            Self::Date(date) => Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO),
        };
        requested.min(MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_values_of_retry_after_are_as_good_as_absent() {
        for value in ["", "soon", "-1", "1.5", "+3", "2030-01-01"] {
            assert_eq!(RetryAfter::parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn reading_retry_after_never_panics(value in "\\PC*") {
            if let Some(header) = RetryAfter::parse(&value) {
                prop_assert!(header.wait(Timestamp::UNIX_EPOCH) <= MAX_WAIT);
            }
        }
    }
}
