//! Opens connections: name to addresses, TCP, a tunnel through a proxy, TLS.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::egress_proxy::{EgressProxy, TunnelError};
use super::io::Io;
use super::tls::Tls;
use super::transport::{Peer, TransportError, connect_tcp};

/// For name resolution, the TCP connection and the TLS handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to a server.
pub enum Way {
    Direct(Peer),
    Proxied(Box<EgressProxy>),
}

impl From<Peer> for Way {
    fn from(peer: Peer) -> Self {
        Self::Direct(peer)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("no connection could be opened within {} seconds", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

/// The name, TCP, the tunnel and TLS; [`Io::is_http2`] tells which protocol was agreed on.
pub async fn connect(way: &Way, tls: Option<&Tls>, offer_http2: bool) -> Result<Io, ConnectError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let connecting = async {
        let io = match way {
            Way::Direct(peer) => Io::Plain(connect_tcp(peer, deadline).await?),
            Way::Proxied(proxy) => proxy.open_tunnel(deadline).await?,
        };
        let Some(tls) = tls else { return Ok(io) };
        let encrypted = match io {
            Io::Plain(stream) => {
                let stream = tls.handshake(stream, offer_http2).await;
                stream.map(|stream| Io::Tls(Box::new(stream)))
            }
            Io::Tls(stream) => {
                let stream = tls.handshake(*stream, offer_http2).await;
                stream.map(|stream| Io::TlsInTls(Box::new(stream)))
            }
            io @ Io::TlsInTls(_) => Ok(io),
        };
        Ok(encrypted.map_err(TransportError::Tls)?)
    };
    timeout_at(deadline, connecting)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}
