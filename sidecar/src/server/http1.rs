//! Clients that speak HTTP/1.1. Between two requests their connections are parked.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::bounds::MAX_HEADERS;
use super::half::Half;
use super::load::{Connection, InterimAnswers, Signal, WatchedBody};
use crate::http::http1::OnInterim;
use crate::http::spurious_wakes::WakeFilter;
use crate::proxy::error::{HEADERS_TOO_LARGE, ProxyError, REQUEST_MALFORMED};
use crate::proxy::inbound::client_address::ClientPeer;

pub(super) async fn serve(
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
async fn answer(
    half: &Half,
    connection: &Connection,
    worker: usize,
    peer: &ClientPeer,
    mut request: Request<Incoming>,
) -> Result<Response<WatchedBody>, Infallible> {
    let (in_progress, response) = match connection.request(&request) {
        Ok(in_progress) => {
            let interim = pass_interim_answers(half, connection, &mut request);
            if let Some(interim) = &interim {
                interim.watch().await;
            }
            let response = half
                .answer(worker, peer, request, in_progress.body_progress())
                .await;
            // Not before those that came ahead of it.
            if let Some(interim) = interim {
                interim.written().await;
            }
            (in_progress, response)
        }
        Err(refused) => (refused, half.refuse(request.method(), &ProxyError::Overloaded)),
    };
    Ok(in_progress.answer(response))
}

/// Has interim answers passed on, of a GET: they prepare a client for a document, and every request would pay for that (1,160
/// instructions outbound, 910 inbound). HTTP/1.0 knows none (RFC 9110 section 15.2).
fn pass_interim_answers(
    half: &Half,
    connection: &Connection,
    request: &mut Request<Incoming>,
) -> Option<Arc<InterimAnswers>> {
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return None;
    }
    let interim = connection.interim_answers();
    let (half, passed) = (half.clone(), interim.clone());
    OnInterim::set(request, move |status, headers| {
        let mut headers = headers.clone();
        half.strip_interim_answer(&mut headers);
        passed.push(status, &headers);
    });
    Some(interim)
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
