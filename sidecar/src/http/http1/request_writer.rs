//! Request writer: sends a request's head and body, and asks for no more of the body than it can send.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
    MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::error::Http1Error;
use super::request_head::{self, BodyFraming};
use crate::http::idle_timeout::BodyError;

/// A chunk of a body up to this length is copied behind what waits to be sent, to be sent with it.
const MAX_COPIED: usize = 4 * 1024;
/// Of a connection that waits for its next request.
const MAX_KEPT_CAPACITY: usize = 4 * 1024;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Of one connection, which sends one request at a time.
pub struct RequestWriter<B> {
    /// To be sent first, from `sent` on.
    buffer: Vec<u8>,
    sent: usize,
    /// Then this, and what ends it.
    chunk: Bytes,
    chunk_end: &'static [u8],
    body: Option<B>,
    framing: BodyFraming,
    /// What was written may not be sent yet.
    is_unflushed: bool,
    has_failed: bool,
}

impl<B> RequestWriter<B> {
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            sent: 0,
            chunk: Bytes::new(),
            chunk_end: b"",
            body: None,
            framing: BodyFraming::Done,
            is_unflushed: false,
            has_failed: false,
        }
    }

    /// Whether all of the request is sent.
    pub fn is_done(&self) -> bool {
        self.body.is_none() && !self.is_unflushed && !self.has_failed
    }

    #[cfg(test)]
    pub fn body(&self) -> Option<&B> {
        self.body.as_ref()
    }

    #[cfg(test)]
    pub fn body_mut(&mut self) -> Option<&mut B> {
        self.body.as_mut()
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> RequestWriter<B> {
    /// Takes a request to be sent. The one before is. Returns its headers and whether it asks for the connection to end.
    pub fn begin(&mut self, request: Request<B>) -> (HeaderMap, bool) {
        let (parts, body) = request.into_parts();
        self.buffer.clear();
        self.sent = 0;
        let head = request_head::write(&mut self.buffer, &parts.method, &parts.uri, &parts.headers, &body);
        self.framing = head.framing;
        self.body = (self.framing != BodyFraming::Done).then_some(body);
        self.is_unflushed = true;
        (parts.headers, head.closes)
    }

    /// Sends what there is; ready once all of the request is sent. After an error nothing more is.
    pub fn poll_send<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Http1Error>> {
        if self.is_done() {
            return Poll::Ready(Ok(()));
        }
        if self.has_failed {
            return Poll::Pending;
        }
        let sent = self.poll_send_on(io, cx);
        if let Poll::Ready(Err(_)) = sent {
            self.has_failed = true;
            self.body = None;
        }
        sent
    }

    fn poll_send_on<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Http1Error>> {
        loop {
            self.poll_body(cx)?;
            if !self.has_bytes() {
                if self.is_unflushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Http1Error::Io)?;
                    self.is_unflushed = false;
                }
                return match self.body {
                    Some(_) => Poll::Pending,
                    None => {
                        self.buffer.clear();
                        self.buffer.shrink_to(MAX_KEPT_CAPACITY);
                        Poll::Ready(Ok(()))
                    }
                };
            }
            self.is_unflushed = true;
            match ready!(self.poll_write(io, cx)).map_err(Http1Error::Io)? {
                0 => return Poll::Ready(Err(Http1Error::Io(io::ErrorKind::WriteZero.into()))),
                written => self.advance(written),
            }
        }
    }

    fn has_bytes(&self) -> bool {
        self.sent < self.buffer.len() || !self.chunk.is_empty() || !self.chunk_end.is_empty()
    }

    /// Takes from the body what is there and can be sent now.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<(), Http1Error> {
        while self.chunk.is_empty()
            && self.chunk_end.is_empty()
            && self.buffer.len() - self.sent < MAX_COPIED
            && let Some(body) = &mut self.body
        {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                return Ok(());
            };
            let frame = match frame {
                Some(frame) => frame.map_err(Http1Error::RequestBody)?,
                None => {
                    self.end(None)?;
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.push(data, is_last)?;
                }
                Err(frame) => self.end(frame.into_trailers().ok())?,
            }
        }
        Ok(())
    }

    fn push(&mut self, mut data: Bytes, is_last: bool) -> Result<(), Http1Error> {
        match &mut self.framing {
            BodyFraming::Done => self.body = None,
            BodyFraming::Length(left) => {
                // Whatever a body has beyond its length would be taken for another request.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                let (is_sent, is_short) = (*left == 0, is_last && *left > 0);
                if is_short {
                    return Err(Http1Error::RequestBodyShort);
                }
                if is_sent {
                    self.body = None;
                }
                self.queue(data, b"");
            }
            BodyFraming::Chunked(_) if data.is_empty() => {
                if is_last {
                    self.end(None)?;
                }
            }
            BodyFraming::Chunked(_) => {
                self.make_room();
                push_hex(&mut self.buffer, data.len());
                match is_last {
                    true => {
                        self.body = None;
                        self.queue(data, b"\r\n0\r\n\r\n");
                    }
                    false => self.queue(data, b"\r\n"),
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Http1Error> {
        self.body = None;
        match &self.framing {
            BodyFraming::Done => {}
            BodyFraming::Length(_) => return Err(Http1Error::RequestBodyShort),
            BodyFraming::Chunked(announced) => match trailers {
                None => self.buffer.extend_from_slice(LAST_CHUNK),
                Some(trailers) => {
                    self.buffer.extend_from_slice(b"0\r\n");
                    for (name, value) in &trailers {
                        if announced.contains(name) && may_be_trailer(name) {
                            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                                self.buffer.extend_from_slice(part);
                            }
                        }
                    }
                    self.buffer.extend_from_slice(b"\r\n");
                }
            },
        }
        Ok(())
    }

    fn queue(&mut self, data: Bytes, end: &'static [u8]) {
        if data.len() <= MAX_COPIED {
            self.make_room();
            self.buffer.extend_from_slice(&data);
            self.buffer.extend_from_slice(end);
        } else {
            (self.chunk, self.chunk_end) = (data, end);
        }
    }

    /// What is sent makes room.
    fn make_room(&mut self) {
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
        } else if self.sent > MAX_COPIED {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn poll_write<T: AsyncWrite + Unpin>(&self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        let buffered = &self.buffer[self.sent..];
        if self.chunk.is_empty() && self.chunk_end.is_empty() {
            return io.poll_write(cx, buffered);
        }
        let parts = [buffered, &self.chunk, self.chunk_end];
        if io.is_write_vectored() {
            return io.poll_write_vectored(cx, &parts.map(IoSlice::new));
        }
        let first = parts.into_iter().find(|part| !part.is_empty());
        io.poll_write(cx, first.unwrap_or_default())
    }

    fn advance(&mut self, mut written: usize) {
        let of_buffer = written.min(self.buffer.len() - self.sent);
        self.sent += of_buffer;
        written -= of_buffer;
        let of_chunk = written.min(self.chunk.len());
        if of_chunk > 0 {
            self.chunk.advance(of_chunk);
            // An empty one would keep what it was a part of.
            if self.chunk.is_empty() {
                self.chunk = Bytes::new();
            }
        }
        self.chunk_end = &self.chunk_end[written - of_chunk..];
    }
}

fn push_hex(out: &mut Vec<u8>, size: usize) {
    let digits = size.max(1).ilog2() / 4 + 1;
    for place in (0..digits).rev() {
        let digit = (size >> (4 * place)) & 0xf;
        out.push(b"0123456789ABCDEF"[digit]);
    }
    out.extend_from_slice(b"\r\n");
}

/// None that frames, routes or describes the message (RFC 9110 section 6.5.1).
fn may_be_trailer(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 12] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TRAILER,
        TRANSFER_ENCODING,
        TE,
    ];
    !NEVER.contains(name)
}
