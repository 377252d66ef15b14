//! Exchanges over streams in memory, polled by hand: what came is all there is, so nothing here waits.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::FutureExt;
use http::{HeaderValue, StatusCode};
use http_body::SizeHint;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

mod answers;
mod preamble;
mod requests;

const ROOM: usize = 1 << 20;

/// A body whose parts are told beforehand. It waits behind the last one until it is over.
#[derive(Default)]
struct Parts {
    parts: VecDeque<Result<Frame<Bytes>, BodyError>>,
    is_over: bool,
    stated: Option<u64>,
}

impl Parts {
    fn over(parts: &[&'static str]) -> Self {
        Self {
            is_over: true,
            ..Self::begun(parts)
        }
    }

    fn begun(parts: &[&'static str]) -> Self {
        let data = |part: &&'static str| Ok(Frame::data(Bytes::from_static(part.as_bytes())));
        Self {
            parts: parts.iter().map(data).collect(),
            ..Self::default()
        }
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.parts.pop_front() {
            Some(part) => Poll::Ready(Some(part)),
            None if self.is_over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.stated.map(SizeHint::with_exact).unwrap_or_default()
    }
}

type Client = Connection<DuplexStream, Parts>;

fn connection() -> (Client, DuplexStream) {
    let (ours, theirs) = duplex(ROOM);
    (Connection::new(ours), theirs)
}

fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request(method: &str, target: &str, headers: &[(&'static str, &str)], body: Parts) -> Request<Parts> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn get() -> Request<Parts> {
    request("GET", "/", &[], Parts::over(&[]))
}

fn write(server: &mut DuplexStream, bytes: &[u8]) {
    server
        .write_all(bytes)
        .now_or_never()
        .expect("it has room")
        .unwrap();
}

/// All that was sent so far.
fn sent(server: &mut DuplexStream) -> String {
    let mut sent = Vec::new();
    while let Some(read) = server.read_buf(&mut sent).now_or_never() {
        if read.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(sent).unwrap()
}
