//! A value of `Content-Length` (RFC 9110 section 8.6).

/// Greater ones are no lengths to hyper, and to no server in earnest.
const MAX_CONTENT_LENGTH: u64 = u64::MAX - 2;

/// Digits alone.
pub fn parse_content_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let length = digits.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        length.checked_mul(10)?.checked_add(u64::from(digit))
    });
    length.filter(|length| *length <= MAX_CONTENT_LENGTH)
}
