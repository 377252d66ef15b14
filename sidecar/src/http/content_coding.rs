//! Content coding of a request's body (RFC 9110 section 8.4): LiteLLM decodes gzip and zstd before it reads a body
//! (`RequestBodyDecompressionMiddleware` of 1.110.2), and the key filter would find nothing in what is encoded. A body in gzip
//! passes as it is, and is decoded beside that only to be looked into: what names our header as a key, and what cannot be
//! decoded, is an error before LiteLLM has the whole of it. One in zstd is refused: a decoder that is written in Rust and
//! bounds what one block may become was not found.
//!
//! A body is taken for encoded by the rules of LiteLLM: one `Content-Encoding`, and bytes that begin like it. What is decoded
//! is not kept, and what the decoders need is bounded in all.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use http::header::{CONTENT_ENCODING, HeaderMap};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::idle_timeout::BodyError;
use super::json_encoding::{EncodingCheck, FormCheck};
use super::json_key_filter::KeyFilter;

/// Decoded at once. Deflate grows by a thousand times at the most, so whoever looks for longer lets others have their turn.
const PIECE_BYTES: usize = 16 * 1024;
const PIECES_A_TURN: usize = 8;
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
/// A frame of zstd that decoders skip begins with one of sixteen bytes and these (RFC 8878 section 3.1.2).
const SKIPPABLE_FIRST: std::ops::RangeInclusive<u8> = 0x50..=0x5f;
const SKIPPABLE_MAGIC: &[u8] = b"\x2a\x4d\x18";
/// What a decoder holds, rounded up: window, tables and the optional fields of the header.
const DECODER_BYTES: usize = 128 * 1024;
const DEFAULT_DECODERS_BYTES: usize = 16 * 1024 * 1024;

/// A coding that LiteLLM decodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentCoding {
    Gzip,
    Zstd,
}

/// How many bodies may be decoded at the same time. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct DecoderLimit(Arc<Semaphore>);

/// Looks into one body.
pub struct CodedBody {
    coding: ContentCoding,
    limit: DecoderLimit,
    state: State,
    search: KeySearch,
}

enum State {
    /// The bytes so far do not tell yet whether the body is encoded.
    Beginning(BytesMut),
    /// The body is not encoded, whatever its header says: LiteLLM reads it as it is.
    Identity,
    Decoding {
        decoder: Box<GzDecoder<Input>>,
        _permit: OwnedSemaphorePermit,
    },
    /// Nothing may follow.
    Ended,
}

/// The bytes that have come. Where there are none, more may follow.
struct Input(Bytes);

/// How far a look has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// There is more to look at: ask again, after others had their turn.
    Unfinished,
    /// The chunk may be sent as it is.
    Encoded,
    /// The chunk is not encoded.
    Identity,
}

/// A search for our header's name as a key, in JSON that goes nowhere.
#[derive(Debug)]
struct KeySearch {
    form: FormCheck,
    encoding: EncodingCheck,
    filter: KeyFilter,
}

impl ContentCoding {
    /// The coding of a request with these headers. LiteLLM takes any white space off the name that Python knows.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut stated = headers.get_all(CONTENT_ENCODING).iter();
        let (Some(name), None) = (stated.next(), stated.next()) else {
            return None;
        };
        let name: String = name.as_bytes().iter().copied().map(char::from).collect();
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether a body begins as one of this coding does. `None`: more of it is needed to tell.
    fn begins(self, body: &[u8]) -> Option<bool> {
        match (self, body) {
            (_, []) => None,
            (Self::Gzip, _) => begins_with(GZIP_MAGIC, body),
            (Self::Zstd, [first, rest @ ..]) if SKIPPABLE_FIRST.contains(first) => {
                begins_with(SKIPPABLE_MAGIC, rest)
            }
            (Self::Zstd, _) => begins_with(ZSTD_MAGIC, body),
        }
    }
}

fn begins_with(magic: &[u8], body: &[u8]) -> Option<bool> {
    match magic.starts_with(body) && body.len() < magic.len() {
        true => None,
        false => Some(body.starts_with(magic)),
    }
}

impl DecoderLimit {
    /// As many as hold so many bytes, and one in any case.
    pub fn within(bytes: usize) -> Self {
        let decoders = (bytes / DECODER_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(decoders)))
    }
}

impl Default for DecoderLimit {
    fn default() -> Self {
        Self::within(DEFAULT_DECODERS_BYTES)
    }
}

impl CodedBody {
    pub fn new(coding: ContentCoding, limit: DecoderLimit, form: FormCheck, filter: KeyFilter) -> Self {
        Self {
            coding,
            limit,
            state: State::Beginning(BytesMut::new()),
            search: KeySearch {
                form,
                encoding: EncodingCheck::default(),
                filter,
            },
        }
    }

    /// Takes the next chunk, once the look at the one before is finished.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), BodyError> {
        match &mut self.state {
            State::Identity => {}
            State::Beginning(first) => {
                first.extend_from_slice(chunk);
                match self.coding.begins(first) {
                    None => {}
                    Some(false) => self.state = State::Identity,
                    Some(true) if self.coding == ContentCoding::Zstd => return Err(BodyError::Zstd),
                    Some(true) => {
                        let permit = self.limit.0.clone().try_acquire_owned();
                        let permit = permit.map_err(|_| BodyError::NoDecoder)?;
                        let decoder = GzDecoder::new(Input(first.split().freeze()));
                        self.state = State::Decoding {
                            decoder: Box::new(decoder),
                            _permit: permit,
                        };
                    }
                }
            }
            State::Decoding { decoder, .. } => decoder.get_mut().0 = chunk.clone(),
            State::Ended if chunk.is_empty() => {}
            State::Ended => return Err(BodyError::Undecodable),
        }
        Ok(())
    }

    /// Looks at what was taken.
    pub fn look(&mut self) -> Result<Look, BodyError> {
        let mut piece = [0; PIECE_BYTES];
        for _ in 0..PIECES_A_TURN {
            let decoder = match &mut self.state {
                State::Decoding { decoder, .. } => decoder,
                State::Ended => return Ok(Look::Encoded),
                State::Beginning(_) | State::Identity => return Ok(Look::Identity),
            };
            match decoder.read(&mut piece) {
                Ok(0) if decoder.get_ref().0.is_empty() => self.state = State::Ended,
                Ok(0) => return Err(BodyError::Undecodable),
                Ok(length) => self.search.look_at(&piece[..length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Look::Encoded),
                Err(_) => return Err(BodyError::Undecodable),
            }
        }
        Ok(Look::Unfinished)
    }
}

impl KeySearch {
    fn look_at(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        if !self.form.may_be_json(piece) {
            return Ok(());
        }
        if !self.encoding.may_be_utf8(piece) {
            return Err(BodyError::NotUtf8);
        }
        match self.filter.finds_name(piece) {
            true => Err(BodyError::NamesHeaders),
            false => Ok(()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(output.len());
        output[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.0.is_empty() {
            true => Err(ErrorKind::WouldBlock.into()),
            false => Ok(&self.0),
        }
    }

    fn consume(&mut self, length: usize) {
        self.0.advance(length);
    }
}

#[cfg(test)]
mod tests;
