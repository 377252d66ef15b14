//! First-read notifier: wraps a connection, and tells a channel once the first bytes have come from the other
//! side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::sync::oneshot;

pub struct FirstReadNotifier<T> {
    io: T,
    notify: Option<oneshot::Sender<()>>,
}

impl<T> FirstReadNotifier<T> {
    pub fn new(io: T, notify: oneshot::Sender<()>) -> Self {
        Self {
            io,
            notify: Some(notify),
        }
    }
}

impl<T: Read + Unpin> Read for FirstReadNotifier<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        if let Some(notify) = self.notify.take() {
            // The receiver may have timed out.
            let _ = notify.send(());
        }
        Poll::Ready(read)
    }
}

impl<T: Write + Unpin> Write for FirstReadNotifier<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
