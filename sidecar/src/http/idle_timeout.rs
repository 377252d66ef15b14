//! Idle timeout: fails a body whose next part does not come in time. A peer that has stopped in the middle
//! of a message would hold a connection on each side of us. Event streams have none, since they may be silent
//! for hours; TCP keep-alive detects a dead peer there.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::http::pool::HttpError;

/// Longest silence in the middle of a request's body.
pub const REQUEST_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Wraps a body, and fails it after a silence of `timeout`.
pub struct IdleTimeout<B> {
    body: B,
    timeout: Duration,
    /// Made when there is first something to wait for, which many bodies never have.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// Why a body did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body broke off, or is malformed")]
    Broken(#[from] hyper::Error),
    #[error("the answer broke off, or is malformed")]
    BrokenAnswer(#[source] Box<HttpError>),
    #[error("nothing of the body came for {} seconds", .0.as_secs())]
    IdleTimeout(Duration),
    #[error("the body is JSON in UTF-16 or UTF-32")]
    NotUtf8,
    #[error("the body is compressed, and names our header as a JSON key")]
    NamesHeaders,
    #[error("the body is not what its Content-Encoding says")]
    Undecodable,
    #[error("as many compressed bodies are looked into as there is memory for")]
    NoDecoder,
}

impl<B> IdleTimeout<B> {
    pub fn new(body: B, timeout: Duration) -> Self {
        Self {
            body,
            timeout,
            timer: None,
            waiting: false,
        }
    }

    pub fn into_inner(self) -> B {
        self.body
    }

    fn timer(&mut self) -> Pin<&mut Sleep> {
        let timeout = self.timeout;
        let fresh = self.timer.is_none();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        // Only a timer that begins now: the time in which the body was not polled is not the peer's.
        if !self.waiting && !fresh {
            timer.as_mut().reset(Instant::now() + timeout);
        }
        self.waiting = true;
        timer.as_mut()
    }
}

impl<B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin> Body for IdleTimeout<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match this.timer().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::IdleTimeout(this.timeout)))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<HttpError> for BodyError {
    fn from(error: HttpError) -> Self {
        Self::BrokenAnswer(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    struct Parts(mpsc::UnboundedReceiver<Bytes>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
            self.0
                .poll_recv(cx)
                .map(|part| part.map(|part| Ok(Frame::data(part))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up_and_one_that_drips_is_not() {
        let (sender, parts) = mpsc::unbounded_channel();
        let mut body = IdleTimeout::new(Parts(parts), REQUEST_IDLE_TIMEOUT);
        let dripping = tokio::spawn(async move {
            for _ in 0..100 {
                tokio::time::sleep(REQUEST_IDLE_TIMEOUT - Duration::from_secs(1)).await;
                sender.send(Bytes::from_static(b"x")).unwrap();
            }
            sender
        });
        for _ in 0..100 {
            assert!(body.frame().await.unwrap().is_ok());
        }
        let _sender = dripping.await.unwrap();
        let begun = Instant::now();
        assert!(matches!(body.frame().await, Some(Err(BodyError::IdleTimeout(_)))));
        assert_eq!(begun.elapsed(), REQUEST_IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn time_between_reads_does_not_count_as_the_peers_silence() {
        let (sender, parts) = mpsc::unbounded_channel();
        let mut body = IdleTimeout::new(Parts(parts), REQUEST_IDLE_TIMEOUT);
        let frame = tokio::time::timeout(Duration::from_secs(1), body.frame());
        assert!(frame.await.is_err(), "the timer has begun");
        sender.send(Bytes::from_static(b"x")).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::advance(10 * REQUEST_IDLE_TIMEOUT).await;
        let frame = tokio::time::timeout(Duration::from_secs(1), body.frame());
        assert!(frame.await.is_err(), "a new one has, and is not over");
    }
}
