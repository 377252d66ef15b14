//! Bodies of requests that do not end. LiteLLM authenticates nobody before it has read the body, so whoever sends one by drops
//! is a stranger who takes the place of users.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcp_auth_sidecar::server::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::peer::Client;
use crate::scene::{TEST_TIMEOUT, read_head};
use crate::slow::bounded;

const REQUESTS: usize = 6;
const DROP_INTERVAL: Duration = Duration::from_millis(100);

/// A LiteLLM that answers a request once its body is whole, but for `/slow`, which it answers when the test says so. Each head
/// that arrives is announced.
struct LiteLlm {
    address: SocketAddr,
    heads: mpsc::UnboundedReceiver<String>,
    release: mpsc::UnboundedSender<()>,
}

impl LiteLlm {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (announce, heads) = mpsc::unbounded_channel();
        let (release, mut released) = mpsc::unbounded_channel();
        let (slow, mut slow_connections) = mpsc::unbounded_channel::<TcpStream>();
        tokio::spawn(async move {
            while let Some(mut stream) = slow_connections.recv().await {
                released.recv().await;
                let _ = stream.write_all(ANSWER).await;
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, announce.clone(), slow.clone()));
            }
        });
        Self {
            address,
            heads,
            release,
        }
    }

    async fn heads(&mut self, number: usize) {
        for _ in 0..number {
            let head = timeout(TEST_TIMEOUT, self.heads.recv()).await;
            head.expect("a request gets to LiteLLM").unwrap();
        }
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn serve(
    mut stream: TcpStream,
    announce: mpsc::UnboundedSender<String>,
    slow: mpsc::UnboundedSender<TcpStream>,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let is_chunked = head.contains("transfer-encoding: chunked");
        let is_slow = head.starts_with("POST /slow");
        let _ = announce.send(head);
        // A body in chunks never ends here.
        let length = if is_chunked { 1 << 20 } else { length };
        stream.read_exact(&mut vec![0; length]).await?;
        if is_slow {
            let _ = slow.send(stream);
            return Ok(());
        }
        stream.write_all(ANSWER).await?;
    }
}

fn bounds() -> Bounds {
    Bounds {
        requests: REQUESTS,
        ..Bounds::default()
    }
}

/// Asks until a user gets an answer.
async fn user_is_served(inbound: SocketAddr) {
    let asking = async {
        while Client::connect(inbound).await.next("user").await.as_deref() != Some("200") {
            sleep(DROP_INTERVAL).await;
        }
    };
    timeout(TEST_TIMEOUT, asking)
        .await
        .expect("bodies that drip end where a user needs their place");
}

#[tokio::test]
async fn bodies_that_drip_end_where_a_user_needs_their_place() {
    let mut litellm = LiteLlm::start().await;
    let (workers, [inbound, _]) = bounded(litellm.address, bounds());
    let head = b"POST /drip HTTP/1.1\r\nHost: llm\r\nContent-Length: 100000\r\n\r\n";
    let mut dripping = Vec::new();
    for _ in 0..REQUESTS - 1 {
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        stream.write_all(head).await.unwrap();
        dripping.push(stream);
    }
    litellm.heads(REQUESTS - 1).await;
    // The last place.
    let mut waiting = TcpStream::connect(inbound).await.unwrap();
    let slow = b"POST /slow HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\n\r\n{}";
    waiting.write_all(slow).await.unwrap();
    litellm.heads(1).await;
    let drops = tokio::spawn(async move {
        loop {
            for stream in &mut dripping {
                let _ = stream.write_all(b"x").await;
            }
            sleep(DROP_INTERVAL).await;
        }
    });
    user_is_served(inbound).await;
    litellm.release.send(()).unwrap();
    let answer = read_head(&mut waiting).await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "LiteLLM's time is its own: {answer}"
    );
    drops.abort();
    workers.stop(Duration::ZERO);
}

#[tokio::test]
async fn streams_of_http2_that_drip_end_and_the_others_of_their_connection_go_on() {
    let mut litellm = LiteLlm::start().await;
    let (workers, [inbound, _]) = bounded(litellm.address, bounds());
    let io = TokioIo::new(TcpStream::connect(inbound).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut drips = Vec::new();
    for _ in 0..REQUESTS - 1 {
        let (drip, mut drops) = mpsc::unbounded_channel::<Bytes>();
        let frames = futures::stream::poll_fn(move |cx| drops.poll_recv(cx));
        let body = StreamBody::new(futures::StreamExt::map(frames, |drop| {
            Ok::<_, std::convert::Infallible>(Frame::data(drop))
        }));
        let request = Request::post("http://llm/drip")
            .body(BodyExt::boxed_unsync(body))
            .unwrap();
        tokio::spawn(sender.clone().send_request(request));
        drips.push(drip);
    }
    litellm.heads(REQUESTS - 1).await;
    let slow = http_body_util::Full::new(Bytes::from_static(b"{}")).boxed_unsync();
    let slow = Request::post("http://llm/slow")
        .header("content-length", "2")
        .body(slow)
        .unwrap();
    let waiting = tokio::spawn(sender.clone().send_request(slow));
    litellm.heads(1).await;
    let drops = tokio::spawn(async move {
        loop {
            for drip in &drips {
                let _ = drip.send(Bytes::from_static(b"x"));
            }
            sleep(DROP_INTERVAL).await;
        }
    });
    user_is_served(inbound).await;
    litellm.release.send(()).unwrap();
    let answer = timeout(TEST_TIMEOUT, waiting)
        .await
        .expect("an answer in time")
        .unwrap();
    assert_eq!(
        answer.unwrap().status(),
        200,
        "another request of the same connection"
    );
    drops.abort();
    workers.stop(Duration::ZERO);
}

/// Beginning of a body in gzip: its header, and a block of 65,535 bytes as they are.
const GZIP_BEGINNING: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\0\xff\xff\0\0";
/// `{}`.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
/// More than are decoded at a time.
const COMPRESSED: usize = 160;

/// Each would keep the decoder that looks into it.
#[tokio::test]
async fn compressed_bodies_that_drip_give_up_their_decoder_to_a_user() {
    let litellm = LiteLlm::start().await;
    let (workers, [inbound, _]) = bounded(litellm.address, Bounds::default());
    let mut dripping = Vec::new();
    let mut refused = 0;
    for _ in 0..COMPRESSED {
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        let head =
            b"POST /drip HTTP/1.1\r\nHost: llm\r\nContent-Encoding: gzip\r\nContent-Length: 60000\r\n\r\n";
        stream.write_all(&[head, GZIP_BEGINNING].concat()).await.unwrap();
        dripping.push(stream);
    }
    let drops = tokio::spawn(async move {
        let mut open = dripping;
        loop {
            for stream in &mut open {
                let _ = stream.write_all(b"x").await;
            }
            sleep(DROP_INTERVAL).await;
        }
    });
    let ask = async || {
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        let head = format!(
            "POST /user HTTP/1.1\r\nHost: llm\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            GZIP.len()
        );
        stream.write_all(&[head.as_bytes(), GZIP].concat()).await.unwrap();
        read_head(&mut stream).await
    };
    let asking = async {
        loop {
            let answer = ask().await;
            if answer.starts_with("HTTP/1.1 200") {
                return;
            }
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            refused += 1;
            sleep(DROP_INTERVAL).await;
        }
    };
    timeout(TEST_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| panic!("a user's body is looked into in time"));
    for _ in 0..3 {
        assert!(
            ask().await.starts_with("HTTP/1.1 200"),
            "after {refused} refusals"
        );
    }
    drops.abort();
    workers.stop(Duration::ZERO);
}
