//! Response bodies towards the client: each kind is one variant, so that a hop costs no allocation and no
//! virtual call a frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http::idle_timeout::IdleTimeout;
use crate::http::pool::Lease;
use crate::http::trailers;
use crate::proxy::audit::{AuditedCall, Outcome};
use crate::proxy::inbound::answered_call::AnsweredCall;
use crate::proxy::outbound::endpoint::EndpointRewriter;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub enum ResponseBody {
    /// An answer of the sidecar itself.
    Whole(Option<Bytes>),
    /// Passed on as it comes, without an idle timeout.
    Stream(Lease),
    /// Passed on as it comes, with an idle timeout.
    WithIdleTimeout(IdleTimeout<Lease>),
    /// Passed on from a connection of its own.
    Direct(Incoming),
    /// An event stream whose `endpoint` event is rewritten.
    Rewritten(Box<Rewritten>),
    /// Any of these, whose bytes and end are recorded.
    Audited(Box<Audited>),
    /// Any of these, of an answer to a user's tool call.
    Watched(Box<Watched>),
}

/// Judged when it is dropped.
pub struct Watched {
    body: ResponseBody,
    call: AnsweredCall,
}

pub struct Rewritten {
    body: Lease,
    rewriter: EndpointRewriter,
    is_complete: bool,
}

/// Decides when it is dropped whether the body was passed on to its end.
pub struct Audited {
    body: ResponseBody,
    call: AuditedCall,
    has_begun: bool,
    is_broken: bool,
    is_whole: bool,
}

impl ResponseBody {
    /// Records in `call` how the body ends.
    pub fn audited(self, call: AuditedCall) -> Self {
        Self::Audited(Box::new(Audited {
            body: self,
            call,
            has_begun: false,
            is_broken: false,
            is_whole: false,
        }))
    }

    /// Shows `call` the answer that passes.
    pub fn watched(self, call: AnsweredCall) -> Self {
        Self::Watched(Box::new(Watched { body: self, call }))
    }

    pub fn with_idle_timeout(body: Lease, timeout: Duration) -> Self {
        Self::WithIdleTimeout(IdleTimeout::new(body, timeout))
    }

    pub fn rewritten(body: Lease, rewriter: EndpointRewriter) -> Self {
        Self::Rewritten(Box::new(Rewritten {
            body,
            rewriter,
            is_complete: false,
        }))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(lease) => Pin::new(lease).poll_frame(cx).map_err(Into::into),
            Self::WithIdleTimeout(lease) => Pin::new(lease).poll_frame(cx).map_err(Into::into),
            Self::Direct(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Rewritten(rewritten) => return rewritten.poll_frame(cx),
            Self::Audited(audited) => return audited.poll_frame(cx),
            Self::Watched(watched) => return watched.poll_frame(cx),
        };
        frame.map_ok(trailers::strip_forbidden)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(lease) => lease.is_end_stream(),
            Self::WithIdleTimeout(lease) => lease.is_end_stream(),
            Self::Direct(body) => body.is_end_stream(),
            Self::Rewritten(rewritten) => rewritten.is_complete,
            Self::Audited(audited) => audited.body.is_end_stream(),
            Self::Watched(watched) => watched.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(lease) => lease.size_hint(),
            Self::WithIdleTimeout(lease) => lease.size_hint(),
            Self::Direct(body) => body.size_hint(),
            Self::Rewritten(_) => SizeHint::default(),
            Self::Audited(audited) => audited.body.size_hint(),
            Self::Watched(watched) => watched.body.size_hint(),
        }
    }
}

impl Rewritten {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.is_complete {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let refusal = self.rewriter.poll_refusal(cx);
                return refusal.map(|event| Some(Ok(Frame::data(event))));
            };
            let out = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.rewriter.pass(chunk),
                    // Clients of an event stream read no trailers.
                    Err(_) => continue,
                },
                None => {
                    self.is_complete = true;
                    self.rewriter.finish()
                }
            };
            self.is_complete |= self.rewriter.has_rejected();
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Watched {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(chunk) = frame.data_ref()
        {
            self.call.response_tap().pass(chunk);
        }
        Poll::Ready(frame)
    }
}

impl Audited {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(chunk) = frame.data_ref() {
                    self.has_begun = true;
                    self.call.add_response_bytes(chunk.len());
                }
            }
            Some(Err(_)) => self.is_broken = true,
            None => self.is_whole = true,
        }
        Poll::Ready(frame)
    }

    /// MCP clients close an event stream once they have read the answer they wait for.
    fn outcome(&self) -> Outcome {
        let is_stream = matches!(self.body, ResponseBody::Stream(_) | ResponseBody::Rewritten(_));
        let is_whole = self.is_whole || self.body.is_end_stream() || is_stream && self.has_begun;
        match (self.is_broken, is_whole) {
            (true, _) => Outcome::Broken,
            (false, true) => Outcome::Answered,
            (false, false) => Outcome::Cancelled,
        }
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let outcome = self.outcome();
        self.call.set_end(outcome);
    }
}
