//! One accepted connection, served to its end: over HTTP/1.1, or over HTTP/2 if that is how the client
//! begins.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::half::Half;
use super::load::Connection;
use super::{http1, http2};

/// How a client of HTTP/2 begins that knows beforehand that it will be understood (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between two looks at a beginning that came in pieces: at first, and in the end.
const FIRST_PEEK_DELAY: Duration = Duration::from_millis(5);
const MAX_PEEK_DELAY: Duration = Duration::from_millis(640);

#[derive(Debug, Eq, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

pub(super) async fn serve_connection(
    worker: usize,
    connection: Connection,
    stream: TcpStream,
    peer: IpAddr,
    half: Half,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    let protocol = tokio::select! {
        biased;
        protocol = protocol(&stream) => protocol,
        // It said nothing for too long, or others needed its place.
        () = connection.ended() => None,
        _ = stopped.wait_for(Option::is_some) => None,
    };
    match protocol {
        Some(Protocol::Http1) => http1::serve(worker, connection, stream, peer, half, &stopped).await,
        // In a box: connections of HTTP/1.1, of which there are thousands, need not make room for it.
        Some(Protocol::Http2) => {
            Box::pin(http2::serve(worker, connection, stream, peer, half, stopped)).await
        }
        None => {}
    }
}

/// The protocol, by the first bytes, which stay in the socket: peeking costs one system call a connection,
/// and the requests of HTTP/1.1 nothing. `None` if the client has gone.
async fn protocol(stream: &TcpStream) -> Option<Protocol> {
    let mut first_bytes = [0; PREFACE.len()];
    let mut delay = FIRST_PEEK_DELAY;
    loop {
        let read = stream
            .peek(&mut first_bytes)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        match detect(&first_bytes[..read]) {
            Some(protocol) => return Some(protocol),
            // The socket counts as readable all the time.
            None => sleep(delay).await,
        }
        delay = (2 * delay).min(MAX_PEEK_DELAY);
    }
}

/// `None` as long as it may become either. Methods of HTTP/1.1 begin with a P as well.
fn detect(first_bytes: &[u8]) -> Option<Protocol> {
    if !PREFACE.starts_with(first_bytes) {
        Some(Protocol::Http1)
    } else if first_bytes.len() == PREFACE.len() {
        Some(Protocol::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    fn size_of_output<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands wait at the same time, and each keeps room for whatever it may come to.
    #[test]
    fn a_connection_needs_little_room_while_it_waits() {
        type Arguments = (Connection, TcpStream, Half, watch::Receiver<Option<Duration>>);
        let peer = IpAddr::from([127, 0, 0, 1]);
        let size = size_of_output(|(connection, stream, half, stopped): Arguments| {
            serve_connection(0, connection, stream, peer, half, stopped)
        });
        assert!(size <= 1024, "{size}");
    }

    #[test]
    fn only_the_whole_preface_is_http2_and_only_a_part_of_it_is_waited_for() {
        for end in 1..PREFACE.len() {
            assert_eq!(detect(&PREFACE[..end]), None);
            let mut other = PREFACE[..=end].to_vec();
            other[end] = b'x';
            assert_eq!(detect(&other), Some(Protocol::Http1));
        }
        assert_eq!(detect(PREFACE), Some(Protocol::Http2));
        for first_bytes in ["G", "POST / HTTP/1.1", "PUT", "\x16\x03\x01"] {
            assert_eq!(
                detect(first_bytes.as_bytes()),
                Some(Protocol::Http1),
                "{first_bytes}"
            );
        }
    }
}
