//! How a body begins that may be a JSON text. Its encoding has to be UTF-8 (RFC 8259 section 8.1), but LiteLLM reads some of
//! its requests by a parser that takes UTF-16 and UTF-32 as well, in which the key filter would find nothing, and does so
//! whatever the request says of its type.

/// A byte order mark of four bytes, and two characters of four.
const LONGEST: usize = 12;
/// How a text begins that has keys: one byte that is not zero, and where it stands among the bytes of a character.
const UNITS: [(usize, usize); 4] = [(2, 0), (2, 1), (4, 0), (4, 3)];

/// Looks at how a text begins, which may come in pieces.
#[derive(Debug, Default)]
pub struct EncodingCheck {
    first: [u8; LONGEST],
    length: usize,
}

impl EncodingCheck {
    /// `false` once the text is plainly an object or a list in UTF-16 or UTF-32. What is no such text passes.
    pub fn may_be_utf8(&mut self, chunk: &[u8]) -> bool {
        if self.length == LONGEST {
            return true;
        }
        // Nearly every body is ASCII there; the others begin with a zero, or with a mark.
        if self.length == 0 && matches!(chunk, [1..=0x7f, 1..=0x7f, ..]) {
            self.length = LONGEST;
            return true;
        }
        let more = chunk.len().min(LONGEST - self.length);
        self.first[self.length..self.length + more].copy_from_slice(&chunk[..more]);
        self.length += more;
        !is_wide(&self.first[..self.length])
    }
}

/// Looks whether a body that is said to be a form is one, or JSON after all: LiteLLM 1.80.17 goes on to read as JSON at
/// `/mcp-rest/` what it has failed to read as a form. No form begins with a bracket.
#[derive(Debug)]
pub struct FormCheck {
    /// `None` as long as nothing but spaces has come.
    may_be_json: Option<bool>,
}

impl FormCheck {
    /// Of a body of another type everything may be JSON.
    pub fn new(is_said_to_be_form: bool) -> Self {
        Self {
            may_be_json: (!is_said_to_be_form).then_some(true),
        }
    }

    /// Whether the body may be JSON, after one more chunk of it.
    pub fn may_be_json(&mut self, chunk: &[u8]) -> bool {
        if self.may_be_json.is_none() {
            // A byte order mark, and the zeros of wide characters.
            let is_before_text =
                |byte: u8| byte.is_ascii_whitespace() || matches!(byte, 0 | 0xbb | 0xbf | 0xef | 0xfe | 0xff);
            let first = chunk.iter().find(|byte| !is_before_text(**byte));
            self.may_be_json = first.map(|first| matches!(first, b'{' | b'['));
        }
        self.may_be_json.unwrap_or(true)
    }
}

/// Whether a text that begins like this is an object or a list, possibly after spaces, in characters of two or four bytes.
fn is_wide(text: &[u8]) -> bool {
    UNITS.iter().any(|(width, at)| is_wide_by(text, *width, *at))
}

/// `at`: where in a character of `width` bytes the one is that is not zero. The bracket alone proves nothing: many a file begins
/// with a small number of two or four bytes. In JSON more ASCII follows it, or the spaces in front of it.
fn is_wide_by(text: &[u8], width: usize, at: usize) -> bool {
    let mut units = text.chunks_exact(width).peekable();
    units.next_if(|unit| is_mark(unit, at));
    let mut is_open = false;
    for unit in units {
        match ascii(unit, at) {
            Some(b' ' | b'\t' | b'\r' | b'\n') => {}
            Some(b'{' | b'[') if !is_open => is_open = true,
            Some(0x21..=0x7e) if is_open => return true,
            _ => return false,
        }
    }
    // Spaces so far, behind which an object may come.
    text.len() == LONGEST
}

/// The character, if it is in ASCII.
fn ascii(unit: &[u8], at: usize) -> Option<u8> {
    let mut others = unit.iter().enumerate().filter(|(place, _)| *place != at);
    others.all(|(_, byte)| *byte == 0).then(|| unit[at])
}

/// Whether this is U+FEFF, with its lower byte in this place.
fn is_mark(unit: &[u8], lower: usize) -> bool {
    let higher = match lower {
        0 => 1,
        _ => lower - 1,
    };
    unit.iter().enumerate().all(|(place, byte)| {
        let expected = match place {
            _ if place == lower => 0xff,
            _ if place == higher => 0xfe,
            _ => 0,
        };
        *byte == expected
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encodings(text: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for mark in ["", "\u{feff}"] {
            let text = format!("{mark}{text}");
            let units: Vec<u16> = text.encode_utf16().collect();
            let characters = || text.chars().map(u32::from);
            for (name, bytes) in [
                (
                    "16 le",
                    units
                        .iter()
                        .flat_map(|unit| unit.to_le_bytes())
                        .collect::<Vec<u8>>(),
                ),
                (
                    "16 be",
                    units.iter().flat_map(|unit| unit.to_be_bytes()).collect(),
                ),
                ("32 le", characters().flat_map(u32::to_le_bytes).collect()),
                ("32 be", characters().flat_map(u32::to_be_bytes).collect()),
            ] {
                all.push((format!("{name}, mark: {}", !mark.is_empty()), bytes));
            }
        }
        all
    }

    /// However it is cut: whether it may be UTF-8 after all of it.
    fn passes(bytes: &[u8]) -> bool {
        let whole = EncodingCheck::default().may_be_utf8(bytes);
        let mut check = EncodingCheck::default();
        let in_pieces = bytes.iter().all(|byte| check.may_be_utf8(&[*byte]));
        assert_eq!(whole, in_pieces, "{bytes:?}");
        whole
    }

    #[test]
    fn a_form_that_begins_as_json_is_none() {
        let may_be_json = |text: &[u8]| {
            let mut whole = FormCheck::new(true);
            let whole = whole.may_be_json(text);
            let mut check = FormCheck::new(true);
            let in_pieces = text.chunks(1).map(|piece| check.may_be_json(piece)).last();
            assert_eq!(in_pieces.unwrap_or(true), whole, "{text:?}");
            whole
        };
        for text in ["{}", "[", " \r\n\t{", "\u{feff}{", ""] {
            assert!(may_be_json(text.as_bytes()), "{text}");
        }
        for (encoding, bytes) in encodings("{\"a\":1}") {
            assert!(may_be_json(&bytes), "UTF-{encoding}");
        }
        for text in [
            "--boundary\r\n\r\n{\"a\":1}",
            "\r\n--boundary",
            "a={}",
            "%7B",
            "=[",
            "1",
        ] {
            assert!(!may_be_json(text.as_bytes()), "{text}");
            assert!(FormCheck::new(false).may_be_json(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn an_object_or_a_list_in_wide_characters_is_none_in_utf8() {
        for text in ["{\"a\":1}", "[1]", "[{}]", "{ }", " \n{}", "[]", "            {}"] {
            for (encoding, bytes) in encodings(text) {
                assert!(!passes(&bytes), "{text} in UTF-{encoding}");
            }
        }
    }

    #[test]
    fn what_is_utf8_or_has_no_keys_passes() {
        for text in [
            "",
            "{",
            "{}",
            "[]",
            "\u{feff}{}",
            "{\"\u{e4}\":\"\u{20ac}\"}",
            "\u{20ac}",
            " ",
            "1",
            "abc",
        ] {
            assert!(passes(text.as_bytes()), "{text}");
        }
        for bytes in [
            &b"\0\0\0\x18ftypmp42"[..],
            b"\0\0\0 ftypisom\0\0\x02\0",
            b" \0\x05\0\x22\0",
            b"[\0\x05\0\x22\0",
            b" \0A\0{\0",
            b"\n\0\x12\0",
            b"\n\0",
            b"\0asm\x01\0\0\0",
            b"II*\0\x08\0\0\0",
            b"\0",
            b"\xff",
            b"\x89PNG\r\n\x1a\n",
        ] {
            assert!(passes(bytes), "{bytes:?}");
        }
        for (encoding, bytes) in encodings("\"a\"") {
            assert!(passes(&bytes), "a text alone has no keys, in UTF-{encoding}");
        }
    }
}
