//! Tag resolution: the type that PyYAML gives a plain scalar. It follows YAML 1.1, where `yes` and `off` are
//! booleans, `0123` is octal and `12:30:45` is a number in base sixty, so neither YAML 1.2 nor JSON rules
//! would do. The patterns are those of `yaml/resolver.py` in PyYAML 6, which has been stable for years;
//! `tests/overlay_pyyaml.rs` compares this file with the installed one.

/// Type of a scalar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Null,
    Bool,
    Int,
    Float,
    Timestamp,
    /// `<<` as a key takes over another mapping.
    Merge,
    /// `=`, which the safe loader accepts as a key only.
    Value,
    Str,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Timestamp => "timestamp",
            Self::Merge => "merge",
            Self::Value => "value",
            Self::Str => "str",
        }
    }
}

/// The type of a plain scalar without tag.
pub fn resolve_tag(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "<<" => Kind::Merge,
        "=" => Kind::Value,
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False"
        | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => Kind::Bool,
        _ if is_float(text) => Kind::Float,
        _ if is_int(text) => Kind::Int,
        _ if is_timestamp(text) => Kind::Timestamp,
        _ => Kind::Str,
    }
}

/// Whether a plain scalar of this text can be anything but a string, in any version of YAML: a superset of
/// [`resolve_tag`], for writing. Such a text is written as it stands and so means what it meant.
pub fn may_be_other_than_string(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_+-.:~=< \t".contains(&byte))
}

fn is_int(text: &str) -> bool {
    let unsigned = unsigned(text);
    if let Some(binary) = unsigned.strip_prefix("0b") {
        return all(binary, |byte| matches!(byte, b'0' | b'1' | b'_'));
    }
    if let Some(hexadecimal) = unsigned.strip_prefix("0x") {
        return all(hexadecimal, |byte| byte.is_ascii_hexdigit() || byte == b'_');
    }
    if let Some(octal) = unsigned.strip_prefix('0') {
        return octal.is_empty() || all(octal, |byte| matches!(byte, b'0'..=b'7' | b'_'));
    }
    let (head, sixtieths) = sexagesimal(unsigned);
    starts_with_digit(head) && all(head, digit_or_underscore) && sixtieths.is_some()
}

fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    if let Some(fraction) = text.strip_prefix('.') {
        let (digits, exponent) = exponent(fraction);
        if starts_with_digit(digits) && all(digits, digit_or_underscore) && exponent {
            return true;
        }
    }
    let unsigned = unsigned(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let Some((whole, fraction)) = unsigned.split_once('.') else {
        return false;
    };
    if !starts_with_digit(whole) {
        return false;
    }
    if all(whole, digit_or_underscore) {
        let (digits, exponent) = exponent(fraction);
        return digits.bytes().all(digit_or_underscore) && exponent;
    }
    let (head, sixtieths) = sexagesimal(whole);
    all(head, digit_or_underscore) && sixtieths == Some(true) && fraction.bytes().all(digit_or_underscore)
}

/// A date (`2001-12-14`), or a date and a time with one or two digits where a date alone needs two.
fn is_timestamp(text: &str) -> bool {
    let mut date = text.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (date.next(), date.next(), date.next()) else {
        return false;
    };
    if year.len() != 4 || !all(year, digit) {
        return false;
    }
    if month.len() == 2 && all(month, digit) && rest.len() == 2 && all(rest, digit) {
        return true;
    }
    let day = leading_digits(rest, 2);
    if !(1..=2).contains(&month.len()) || !all(month, digit) || day == 0 {
        return false;
    }
    let rest = &rest[day..];
    let time = rest.trim_start_matches([' ', '\t']);
    let time = if time.len() == rest.len() {
        rest.strip_prefix(['T', 't'])
    } else {
        Some(time)
    };
    time.is_some_and(is_time)
}

/// `H:MM:SS`, then perhaps a fraction, then perhaps blanks and a zone.
fn is_time(text: &str) -> bool {
    let hour = leading_digits(text, 2);
    let Some(rest) = text[hour..].strip_prefix(':') else {
        return false;
    };
    if hour == 0 || leading_digits(rest, 2) != 2 {
        return false;
    }
    let Some(rest) = rest[2..].strip_prefix(':') else {
        return false;
    };
    if leading_digits(rest, 2) != 2 {
        return false;
    }
    let mut rest = &rest[2..];
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    if rest.is_empty() {
        return true;
    }
    let zone = rest.trim_start_matches([' ', '\t']);
    if zone == "Z" {
        return true;
    }
    let Some(offset) = zone.strip_prefix(['+', '-']) else {
        return false;
    };
    match offset.split_once(':') {
        Some((hours, minutes)) => is_two(hours) && minutes.len() == 2 && all(minutes, digit),
        None => is_two(offset),
    }
}

fn is_two(text: &str) -> bool {
    (1..=2).contains(&text.len()) && all(text, digit)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['+', '-']).unwrap_or(text)
}

/// Splits `190:20:30` at the first colon: `Some(true)` if what follows is groups below sixty, `None` if it is
/// not, `Some(false)` if there is no colon.
fn sexagesimal(text: &str) -> (&str, Option<bool>) {
    let Some((head, groups)) = text.split_once(':') else {
        return (text, Some(false));
    };
    let below_sixty = |group: &str| match group.as_bytes() {
        [ones] => ones.is_ascii_digit(),
        [tens, ones] => matches!(tens, b'0'..=b'5') && ones.is_ascii_digit(),
        _ => false,
    };
    (head, groups.split(':').all(below_sixty).then_some(true))
}

/// Splits off an exponent, which must have a sign; false if there is a malformed one.
fn exponent(text: &str) -> (&str, bool) {
    match text.split_once(['e', 'E']) {
        None => (text, true),
        Some((digits, exponent)) => (
            digits,
            exponent
                .strip_prefix(['+', '-'])
                .is_some_and(|power| all(power, digit)),
        ),
    }
}

fn leading_digits(text: &str, at_most: usize) -> usize {
    text.bytes().take(at_most).take_while(u8::is_ascii_digit).count()
}

fn starts_with_digit(text: &str) -> bool {
    text.bytes().next().is_some_and(digit)
}

/// Every byte, and at least one.
fn all(text: &str, accepts: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(accepts)
}

fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn digit_or_underscore(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_yaml_1_1() {
        for (kind, texts) in [
            (Kind::Null, &["", "~", "null"][..]),
            (Kind::Bool, &["yes", "Off", "TRUE"]),
            (
                Kind::Int,
                &[
                    "0", "-0", "0123", "1_000", "0x_f", "0b1_0", "12:30:45", "+7", "1:5",
                ],
            ),
            (
                Kind::Float,
                &[
                    "1.",
                    "1.5e+3",
                    ".5",
                    "-.inf",
                    ".NaN",
                    "190:20:30.15",
                    "1_0.0_1",
                    "00.5",
                ],
            ),
            (
                Kind::Timestamp,
                &["2001-12-14", "2001-1-4 1:02:03", "2001-12-14t21:59:43.10-05:00"],
            ),
            (Kind::Merge, &["<<"]),
            (Kind::Value, &["="]),
            (
                Kind::Str,
                &[
                    "y",
                    "n",
                    "yEs",
                    "1e3",
                    "1.5e3",
                    "0o17",
                    "08",
                    "0_9",
                    "12:60",
                    "+",
                    "_1",
                    "1:",
                    "+.nan",
                    "-.5",
                    "nan",
                    "2001-1-4",
                    "2001-12-14 21:59",
                    "0x",
                    "é",
                    "2001-12-14T21:59:43 +1:2",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(resolve_tag(text), kind, "{text:?}");
            }
        }
    }

    #[test]
    fn whatever_is_no_string_is_written_as_it_stands() {
        for text in [
            "",
            "~",
            "-.inf",
            "<<",
            "=",
            "12:30:45",
            "2001-12-14 21:59:43.10 -5",
            "1_000",
        ] {
            assert!(may_be_other_than_string(text), "{text:?}");
        }
        assert!(!may_be_other_than_string("http://example.com"));
    }
}
