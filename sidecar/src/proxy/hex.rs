//! Numbers in hexadecimal, 16 digits in lower case, as lines of the logs have them: a formatter takes ten times as many
//! instructions, for three of them in each line.

pub struct Hex([u8; 16]);

impl Hex {
    pub fn of(number: u64) -> Self {
        let bytes = number.to_be_bytes();
        let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
        Self(std::array::from_fn(|place| {
            let byte = bytes[place / 2];
            digit(if place % 2 == 0 { byte >> 4 } else { byte & 15 })
        }))
    }

    pub fn digits(&self) -> &[u8; 16] {
        &self.0
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
            let text = format!("{number:016x}");
            assert_eq!(Hex::of(number).as_str(), text);
            assert_eq!(Hex::of(number).digits(), text.as_bytes());
        }
    }
}
