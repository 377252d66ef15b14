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
use crate::http::content_coding::{CodedBody, ContentCoding, DecoderLimit, Look};
use crate::http::idle_timeout::{BodyError, IdleTimeout, REQUEST_IDLE_TIMEOUT};
use crate::http::json_encoding::{EncodingCheck, FormCheck};
use crate::http::json_key_filter::{KeyFilter, ServerNames};
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
    /// As it comes from a client that nobody has authenticated, whose progress counts, without our header's name as a JSON key.
    Filtered(Box<Filtered>),
    /// Seen by a tap on its way.
    Tapped(Box<Tapped>),
}

struct Watched {
    body: IdleTimeout<Incoming>,
    progress: Arc<BodyProgress>,
}

/// How a body of a client is to be read.
pub struct FilterSettings {
    pub is_said_to_be_form: bool,
    /// For which it may set no headers.
    pub servers: ServerNames,
    /// The coding that its headers state, and how many such bodies are decoded at a time.
    pub coding: Option<(ContentCoding, DecoderLimit)>,
}

pub struct Filtered {
    body: Watched,
    form: FormCheck,
    /// Where the headers say that the body is encoded.
    coded: Option<CodedBody>,
    /// A chunk that is looked into.
    coded_chunk: Option<Bytes>,
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

    pub fn filtered(body: Incoming, progress: Arc<BodyProgress>, settings: FilterSettings) -> Self {
        let FilterSettings {
            is_said_to_be_form,
            servers,
            coding,
        } = settings;
        let form = || FormCheck::new(is_said_to_be_form);
        let filter = || KeyFilter::new(servers.clone());
        let coded = |(coding, limit)| CodedBody::new(coding, limit, progress.clone(), form(), filter());
        Self::Filtered(Box::new(Filtered {
            form: form(),
            coded: coding.map(coded),
            body: Watched::new(body, progress),
            coded_chunk: None,
            encoding: EncodingCheck::default(),
            filter: filter(),
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
            Self::Filtered(filtered) => {
                filtered.next.is_none()
                    && filtered.coded_chunk.is_none()
                    && !filtered.filter.is_holding()
                    && filtered.body.body.is_end_stream()
            }
            Self::Tapped(tapped) => tapped.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(length(bytes.as_ref())),
            Self::Stream(body) => body.size_hint(),
            Self::Resumed { first, rest } => longer(rest.size_hint(), length(first.as_ref())),
            Self::Filtered(filtered) => {
                let next = filtered.next.as_ref().and_then(|frame| frame.data_ref());
                let withheld = u64::from(filtered.filter.is_holding());
                let coded = length(filtered.coded_chunk.as_ref());
                longer(filtered.body.body.size_hint(), length(next) + coded + withheld)
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
        if let Some(coded) = &self.coded {
            coded.check(cx)?;
        }
        loop {
            if let Some(frame) = self.next.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let withheld = if self.coded_chunk.is_some() {
                ready!(self.poll_coded(cx))?
            } else {
                match ready!(self.body.poll_frame(cx)) {
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => match self.filter.finish() {
                        Some(byte) => Some(byte),
                        None => return Poll::Ready(None),
                    },
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(chunk) => match &mut self.coded {
                            Some(coded) => {
                                coded.push(&chunk)?;
                                self.coded_chunk = Some(chunk);
                                continue;
                            }
                            None => self.filter(chunk)?,
                        },
                        Err(trailers) => {
                            self.next = Some(trailers);
                            self.filter.finish()
                        }
                    },
                }
            };
            if let Some(byte) = withheld {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&[byte])))));
            }
        }
    }

    /// Looks into a chunk that may be encoded, as far as one turn goes.
    fn poll_coded(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u8>, BodyError>> {
        let Some((coded, chunk)) = self.coded.as_mut().zip(self.coded_chunk.take()) else {
            return Poll::Ready(Ok(None));
        };
        match coded.look()? {
            Look::Unfinished => {
                self.coded_chunk = Some(chunk);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Look::Encoded => self.next = Some(Frame::data(chunk)),
            Look::Identity => return Poll::Ready(self.filter(chunk)),
        }
        Poll::Ready(Ok(None))
    }

    /// What is to be sent of a chunk is `next`, after the byte that was held back of the one before.
    fn filter(&mut self, chunk: Bytes) -> Result<Option<u8>, BodyError> {
        if !self.form.may_be_json(&chunk) {
            self.next = Some(Frame::data(chunk));
            return Ok(None);
        }
        if !self.encoding.may_be_utf8(&chunk) {
            return Err(BodyError::NotUtf8);
        }
        let (before, chunk) = match self.body.body.is_end_stream() {
            true => self.filter.pass_last(chunk),
            false => self.filter.pass(chunk),
        };
        self.next = (!chunk.is_empty()).then(|| Frame::data(chunk));
        Ok(before)
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
