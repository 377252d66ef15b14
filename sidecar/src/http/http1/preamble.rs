//! Preamble: what a server sends before the head of its answer, which is interim answers (1xx, RFC 9110 section 15.2) and
//! empty lines, and how much of that is taken.

use bytes::{Buf, BytesMut};

use super::error::Http1Error;

/// Interim answers to one request. A server that says each 20 seconds that it is still at work sends as many in five hours.
pub const MAX_INTERIMS: usize = 1_000;
/// Heads of interim answers and empty lines before one answer, none of which is kept.
pub const MAX_PREAMBLE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub struct Preamble {
    interims: usize,
    bytes: usize,
}

impl Preamble {
    /// Takes the empty lines at the beginning of `buffer`, so that they are looked at once, and says whether there were any.
    pub fn skip_empty_lines(&mut self, buffer: &mut BytesMut) -> Result<bool, Http1Error> {
        let mut skipped = 0;
        loop {
            match &buffer[skipped..] {
                [b'\r', b'\n', ..] => skipped += 2,
                [b'\n', ..] => skipped += 1,
                _ => break,
            }
        }
        if skipped == 0 {
            return Ok(false);
        }
        buffer.advance(skipped);
        self.count_bytes(skipped)?;
        Ok(true)
    }

    /// Counts an interim answer whose head has so many bytes.
    pub fn count_interim(&mut self, bytes: usize) -> Result<(), Http1Error> {
        self.interims += 1;
        if self.interims > MAX_INTERIMS {
            return Err(Http1Error::PreambleTooLong);
        }
        self.count_bytes(bytes)
    }

    fn count_bytes(&mut self, bytes: usize) -> Result<(), Http1Error> {
        self.bytes += bytes;
        match self.bytes > MAX_PREAMBLE_BYTES {
            true => Err(Http1Error::PreambleTooLong),
            false => Ok(()),
        }
    }
}
