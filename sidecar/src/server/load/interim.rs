//! Interim answers (RFC 9110 section 15.2), such as 103 with early hints: passed on to a client over HTTP/1.1. hyper's server gives
//! one answer to a request and has no way to send others, so they are written beside it, whenever it has nothing left to
//! write, and always before the answer itself.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use futures::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

/// Waiting for the client to take them. What is beyond that is dropped: a client does without.
const MAX_WAITING_BYTES: usize = 8 * 1024;

/// Those of one connection, of the request that is being answered.
#[derive(Debug, Default)]
pub struct InterimAnswers {
    is_waiting: AtomicBool,
    waiting: Mutex<BytesMut>,
    /// Of the connection's task.
    waker: AtomicWaker,
}

impl InterimAnswers {
    /// Takes one to be written. 100 and 101 are for the connection that they come over.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        if !matches!(status.as_u16(), 102..=199) {
            return;
        }
        let mut head = BytesMut::new().writer();
        let reason = status.canonical_reason().unwrap_or_default();
        // Cannot fail: it is memory.
        let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
        let mut head = head.into_inner();
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut waiting = self.waiting.lock();
        if waiting.len() + head.len() <= MAX_WAITING_BYTES {
            waiting.unsplit(head);
            self.is_waiting.store(true, Relaxed);
            self.wake();
        }
    }

    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Relaxed)
    }

    /// Writes what waits. Only while nothing of an answer is to be written.
    pub fn poll_write(
        &self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut waiting = self.waiting.lock();
        while !waiting.is_empty() {
            match ready!(io.as_mut().poll_write(cx, &waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => waiting.advance(written),
            }
        }
        *waiting = BytesMut::new();
        self.is_waiting.store(false, Relaxed);
        self.wake();
        Poll::Ready(Ok(()))
    }

    /// The connection's task is the one that polls this: it is woken whenever there is one to be written.
    pub async fn watch(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            Poll::Ready(())
        })
        .await;
    }

    /// Returns when all are written.
    pub async fn written(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.is_waiting() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// And the next one will wake it again.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.register(&waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use http::HeaderValue;
    use http::header::LINK;

    use super::*;

    #[tokio::test]
    async fn they_are_written_before_the_answer_and_not_without_bound() {
        let interim = InterimAnswers::default();
        let link = HeaderMap::from_iter([(LINK, HeaderValue::from_static("</x>"))]);
        for status in [100, 101, 200] {
            interim.push(StatusCode::from_u16(status).unwrap(), &link);
        }
        assert!(!interim.is_waiting());
        interim.written().await;

        for _ in 0..10_000 {
            interim.push(StatusCode::EARLY_HINTS, &link);
        }
        let (mut client, mut io) = tokio::io::duplex(1 << 20);
        let mut written = pin!(interim.written());
        assert!(futures::poll!(written.as_mut()).is_pending());
        poll_fn(|cx| interim.poll_write(Pin::new(&mut io), cx))
            .await
            .unwrap();
        written.await;
        drop(io);
        let mut read = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut client, &mut read)
            .await
            .unwrap();
        let one = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
        assert_eq!(read, one.repeat(MAX_WAITING_BYTES / one.len()));
    }
}
