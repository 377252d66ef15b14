//! Names of servers as a key may have them: in any case, in escapes, and cut anywhere. Compares one character after the other
//! as LiteLLM reads it.

use std::sync::Arc;

/// What LiteLLM calls the servers for which no body may set headers, in lower case and sorted. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerNames(Arc<[Box<[u8]>]>);

/// The servers, by their places, whose names begin with all that has come behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerMatch {
    first: usize,
    end: usize,
    length: usize,
    partial: PartialCharacter,
}

/// The beginning of a character that takes more than one byte, or more than one escape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum PartialCharacter {
    #[default]
    None,
    /// Bytes of UTF-8, and how many are missing.
    Bytes { value: u32, missing: u8 },
    /// The first of the two escapes of a character beyond the Basic Multilingual Plane (RFC 8259 section 7).
    HighSurrogate(u16),
}

impl ServerNames {
    /// LiteLLM ends the name at the first hyphen, so one that has a hyphen is never meant.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names
            .into_iter()
            .filter(|name| !name.is_empty() && !name.contains('-'));
        let mut names: Vec<Box<[u8]>> = names
            .map(|name| name.to_lowercase().chars().map(fold_sigma).collect::<String>())
            .map(|name| name.into_bytes().into_boxed_slice())
            .collect();
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    /// Before the first character.
    pub fn all(&self) -> ServerMatch {
        ServerMatch {
            first: 0,
            end: self.0.len(),
            length: 0,
            partial: PartialCharacter::None,
        }
    }

    /// None of them, whatever follows.
    pub fn none(server: ServerMatch) -> ServerMatch {
        ServerMatch {
            end: server.first,
            ..server
        }
    }

    /// Those that go on with this character, as LiteLLM reads it: in lower case, by which the Kelvin sign is a `k`.
    pub fn narrow(&self, server: ServerMatch, character: u32) -> ServerMatch {
        let partial = PartialCharacter::None;
        let Some(character) = char::from_u32(character) else {
            return Self::none(server);
        };
        let mut narrowed = ServerMatch { partial, ..server };
        let mut bytes = [0; 4];
        for lower in character.to_lowercase().map(fold_sigma) {
            for byte in lower.encode_utf8(&mut bytes).bytes() {
                narrowed = self.narrow_by(narrowed, byte);
            }
        }
        narrowed
    }

    /// The same with a byte as it stands in the text.
    pub fn narrow_raw(&self, mut server: ServerMatch, byte: u8) -> ServerMatch {
        let (value, missing) = match (server.partial, byte) {
            (PartialCharacter::HighSurrogate(_), _) => return Self::none(server),
            (PartialCharacter::None, ..0x80) => return self.narrow(server, byte.into()),
            (PartialCharacter::None, 0xc0..0xe0) => (u32::from(byte & 0x1f), 1),
            (PartialCharacter::None, 0xe0..0xf0) => (u32::from(byte & 0x0f), 2),
            (PartialCharacter::None, _) => (u32::from(byte & 0x07), 3),
            (PartialCharacter::Bytes { value, missing }, _) => {
                let value = value << 6 | u32::from(byte & 0x3f);
                if missing == 1 {
                    return self.narrow(server, value);
                }
                (value, missing - 1)
            }
        };
        server.partial = PartialCharacter::Bytes { value, missing };
        server
    }

    /// The same with what one escape stands for, which may be half of a character.
    pub fn narrow_escaped(&self, mut server: ServerMatch, unit: u16) -> ServerMatch {
        match (server.partial, unit) {
            (PartialCharacter::HighSurrogate(high), 0xdc00..0xe000) => {
                let [high, low] = [high, unit].map(|half| u32::from(half & 0x3ff));
                self.narrow(server, 0x1_0000 + (high << 10 | low))
            }
            (PartialCharacter::None, 0xd800..0xdc00) => {
                server.partial = PartialCharacter::HighSurrogate(unit);
                server
            }
            (PartialCharacter::None, _) => self.narrow(server, unit.into()),
            _ => Self::none(server),
        }
    }

    fn narrow_by(&self, server: ServerMatch, byte: u8) -> ServerMatch {
        let ServerMatch {
            first, end, length, ..
        } = server;
        let names = &self.0[first..end];
        let below = names.partition_point(|name| name.get(length) < Some(&byte));
        let up_to = names.partition_point(|name| name.get(length) <= Some(&byte));
        ServerMatch {
            first: first + below,
            end: first + up_to,
            length: length + 1,
            ..server
        }
    }

    /// Whether one of them is named so, and not only begins so.
    pub fn is_whole(&self, server: ServerMatch) -> bool {
        if server.partial != PartialCharacter::None {
            return false;
        }
        let first = self.0[server.first..server.end].first();
        first.is_some_and(|name| name.len() == server.length)
    }
}

/// The sigma at the end of a word is another letter than elsewhere in lower case, and which one becomes of a capital depends on
/// what follows. Here both count as the same.
fn fold_sigma(character: char) -> char {
    if character == 'ς' { 'σ' } else { character }
}
