//! One accepted connection, served to its end: over HTTP/1.1, or over HTTP/2 if that is how the client
//! begins.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::bounds::MAX_HEADERS;
use super::half::Half;
use super::http2;
use super::load::{Connection, Signal, WatchedBody};
use crate::http::spurious_wakes::WakeFilter;
use crate::proxy::error::{HEADERS_TOO_LARGE, ProxyError, REQUEST_MALFORMED};
use crate::proxy::inbound::client_address::ClientPeer;

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
        Some(Protocol::Http1) => http1(worker, connection, stream, peer, half, &stopped).await,
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

async fn http1(
    worker: usize,
    watched: Connection,
    stream: TcpStream,
    peer: IpAddr,
    half: Half,
    stopped: &watch::Receiver<Option<Duration>>,
) {
    let peer = ClientPeer::from(peer);
    let mut builder = http1::Builder::new();
    // How long headers may take is up to the sweeps: a timer for each request would cost more than all of them.
    builder
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADERS as usize);
    // All that are served at the end are told; this one may have come a moment later.
    if stopped.borrow().is_some() {
        watched.retire();
    }
    let wakes = WakeFilter::new();
    let mut io = watched.watch(stream);
    loop {
        let service = service_fn(|request| answer(&half, &watched, worker, &peer, request));
        let connection = builder.serve_connection(TokioIo::new(io), service);
        // In a box: a parked connection needs no room for it.
        let mut connection = Box::new(connection.with_upgrades());
        let answering = poll_fn(|cx| wakes.poll(cx, |cx| Pin::new(&mut *connection).poll(cx)));
        let signal = tokio::select! {
            biased;
            result = answering => return log_end(&half, worker, result),
            signal = watched.signal() => signal,
        };
        match signal {
            Signal::End => return log_no_progress(worker),
            Signal::Retire => {
                Pin::new(&mut *connection).graceful_shutdown();
                return tokio::select! {
                    biased;
                    result = connection => log_end(&half, worker, result),
                    () = watched.ended() => log_no_progress(worker),
                };
            }
            Signal::Park => {}
        }
        let Some(parts) = connection.into_parts() else {
            return;
        };
        // Even an empty one keeps its buffer alive.
        let unread = Some(parts.read_buf).filter(|unread| !unread.is_empty());
        if unread.is_none() {
            drop(parts.io);
            tokio::select! {
                biased;
                result = watched.parked() => if result.is_err() { return },
                signal = watched.signal() => {
                    if signal == Signal::End {
                        log_no_progress(worker);
                    }
                    return;
                }
            }
        }
        match watched.resume(unread.unwrap_or_default()) {
            Some(resumed) => io = resumed,
            None => return log_no_progress(worker),
        }
    }
}

fn log_end(half: &Half, worker: usize, result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        if let Some(reason) = parse_failure(&error) {
            half.count_unparsed(reason);
        }
        // Mostly a client that went away. Its request went away with it.
        tracing::debug!(worker, %error, "connection ended early");
    }
}

fn log_no_progress(worker: usize) {
    tracing::debug!(worker, "connection ended: its client made no progress");
}

/// Answers a request, unless there is no room for it.
pub(super) async fn answer(
    half: &Half,
    connection: &Connection,
    worker: usize,
    peer: &ClientPeer,
    request: Request<Incoming>,
) -> Result<Response<WatchedBody>, Infallible> {
    let (in_progress, response) = match connection.request() {
        Ok(in_progress) => {
            let response = half.answer(worker, peer, request, in_progress.body_progress());
            let response = response.await;
            (in_progress, response)
        }
        Err(refused) => (refused, half.refuse(request.method(), &ProxyError::Overloaded)),
    };
    Ok(in_progress.answer(response))
}

/// The same over HTTP/2, where a request may have to end while others of its connection go on.
pub(super) async fn answer_stream(
    half: &Half,
    connection: &Connection,
    worker: usize,
    peer: &ClientPeer,
    request: Request<Incoming>,
) -> Result<Response<WatchedBody>, Infallible> {
    let method = request.method().clone();
    let (in_progress, response) = match connection.request() {
        Ok(in_progress) => {
            let response = tokio::select! {
                biased;
                response = half.answer(worker, peer, request, in_progress.body_progress()) => response,
                () = in_progress.ended() => half.refuse(&method, &ProxyError::Overloaded),
            };
            (in_progress, response)
        }
        Err(refused) => (refused, half.refuse(&method, &ProxyError::Overloaded)),
    };
    Ok(in_progress.answer(response))
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
