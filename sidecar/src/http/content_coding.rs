//! Content coding of a request's body (RFC 9110 section 8.4): LiteLLM decodes gzip and zstd before it reads a body
//! (`RequestBodyDecompressionMiddleware` of 1.110.2), and the key filter would find nothing in what is encoded. A body in
//! either passes as it is, and is decoded beside that only to be looked into: what names our header as a key, and what cannot
//! be decoded, is an error before LiteLLM has the whole of it.
//!
//! A body is taken for encoded by the rules of LiteLLM: one `Content-Encoding`, and bytes that begin like it. Paths whose bodies
//! LiteLLM leaves encoded (its `RAW_BODY_ROUTE_PREFIXES`) are no exception here: `docs/protocols.md` names them. What is decoded
//! is not kept, and what the decoders need is bounded in all ([`DecoderLimit`]).

mod decoder;
mod decoder_limit;
mod zstd;

use std::sync::Arc;
use std::task::Context;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, HeaderMap};

use super::body_progress::BodyProgress;
use super::idle_timeout::BodyError;
use super::json_encoding::{EncodingCheck, FormCheck};
use super::json_key_filter::KeyFilter;
use decoder::{Decoder, Step, Undecodable};
pub use decoder_limit::DecoderLimit;
use decoder_limit::{Lease, Need, NoRoom};
pub use zstd::MAX_DECODER_BYTES;

/// Decoded at once.
const PIECE_BYTES: usize = 16 * 1024;
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
/// What a decoder of gzip holds, rounded up: window, tables and the optional fields of the header.
const GZIP_BYTES: usize = 128 * 1024;

/// A coding that LiteLLM decodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentCoding {
    Gzip,
    Zstd,
}

/// Looks into one body.
pub struct CodedBody {
    coding: ContentCoding,
    limit: DecoderLimit,
    progress: Arc<BodyProgress>,
    state: State,
    search: KeySearch,
}

enum State {
    /// The bytes so far do not tell yet whether the body is encoded.
    Beginning(BytesMut),
    /// It is, but they do not tell yet what decoding it takes.
    Header(BytesMut),
    /// The body is not encoded, whatever its header says: LiteLLM reads it as it is.
    Identity,
    Decoding(Lease),
    /// Nothing may follow.
    Ended,
}

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
            (Self::Zstd, [first, rest @ ..]) if zstd::SKIPPABLE_FIRST.contains(first) => {
                begins_with(zstd::SKIPPABLE_MAGIC, rest)
            }
            (Self::Zstd, _) => begins_with(zstd::MAGIC, body),
        }
    }

    /// What decoding a body takes that begins so. `None`: more of it is needed to tell.
    fn need(self, body: &[u8]) -> Option<Need> {
        let (bytes, is_windowed) = match self {
            Self::Gzip => (GZIP_BYTES, false),
            Self::Zstd => (zstd::decoder_bytes(body)?, true),
        };
        Some(Need { bytes, is_windowed })
    }

    fn decoder(self) -> Decoder {
        match self {
            Self::Gzip => Decoder::gzip(),
            Self::Zstd => Decoder::zstd(),
        }
    }
}

fn begins_with(magic: &[u8], body: &[u8]) -> Option<bool> {
    match magic.starts_with(body) && body.len() < magic.len() {
        true => None,
        false => Some(body.starts_with(magic)),
    }
}

impl CodedBody {
    /// `progress` tells how the body comes.
    pub fn new(
        coding: ContentCoding,
        limit: DecoderLimit,
        progress: Arc<BodyProgress>,
        form: FormCheck,
        filter: KeyFilter,
    ) -> Self {
        Self {
            coding,
            limit,
            progress,
            state: State::Beginning(BytesMut::new()),
            search: KeySearch {
                form,
                encoding: EncodingCheck::default(),
                filter,
            },
        }
    }

    /// An error once the room of its decoder was needed for another body, which wakes whoever asks.
    pub fn check(&self, cx: &Context<'_>) -> Result<(), BodyError> {
        match &self.state {
            State::Decoding(lease) if lease.has_ended(cx.waker()) => Err(NoRoom.into()),
            _ => Ok(()),
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
                    Some(true) => {
                        self.state = State::Header(std::mem::take(first));
                        return self.push(&Bytes::new());
                    }
                }
            }
            State::Header(first) => {
                first.extend_from_slice(chunk);
                if let Some(need) = self.coding.need(first) {
                    let lease = self.limit.take(need, &self.progress, || self.coding.decoder())?;
                    let first = first.split().freeze();
                    lease.with(|decoder| decoder.push(first))?;
                    self.state = State::Decoding(lease);
                }
            }
            State::Decoding(lease) => lease.with(|decoder| decoder.push(chunk.clone()))?,
            State::Ended if chunk.is_empty() => {}
            State::Ended => return Err(BodyError::Undecodable),
        }
        Ok(())
    }

    /// Looks at what was taken.
    pub fn look(&mut self) -> Result<Look, BodyError> {
        let mut piece = [0; PIECE_BYTES];
        let mut share = self.limit.share_of_turn();
        while share > 0 {
            let lease = match &mut self.state {
                State::Decoding(lease) => lease,
                State::Header(_) | State::Ended => return Ok(Look::Encoded),
                State::Beginning(_) | State::Identity => return Ok(Look::Identity),
            };
            let piece = &mut piece[..share.min(PIECE_BYTES)];
            match lease.with(|decoder| decoder.step(piece))?? {
                Step::Decoded(length) => {
                    self.search.look_at(&piece[..length])?;
                    share -= length;
                }
                Step::NeedsMore => return Ok(Look::Encoded),
                Step::Ended => self.state = State::Ended,
            }
        }
        Ok(Look::Unfinished)
    }
}

impl From<NoRoom> for BodyError {
    fn from(_: NoRoom) -> Self {
        Self::NoDecoder
    }
}

impl From<Undecodable> for BodyError {
    fn from(_: Undecodable) -> Self {
        Self::Undecodable
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

#[cfg(test)]
mod tests;
