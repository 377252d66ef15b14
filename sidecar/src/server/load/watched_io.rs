//! Counts what the read buffer of a client's connection holds, and notes whether the client takes what is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::entry::Entry;
use super::{BODY_BUFFERS, FREE_READ_BYTES, Load};

/// The connection may be asked about by a sweep as well, in between.
pub struct WatchedIo<T> {
    /// Read before, and to be read once more before anything else.
    unread: Bytes,
    io: Arc<Mutex<T>>,
    load: Arc<Load>,
    entry: Arc<Entry>,
}

impl<T> WatchedIo<T> {
    pub(super) fn new(io: Arc<Mutex<T>>, load: Arc<Load>, entry: Arc<Entry>) -> Self {
        let unread = Bytes::new();
        Self {
            unread,
            io,
            load,
            entry,
        }
    }

    pub(super) fn with_unread(self, unread: Bytes) -> Self {
        Self { unread, ..self }
    }

    fn read(&self, bytes: usize) {
        let Some(buffered) = self.entry.read(bytes, || self.load.now()) else {
            return;
        };
        if buffered <= FREE_READ_BYTES {
            return;
        }
        let in_flight = self.entry.fly(BODY_BUFFERS * buffered);
        let more = self.entry.grow(buffered - FREE_READ_BYTES) + in_flight;
        if more == 0 {
            return;
        }
        if self.load.make_room(more, Some(&self.entry)) {
            self.load.charge(&self.entry, more);
        } else {
            self.load.end(&self.entry);
        }
    }

    fn written<R>(&self, written: Poll<R>) -> Poll<R> {
        if self
            .entry
            .set_socket_full(written.is_pending(), || self.load.now())
        {
            self.load.unread_changed(&self.entry);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(length));
            self.read(length);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut *self.io.lock()).poll_read(cx, buffer))?;
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.read(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io.lock()).poll_write(cx, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io.lock()).poll_write_vectored(cx, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.lock().is_write_vectored()
    }

    /// hyper flushes when it has nothing left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(interim) = self.entry.waiting_interim_answers() {
            let written = interim.poll_write(Pin::new(&mut *self.io.lock()), cx);
            ready!(self.written(written))?;
        }
        Pin::new(&mut *self.io.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.lock()).poll_shutdown(cx)
    }
}
