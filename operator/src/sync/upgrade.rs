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
use futures::future::OptionFuture;
use futures::{Stream, StreamExt, stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::UPGRADE;
use mcp_auth_protocol::timeouts::SYNC_SILENCE;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
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
    place: Option<Arc<Place>>,
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
                let place = self.place;
                Some((reader, ToSidecar { writer, place }))
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
    /// Sends each line as soon as the one before has gone, and then says that the stream has ended, unless the connection has to give way
    /// before.
    pub async fn send_all(self, lines: Pin<Box<impl Stream<Item = Bytes>>>) {
        send_until_closed(self.writer, self.place.as_deref(), lines).await;
    }
}

async fn send_until_closed(
    writer: impl AsyncWrite + Unpin,
    place: Option<&Place>,
    lines: Pin<Box<impl Stream<Item = Bytes>>>,
) {
    let closed = OptionFuture::from(place.map(Place::closed));
    tokio::select! {
        () = send_lines(writer, lines) => {}
        Some(()) = closed => debug!("a stream was closed: it gave way to another connection"),
    }
}

/// While a line is being sent nothing of the stream is looked at, neither its time nor its pod's end, so that it may not take for ever:
/// a sidecar that has got no whole line for [`SYNC_SILENCE`] has given the stream up by itself.
async fn send_lines(mut writer: impl AsyncWrite + Unpin, mut lines: Pin<Box<impl Stream<Item = Bytes>>>) {
    while let Some(line) = lines.next().await {
        match timeout(SYNC_SILENCE, send(&mut writer, &line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return debug!(%error, "a line could not be sent"),
            Err(_) => return debug!("a line was not taken in time"),
        }
    }
    drop(timeout(END_TIMEOUT, writer.shutdown()).await);
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), line: &[u8]) -> io::Result<()> {
    writer.write_all(line).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::connection_bounds::{ConnectionBounds, ConnectionLimits};

    #[tokio::test(start_paused = true)]
    async fn a_stream_out_of_http_ends_where_its_connection_gives_way() {
        let bounds = ConnectionBounds::new(ConnectionLimits {
            total: 1,
            without_request: 1,
            unauthenticated_by_address: 1,
            by_pod: 1,
            not_entitled: 0,
        });
        let place = bounds.enter([10, 0, 0, 1].into()).unwrap();
        place.authenticated("strangers", "a").unwrap();
        let (ours, mut theirs) = tokio::io::duplex(64);
        let lines = stream::iter([Bytes::from_static(b"a\n")]).chain(stream::pending());
        let sends = tokio::spawn(async move { send_until_closed(ours, Some(&place), Box::pin(lines)).await });
        theirs.read_exact(&mut [0; 2]).await.unwrap();
        let _newcomer = bounds.enter([10, 0, 0, 2].into()).unwrap();
        let ended = timeout(SYNC_SILENCE, theirs.read(&mut [0])).await;
        assert_eq!(ended.expect("it is closed").unwrap(), 0);
        sends.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_takes_a_line_a_few_bytes_at_a_time_is_disconnected() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (held, mut is_dropped) = tokio::sync::watch::channel(());
        let endless = stream::iter([Bytes::from(vec![b'a'; 10_000])])
            .chain(stream::pending())
            .inspect(move |_| held.send_replace(()));
        let sends = tokio::spawn(send_lines(ours, Box::pin(endless)));
        let reads = async {
            let mut few = [0; 8];
            while theirs.read(&mut few).await.unwrap() > 0 {
                tokio::time::sleep(SYNC_SILENCE / 3).await;
            }
        };
        // The connection is closed before the line is read, and what was to be sent is given up.
        reads.await;
        sends.await.unwrap();
        while is_dropped.changed().await.is_ok() {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_takes_each_line_in_time_gets_them_all() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let lines = stream::iter(vec![Bytes::from_static(&[b'a'; 60]); 20]);
        let sends = tokio::spawn(send_lines(ours, Box::pin(lines)));
        let mut all = 0;
        let mut one = [0; 60];
        while theirs.read_exact(&mut one).await.is_ok() {
            all += 1;
            tokio::time::sleep(SYNC_SILENCE / 3).await;
        }
        sends.await.unwrap();
        assert_eq!(all, 20);
    }
}
