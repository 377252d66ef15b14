//! WebSocket tunnel to LiteLLM: the upgrade is requested on a connection of its own; after it bytes are copied both ways,
//! those of the client through the [`WebSocketFilter`]. The tunnel counts as the client's connection until it ends, and what all
//! of them hold has a bound ([`TunnelLimit`]).

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::hop_by_hop;
use crate::http::http1::OnInterim;
use crate::http::json_key_filter::ServerNames;
use crate::http::request_body::RequestBody;
use crate::http::upstream::Target;
use crate::http::websocket_filter::WebSocketFilter;
use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;

/// Longest piece that is read at once, and so what is held of a direction whose other end takes nothing.
const PIECE_BYTES: usize = 4 * 1024;
/// What a tunnel holds at most: its task with two connections, and a piece each way.
const TUNNEL_BYTES: usize = 16 * 1024;

/// Bound on what all tunnels hold.
#[derive(Clone)]
pub struct TunnelLimit(Arc<Semaphore>);

impl TunnelLimit {
    /// As many as so many bytes hold, and one in any case.
    pub fn within(bytes: usize) -> Self {
        let tunnels = (bytes / TUNNEL_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(tunnels)))
    }

    fn begin(&self) -> Result<OwnedSemaphorePermit, ProxyError> {
        let permit = self.0.clone().try_acquire_owned();
        permit.map_err(|_| ProxyError::Overloaded)
    }
}

impl Default for TunnelLimit {
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

fn unreachable(error: &dyn Error) -> ProxyError {
    ProxyError::LiteLlmUnreachable {
        why: error.to_string().into(),
    }
}

thread_local! {
    /// What is read, before it is known how much: a tunnel in which nothing moves holds no buffer.
    static SCRATCH: RefCell<[u8; PIECE_BYTES]> = const { RefCell::new([0; PIECE_BYTES]) };
}

tokio::task_local! {
    /// What makes the client's connection count. Of the task that serves the connection, and held by the tunnel that the
    /// connection becomes.
    pub static CONNECTION_GUARD: Arc<dyn Send + Sync>;
}

/// `request` without hop-by-hop headers; those of the upgrade are set here. Extensions are not negotiated: what is
/// compressed could not be filtered.
pub(super) async fn open(
    litellm: &Target,
    mut request: Request<Incoming>,
    servers: ServerNames,
    limit: &TunnelLimit,
) -> Result<Response<ResponseBody>, ProxyError> {
    let permit = limit.begin()?;
    let client = hyper::upgrade::on(&mut request);
    let guard = CONNECTION_GUARD.try_with(Arc::clone).ok();
    request.headers_mut().remove(SEC_WEBSOCKET_EXTENSIONS);
    request
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    let io = litellm.connect().await.map_err(|error| unreachable(&error))?;
    let handshake = http1::handshake(TokioIo::new(io)).await;
    let (mut sender, driver) = handshake.map_err(|error| unreachable(&error))?;
    // Ends with the connection: when the tunnel closes, or when the answer below is dropped.
    tokio::spawn(driver.with_upgrades());
    // A handshake has no body (RFC 6455 section 4.1).
    let mut request = request.map(|_| RequestBody::Whole(None));
    OnInterim::pass_to_hyper(&mut request);
    let response = sender.send_request(request).await;
    let mut response = response.map_err(|error| ProxyError::LiteLlmFailed {
        why: error.to_string().into(),
    })?;
    hop_by_hop::strip_response(response.headers_mut(), |_| false);
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(ResponseBody::Direct));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let ended = exchange(client, server, servers).await;
        drop((guard, permit));
        if let Err(error) = ended {
            tracing::debug!(%error, "a WebSocket ended early");
        }
    });
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response.map(|_| ResponseBody::Whole(None)))
}

/// Copies each direction until it ends.
async fn exchange(client: OnUpgrade, server: OnUpgrade, servers: ServerNames) -> anyhow::Result<()> {
    let (client, server) = tokio::try_join!(client, server)?;
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(server));
    let requests = async {
        filter(WebSocketFilter::new(servers), &mut from_client, &mut to_server).await?;
        anyhow::Ok(to_server.shutdown().await?)
    };
    let answers = async {
        let mut piece = BytesMut::new();
        while read_piece(&mut from_server, &mut piece).await? {
            write_piece(&mut to_client, &mut piece).await?;
        }
        Ok(to_client.shutdown().await?)
    };
    tokio::try_join!(requests, answers)?;
    Ok(())
}

/// Copies a client's frames through the filter.
async fn filter(
    mut filter: WebSocketFilter,
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<()> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    while read_piece(client, &mut input).await? {
        let passed = filter.pass(&mut input, &mut output);
        if input.is_empty() {
            input = BytesMut::new();
        }
        write_piece(server, &mut output).await?;
        passed?;
    }
    Ok(())
}

/// Appends what is there to `piece`: `false` at the end.
async fn read_piece(from: &mut (impl AsyncRead + Unpin), piece: &mut BytesMut) -> std::io::Result<bool> {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            piece.extend_from_slice(read.filled());
            Poll::Ready(Ok(!read.filled().is_empty()))
        })
    })
    .await
}

/// Writes all of it, and frees it.
async fn write_piece(to: &mut (impl AsyncWrite + Unpin), piece: &mut BytesMut) -> std::io::Result<()> {
    to.write_all_buf(piece).await?;
    *piece = BytesMut::new();
    to.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    /// Else thousands of silent tunnels would hold the buffers of their last messages.
    #[tokio::test]
    async fn a_piece_that_was_passed_on_is_not_kept() {
        let (mut client, mut from) = duplex(1 << 20);
        let (mut to, mut server) = duplex(1 << 20);
        let sent = vec![7; 3 * PIECE_BYTES / 2];
        client.write_all(&sent).await.unwrap();
        drop(client);
        let (mut piece, mut longest) = (BytesMut::new(), 0);
        while read_piece(&mut from, &mut piece).await.unwrap() {
            longest = longest.max(piece.len());
            write_piece(&mut to, &mut piece).await.unwrap();
            assert_eq!(piece.capacity(), 0);
        }
        drop(to);
        assert_eq!(longest, PIECE_BYTES);
        let mut arrived = Vec::new();
        server.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived, sent);
    }

    #[test]
    fn as_many_tunnels_are_open_as_there_is_memory_for_and_one_in_any_case() {
        for (bytes, tunnels) in [(0, 1), (TUNNEL_BYTES, 1), (3 * TUNNEL_BYTES, 3)] {
            let limit = TunnelLimit::within(bytes);
            let mut open: Vec<_> = (0..tunnels).map(|_| limit.begin().unwrap()).collect();
            assert!(matches!(limit.begin(), Err(ProxyError::Overloaded)), "{bytes}");
            open.pop();
            assert!(limit.begin().is_ok(), "{bytes}");
        }
        assert!(TunnelLimit::default().begin().is_ok());
    }
}
