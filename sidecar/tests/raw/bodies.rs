//! Bodies of requests that do not end. LiteLLM authenticates nobody before it has read the body, so whoever sends one by drops
//! is a stranger who takes the place of users.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use tokio::task::JoinHandle;
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

/// Beginning of a body in zstd with a window of 8 MiB: the frame's header.
const ZSTD_BEGINNING: &[u8] = b"\x28\xb5\x2f\xfd\x00\x68";
/// Header of a block of 1,021 bytes as they are.
const ZSTD_BLOCK: &[u8] = b"\xe8\x1f\0";
/// `{}`, in a frame with the window of an encoder that does not know the length beforehand, which is 2 MiB.
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x00\x58\x11\0\0{}";

/// A request whose body has begun.
async fn begin_compressed(inbound: SocketAddr, coding: &str, beginning: &[u8], length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(inbound).await.unwrap();
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: llm\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n"
    );
    let sent = [head.as_bytes(), beginning].concat();
    stream.write_all(&sent).await.unwrap();
    stream
}

/// The answer to a user's body.
async fn ask_compressed(inbound: SocketAddr, coding: &str, body: &[u8]) -> String {
    read_head(&mut begin_compressed(inbound, coding, body, body.len()).await).await
}

/// Asks until a user's body is looked into; how often it was refused before.
async fn user_is_looked_into(inbound: SocketAddr, coding: &str, body: &[u8]) -> usize {
    let asking = async {
        let mut refused = 0;
        loop {
            let answer = ask_compressed(inbound, coding, body).await;
            if answer.starts_with("HTTP/1.1 200") {
                return refused;
            }
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            refused += 1;
            sleep(DROP_INTERVAL).await;
        }
    };
    timeout(TEST_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| panic!("a user's body is looked into in time"))
}

/// Sends `drop` on all of them, again and again, and counts how often.
fn drip(mut streams: Vec<TcpStream>, drop: Vec<u8>) -> (JoinHandle<()>, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    let drops = tokio::spawn(async move {
        loop {
            for stream in &mut streams {
                let _ = stream.write_all(&drop).await;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            sleep(DROP_INTERVAL).await;
        }
    });
    (drops, count)
}

/// Each would keep the decoder that looks into it.
#[tokio::test]
async fn compressed_bodies_that_drip_give_up_their_decoder_to_a_user() {
    let litellm = LiteLlm::start().await;
    let bounds = Bounds {
        decoding: 16 << 20,
        ..Bounds::default()
    };
    let (workers, [inbound, _]) = bounded(litellm.address, bounds);
    let mut dripping = Vec::new();
    for _ in 0..COMPRESSED {
        dripping.push(begin_compressed(inbound, "gzip", GZIP_BEGINNING, 60_000).await);
    }
    let (drops, _) = drip(dripping, b"x".to_vec());
    let refused = user_is_looked_into(inbound, "gzip", GZIP).await;
    for _ in 0..3 {
        let answer = ask_compressed(inbound, "gzip", GZIP).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "after {refused} refusals");
    }
    drops.abort();
    workers.stop(Duration::ZERO);
}

/// Two are all that there is room for at the memory limit of the chart, and as fast as these come nobody is slow.
#[tokio::test]
async fn large_windows_of_strangers_give_up_their_room_to_a_user() {
    let litellm = LiteLlm::start().await;
    let (workers, [inbound, _]) = bounded(litellm.address, Bounds::within(Some(256 << 20), None));
    let block = [ZSTD_BLOCK, &[b'x'; 1021]].concat();
    let beginning = [ZSTD_BEGINNING, &block].concat();
    let mut trickling = Vec::new();
    for _ in 0..2 {
        trickling.push(begin_compressed(inbound, "zstd", &beginning, 1 << 20).await);
    }
    let (drops, count) = drip(trickling, block);
    // It begins with a refusal, unless the strangers have not got there yet.
    let refused = user_is_looked_into(inbound, "zstd", ZSTD).await;
    let count = count.load(Ordering::Relaxed);
    // In the time in which a small decoder is left alone it is 300.
    assert!(count < 200, "{count} drops and {refused} refusals");
    drops.abort();
    workers.stop(Duration::ZERO);
}
