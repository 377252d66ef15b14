//! Opens connections: name to addresses, TCP, a tunnel through a proxy, TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::egress_proxy::{EgressProxy, TunnelError};
use crate::http::resolver::Resolver;
use crate::http::tls::{HTTP2, http1_only};

/// For name resolution, the TCP connection and the TLS handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to connect to.
pub enum Peer {
    Address(SocketAddr),
    Name(Resolver),
}

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

/// How the other side is verified: by a certificate for this name.
pub struct Tls {
    connector: TlsConnector,
    /// Does not offer HTTP/2.
    http1_connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self {
            http1_connector: Arc::new(http1_only(&config)).into(),
            connector: config.into(),
            name,
        }
    }

    /// `offer_http2`: otherwise HTTP/1.1 alone is offered.
    pub(super) async fn handshake<S>(&self, stream: S, offer_http2: bool) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = match offer_http2 {
            true => &self.connector,
            false => &self.http1_connector,
        };
        connector.connect(self.name.clone(), stream).await
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the host name does not resolve")]
    Resolve(#[source] Arc<io::Error>),
    #[error("no connection could be opened")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("no connection could be opened within {} seconds", CONNECT_TIMEOUT.as_secs())]
    Timeout,
}

/// A connection, encrypted or not.
pub enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Inside of a connection by TLS, which leads to a proxy.
    TlsInTls(Box<TlsStream<TlsStream<TcpStream>>>),
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
        encrypted.map_err(ConnectError::Tls)
    };
    timeout_at(deadline, connecting)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

pub(super) async fn connect_tcp(peer: &Peer, deadline: Instant) -> Result<TcpStream, ConnectError> {
    match peer {
        Peer::Address(address) => connect_to_one_of(&[*address], deadline).await,
        Peer::Name(name) => {
            let addresses = name.resolve().await.map_err(ConnectError::Resolve)?;
            let connected = connect_to_one_of(&addresses, deadline).await;
            if connected.is_err() {
                name.expire();
            }
            connected
        }
    }
}

async fn connect_to_one_of(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectError> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (index, address) in addresses.iter().enumerate() {
        // An address that swallows packets must not use up the time of those after it.
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream).map_err(ConnectError::Connect)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(ConnectError::Connect(failed))
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

impl Io {
    /// Whether TLS negotiated HTTP/2. Nothing else makes a server speak it: without TLS there is no ALPN to
    /// ask, and a server of HTTP/1.1 might take the question for a request.
    pub fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
            Self::TlsInTls(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::TlsInTls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::TlsInTls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::TlsInTls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::TlsInTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsInTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsInTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
