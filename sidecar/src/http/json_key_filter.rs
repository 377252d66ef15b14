//! Renames keys in a JSON text that streams by: LiteLLM sends the `headers` of a tool in a chat request's
//! body to the MCP server, instead of the real header of that name, and `x-mcp-SERVER-HEADER` among them to
//! that server as HEADER; at `/mcp-rest/tools/call` it takes headers for servers from members of the body. A body must not be
//! able to name our header in any of these ways, nor to set headers for a server of ours.
//!
//! Only one letter of the key changes, so the length of the body stays and nothing is held back
//! except, at times, a single byte. Values are never touched: a user may write about the header. Text that is
//! not JSON passes; LiteLLM does not read headers from it.

mod server_names;

use bytes::{Bytes, BytesMut};
use memchr::{memchr2, memchr3_iter};

use server_names::ServerMatch;
pub use server_names::ServerNames;

const NAME: &[u8] = mcp_auth_protocol::pod::CONTEXT_HEADER.as_bytes();
/// Keys that are renamed, compared in any case, escapes resolved: our header, and the members by which LiteLLM (1.80.17 and
/// 1.110.2) sends headers from the body of `/mcp-rest/tools/call` where its own headers name none.
const WORDS: [&[u8]; 3] = [NAME, b"mcp_auth_header", b"mcp_server_auth_headers"];
/// The prefix by which LiteLLM forwards a header to one server: `x-mcp-SERVER-HEADER`. Begins with another
/// letter than the words.
const SERVER_PREFIX: &[u8] = b"x-mcp-";
/// What stands before the first hyphen or underscore in each of them.
const BEFORE_HYPHEN: &[u8] = b"mcpauth";
const BEFORE_SERVER: &[u8] = b"x-mcp";
const BEFORE_UNDERSCORE: &[u8] = b"mcp";
/// Levels of nesting that are kept track of. LiteLLM's parsers give up earlier.
const MAX_DEPTH: usize = 8 * 1024;

/// Where in the JSON text the next byte stands. One for each body.
#[derive(Debug, Default)]
pub struct KeyFilter {
    servers: ServerNames,
    position: Position,
    /// The next string would be a key.
    key_next: bool,
    nesting: Nesting,
    /// The last byte of a chunk, whose fate the first byte of the next chunk decides.
    withheld: Option<u8>,
    /// There was a chunk before.
    has_started: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Position {
    #[default]
    Between,
    /// In a string that needs no comparison.
    Text { escaped: bool },
    /// In a key that may yet turn out to be one that is renamed.
    Key { matched: KeyMatch, escape: Escape },
}

/// What there is of a key so far, and how many characters of that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum KeyMatch {
    /// The beginning of one of [`WORDS`], and nothing else.
    Word { which: usize, matched: usize },
    /// The beginning of [`SERVER_PREFIX`].
    ForServer(usize),
    /// [`SERVER_PREFIX`], then anything, and at its end the beginning of the name.
    NameForServer { matched: usize, server: ServerMatch },
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    /// After a backslash.
    Begun,
    /// After `\u` and some of the four digits.
    Hex { digits: u8, value: u16 },
    /// The character before was written as an escape.
    Ended,
}

/// Which of the levels around are objects, one bit each.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    words: Vec<u64>,
}

impl KeyFilter {
    /// With these servers in mind.
    pub fn new(servers: ServerNames) -> Self {
        Self {
            servers,
            ..Self::default()
        }
    }

    /// For another text.
    pub fn renew(&mut self) {
        *self = Self::new(std::mem::take(&mut self.servers));
    }

    /// The next chunk of the body: what is to be sent of it, after the byte held back from the one
    /// before.
    pub fn pass(&mut self, mut chunk: Bytes) -> (Option<u8>, Bytes) {
        if chunk.is_empty() {
            return (None, chunk);
        }
        self.has_started = true;
        let mut withheld = self.withheld.take();
        let mut renamed = Vec::new();
        self.scan(&chunk, |end| match end.checked_sub(1) {
            Some(last) => renamed.push(last),
            None => withheld = withheld.map(replace_letter),
        });
        if !renamed.is_empty() {
            // In place, where nothing else refers to the chunk, as when it has just come from a connection.
            let mut changed = BytesMut::from(chunk);
            for last in renamed {
                changed[last] = replace_letter(changed[last]);
            }
            chunk = changed.freeze();
        }
        if matches!(self.position, Position::Key { matched, .. } if matched.is_name()) {
            self.withheld = chunk.last().copied();
            chunk.truncate(chunk.len() - 1);
        }
        (withheld, chunk)
    }

    /// The same with the last chunk. Most bodies are a single one that nowhere says the name: they are not
    /// looked at letter by letter, since no chunk follows that would need the position.
    pub fn pass_last(&mut self, chunk: Bytes) -> (Option<u8>, Bytes) {
        match self.has_started || may_contain_name(&chunk) {
            true => self.pass(chunk),
            false => (None, chunk),
        }
    }

    /// The byte still held back at the end of the body.
    pub fn finish(&mut self) -> Option<u8> {
        self.withheld.take()
    }

    /// The byte still held back where it has to be sent before the rest of the key is known: so changed that the key is not
    /// the name, however it goes on.
    pub fn disarm(&mut self) -> Option<u8> {
        let last = self.withheld.take()?;
        self.position = Position::Text { escaped: false };
        Some(replace_letter(last))
    }

    /// Whether a key that is the name ends in this piece of a text, of which nothing is sent.
    pub fn finds_name(&mut self, piece: &[u8]) -> bool {
        let mut is_found = false;
        self.scan(piece, |_| is_found = true);
        is_found
    }

    pub fn is_holding(&self) -> bool {
        self.withheld.is_some()
    }

    /// Calls `on_match` with the position behind each letter that has to change: the last one of a word, and the hyphen behind
    /// the name of a server.
    fn scan(&mut self, chunk: &[u8], mut on_match: impl FnMut(usize)) {
        let mut at = 0;
        while at < chunk.len() {
            match self.position {
                Position::Text { escaped: true } => {
                    self.position = Position::Text { escaped: false };
                    at += 1;
                }
                Position::Text { escaped: false } => match memchr2(b'"', b'\\', &chunk[at..]) {
                    Some(ahead) => {
                        at += ahead + 1;
                        self.position = if chunk[at - 1] == b'"' {
                            Position::Between
                        } else {
                            Position::Text { escaped: true }
                        };
                    }
                    None => return,
                },
                Position::Key { matched, escape } => {
                    let byte = chunk[at];
                    if byte == b'"' && matches!(escape, Escape::None | Escape::Ended) && matched.is_name() {
                        on_match(at);
                    }
                    let (position, ends_server) = next_in_key(matched, escape, byte, &self.servers);
                    self.position = position;
                    at += 1;
                    if ends_server {
                        on_match(at);
                    }
                }
                Position::Between => {
                    self.next_between(chunk[at]);
                    at += 1;
                }
            }
        }
    }

    fn next_between(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.position = match self.key_next {
                    true => Position::Key {
                        matched: KeyMatch::Word { which: 0, matched: 0 },
                        escape: Escape::None,
                    },
                    false => Position::Text { escaped: false },
                };
                self.key_next = false;
            }
            b'{' => {
                self.nesting.push(true);
                self.key_next = true;
            }
            b'[' => {
                self.nesting.push(false);
                self.key_next = false;
            }
            b'}' | b']' => {
                self.nesting.pop();
                self.key_next = false;
            }
            b',' => self.key_next = self.nesting.in_object(),
            b':' => self.key_next = false,
            _ => {}
        }
    }
}

impl Nesting {
    fn push(&mut self, object: bool) {
        if self.depth < MAX_DEPTH {
            let (word, bit) = (self.depth / 64, self.depth % 64);
            if word == self.words.len() {
                self.words.push(0);
            }
            self.words[word] = self.words[word] & !(1 << bit) | u64::from(object) << bit;
        }
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Deeper than what is kept track of, every string may be a key.
    fn in_object(&self) -> bool {
        match self.depth.checked_sub(1) {
            Some(level) if level < MAX_DEPTH => self.words[level / 64] >> (level % 64) & 1 == 1,
            Some(_) => true,
            None => false,
        }
    }
}

/// Where a key goes on after one more byte, and whether this was the hyphen behind the name of a server.
fn next_in_key(matched: KeyMatch, escape: Escape, byte: u8, servers: &ServerNames) -> (Position, bool) {
    let compare = |character: u16, escape: Escape| {
        let ends_server = character == u16::from(b'-') && matched.is_server(servers);
        let is_raw = escape == Escape::None;
        let position = match matched.with_character(character, is_raw, servers) {
            Some(matched) => Position::Key { matched, escape },
            None => Position::Text { escaped: false },
        };
        (position, ends_server)
    };
    let position = match (escape, byte) {
        (Escape::None | Escape::Ended, b'"') => Position::Between,
        (Escape::None | Escape::Ended, b'\\') => Position::Key {
            matched,
            escape: Escape::Begun,
        },
        (Escape::None | Escape::Ended, _) => return compare(byte.into(), Escape::None),
        (Escape::Begun, b'u') => Position::Key {
            matched,
            escape: Escape::Hex { digits: 0, value: 0 },
        },
        // Which a name may have.
        (Escape::Begun, b'"' | b'\\' | b'/') => return compare(byte.into(), Escape::Ended),
        // No other escape stands for a character of the words, nor of a name.
        (Escape::Begun, _) => return compare(u16::MAX, Escape::Ended),
        (Escape::Hex { digits, value }, _) => match char::from(byte).to_digit(16) {
            Some(digit) => {
                let value = value << 4 | digit as u16;
                match digits {
                    3 => return compare(value, Escape::Ended),
                    _ => Position::Key {
                        matched,
                        escape: Escape::Hex {
                            digits: digits + 1,
                            value,
                        },
                    },
                }
            }
            // Not JSON. A quote ends the string all the same, as it would without the escape.
            None if byte == b'"' => Position::Between,
            None => Position::Text {
                escaped: byte == b'\\',
            },
        },
    };
    (position, false)
}

impl KeyMatch {
    /// Whether a key that ends here has to be renamed.
    fn is_name(self) -> bool {
        match self {
            Self::Word { which, matched } => matched == WORDS[which].len(),
            Self::NameForServer { matched, .. } => matched == NAME.len(),
            Self::ForServer(_) => false,
        }
    }

    /// Whether this is the prefix and the name of a server.
    fn is_server(self, servers: &ServerNames) -> bool {
        matches!(self, Self::NameForServer { server, .. } if servers.is_whole(server))
    }

    /// With one more character, or where it `is_raw` one more byte. `None`: it cannot become one that is renamed any more.
    fn with_character(self, character: u16, is_raw: bool, servers: &ServerNames) -> Option<Self> {
        let is_character =
            |expected: &u8| u8::try_from(character).is_ok_and(|found| found.eq_ignore_ascii_case(expected));
        let next = |word: &[u8], matched: usize| word.get(matched).is_some_and(is_character);
        match self {
            Self::Word { matched: 0, .. } if next(SERVER_PREFIX, 0) => Some(Self::ForServer(1)),
            Self::Word { which, matched } => {
                let goes_on =
                    |word: &&[u8]| word.starts_with(&WORDS[which][..matched]) && next(word, matched);
                let which = WORDS.iter().position(goes_on)?;
                let matched = matched + 1;
                Some(Self::Word { which, matched })
            }
            Self::ForServer(matched) if !next(SERVER_PREFIX, matched) => None,
            Self::ForServer(matched) if matched + 1 == SERVER_PREFIX.len() => Some(Self::NameForServer {
                matched: 0,
                server: servers.all(),
            }),
            Self::ForServer(matched) => Some(Self::ForServer(matched + 1)),
            Self::NameForServer { matched, server } => {
                let server = match (character == u16::from(b'-'), u8::try_from(character)) {
                    (false, Ok(byte)) if is_raw => servers.narrow_raw(server, byte),
                    (false, _) => servers.narrow_escaped(server, character),
                    // It becomes another character, and the name goes on.
                    (true, _) if servers.is_whole(server) => servers.narrow(server, b'_'.into()),
                    (true, _) => ServerNames::none(server),
                };
                let matched = match next(NAME, matched) {
                    true => matched + 1,
                    // Its first letter occurs but once in the name: what does not go on can only begin again.
                    false => usize::from(next(NAME, 0)),
                };
                Some(Self::NameForServer { matched, server })
            }
        }
    }
}

/// Another letter for the last one of a word, for the hyphen behind the name of a server, and for the last digit of their
/// escapes.
fn replace_letter(letter: u8) -> u8 {
    match letter {
        b'2'..=b'4' => b'f',
        b'd' => b'e',
        b'D' => b'E',
        _ => b'_',
    }
}

/// Whether a key that is renamed is there as it is, in any case, or may be there by escapes. Each has in it one of two
/// characters that are rarer in texts than letters are.
fn may_contain_name(text: &[u8]) -> bool {
    let ends_with = |at: usize, beginning: &[u8]| {
        at >= beginning.len() && text[at - beginning.len()..at].eq_ignore_ascii_case(beginning)
    };
    memchr3_iter(b'-', b'\\', b'_', text).any(|at| match text[at] {
        b'-' => ends_with(at, BEFORE_HYPHEN) || ends_with(at, BEFORE_SERVER),
        b'_' => ends_with(at, BEFORE_UNDERSCORE),
        _ => true,
    })
}

#[cfg(test)]
mod tests;
