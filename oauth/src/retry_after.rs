//! When a server allows the next request: `Retry-After` (RFC 9110 section 10.2.3), and where it counts requests
//! also the headers that say when the count begins anew.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;

/// Longest wait that a server can ask for: a mistaken `Retry-After` must not stop a service for a day.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// Headers that say when the count of requests begins anew: `X-Rate-Limit-Reset` of Okta and `X-RateLimit-Reset` of
/// Auth0 and GitHub by Unix time, `RateLimit-Reset` of earlier drafts of the IETF's by seconds.
const RESETS: [&str; 3] = ["x-rate-limit-reset", "x-ratelimit-reset", "ratelimit-reset"];

/// A number this large is a Unix time (of 2001 or later), and no number of seconds to wait.
const MIN_UNIX_TIME: i64 = 1_000_000_000;

/// A `Retry-After` header (RFC 9110 section 10.2.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryAfter {
    Delay(Duration),
    Date(Timestamp),
}

impl RetryAfter {
    /// Reads the headers of an answer. Where requests are counted, every answer says when that begins anew; it is
    /// to be waited for only where the answer is that there were too many.
    pub(crate) fn from_headers(status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let stated = text(RETRY_AFTER.as_str()).and_then(Self::parse);
        let reset = || RESETS.into_iter().find_map(|name| Self::parse_reset(text(name)?));
        match status {
            StatusCode::TOO_MANY_REQUESTS => stated.or_else(reset),
            // GitHub's answer to too many.
            StatusCode::FORBIDDEN if text("x-ratelimit-remaining") == Some("0") => stated.or_else(reset),
            _ => stated,
        }
    }

    fn parse_reset(value: &str) -> Option<Self> {
        match value.trim().parse::<i64>().ok()? {
            at @ MIN_UNIX_TIME.. => Timestamp::from_second(at).ok().map(Self::Date),
            seconds => Some(Self::Delay(Duration::from_secs(seconds.try_into().ok()?))),
        }
    }

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

    fn from_headers(status: u16, headers: &[(&'static str, &'static str)]) -> Option<RetryAfter> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        RetryAfter::from_headers(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn the_reset_of_a_count_is_waited_for_where_there_were_too_many_requests() {
        let at = RetryAfter::Date(Timestamp::from_second(1_900_000_000).unwrap());
        for name in ["X-Rate-Limit-Reset", "X-RateLimit-Reset"] {
            assert_eq!(from_headers(429, &[(name, "1900000000")]), Some(at));
            // Every answer has it.
            assert_eq!(from_headers(400, &[(name, "1900000000")]), None);
        }
        let delay = |seconds| Some(RetryAfter::Delay(Duration::from_secs(seconds)));
        assert_eq!(from_headers(429, &[("RateLimit-Reset", "17")]), delay(17));
        for value in ["", "soon", "-1", "99999999999999999999", "9223372036854775807"] {
            assert_eq!(from_headers(429, &[("RateLimit-Reset", value)]), None, "{value}");
        }
    }

    #[test]
    fn retry_after_goes_before_the_reset_of_a_count() {
        let headers = [("Retry-After", "5"), ("X-Rate-Limit-Reset", "1900000000")];
        let delay = Some(RetryAfter::Delay(Duration::from_secs(5)));
        assert_eq!(from_headers(429, &headers), delay);
        assert_eq!(from_headers(503, &headers), delay);
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
