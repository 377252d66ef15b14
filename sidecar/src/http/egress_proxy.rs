//! Egress proxy: a tunnel through an HTTP proxy (CONNECT, RFC 9110 section 9.3.6). The proxy learns host and port of the
//! server, and nothing of what is sent.

use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::io::Io;
use super::tls::Tls;
use super::transport::{Peer, TransportError, connect_tcp};

/// A proxy and the server behind it.
pub struct EgressProxy {
    peer: Peer,
    tls: Option<Tls>,
    /// Host and port of the server, with the port whatever it is.
    server: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// Why a proxy opens no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("no connection could be opened to the egress proxy")]
    Unreachable(#[source] TransportError),
    #[error("the egress proxy answers {0} to CONNECT{hint}", hint = hint(*.0))]
    Refused(StatusCode),
    #[error("the egress proxy gives no answer to CONNECT that can be read")]
    NoAnswer(#[source] hyper::Error),
    #[error("the egress proxy sends something before the server does")]
    Unexpected,
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        // The latter by tinyproxy, to credentials that are wrong.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => {
            ": it wants other credentials"
        }
        StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => ": it does not allow this host or port",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            ": it does not reach the server"
        }
        _ => "",
    }
}

impl EgressProxy {
    /// `server` is its host and port, and `authorization` the value of `Proxy-Authorization`.
    pub fn new(
        peer: Peer,
        tls: Option<Tls>,
        server: Uri,
        host: HeaderValue,
        authorization: Option<HeaderValue>,
    ) -> Self {
        Self {
            peer,
            tls,
            server,
            host,
            authorization,
        }
    }

    /// A connection on which the server speaks next.
    pub(super) async fn open_tunnel(&self, deadline: Instant) -> Result<Io, TunnelError> {
        let stream = connect_tcp(&self.peer, deadline)
            .await
            .map_err(TunnelError::Unreachable)?;
        Ok(match &self.tls {
            None => Io::Plain(self.tunnel_over(stream).await?),
            Some(tls) => {
                // Nothing but CONNECT is sent to the proxy, and that by HTTP/1.1.
                let stream = tls.handshake(stream, false).await;
                let stream = stream
                    .map_err(TransportError::Tls)
                    .map_err(TunnelError::Unreachable)?;
                Io::Tls(Box::new(self.tunnel_over(stream).await?))
            }
        })
    }

    async fn tunnel_over<S>(&self, stream: S) -> Result<S, TunnelError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(TunnelError::NoAnswer)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = self.server.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let answered = async {
            let answer = sender.send_request(request).await;
            let status = answer.map_err(TunnelError::NoAnswer)?.status();
            match status.is_success() {
                true => Ok(()),
                false => Err(TunnelError::Refused(status)),
            }
        };
        let upgraded = async { connection.without_shutdown().await.map_err(TunnelError::NoAnswer) };
        let ((), parts) = tokio::try_join!(answered, upgraded)?;
        match parts.read_buf.is_empty() {
            true => Ok(parts.io.into_inner()),
            // By TLS the client speaks first.
            false => Err(TunnelError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests;
