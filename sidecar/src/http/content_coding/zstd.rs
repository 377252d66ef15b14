//! zstd (RFC 8878), by the library that LiteLLM's decoder is made of too, with the same bound of the window: what the one
//! takes the other takes, one frame and nothing behind it.

use bytes::{Buf, Bytes};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::decoder::{Step, Undecodable};

pub const MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
/// A frame that decoders skip begins with one of sixteen bytes and these (section 3.1.2).
pub const SKIPPABLE_FIRST: std::ops::RangeInclusive<u8> = 0x50..=0x5f;
pub const SKIPPABLE_MAGIC: &[u8] = b"\x2a\x4d\x18";
/// The largest window (`RFC_9659_ZSTD_WINDOW_LOG_MAX` of LiteLLM 1.110.2): what needs more is an error.
const MAX_WINDOW_LOG: u32 = 23;
const MAX_WINDOW: u64 = 1 << MAX_WINDOW_LOG;
const MIN_WINDOW: u64 = 1 << 10;
/// What a decoder holds without its buffers, rounded up.
const BASE_BYTES: usize = 192 * 1024;
const MAX_BLOCK: u64 = 128 * 1024;
/// What a decoder of the largest window holds.
pub const MAX_DECODER_BYTES: usize = BASE_BYTES + (MAX_WINDOW + 3 * MAX_BLOCK) as usize;

pub struct ZstdDecoder {
    context: DCtx<'static>,
    input: Bytes,
    /// The last piece was filled, so that there may be more without more input.
    may_hold_more: bool,
    has_ended: bool,
}

impl ZstdDecoder {
    pub fn new() -> Self {
        let mut context = DCtx::create();
        let bounded = context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG));
        bounded.expect("it is within the bounds of the library");
        Self {
            context,
            input: Bytes::new(),
            may_hold_more: false,
            has_ended: false,
        }
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    pub fn step(&mut self, piece: &mut [u8]) -> Result<Step, Undecodable> {
        if self.has_ended {
            return match self.input.is_empty() {
                true => Ok(Step::Ended),
                false => Err(Undecodable),
            };
        }
        loop {
            if self.input.is_empty() && !self.may_hold_more {
                return Ok(Step::NeedsMore);
            }
            let mut input = InBuffer::around(&self.input);
            let mut output = OutBuffer::around(&mut *piece);
            let decoded = self.context.decompress_stream(&mut output, &mut input);
            let (read, written) = (input.pos(), output.pos());
            self.has_ended = decoded.map_err(|_| Undecodable)? == 0;
            self.may_hold_more = written == piece.len();
            self.input.advance(read);
            match (written, self.has_ended) {
                (1.., _) => return Ok(Step::Decoded(written)),
                (0, true) => return self.step(piece),
                // It would never come to an end.
                (0, false) if read == 0 && !self.input.is_empty() => return Err(Undecodable),
                (0, false) => {}
            }
        }
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.context.sizeof()
    }
}

/// Bytes that a decoder of the frame holds, by the frame's header (section 3.1.1.1). `None`: more of it is needed to tell.
pub fn decoder_bytes(frame: &[u8]) -> Option<usize> {
    let (magic, header) = frame.split_at_checked(MAGIC.len())?;
    if magic != MAGIC {
        return Some(BASE_BYTES);
    }
    let (descriptor, header) = header.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    let window = match is_single_segment {
        false => {
            let descriptor = u64::from(*header.first()?);
            let base = MIN_WINDOW << (descriptor >> 3);
            base + base / 8 * (descriptor & 7)
        }
        // As large as the content.
        true => {
            let dictionary_id = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let size = [1, 2, 4, 8][usize::from(descriptor >> 6)];
            let bytes = header.get(dictionary_id..dictionary_id + size)?;
            let size = bytes.iter().rfold(0, |size, byte| size << 8 | u64::from(*byte));
            // Two bytes begin where one ends.
            if bytes.len() == 2 { size + 256 } else { size }
        }
    };
    // It refuses such a frame before it makes room for it.
    if window > MAX_WINDOW {
        return Some(BASE_BYTES);
    }
    let window = window.max(MIN_WINDOW);
    // A block that comes, and two beside the window for what is decoded.
    let buffers = window + 3 * window.min(MAX_BLOCK);
    Some(BASE_BYTES + usize::try_from(buffers).unwrap_or(usize::MAX - BASE_BYTES))
}

#[cfg(test)]
mod tests;
