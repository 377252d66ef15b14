//! Numbers in hexadecimal, 16 digits in lower case, as lines of the logs have them: a formatter takes five times as many
//! instructions, for three of them in each line.

pub struct Hex([u8; 16]);

impl Hex {
    pub fn of(number: u64) -> Self {
        let digit = |place: usize| b"0123456789abcdef"[usize::from((number >> (60 - 4 * place)) as u8 & 15)];
        Self(std::array::from_fn(digit))
    }

    pub fn as_str(&self) -> &str {
        // All of them are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_formatter_makes_of_it() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
            assert_eq!(Hex::of(number).as_str(), format!("{number:016x}"));
        }
    }
}
