//! Request bodies towards LiteLLM or an MCP server: each kind is one variant, so that a hop costs no
//! allocation and no virtual call a frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http::body_progress::BodyProgress;
use crate::http::body_tap::BodyTap;
use crate::http::idle_timeout::{BodyError, IdleTimeout, REQUEST_IDLE_TIMEOUT};
use crate::http::json_encoding::EncodingCheck;
use crate::http::json_key_filter::KeyFilter;
use crate::http::trailers;

pub enum RequestBody {
    /// In memory, sent once.
    Whole(Option<Bytes>),
    /// As it comes from the client.
    Stream(IdleTimeout<Incoming>),
    /// A beginning that had to be read, then the rest as it comes.
    Resumed {
        first: Option<Bytes>,
        rest: IdleTimeout<Incoming>,
    },
    /// As it comes from a client that nobody has authenticated, whose progress counts.
    Watched(Watched),
    /// As it comes, without our header's name as a JSON key.
    Filtered(Box<Filtered>),
    /// Seen by a tap on its way.
    Tapped(Box<Tapped>),
}

pub struct Watched {
    body: IdleTimeout<Incoming>,
    progress: Arc<BodyProgress>,
}

pub struct Filtered {
    body: Watched,
    encoding: EncodingCheck,
    filter: KeyFilter,
    next: Option<Frame<Bytes>>,
}

pub struct Tapped {
    body: RequestBody,
    tap: Arc<BodyTap>,
}

impl RequestBody {
    pub fn stream(body: Incoming) -> Self {
        Self::Stream(IdleTimeout::new(body, REQUEST_IDLE_TIMEOUT))
    }

    /// `first` was read before.
    pub fn resumed(first: Bytes, rest: Incoming) -> Self {
        Self::Resumed {
            first: (!first.is_empty()).then_some(first),
            rest: IdleTimeout::new(rest, REQUEST_IDLE_TIMEOUT),
        }
    }

    /// Shows `tap` what passes.
    pub fn tapped(self, tap: Arc<BodyTap>) -> Self {
        Self::Tapped(Box::new(Tapped { body: self, tap }))
    }

    /// The body without its tap.
    pub fn untapped(self) -> Self {
        match self {
            Self::Tapped(tapped) => tapped.body.untapped(),
            body => body,
        }
    }

    pub fn watched(body: Incoming, progress: Arc<BodyProgress>) -> Self {
        Self::Watched(Watched::new(body, progress))
    }

    pub fn filtered(body: Incoming, progress: Arc<BodyProgress>) -> Self {
        Self::Filtered(Box::new(Filtered {
            body: Watched::new(body, progress),
            encoding: EncodingCheck::default(),
            filter: KeyFilter::default(),
            next: None,
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Resumed { first, rest } => match first.take() {
                Some(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(rest).poll_frame(cx),
            },
            Self::Watched(watched) => watched.poll_frame(cx),
            Self::Filtered(filtered) => filtered.poll_frame(cx),
            Self::Tapped(tapped) => return tapped.poll_frame(cx),
        };
        frame.map_ok(trailers::strip_forbidden)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Resumed { first, rest } => first.is_none() && rest.is_end_stream(),
            Self::Watched(watched) => watched.body.is_end_stream(),
            Self::Filtered(filtered) => {
                filtered.next.is_none() && !filtered.filter.is_holding() && filtered.body.body.is_end_stream()
            }
            Self::Tapped(tapped) => tapped.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(length(bytes.as_ref())),
            Self::Stream(body) => body.size_hint(),
            Self::Resumed { first, rest } => longer(rest.size_hint(), length(first.as_ref())),
            Self::Watched(watched) => watched.body.size_hint(),
            Self::Filtered(filtered) => {
                let next = filtered.next.as_ref().and_then(|frame| frame.data_ref());
                let withheld = u64::from(filtered.filter.is_holding());
                longer(filtered.body.body.size_hint(), length(next) + withheld)
            }
            Self::Tapped(tapped) => tapped.body.size_hint(),
        }
    }
}

impl Watched {
    fn new(body: Incoming, progress: Arc<BodyProgress>) -> Self {
        Self {
            body: IdleTimeout::new(body, REQUEST_IDLE_TIMEOUT),
            progress,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.progress.awaits(),
            Poll::Ready(Some(Ok(frame))) => self.progress.received(length(frame.data_ref()) as usize),
            Poll::Ready(Some(Err(_)) | None) => self.progress.ended(),
        }
        frame
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.progress.ended();
    }
}

impl Filtered {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.next.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let withheld = match ready!(self.body.poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => match self.filter.finish() {
                    Some(byte) => Some(byte),
                    None => return Poll::Ready(None),
                },
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        if !self.encoding.may_be_utf8(&chunk) {
                            return Poll::Ready(Some(Err(BodyError::NotUtf8)));
                        }
                        let (before, chunk) = match self.body.body.is_end_stream() {
                            true => self.filter.pass_last(chunk),
                            false => self.filter.pass(chunk),
                        };
                        self.next = (!chunk.is_empty()).then(|| Frame::data(chunk));
                        before
                    }
                    Err(trailers) => {
                        self.next = Some(trailers);
                        self.filter.finish()
                    }
                },
            };
            if let Some(byte) = withheld {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&[byte])))));
            }
        }
    }
}

impl Tapped {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(chunk) = frame.data_ref()
        {
            self.tap.pass(chunk);
        }
        Poll::Ready(frame)
    }
}

fn length(bytes: Option<&Bytes>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

fn longer(mut hint: SizeHint, by: u64) -> SizeHint {
    // The upper bound first: a lower bound above it is refused by a panic.
    if let Some(upper) = hint.upper() {
        hint.set_upper(upper.saturating_add(by));
    }
    hint.set_lower(hint.lower().saturating_add(by));
    hint
}
