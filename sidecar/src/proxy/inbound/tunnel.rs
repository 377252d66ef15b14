//! WebSocket tunnel to LiteLLM: the upgrade is requested on a connection of its own; after it bytes are
//! copied both ways.

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::http::hop_by_hop;
use crate::http::request_body::RequestBody;
use crate::http::upstream::Target;
use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;

/// `request` without hop-by-hop headers; those of the upgrade are set here.
pub(super) async fn open(
    litellm: &Target,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let client = hyper::upgrade::on(&mut request);
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
    let request = request.map(|_| RequestBody::Whole(None));
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
        let (client, server) = tokio::try_join!(client, server)?;
        tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await?;
        anyhow::Ok(())
    });
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response.map(|_| ResponseBody::Whole(None)))
}
