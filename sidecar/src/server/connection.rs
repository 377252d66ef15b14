//! One accepted connection, served to its end: over HTTP/1.1, or over HTTP/2 if that is how the client
//! begins.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::bounds::{Bounds, MAX_HEADERS};
use super::half::Half;
use super::http2;
use crate::proxy::error::{HEADERS_TOO_LARGE, REQUEST_MALFORMED};

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

pub(super) async fn connection(
    worker: usize,
    bounds: Bounds,
    stream: TcpStream,
    peer: IpAddr,
    half: Half,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    let protocol = tokio::select! {
        biased;
        protocol = timeout(bounds.headers, protocol(&stream)) => protocol,
        _ = stopped.wait_for(Option::is_some) => return,
    };
    match protocol {
        Ok(Some(Protocol::Http1)) => http1(worker, bounds, stream, peer, half, stopped).await,
        // In a box: connections of HTTP/1.1, of which there are thousands, need not make room for it.
        Ok(Some(Protocol::Http2)) => Box::pin(http2::serve(worker, stream, peer, half, stopped)).await,
        // It closed, or said nothing for too long.
        Ok(None) | Err(_) => {}
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

async fn http1(
    worker: usize,
    bounds: Bounds,
    stream: TcpStream,
    peer: IpAddr,
    half: Half,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    let has_request = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_request.store(true, Ordering::Relaxed);
        let half = half.clone();
        async move { Ok::<_, Infallible>(half.answer(worker, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.headers)
        .max_header_size(MAX_HEADERS as usize)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let leaving = half.leaving(&mut stopped, || has_request.load(Ordering::Relaxed));
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = leaving => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        if let Some(reason) = parse_failure(&error) {
            half.count_unparsed(reason);
        }
        // Mostly a client that went away. Its request went away with it.
        tracing::debug!(worker, %error, "connection ended early");
    }
}

/// The reason for which the parser has answered by itself, if it has.
fn parse_failure(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        Some(HEADERS_TOO_LARGE)
    } else if error.is_parse() {
        Some(REQUEST_MALFORMED)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
