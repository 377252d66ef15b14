//! A request that is being answered, and the body of its answer, by which it shows whether the client takes it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};

use super::entry::Entry;
use super::{HEADER_BYTES, Load, REQUEST_BYTES, UNREAD_BYTES, Waiting};
use crate::http::body_progress::BodyProgress;
use crate::proxy::response_body::{BoxError, ResponseBody};

/// Counts until this is dropped.
pub struct RequestInProgress {
    load: Arc<Load>,
    entry: Arc<Entry>,
    /// Over HTTP/2: entered by itself, beside the others of its connection.
    id: Option<u64>,
    /// What it was charged with.
    bytes: usize,
}

/// The body of an answer. As long as the protocol asks for no more of it, its client takes nothing.
pub struct WatchedBody(RequestInProgress);

#[derive(Debug, thiserror::Error)]
#[error("the answer was ended: its client took none of it for long, and others needed the memory")]
struct EndedError;

impl RequestInProgress {
    /// `Err`: there is no room for it; this is what is answered with that error.
    pub(super) fn begin<B>(
        load: &Arc<Load>,
        connection: &Arc<Entry>,
        request: &Request<B>,
    ) -> Result<Self, Self> {
        connection.request_began();
        let bytes = REQUEST_BYTES + head_bytes(request, connection.is_http2());
        let is_admitted = load.may_begin(connection, bytes);
        let (entry, id) = match connection.is_http2() {
            false => (connection.clone(), None),
            true => {
                let stream = Arc::new(Entry::stream(load.now(), connection.clone()));
                (stream.clone(), Some(load.enter(stream)))
            }
        };
        let mut request = Self {
            load: load.clone(),
            entry,
            id,
            bytes: 0,
        };
        if !is_admitted {
            return Err(request);
        }
        request.bytes = bytes;
        request.entry.is_answered();
        load.requests.fetch_add(1, Ordering::Relaxed);
        load.charge(&request.entry, bytes);
        Ok(request)
    }

    /// What is to be told of the request's body.
    pub fn body_progress(&self) -> &Arc<BodyProgress> {
        self.entry.body_progress()
    }

    /// Returns when the request is to end, over HTTP/2 by itself.
    pub async fn ended(&self) {
        poll_fn(|cx| self.entry.poll_ended(cx)).await;
    }

    /// The answer, which this belongs to from now on.
    pub fn answer(self, response: Response<ResponseBody>) -> Response<WatchedBody> {
        response.map(|body| {
            if !self.entry.has_ended() {
                *self.entry.body.lock() = Some(body);
            }
            WatchedBody(self)
        })
    }

    fn set_unread(&self, is_unread: bool) {
        if self.entry.set_body_unread(is_unread, || self.load.now()) {
            self.load.unread_changed(&self.entry);
        }
    }
}

impl Load {
    /// Whether another request of so many bytes may be answered. Ends those for it whose client takes nothing, or sends
    /// nothing.
    fn may_begin(&self, connection: &Entry, bytes: usize) -> bool {
        let has_room = || self.requests.load(Ordering::Relaxed) < self.bounds.requests;
        if !has_room() {
            let holds_a_request = |waiting| matches!(waiting, Waiting::Unread | Waiting::Body);
            self.shed(holds_a_request, Some(connection), has_room);
        }
        has_room() && self.make_room(bytes, Some(connection))
    }

    /// The client of this one has begun to take nothing, or takes again.
    pub(super) fn unread_changed(&self, entry: &Entry) {
        // What was ended is freed as a whole.
        if entry.has_ended() {
            return;
        }
        if !entry.is_unread() {
            self.discharge(entry, UNREAD_BYTES);
        } else if self.make_room(UNREAD_BYTES, Some(entry)) {
            self.charge(entry, UNREAD_BYTES);
        } else {
            self.end(entry);
        }
    }
}

/// What the headers of a request take until it is over. They are written anew for the next server, into a buffer that stays as
/// long as the connection there. Those of HTTP/1.1 lie in the read buffer besides, which counts by itself; those of HTTP/2 are
/// as long as their table makes them, however short what was sent.
fn head_bytes<B>(request: &Request<B>, is_http2: bool) -> usize {
    let headers = request.headers();
    let text = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query();
    let text = text.sum::<usize>() + target.map_or(0, |target| target.as_str().len());
    let copies = if is_http2 { 2 } else { 1 };
    copies * text + headers.len() * HEADER_BYTES
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        *self.entry.body.lock() = None;
        self.set_unread(false);
        match self.id {
            Some(id) => {
                let had_ended = self.entry.has_ended();
                self.load.leave(id);
                if let Some(connection) = self.entry.of_connection()
                    && !had_ended
                    && connection.stream_ended()
                {
                    connection.waits_for_next(self.load.now());
                }
            }
            None => {
                self.load.request_is_over(&self.entry);
                self.load.discharge(&self.entry, self.bytes + self.entry.land());
                self.entry.waits_for_next(self.load.now());
            }
        }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let request = &self.0;
        request.set_unread(false);
        let frame = match request.entry.body.lock().as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => return Poll::Ready(Some(Err(EndedError.into()))),
        };
        if let Poll::Ready(Some(Ok(_))) = &frame {
            request.set_unread(true);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        let body = self.0.entry.body.lock();
        body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.entry.body.lock();
        body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
