//! HTTP/1.1 client: one connection, which carries one request at a time (RFC 9112). Whoever waits for the answer, and then
//! whoever takes its body, drives it: there is no task, no channel and no timer in it, and nothing is read that nobody asked for.
//! What ends the connection, an answer that is not understood in one way only included, is decided here; when one is opened,
//! kept and closed is the pool's.

mod answer_head;
mod body_decoder;
mod content_length;
mod error;
mod interim;
mod preamble;
mod read_buffer;
mod request_head;
mod request_writer;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::idle_timeout::BodyError;
use body_decoder::{BodyDecoder, Decoded};
pub use error::{Http1Error, is_reset};
pub use interim::OnInterim;
use preamble::Preamble;
use read_buffer::ReadBuffer;
use request_writer::RequestWriter;

pub struct Connection<T, B> {
    io: T,
    read: ReadBuffer,
    writer: RequestWriter<B>,
    state: State,
    /// How the answer's body ends.
    body: BodyDecoder,
    /// Bytes of a head in which its end was not found.
    seen: usize,
    /// What came before the head of the answer.
    preamble: Preamble,
    /// Of the request, empty: those of the answer take its place.
    headers: HeaderMap,
    on_interim: Option<OnInterim>,
    is_head_request: bool,
    /// Whether it may go on after this answer.
    is_reusable: bool,
    has_one_length: bool,
    has_keep_alive: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// No request has begun.
    Idle,
    AwaitsAnswer,
    /// The head of the answer has come.
    Answers,
    Failed,
}

impl<T, B> Connection<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    pub fn new(io: T) -> Self {
        Self {
            io,
            read: ReadBuffer::new(),
            writer: RequestWriter::new(),
            state: State::Idle,
            body: BodyDecoder::Done,
            seen: 0,
            preamble: Preamble::default(),
            headers: HeaderMap::new(),
            on_interim: None,
            is_head_request: false,
            is_reusable: true,
            has_one_length: false,
            has_keep_alive: false,
        }
    }

    /// Takes a request to be sent. The connection is at rest.
    pub fn begin(&mut self, mut request: Request<B>) {
        self.on_interim = match request.extensions().is_empty() {
            true => None,
            false => request.extensions_mut().remove(),
        };
        self.is_head_request = request.method() == Method::HEAD;
        let (headers, closes) = self.writer.begin(request);
        self.headers = headers;
        self.headers.clear();
        self.is_reusable = !closes;
        self.seen = 0;
        self.preamble = Preamble::default();
        self.state = State::AwaitsAnswer;
    }

    /// Sends the request, and waits for the head of its answer. That may come before all of the request is sent, which then
    /// goes on with the answer's body.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        let answer = self.poll_head(cx);
        if let Poll::Ready(Err(_)) = answer {
            self.state = State::Failed;
        }
        answer
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        let sent = self.writer.poll_send(&mut self.io, cx);
        match (sent, self.poll_read_head(cx)) {
            (Poll::Ready(Err(error)), _) if error.is_of_request() => Poll::Ready(Err(error)),
            // A server may answer, and close before it has read the request: what it has answered counts.
            (_, Poll::Ready(answer)) => Poll::Ready(answer),
            // It may have come, and not be told yet. What is reset is readable soon in any case: the answer, or its end.
            (Poll::Ready(Err(Http1Error::Io(error))), Poll::Pending) if is_reset(&error) => Poll::Pending,
            (Poll::Ready(Err(error)), Poll::Pending) => Poll::Ready(Err(error)),
            (_, Poll::Pending) => Poll::Pending,
        }
    }

    fn poll_read_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        loop {
            let buffer = &mut self.read.bytes;
            if self.preamble.skip_empty_lines(buffer)? {
                self.seen = 0;
            }
            // The beginning is looked at in any case, which may be no head; what follows, once it may end there.
            let may_be_whole =
                !buffer.is_empty() && (self.seen == 0 || answer_head::may_end(buffer, self.seen));
            if may_be_whole
                && let Some(head) = answer_head::parse(buffer, &mut self.headers, self.is_head_request)?
            {
                self.seen = 0;
                if head.is_interim {
                    self.preamble.count_interim(head.bytes)?;
                    self.pass_interim(head.response);
                    continue;
                }
                self.on_interim = None;
                self.body = head.body;
                self.is_reusable &= head.is_reusable;
                self.has_one_length = head.has_one_length;
                self.has_keep_alive = head.has_keep_alive;
                self.state = State::Answers;
                return Poll::Ready(Ok(head.response));
            }
            if self.read.is_full() {
                return Poll::Ready(Err(Http1Error::HeadTooLarge));
            }
            self.seen = self.read.bytes.len();
            match ready!(self.read.poll_read(&mut self.io, cx)) {
                Ok(0) => return Poll::Ready(Err(Http1Error::Incomplete)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Http1Error::Io(error))),
            }
        }
    }

    fn pass_interim(&mut self, answer: Response<()>) {
        if let Some(on_interim) = &self.on_interim {
            on_interim.call(answer.status(), answer.headers());
        }
        self.headers = answer.into_parts().0.headers;
        self.headers.clear();
    }

    /// The next part of the answer's body, `None` at its end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        if self.state != State::Answers {
            return Poll::Ready(None);
        }
        let frame = self.poll_body(cx);
        if let Poll::Ready(Err(_)) = frame {
            self.state = State::Failed;
        }
        frame.map(Result::transpose)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Http1Error>> {
        // A server that takes no more of the request has answered it.
        if let Poll::Ready(Err(error)) = self.writer.poll_send(&mut self.io, cx)
            && error.is_of_request()
        {
            return Poll::Ready(Err(error));
        }
        loop {
            match self.body.decode(&mut self.read.bytes)? {
                Decoded::Frame(frame) => return Poll::Ready(Ok(Some(frame))),
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::Unfinished => {}
            }
            if ready!(self.read.poll_read(&mut self.io, cx)).map_err(Http1Error::Io)? == 0 {
                self.is_reusable = false;
                self.body.end_of_input()?;
            }
        }
    }

    /// Whether the length of the answer, if any, is stated once and in one way. It is understood in one way here, which not every
    /// client does.
    pub fn has_one_length(&self) -> bool {
        self.has_one_length
    }

    /// Whether the answer says how long the server keeps connections.
    pub fn has_keep_alive(&self) -> bool {
        self.has_keep_alive
    }

    /// Whether the last byte of the answer's body was taken.
    pub fn is_end_stream(&self) -> bool {
        self.state == State::Answers && self.body.is_done()
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.body.remaining() {
            Some(left) if self.state == State::Answers => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// Whether it waits for a request, and nothing has come that nobody asked for.
    pub fn is_at_rest(&self) -> bool {
        let is_over = match self.state {
            State::Idle => true,
            State::Answers => self.body.is_done() && self.writer.is_done(),
            State::AwaitsAnswer | State::Failed => false,
        };
        is_over && self.is_reusable && self.read.bytes.is_empty()
    }

    /// `Err` if the other side has closed it, or has sent something, while it was at rest. Nobody needs waking.
    pub fn look(&mut self) -> Result<(), Http1Error> {
        if !self.is_at_rest() {
            return Err(Http1Error::Unasked);
        }
        let read = self
            .read
            .poll_read(&mut self.io, &mut Context::from_waker(Waker::noop()));
        let ended = match read {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => Http1Error::Incomplete,
            Poll::Ready(Ok(_)) => Http1Error::Unasked,
            Poll::Ready(Err(error)) => Http1Error::Io(error),
        };
        self.state = State::Failed;
        Err(ended)
    }

    /// Tells the other side that no more comes, as far as it can be told at once: it is closed by being dropped.
    pub fn shut_down(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.io).poll_shutdown(&mut cx);
    }
}
