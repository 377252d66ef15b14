//! Upgrades: takes a sidecar's stream out of HTTP, by [`UPGRADE`]. What goes over the connection stays the same lines, and hyper's
//! two buffers of 8 kB, which each connection has for as long as it is HTTP's, go.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::{Stream, StreamExt, stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::UPGRADE;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tracing::debug;

use crate::connection_bounds::Place;

/// Longest wait until HTTP hands the connection over: the answer must have been sent.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait to tell a sidecar that its stream has ended.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// Read at once: a report that acknowledges is a tenth of it.
const READ_BYTES: usize = 4096;

/// A connection that is about to leave HTTP.
pub struct StreamUpgrade {
    connection: OnUpgrade,
    /// What it takes of the listener's bounds, for as long as the stream lives.
    place: Option<Arc<Place>>,
}

/// What a sidecar says after HTTP.
pub type FromSidecar = ReadHalf<TokioIo<Upgraded>>;
/// What it is told.
pub struct ToSidecar {
    writer: WriteHalf<TokioIo<Upgraded>>,
    _place: Option<Arc<Place>>,
}

impl StreamUpgrade {
    /// Of a request that asks for it, in a version of HTTP that has it.
    pub fn requested_by(request: &mut Parts) -> Option<Self> {
        let asked_for = request.headers.get(header::UPGRADE)?;
        if !asked_for.as_bytes().eq_ignore_ascii_case(UPGRADE.as_bytes()) {
            return None;
        }
        Some(Self {
            connection: request.extensions.remove::<OnUpgrade>()?,
            place: request.extensions.remove::<Arc<Place>>(),
        })
    }

    /// Both directions, once the answer is sent. `None`: the sidecar has gone meanwhile.
    pub async fn halves(self) -> Option<(FromSidecar, ToSidecar)> {
        match timeout(HANDOVER_TIMEOUT, self.connection).await {
            Ok(Ok(connection)) => {
                let (reader, writer) = tokio::io::split(TokioIo::new(connection));
                let _place = self.place;
                Some((reader, ToSidecar { writer, _place }))
            }
            Ok(Err(error)) => {
                debug!(%error, "a stream was not handed over");
                None
            }
            Err(_) => {
                debug!("a stream was not handed over in time");
                None
            }
        }
    }
}

/// The answer that hands the connection over.
pub fn switching_protocols() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    response
}

/// What arrives, piece by piece. No buffer is held while nothing does.
pub fn pieces(
    mut reader: impl AsyncRead + Send + Unpin,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
    stream::poll_fn(move |context: &mut Context<'_>| {
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        match Pin::new(&mut reader).poll_read(context, &mut read) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if read.filled().is_empty() => Poll::Ready(None),
            Poll::Ready(Ok(())) => Poll::Ready(Some(Ok(Bytes::copy_from_slice(read.filled())))),
        }
    })
}

impl ToSidecar {
    /// Sends each line as soon as the one before has gone, and then says that the stream has ended.
    pub async fn send_all(mut self, mut lines: Pin<Box<impl Stream<Item = Bytes>>>) {
        while let Some(line) = lines.next().await {
            if let Err(error) = self.send(&line).await {
                return debug!(%error, "a line could not be sent");
            }
        }
        drop(timeout(END_TIMEOUT, self.writer.shutdown()).await);
    }

    async fn send(&mut self, line: &[u8]) -> io::Result<()> {
        self.writer.write_all(line).await?;
        self.writer.flush().await
    }
}
