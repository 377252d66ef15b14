//! Numbers in hexadecimal, 16 digits in lower case, as lines of the logs have them: a formatter takes ten times as many
//! instructions, for three of them in each line.

pub struct Hex([u8; 16]);

impl Hex {
    pub fn of(number: u64) -> Self {
        let mut digits = [0; 16];
        let (high, low) = digits.split_at_mut(8);
        high.copy_from_slice(&eight_digits((number >> 32) as u32).to_be_bytes());
        low.copy_from_slice(&eight_digits(number as u32).to_be_bytes());
        Self(digits)
    }

    pub fn digits(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // All of them are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// All at once, the first one in the highest byte.
fn eight_digits(number: u32) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // One in each byte.
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & (0x0f * EACH);
    // From ten on the sum reaches 16, and the letters begin that much after the digits.
    let letters = (nibbles + 6 * EACH) >> 4 & EACH;
    nibbles + u64::from(b'0') * EACH + letters * u64::from(b'a' - 10 - b'0')
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
