//! Decoder of a request's body, by pieces: takes the bytes as they come and gives what they become, without a limit of the
//! whole but with one of how many times as long it may become.

use std::io::{self, BufRead, ErrorKind, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;

use super::zstd::ZstdDecoder;

/// How many times as long as what has come it may become: deflate cannot become more, and zstd could make 128 KiB of four
/// bytes. LiteLLM takes 200 times, unless `MAX_REQUEST_BODY_DECOMPRESSION_RATIO` says otherwise, but of the whole body: a beginning
/// that is denser than the whole is right, and here only the beginning is known.
const MAX_RATIO: u64 = 1032;
/// The first block, of which the end may not have come.
const FREE_BYTES: u64 = 128 * 1024;

pub struct Decoder {
    coding: Coding,
    received: u64,
    decoded: u64,
}

enum Coding {
    Gzip(Box<GzDecoder<Input>>),
    Zstd(Box<ZstdDecoder>),
}

/// What a step has come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// So many bytes are decoded.
    Decoded(usize),
    /// The rest has to come first.
    NeedsMore,
    /// The body is whole.
    Ended,
}

/// The bytes are not what they are said to be, go on behind their end, or become too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Undecodable;

/// The bytes that have come. Where there are none, more may follow.
struct Input(Bytes);

impl Decoder {
    pub fn gzip() -> Self {
        Self::of(Coding::Gzip(Box::new(GzDecoder::new(Input(Bytes::new())))))
    }

    pub fn zstd() -> Self {
        Self::of(Coding::Zstd(Box::new(ZstdDecoder::new())))
    }

    fn of(coding: Coding) -> Self {
        Self {
            coding,
            received: 0,
            decoded: 0,
        }
    }

    /// Takes the next bytes, once all steps with the ones before are done.
    pub fn push(&mut self, bytes: Bytes) {
        self.received += bytes.len() as u64;
        match &mut self.coding {
            Coding::Gzip(decoder) => decoder.get_mut().0 = bytes,
            Coding::Zstd(decoder) => decoder.push(bytes),
        }
    }

    /// Decodes into `piece`, from its beginning.
    pub fn step(&mut self, piece: &mut [u8]) -> Result<Step, Undecodable> {
        let step = match &mut self.coding {
            Coding::Gzip(decoder) => gzip_step(decoder, piece),
            Coding::Zstd(decoder) => decoder.step(piece),
        }?;
        if let Step::Decoded(length) = step {
            self.decoded += length as u64;
        }
        match self.decoded > self.received.saturating_mul(MAX_RATIO) + FREE_BYTES {
            true => Err(Undecodable),
            false => Ok(step),
        }
    }
}

fn gzip_step(decoder: &mut GzDecoder<Input>, piece: &mut [u8]) -> Result<Step, Undecodable> {
    match decoder.read(piece) {
        Ok(0) if decoder.get_ref().0.is_empty() => Ok(Step::Ended),
        Ok(0) => Err(Undecodable),
        Ok(length) => Ok(Step::Decoded(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Step::NeedsMore),
        Err(_) => Err(Undecodable),
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
