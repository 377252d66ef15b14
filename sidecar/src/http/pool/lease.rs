//! An answer's body together with what it comes over.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::shared::Stream;
use super::{Connection, HttpError, Pool};
use crate::http::framing;

pub struct Lease(LeasedFrom);

enum LeasedFrom {
    /// Goes back to its pool after a whole body, and is closed otherwise.
    Own {
        connection: Option<Connection>,
        home: Arc<Pool>,
    },
    /// Is reset with the body, unless that was whole.
    Shared { body: Incoming, _stream: Stream },
}

impl Lease {
    /// The head of the answer has come over the connection.
    pub fn new(connection: Connection, home: Arc<Pool>) -> Self {
        Self(LeasedFrom::Own {
            connection: Some(connection),
            home,
        })
    }

    /// Whether the length of the answer that has these headers, if any, is stated once and in one way.
    pub fn has_one_length(&self, headers: &HeaderMap) -> bool {
        match &self.0 {
            LeasedFrom::Own { connection, .. } => connection
                .as_ref()
                .is_some_and(|connection| connection.protocol.has_one_length()),
            LeasedFrom::Shared { .. } => framing::one_length(headers),
        }
    }

    pub fn shared(body: Incoming, stream: Stream) -> Self {
        Self(LeasedFrom::Shared {
            body,
            _stream: stream,
        })
    }
}

impl Body for Lease {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match &mut self.get_mut().0 {
            LeasedFrom::Own { connection, .. } => match connection {
                Some(connection) => connection.protocol.poll_frame(cx).map_err(HttpError::Http1),
                None => Poll::Ready(None),
            },
            LeasedFrom::Shared { body, .. } => Pin::new(body).poll_frame(cx).map_err(HttpError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            LeasedFrom::Own { connection, .. } => connection
                .as_ref()
                .is_none_or(|connection| connection.protocol.is_end_stream()),
            LeasedFrom::Shared { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            LeasedFrom::Own { connection, .. } => connection
                .as_ref()
                .map(|connection| connection.protocol.size_hint())
                .unwrap_or_default(),
            LeasedFrom::Shared { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let LeasedFrom::Own { connection, home } = &mut self.0
            && let Some(connection) = connection.take_if(|connection| connection.protocol.is_end_stream())
        {
            home.put(connection);
        }
    }
}
