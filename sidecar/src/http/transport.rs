//! A host's name, its addresses, and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::resolver::Resolver;

/// Where to connect to.
pub enum Peer {
    Address(SocketAddr),
    Name(Resolver),
}

/// Why a host is not reached, directly or as a proxy.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("the host name does not resolve")]
    Resolve(#[source] Arc<io::Error>),
    #[error("no connection could be opened")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
}

pub(super) async fn connect_tcp(peer: &Peer, deadline: Instant) -> Result<TcpStream, TransportError> {
    match peer {
        Peer::Address(address) => connect_to_one_of(&[*address], deadline).await,
        Peer::Name(name) => {
            let addresses = name.resolve().await.map_err(TransportError::Resolve)?;
            let connected = connect_to_one_of(&addresses, deadline).await;
            if connected.is_err() {
                name.expire();
            }
            connected
        }
    }
}

async fn connect_to_one_of(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, TransportError> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (index, address) in addresses.iter().enumerate() {
        // An address that swallows packets must not use up the time of those after it.
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream).map_err(TransportError::Connect)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(TransportError::Connect(failed))
}

/// Longest time that the other side of a connection may leave sent data unacknowledged, or its receive window
/// closed: a peer that reads nothing holds memory here. The kernel keeps this time (RFC 5482), and it is also
/// the one after which keep-alive gives a silent peer up.
pub const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(120);

/// Streams may be silent for hours: keep-alive tells a silent peer from one that is gone.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// Other systems than Linux have no such bound.
pub fn set_unacknowledged_timeout(socket: &Socket) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    Ok(())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    set_unacknowledged_timeout(&socket)?;
    socket.set_tcp_keepalive(&keepalive())
}
