//! Times of lines: RFC 3339 in UTC, to the microsecond. Most lines are of the same second as the one before, whose text is used
//! again but for the fraction.

use jiff::Timestamp;

/// Digits of the fraction, before the `Z`.
const FRACTION_DIGITS: usize = 6;

#[derive(Default)]
pub struct LineTime {
    /// Since 1970, of `text`.
    second: Option<i64>,
    text: Vec<u8>,
}

impl LineTime {
    pub fn format(&mut self, timestamp: Timestamp) -> &[u8] {
        let microseconds = timestamp.as_microsecond();
        let (second, mut fraction) = (
            microseconds.div_euclid(1_000_000),
            microseconds.rem_euclid(1_000_000),
        );
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = format!("{timestamp:.6}").into_bytes();
        }
        for digit in self.text.iter_mut().rev().skip(1).take(FRACTION_DIGITS) {
            *digit = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_one_length_and_in_utc() {
        let mut time = LineTime::default();
        let text = time.format("2026-11-29T17:50:00.1234567+01:00".parse().unwrap());
        assert_eq!(text, b"2026-11-29T16:50:00.123456Z");
    }

    #[test]
    fn times_of_one_second_differ_by_their_fractions_and_the_next_second_is_another_one() {
        let mut time = LineTime::default();
        for text in [
            "2026-12-31T23:59:59.000000Z",
            "2026-12-31T23:59:59.000001Z",
            "2026-12-31T23:59:59.999999Z",
            "2027-01-01T00:00:00.000000Z",
            "2026-12-31T23:59:59.500000Z",
            "1969-12-31T23:59:59.900000Z",
            "1970-01-01T00:00:00.900000Z",
        ] {
            assert_eq!(time.format(text.parse().unwrap()), text.as_bytes());
        }
    }
}
