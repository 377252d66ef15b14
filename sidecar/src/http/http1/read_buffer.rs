//! Read buffer: what has come of an answer and is not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// What is read ahead of a client that takes its answer slowly, and so the longest head of an answer.
pub const MAX_BYTES: usize = 64 * 1024;
/// Room for a read, at first and at least.
const MIN_READ: usize = 8 * 1024;

pub struct ReadBuffer {
    pub bytes: BytesMut,
    /// Room for the next read: more while reads fill it, and less once two in a row would have fit into half.
    room: usize,
    had_little: bool,
}

impl ReadBuffer {
    pub fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            room: MIN_READ,
            had_little: false,
        }
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() >= MAX_BYTES
    }

    /// Reads once; 0 is the end. Not while it is full.
    pub fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let room = self.room.min(MAX_BYTES.saturating_sub(self.bytes.len()));
        if self.bytes.capacity() - self.bytes.len() < room {
            self.bytes.reserve(room);
        }
        let read = ready!(poll_read_buf(Pin::new(io), cx, &mut self.bytes))?;
        self.adapt(read);
        Poll::Ready(Ok(read))
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.room {
            self.room = (self.room * 2).min(MAX_BYTES);
            self.had_little = false;
        } else if self.room > MIN_READ && read < self.room / 2 {
            if self.had_little {
                self.room /= 2;
            }
            self.had_little = !self.had_little;
        } else {
            self.had_little = false;
        }
    }
}
