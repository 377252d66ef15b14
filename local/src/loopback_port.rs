//! A loopback port for LiteLLM, kept for it until it listens: two `exec` that start at once must not choose the
//! same, and LiteLLM takes a random port in silence when its own is taken.

use std::net::{Ipv4Addr, SocketAddr};

use mcp_auth_protocol::pod::LITELLM_PORT;
use socket2::{Domain, Protocol, Socket, Type};

use crate::exit::ExitError;

/// Below what systems choose ports of outgoing connections from.
const LAST: u16 = LITELLM_PORT + 400;

/// A port that is bound and not listened on. Only a program that allows its address to be shared, as servers do
/// to be restarted, can listen there meanwhile; another `exec`, which does not, sees that it is taken.
pub struct ReservedPort {
    pub address: SocketAddr,
    _socket: Socket,
}

impl ReservedPort {
    pub fn choose() -> Result<Self, ExitError> {
        let mut ports = LITELLM_PORT..=LAST;
        let free = ports.find_map(|port| Self::reserve((Ipv4Addr::LOCALHOST, port).into()).ok());
        free.ok_or(ExitError::NoLoopbackPort {
            first: LITELLM_PORT,
            last: LAST,
        })
    }

    fn reserve(address: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&address.into())?;
        socket.set_reuse_address(true)?;
        Ok(Self {
            address,
            _socket: socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_listen_where_another_reservation_cannot() {
        let first = ReservedPort::choose().unwrap();
        let second = ReservedPort::choose().unwrap();
        assert_ne!(first.address, second.address);
        // As Python's servers do: they allow the address to be shared.
        let server = std::net::TcpListener::bind(first.address).unwrap();
        let client = std::net::TcpStream::connect(first.address).unwrap();
        assert_eq!(server.accept().unwrap().1, client.local_addr().unwrap());
    }
}
