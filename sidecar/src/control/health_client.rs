//! Asks the sidecar's own health port, for probes and hooks that the kubelet runs in the container: the proxy
//! of a service mesh may refuse the kubelet's own requests, and takes nothing that stays on loopback.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mcp_auth_protocol::pod::health;
use thiserror::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer is one short line of JSON.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

#[derive(Debug, Error)]
pub enum HealthError {
    #[error("the sidecar does not answer on {address}: {source}")]
    NotAnswering { address: SocketAddr, source: io::Error },
    #[error("{0}")]
    Unhealthy(String),
}

/// Gets a path of the health port at this address; an answer other than 200 is an error that holds it.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), HealthError> {
    check(address, path, "", timeout)
}

/// Has the sidecar of the pod with this uid drain, and waits until it has.
pub fn drain(address: SocketAddr, pod_uid: &str, timeout: Duration) -> Result<(), HealthError> {
    let header = format!("{}: {pod_uid}\r\n", health::POD_UID_HEADER);
    check(address, health::DRAIN, &header, timeout)
}

fn check(address: SocketAddr, path: &str, header: &str, timeout: Duration) -> Result<(), HealthError> {
    let answer = request(address, path, header, timeout)
        .map_err(|source| HealthError::NotAnswering { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status_line = head.lines().next().unwrap_or_default();
    match status_line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ if body.is_empty() => Err(HealthError::Unhealthy(status_line.to_owned())),
        _ => Err(HealthError::Unhealthy(body.trim().to_owned())),
    }
}

fn request(address: SocketAddr, path: &str, header: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// What listens on all addresses is reached by loopback, of the family that the node has.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let at = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), CONNECT_TIMEOUT);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            at(Ipv6Addr::LOCALHOST.into()).or_else(|_| at(Ipv4Addr::LOCALHOST.into()))
        }
        ip => at(ip),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Listens on this address and answers one request with these bytes.
    fn answering(address: &str, answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // All of it: what is left unread when the stream is dropped would reset the connection.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).unwrap();
                assert_ne!(read, 0, "the request ended early");
                request.extend_from_slice(&piece[..read]);
            }
            assert!(request.starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn what_listens_on_all_addresses_is_reached_by_loopback() {
        let address = answering("0.0.0.0:0", "HTTP/1.1 200 OK\r\n\r\n{}");
        get(address, "/ready", TIMEOUT).unwrap();
    }

    #[test]
    fn an_answer_that_says_why_not_is_the_error() {
        let why = "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reason\":\"LiteLlmNotListening\"}";
        let error = get(answering("127.0.0.1:0", why), "/ready", TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "{\"reason\":\"LiteLlmNotListening\"}");
        let nothing = get(answering("127.0.0.1:0", ""), "/ready", TIMEOUT).unwrap_err();
        assert!(matches!(nothing, HealthError::Unhealthy(_)));
    }

    #[test]
    fn a_sidecar_that_is_not_there_is_named_by_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = get(address, "/ready", TIMEOUT).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
