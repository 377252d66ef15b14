//! An answer over HTTP/1.1 is the same however it is cut, and hyper's client reads the same in it: what that one refuses, or
//! reads in another way, is never passed on, and never is a connection kept that it would close.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use crate::http::http1::Connection;
use crate::http::request_body::RequestBody;

const ROOM: usize = 1 << 20;

/// What became of an answer.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    status: Option<u16>,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_whole: bool,
    has_failed: bool,
    /// The connection takes another request.
    is_kept: bool,
}

/// The first byte says which request is answered and whether the server closes the connection, and the next four how the
/// others are cut.
pub fn answer(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let Some((seed, sent)) = data.split_first_chunk() else {
        return;
    };
    let method = match kind & 1 {
        0 => Method::GET,
        _ => Method::HEAD,
    };
    let closes = kind & 2 != 0;
    let whole = ours(&method, &[sent], closes);
    let longest = 1 + sent.len() / 4;
    let cut = ours(
        &method,
        &super::pieces(sent, u32::from_be_bytes(*seed), longest),
        closes,
    );
    assert_eq!(cut.status, whole.status, "however it is cut");
    assert_eq!(cut.headers, whole.headers, "however it is cut");
    assert_eq!(cut.trailers, whole.trailers, "however it is cut");
    assert_eq!(cut.body, whole.body, "however it is cut");
    assert_eq!(cut.is_whole, whole.is_whole, "however it is cut");
    assert_eq!(cut.is_kept, whole.is_kept, "however it is cut");
    let theirs = hypers(&method, sent, closes);
    if whole.status.is_some() {
        assert_eq!(whole.status, theirs.status);
        assert_eq!(whole.headers, theirs.headers);
    }
    if whole.is_whole {
        assert!(theirs.is_whole, "{theirs:?}");
        assert_eq!(whole.body, theirs.body);
        assert_eq!(whole.trailers, theirs.trailers);
    } else {
        assert!(theirs.body.starts_with(&whole.body) || whole.body.starts_with(&theirs.body));
    }
    assert!(!whole.is_kept || theirs.is_kept, "{whole:?}");
}

fn request<B>(method: &Method, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    request
}

fn ours(method: &Method, pieces: &[&[u8]], closes: bool) -> Outcome {
    let (io, server) = duplex(ROOM);
    let mut server = Some(server);
    let mut connection = Connection::new(io);
    connection.begin(request(method, RequestBody::Whole(None)));
    let mut cx = Context::from_waker(Waker::noop());
    let mut outcome = Outcome::default();
    let mut pieces = pieces.iter();
    loop {
        if outcome.status.is_none() {
            match connection.poll_answer(&mut cx) {
                Poll::Ready(Ok(answer)) => outcome.head(&answer),
                Poll::Ready(Err(_)) => break outcome.has_failed = true,
                Poll::Pending => {}
            }
        }
        if outcome.status.is_some() {
            let body = std::iter::from_fn(|| match connection.poll_frame(&mut cx) {
                Poll::Ready(frame) => Some(frame),
                Poll::Pending => None,
            });
            if outcome.read(body) {
                break;
            }
        }
        match pieces.next() {
            Some(piece) => write(server.as_mut(), piece),
            None if closes && server.is_some() => server = None,
            None => break,
        }
    }
    for piece in pieces {
        write(server.as_mut(), piece);
    }
    if closes {
        drop(server.take());
    }
    outcome.is_kept = outcome.is_whole && connection.look().is_ok();
    outcome
}

fn hypers(method: &Method, sent: &[u8], closes: bool) -> Outcome {
    let (io, server) = duplex(ROOM);
    let mut server = Some(server);
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .max_headers(256)
        .handshake(TokioIo::new(io))
        .now_or_never();
    let (mut sender, connection) = handshake
        .expect("it waits for nothing")
        .expect("nothing of it fails");
    let mut connection = pin!(connection);
    let mut cx = Context::from_waker(Waker::noop());
    let mut outcome = Outcome::default();
    {
        let mut answer = pin!(sender.send_request(request(method, RequestBody::Whole(None))));
        let _ = answer.as_mut().poll(&mut cx);
        let mut is_over = connection.as_mut().poll(&mut cx).is_ready();
        write(server.as_mut(), sent);
        if closes {
            server = None;
        }
        let mut body = None;
        // Each round takes a part, or reads one.
        for _ in 0..4 * (sent.len() + 8) {
            if !is_over {
                is_over = connection.as_mut().poll(&mut cx).is_ready();
            }
            match &mut body {
                None => match answer.as_mut().poll(&mut cx) {
                    Poll::Ready(Ok(answer)) => {
                        let (parts, incoming) = answer.into_parts();
                        outcome.head(&Response::from_parts(parts, ()));
                        body = Some(incoming);
                    }
                    Poll::Ready(Err(_)) => {
                        outcome.has_failed = true;
                        break;
                    }
                    Poll::Pending => {}
                },
                Some(body) => {
                    if let Poll::Ready(frame) = Pin::new(body).poll_frame(&mut cx)
                        && outcome.read(std::iter::once(frame))
                    {
                        break;
                    }
                }
            }
        }
        if !is_over {
            let _ = connection.as_mut().poll(&mut cx).is_ready();
        }
    }
    drop(server);
    outcome.is_kept = outcome.is_whole && sender.is_ready();
    outcome
}

/// All of it has room.
fn write(server: Option<&mut DuplexStream>, piece: &[u8]) {
    if let Some(server) = server {
        // The other side may be gone.
        let _ = server.write_all(piece).now_or_never();
    }
}

impl Outcome {
    fn head<B>(&mut self, answer: &Response<B>) {
        self.status = Some(answer.status().as_u16());
        self.headers = answer.headers().clone();
    }

    /// Whether the body has come to an end, a good or a bad one.
    fn read<E>(&mut self, frames: impl Iterator<Item = Option<Result<http_body::Frame<Bytes>, E>>>) -> bool {
        for frame in frames {
            match frame {
                None => self.is_whole = true,
                Some(Err(_)) => self.has_failed = true,
                Some(Ok(frame)) => {
                    match frame.into_data() {
                        Ok(data) => self.body.extend_from_slice(&data),
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    }
                    continue;
                }
            }
            return true;
        }
        false
    }
}
