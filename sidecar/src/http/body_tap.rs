//! Body tap: counts the bytes of a body that passes, and keeps its beginning.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes that are kept.
const MAX_KEPT: usize = 64 * 1024;

/// Shared by the body and by whoever looks at it later.
#[derive(Default)]
pub struct BodyTap {
    bytes: AtomicU64,
    beginning: Mutex<Beginning>,
}

#[derive(Default)]
struct Beginning {
    chunks: Vec<Bytes>,
    length: usize,
}

impl BodyTap {
    pub fn pass(&self, chunk: &Bytes) {
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let mut beginning = self.beginning.lock();
        let length = chunk.len().min(MAX_KEPT - beginning.length);
        if length > 0 {
            beginning.length += length;
            beginning.chunks.push(chunk.slice(..length));
        }
    }

    /// Bytes that have passed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are kept so far.
    pub fn kept(&self) -> usize {
        self.beginning.lock().length
    }

    /// The beginning of the body.
    pub fn beginning(&self) -> Vec<u8> {
        self.beginning.lock().chunks.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_counted_and_the_first_are_kept() {
        let tap = BodyTap::default();
        tap.pass(&Bytes::from_static(b"ab"));
        tap.pass(&Bytes::from(vec![b'x'; MAX_KEPT]));
        tap.pass(&Bytes::from_static(b"more"));
        assert_eq!(tap.bytes(), 2 + MAX_KEPT as u64 + 4);
        assert_eq!(tap.kept(), MAX_KEPT);
        assert_eq!(tap.beginning().len(), MAX_KEPT);
        assert!(tap.beginning().starts_with(b"abx"));
    }
}
