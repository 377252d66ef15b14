//! WebSocket tunnel to LiteLLM: the upgrade is requested on a connection of its own; after it bytes are copied both ways,
//! those of the client through the [`WebSocketFilter`]. The tunnel counts as the client's connection until it ends.

use std::sync::Arc;

use bytes::BytesMut;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::http::hop_by_hop;
use crate::http::http1::OnInterim;
use crate::http::json_key_filter::ServerNames;
use crate::http::request_body::RequestBody;
use crate::http::upstream::Target;
use crate::http::websocket_filter::WebSocketFilter;
use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;

/// Longest piece of the client's messages that is read at once.
const PIECE_BYTES: usize = 8 * 1024;

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
) -> Result<Response<ResponseBody>, ProxyError> {
    let client = hyper::upgrade::on(&mut request);
    let guard = CONNECTION_GUARD.try_with(Arc::clone).ok();
    request.headers_mut().remove(SEC_WEBSOCKET_EXTENSIONS);
    request
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    let io = litellm
        .connect()
        .await
        .map_err(|_| ProxyError::LiteLlmUnreachable)?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|_| ProxyError::LiteLlmUnreachable)?;
    // Ends with the connection: when the tunnel closes, or when the answer below is dropped.
    tokio::spawn(driver.with_upgrades());
    // A handshake has no body (RFC 6455 section 4.1).
    let mut request = request.map(|_| RequestBody::Whole(None));
    OnInterim::pass_to_hyper(&mut request);
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|_| ProxyError::LiteLlmFailed)?;
    hop_by_hop::strip_response(response.headers_mut(), |_| false);
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(ResponseBody::Direct));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let ended = exchange(client, server, servers).await;
        drop(guard);
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
        tokio::io::copy(&mut from_server, &mut to_client).await?;
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
    loop {
        input.reserve(PIECE_BYTES);
        if client.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let passed = filter.pass(&mut input, &mut output);
        server.write_all_buf(&mut output).await?;
        server.flush().await?;
        passed?;
    }
}
