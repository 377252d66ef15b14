//! Body tap: counts the bytes of a body that passes, and keeps its beginning.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Shared by the body and by whoever looks at it later.
pub struct BodyTap {
    bytes: AtomicU64,
    beginning: Mutex<Beginning>,
}

/// A copy: a slice would keep the whole buffer that the bytes were read into, and a body may come in chunks of one byte.
#[derive(Default)]
struct Beginning {
    bytes: Vec<u8>,
    room: usize,
}

impl BodyTap {
    /// Keeps at most so many bytes.
    pub fn keeping(max_kept: usize) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            beginning: Mutex::new(Beginning {
                bytes: Vec::new(),
                room: max_kept,
            }),
        }
    }

    pub fn pass(&self, chunk: &Bytes) {
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let mut beginning = self.beginning.lock();
        let length = chunk.len().min(beginning.room);
        if length > 0 {
            beginning.room -= length;
            beginning.bytes.extend_from_slice(&chunk[..length]);
        }
    }

    /// Bytes that have passed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are kept so far.
    pub fn kept(&self) -> usize {
        self.beginning.lock().bytes.len()
    }

    /// The beginning of the body.
    pub fn beginning(&self) -> Vec<u8> {
        self.beginning.lock().bytes.clone()
    }

    /// All that has passed, unless that was more than is kept. Nothing more is kept from now on.
    pub fn take_whole(&self) -> Option<Vec<u8>> {
        let kept = std::mem::take(&mut *self.beginning.lock()).bytes;
        (self.bytes() == kept.len() as u64).then_some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_KEPT: usize = 1024;

    #[test]
    fn all_bytes_are_counted_and_the_first_are_kept() {
        let tap = BodyTap::keeping(MAX_KEPT);
        tap.pass(&Bytes::from_static(b"ab"));
        tap.pass(&Bytes::from(vec![b'x'; MAX_KEPT]));
        tap.pass(&Bytes::from_static(b"more"));
        assert_eq!(tap.bytes(), 2 + MAX_KEPT as u64 + 4);
        assert_eq!(tap.kept(), MAX_KEPT);
        assert_eq!(tap.beginning().len(), MAX_KEPT);
        assert!(tap.beginning().starts_with(b"abx"));
        assert_eq!(tap.take_whole(), None);
    }

    #[test]
    fn chunks_of_one_byte_hold_no_more_than_is_kept_and_no_buffer_that_they_were_read_into() {
        let tap = BodyTap::keeping(MAX_KEPT);
        let read = Bytes::from(vec![b'x'; 2 * MAX_KEPT]);
        for place in 0..read.len() {
            tap.pass(&read.slice(place..place + 1));
        }
        assert!(read.is_unique(), "the buffer is let go of");
        assert_eq!(tap.kept(), MAX_KEPT);
        assert!(tap.beginning.lock().bytes.capacity() <= MAX_KEPT);
    }

    #[test]
    fn what_was_taken_is_kept_no_more() {
        let tap = BodyTap::keeping(MAX_KEPT);
        tap.pass(&Bytes::from_static(b"whole"));
        assert_eq!(tap.take_whole().as_deref(), Some(&b"whole"[..]));
        tap.pass(&Bytes::from_static(b"more"));
        assert_eq!((tap.kept(), tap.take_whole()), (0, None));
    }
}
