//! Finds the end of an answer's body, and its parts (RFC 9112 sections 6.3 and 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use super::answer_head::append_fields;
use super::error::Http1Error;

/// Chunk extensions of one body, all together.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// Space behind one size. A body of any length may have some behind each.
const MAX_PADDING: u16 = 1024;
const MAX_TRAILER_BYTES: usize = 16 * 1024;
const MAX_TRAILERS: usize = 256;
/// Of 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;
/// What a body that is over mostly ends with, once all of its data has come.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// A part up to this length is copied, so that the buffer that it was read into is used again as a whole.
const MAX_COPIED: usize = 1024;

#[derive(Debug)]
pub enum BodyDecoder {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// The body has come to its end.
    Done,
}

#[derive(Debug)]
pub enum Decoded {
    Frame(Frame<Bytes>),
    /// More has to be read.
    Unfinished,
    End,
}

#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    /// Of the chunk, what is left of it.
    size: u64,
    digits: u8,
    extension_bytes: usize,
}

#[derive(Debug, Default, Eq, PartialEq)]
enum ChunkState {
    #[default]
    Size,
    /// Behind a size, where some servers pad, with so many bytes.
    SizeSpace(u16),
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Behind the last chunk. So many bytes of it were looked at.
    Trailers(usize),
}

impl BodyDecoder {
    pub fn chunked() -> Self {
        Self::Chunked(Chunks::default())
    }

    pub fn length(length: u64) -> Self {
        match length {
            0 => Self::Done,
            length => Self::Length(length),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes that are yet to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next part of what has come.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Http1Error> {
        let decoded = match self {
            Self::Done => return Ok(Decoded::End),
            Self::Length(left) => {
                if buffer.is_empty() {
                    return Ok(Decoded::Unfinished);
                }
                let data = take(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                return Ok(Decoded::Frame(Frame::data(data)));
            }
            Self::UntilClose if buffer.is_empty() => return Ok(Decoded::Unfinished),
            Self::UntilClose => return Ok(Decoded::Frame(Frame::data(take(buffer, u64::MAX)))),
            Self::Chunked(chunks) => chunks.decode(buffer)?,
        };
        let (decoded, is_over) = decoded;
        if is_over {
            *self = Self::Done;
        }
        Ok(decoded)
    }

    /// Nothing more comes.
    pub fn end_of_input(&mut self) -> Result<(), Http1Error> {
        match self {
            Self::UntilClose | Self::Done => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Http1Error::Incomplete),
        }
    }
}

impl Chunks {
    /// The next part, and whether the body is over with it.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<(Decoded, bool), Http1Error> {
        loop {
            match self.state {
                ChunkState::Data if buffer.is_empty() => return Ok((Decoded::Unfinished, false)),
                ChunkState::Data => {
                    let data = take(buffer, self.size);
                    self.size -= data.len() as u64;
                    let mut is_over = false;
                    if self.size == 0 {
                        self.state = ChunkState::DataCr;
                        is_over = buffer.starts_with(LAST_CHUNK);
                        if is_over {
                            buffer.advance(LAST_CHUNK.len());
                        }
                    }
                    return Ok((Decoded::Frame(Frame::data(data)), is_over));
                }
                ChunkState::Trailers(seen) => return self.trailers(buffer, seen),
                _ => {
                    let mut used = 0;
                    while let Some(byte) = buffer.get(used)
                        && !matches!(self.state, ChunkState::Data | ChunkState::Trailers(_))
                    {
                        self.step(*byte)?;
                        used += 1;
                    }
                    buffer.advance(used);
                    if !matches!(self.state, ChunkState::Data | ChunkState::Trailers(_)) {
                        return Ok((Decoded::Unfinished, false));
                    }
                }
            }
        }
    }

    /// One byte between data.
    fn step(&mut self, byte: u8) -> Result<(), Http1Error> {
        let malformed = |what| Err(Http1Error::Chunk(what));
        self.state = match (&self.state, byte) {
            (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.digits == MAX_SIZE_DIGITS {
                    return malformed("a size is too great");
                }
                self.digits += 1;
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                ChunkState::Size
            }
            (ChunkState::Size, _) if self.digits == 0 => return malformed("no size"),
            (ChunkState::Size, b'\t' | b' ') => ChunkState::SizeSpace(1),
            (ChunkState::SizeSpace(MAX_PADDING), b'\t' | b' ') => {
                return malformed("a size is padded too far");
            }
            (ChunkState::SizeSpace(bytes), b'\t' | b' ') => ChunkState::SizeSpace(bytes + 1),
            (ChunkState::Size | ChunkState::SizeSpace(_), b';') => ChunkState::Extension,
            (ChunkState::Size | ChunkState::SizeSpace(_) | ChunkState::Extension, b'\r') => {
                ChunkState::SizeLf
            }
            (ChunkState::Size | ChunkState::SizeSpace(_), _) => return malformed("no size"),
            (ChunkState::Extension, b'\n') => return malformed("a line ends without CR"),
            (ChunkState::Extension, _) => {
                self.count_extension_byte()?;
                ChunkState::Extension
            }
            (ChunkState::SizeLf, b'\n') => {
                self.digits = 0;
                match self.size {
                    0 => ChunkState::Trailers(0),
                    _ => ChunkState::Data,
                }
            }
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Size,
            (ChunkState::SizeLf | ChunkState::DataCr | ChunkState::DataLf, _) => {
                return malformed("no CRLF where one must be");
            }
            (ChunkState::Data | ChunkState::Trailers(_), _) => return malformed("no framing here"),
        };
        Ok(())
    }

    fn count_extension_byte(&mut self) -> Result<(), Http1Error> {
        self.extension_bytes += 1;
        match self.extension_bytes > MAX_EXTENSION_BYTES {
            true => Err(Http1Error::Chunk("the extensions are too long")),
            false => Ok(()),
        }
    }

    fn trailers(&mut self, buffer: &mut BytesMut, seen: usize) -> Result<(Decoded, bool), Http1Error> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            return Ok((Decoded::End, true));
        }
        let from = seen.saturating_sub(3);
        let end = memchr::memmem::find(&buffer[from..], b"\r\n\r\n").map(|at| from + at + 4);
        if end.unwrap_or(buffer.len()) > MAX_TRAILER_BYTES {
            return Err(Http1Error::Chunk("the trailers are too long"));
        }
        let Some(end) = end else {
            self.state = ChunkState::Trailers(buffer.len());
            return Ok((Decoded::Unfinished, false));
        };
        let section = buffer.split_to(end).freeze();
        Ok((Decoded::Frame(Frame::trailers(parse_trailers(&section)?)), true))
    }
}

/// Of fields that all end in CRLF, and the empty line behind them.
fn parse_trailers(section: &Bytes) -> Result<HeaderMap, Http1Error> {
    let mut line_feeds = memchr::memchr_iter(b'\n', section);
    if !line_feeds.all(|at| at > 0 && section[at - 1] == b'\r') {
        return Err(Http1Error::Chunk("a trailer ends without CR"));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            append_fields(&mut trailers, section, section, fields, |_, _| {})?;
            Ok(trailers)
        }
        _ => Err(Http1Error::Chunk("malformed trailers")),
    }
}

/// The first bytes, at most so many.
fn take(buffer: &mut BytesMut, at_most: u64) -> Bytes {
    let length = usize::try_from(at_most).unwrap_or(usize::MAX).min(buffer.len());
    if length <= MAX_COPIED {
        let data = Bytes::copy_from_slice(&buffer[..length]);
        buffer.advance(length);
        return data;
    }
    buffer.split_to(length).freeze()
}
