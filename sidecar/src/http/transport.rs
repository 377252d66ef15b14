//! A host's name, its addresses, and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_http_auth::address_scope::{AddressScope, ForbiddenAddressError, check_address};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::resolver::Resolver;

/// Where to connect to.
pub enum Peer {
    Address(SocketAddr),
    Name {
        resolver: Resolver,
        /// Which of the name's addresses may be connected to; `None`: all.
        scope: Option<AddressScope>,
    },
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
    /// Of the last one of the name's addresses.
    #[error("the host name resolves to an address that mcp-auth does not connect to ({0}; policy.addresses): {way_out}", way_out = way_out(*.0))]
    Forbidden(ForbiddenAddressError),
}

fn way_out(forbidden: ForbiddenAddressError) -> &'static str {
    match forbidden {
        ForbiddenAddressError::Private | ForbiddenAddressError::PrivateByPolicy => {
            "use a server at a public address, or ask for its host to be listed in policy.mcpServers"
        }
        ForbiddenAddressError::Loopback => {
            "if the server is a container of LiteLLM's own pod, write localhost in spec.server.url, else use another address"
        }
        ForbiddenAddressError::LinkLocal
        | ForbiddenAddressError::Metadata
        | ForbiddenAddressError::Unspecified
        | ForbiddenAddressError::Multicast => "such an address is never connected to: use another",
    }
}

pub(super) async fn connect_tcp(peer: &Peer, deadline: Instant) -> Result<TcpStream, TransportError> {
    match peer {
        Peer::Address(address) => connect_to_one_of(&[*address], deadline).await,
        Peer::Name { resolver, scope } => {
            let addresses = resolver.resolve().await.map_err(TransportError::Resolve)?;
            let connected = match scope {
                Some(scope) => connect_to_one_of(&allowed(&addresses, *scope)?, deadline).await,
                None => connect_to_one_of(&addresses, deadline).await,
            };
            if connected.is_err() {
                resolver.expire();
            }
            connected
        }
    }
}

/// Those of a name's addresses that may be connected to, at least one. The very addresses that are connected to are judged: a
/// name that was judged before could lead elsewhere by now.
fn allowed(addresses: &[SocketAddr], scope: AddressScope) -> Result<Vec<SocketAddr>, TransportError> {
    let mut forbidden = None;
    let allowed: Vec<_> = addresses
        .iter()
        .copied()
        .filter(|address| {
            let judged = check_address(address.ip(), scope);
            forbidden = judged.err().or(forbidden);
            judged.is_ok()
        })
        .collect();
    match (allowed.is_empty(), forbidden) {
        (true, Some(forbidden)) => Err(TransportError::Forbidden(forbidden)),
        _ => Ok(allowed),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str], scope: AddressScope) -> Result<Vec<SocketAddr>, TransportError> {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        allowed(&addresses, scope)
    }

    #[test]
    fn of_a_names_addresses_those_are_connected_to_that_the_policy_allows() {
        let mixed = ["10.0.0.1:443", "1.1.1.1:443", "127.0.0.1:443", "[fd00::1]:443"];
        let kept = of(&mixed, AddressScope::Public).unwrap();
        assert_eq!(kept, ["1.1.1.1:443".parse().unwrap()]);
        assert_eq!(of(&mixed, AddressScope::NotLoopback).unwrap().len(), 3);
        assert_eq!(of(&mixed, AddressScope::Any).unwrap().len(), 4);
    }

    #[test]
    fn a_name_without_an_allowed_address_is_an_error_that_names_the_policy_and_the_way_out() {
        for (address, scope, way_out) in [
            ("10.0.0.1:443", AddressScope::Public, "policy.mcpServers"),
            ("[::ffff:10.0.0.1]:443", AddressScope::Public, "policy.mcpServers"),
            ("127.0.0.1:443", AddressScope::NotLoopback, "write localhost"),
            ("[::1]:443", AddressScope::NotLoopback, "write localhost"),
            ("169.254.169.254:80", AddressScope::Any, "never connected to"),
        ] {
            let error = of(&[address], scope).unwrap_err().to_string();
            assert!(
                error.contains("policy.addresses") && error.contains(way_out),
                "{address}: {error}"
            );
        }
    }
}
