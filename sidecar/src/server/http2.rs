//! Clients that speak HTTP/2 without TLS. Their requests are made what they would be over HTTP/1.1, so that
//! the halves need not know the difference.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use super::bounds::MAX_HEADERS;
use super::half::Half;
use super::load::{Connection, WatchedBody};
use crate::proxy::error::{OVERLOADED, ProxyError};
use crate::proxy::inbound::client_address::ClientPeer;

/// Requests of a connection that are answered at a time. An event stream takes one for hours.
const MAX_STREAMS: u32 = 256;
/// What of a request's body may be under way to LiteLLM, which may read slowly; and of all together.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What of an answer is held for a client that does not take it; as many times as there are requests.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Requests that a client has given up before their answer, less those that were answered: with more, it is
/// out for the work that they make and not for answers (rapid reset, CVE-2023-44487).
const MAX_RESETS: usize = 1_000;
/// A client that vanished without closing its connection is detected after both. One that only waits for the
/// next event is not disturbed.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What the requests of a connection signal to it.
#[derive(Default)]
struct ConnectionEvents {
    resets: AtomicUsize,
    too_many_resets: Notify,
    far_too_many_resets: Notify,
    drain: Notify,
}

/// A request that has no answer yet.
struct Unanswered<'a>(Option<&'a ConnectionEvents>);

pub(super) async fn serve(
    worker: usize,
    watched: Connection,
    stream: TcpStream,
    peer: IpAddr,
    half: Half,
    mut stopped: watch::Receiver<Option<Duration>>,
) {
    if !watched.becomes_http2() {
        half.count_unparsed(OVERLOADED);
        return tracing::debug!(worker, "connection closed: no memory for another one over HTTP/2");
    }
    let watched = Arc::new(watched);
    let io = TokioIo::new(watched.watch(stream));
    let events = Arc::new(ConnectionEvents::default());
    let peer = Arc::new(ClientPeer::from(peer));
    let service = service_fn(|mut request: Request<Incoming>| {
        let (half, events, watched, peer) = (half.clone(), events.clone(), watched.clone(), peer.clone());
        async move {
            let unanswered = Unanswered(Some(&events));
            as_http1(&mut request);
            let response = answer(&half, &watched, worker, &peer, request).await;
            unanswered.answered();
            if half.is_draining() {
                events.drain.notify_one();
            }
            response
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let leaving = async {
        tokio::select! {
            // What is on its way meanwhile may be sent again by its client: GOAWAY says what was not
            // processed.
            () = half.drained() => {}
            _ = stopped.wait_for(Option::is_some) => {}
            () = events.drain.notified() => {}
            // Other clients that share the connection, behind an ingress, get their answers.
            () = events.too_many_resets.notified() => {
                tracing::warn!(worker, "connection closes gracefully: its client keeps resetting requests");
            }
        }
    };
    let served = async {
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = leaving => {
                // GOAWAY: no new requests, and those that have begun come to their end.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    tokio::select! {
        result = served => if let Err(error) = result {
            tracing::debug!(worker, %error, "connection ended early");
        },
        () = events.far_too_many_resets.notified() => {
            tracing::warn!(worker, "connection cut: its client goes on resetting its requests");
        }
        () = watched.ended() => tracing::debug!(worker, "connection ended: its client made no progress"),
    }
}

/// Answers a request, unless there is no room for it. It may have to end while others of its connection go on.
async fn answer(
    half: &Half,
    connection: &Connection,
    worker: usize,
    peer: &ClientPeer,
    request: Request<Incoming>,
) -> Result<Response<WatchedBody>, Infallible> {
    let method = request.method().clone();
    let (in_progress, response) = match connection.request(&request) {
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

fn as_http1(request: &mut Request<Incoming>) {
    // Part of the target there, and what counts where both are given (RFC 9113 section 8.3.1).
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    let has_body = !request.body().is_end_stream() && request.method() != Method::CONNECT;
    let headers = request.headers_mut();
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    join_cookies(headers);
    join_lengths(headers);
    // The end of a body is the end of its stream there.
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Clients of HTTP/2 may send each cookie for itself, which those of HTTP/1.1 may not (RFC 9113 section
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in [second].into_iter().chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let mut joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
        .expect("header values joined by header characters are one");
    joined.set_sensitive(true);
    headers.insert(COOKIE, joined);
}

/// The protocol takes a length that is stated more than once if all agree, which servers of HTTP/1.1 need not.
fn join_lengths(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(first), Some(_)) = (lengths.next(), lengths.next()) {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
}

impl Unanswered<'_> {
    fn answered(mut self) {
        if let Some(events) = self.0.take() {
            let fewer = |resets: usize| resets.checked_sub(1);
            // None to take away from is as good.
            let _ = events
                .resets
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(events) = self.0 else { return };
        match events.resets.fetch_add(1, Ordering::Relaxed) {
            MAX_RESETS => events.too_many_resets.notify_one(),
            // The client ignores GOAWAY.
            resets if resets >= 2 * MAX_RESETS => events.far_too_many_resets.notify_one(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_of_cookies_are_joined_in_their_order() {
        let mut headers = HeaderMap::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        for crumb in ["a=1", "b=2; c=3", "a=4"] {
            headers.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        let joined: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(joined, ["a=1; b=2; c=3; a=4"]);
    }
}
