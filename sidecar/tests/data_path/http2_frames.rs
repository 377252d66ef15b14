//! MCP servers whose frames of HTTP/2 the test writes: what libraries do not send, or not when it matters.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{StatusCode, Version};
use http_body_util::BodyExt;
use mcp_auth_protocol::sync::Server;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::scene::{Sidecar, TEST_TIMEOUT, bytes, get, json, post, unused_address};
use crate::wires::{acceptor, secure_tools};

/// A server whose frames the test writes, one connection after the other.
struct Framed {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    tools: Server,
}

const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const INITIAL_WINDOW_SIZE: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;

impl Framed {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (acceptor, pem) = acceptor(&[Version::HTTP_2]);
        let tools = secure_tools(listener.local_addr().unwrap().port(), &pem);
        Self {
            listener,
            acceptor,
            tools,
        }
    }

    /// The next connection, after its settings were exchanged and its first request arrived, with its
    /// stream's number.
    async fn next(&self) -> (TlsStream<TcpStream>, u32) {
        let accepted = timeout(TEST_TIMEOUT, self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection in time").unwrap();
        let mut stream = self.acceptor.accept(stream).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        write_frame(&mut stream, SETTINGS, 0, 0, &[]).await;
        let id = next_request(&mut stream).await;
        (stream, id)
    }

    /// Nobody comes any more, as far as one can wait for that.
    async fn is_left_alone(&self) {
        assert!(
            timeout(Duration::from_millis(200), self.listener.accept())
                .await
                .is_err()
        );
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await.unwrap();
    stream.flush().await.unwrap();
}

/// Reads up to the next request's headers.
async fn next_request(stream: &mut (impl AsyncRead + Unpin)) -> u32 {
    loop {
        let (kind, id, _) = next_frame(stream).await;
        if kind == HEADERS {
            return id;
        }
    }
}

/// Its type, its stream's number and its payload.
async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    timeout(TEST_TIMEOUT, stream.read_exact(&mut head))
        .await
        .expect("a frame in time")
        .unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.unwrap();
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (head[3], id, payload)
}

async fn goaway(stream: &mut (impl AsyncWrite + Unpin), last: u32) {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(0u32.to_be_bytes());
    write_frame(stream, GOAWAY, 0, 0, &payload).await;
}

async fn reset(stream: &mut (impl AsyncWrite + Unpin), id: u32, why: u32) {
    write_frame(stream, RST_STREAM, 0, id, &why.to_be_bytes()).await;
}

/// `:status: 204` from the static table of HPACK, and the end.
async fn no_content(stream: &mut (impl AsyncWrite + Unpin), id: u32) {
    write_frame(stream, HEADERS, 0x5, id, &[0x89]).await;
}

/// What a server is allowed to send before anything of it is taken is what the sidecar may have to hold.
#[tokio::test]
async fn answers_that_are_not_taken_hold_what_is_documented_and_no_more() {
    let upstream = Framed::start().await;
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
    let asking = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
    let (stream, _) = upstream.listener.accept().await.unwrap();
    let mut stream = upstream.acceptor.accept(stream).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    write_frame(&mut stream, SETTINGS, 0, 0, &[]).await;
    let (mut of_stream, mut of_connection) = (65_535, 65_535);
    let id = loop {
        let (kind, id, payload) = next_frame(&mut stream).await;
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match (kind, id) {
            (SETTINGS, _) => (0..payload.len()).step_by(6).for_each(|at| {
                if payload[at..at + 2] == [0, INITIAL_WINDOW_SIZE] {
                    of_stream = number(at + 2);
                }
            }),
            (WINDOW_UPDATE, 0) => of_connection += number(0),
            (HEADERS, id) => break id,
            _ => {}
        }
    };
    assert_eq!(of_stream, 256 << 10);
    assert_eq!(of_connection, 8 << 20);
    no_content(&mut stream, id).await;
    assert_eq!(asking.await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_request_that_was_certainly_not_processed_is_sent_again_on_another_connection() {
    for goes_away in [true, false] {
        let upstream = Framed::start().await;
        let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
        let answer = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
        let (mut first, id) = upstream.next().await;
        match goes_away {
            true => goaway(&mut first, 0).await,
            false => reset(&mut first, id, REFUSED_STREAM).await,
        }
        let (mut second, id) = upstream.next().await;
        no_content(&mut second, id).await;
        assert_eq!(answer.await.unwrap().status(), StatusCode::NO_CONTENT);
        // And that connection is kept.
        let answer = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
        let id = next_request(&mut second).await;
        no_content(&mut second, id).await;
        assert_eq!(answer.await.unwrap().status(), StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_sent_again() {
    enum End {
        Reset,
        GoAway,
        Close,
    }
    for end in [End::Reset, End::GoAway, End::Close] {
        let upstream = Framed::start().await;
        let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
        let answer = tokio::spawn(post(sidecar.outbound, "/tools/mcp", r#"{"id":7}"#));
        let (mut stream, id) = upstream.next().await;
        match end {
            End::Reset => reset(&mut stream, id, INTERNAL_ERROR).await,
            End::GoAway => goaway(&mut stream, id).await,
            End::Close => {}
        }
        drop(stream);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(answer).await;
        assert_eq!(
            (&body["error"]["code"], &body["id"]),
            (&(-32057).into(), &7.into())
        );
        upstream.is_left_alone().await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    for whole_connection in [true, false] {
        let upstream = Framed::start().await;
        let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
        let answer = tokio::spawn(get(sidecar.outbound, "/tools/mcp"));
        let (mut stream, id) = upstream.next().await;
        // `:status: 200`, and no end.
        write_frame(&mut stream, HEADERS, 0x4, id, &[0x88]).await;
        write_frame(&mut stream, DATA, 0, id, b"begun").await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let kept = match whole_connection {
            true => {
                drop(stream);
                None
            }
            false => {
                reset(&mut stream, id, INTERNAL_ERROR).await;
                Some(stream)
            }
        };
        let ended = timeout(TEST_TIMEOUT, answer.into_body().collect()).await;
        assert!(ended.unwrap().is_err(), "it must not look whole");
        drop(kept);
    }
}

#[tokio::test]
async fn streams_that_goaway_spares_come_to_their_end() {
    let upstream = Framed::start().await;
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
    let spared = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
    let (mut first, id) = upstream.next().await;
    goaway(&mut first, id).await;
    // A new request has to go elsewhere. It may be on its way already when GOAWAY comes.
    let elsewhere = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
    let (mut second, other) = upstream.next().await;
    no_content(&mut second, other).await;
    assert_eq!(elsewhere.await.unwrap().status(), StatusCode::NO_CONTENT);
    no_content(&mut first, id).await;
    assert_eq!(spared.await.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_server_that_refuses_again_and_again_is_not_asked_for_ever() {
    let upstream = Framed::start().await;
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&upstream.tools));
    let answer = tokio::spawn(post(sidecar.outbound, "/tools/mcp", "{}"));
    for _ in 0..3 {
        let (mut stream, id) = upstream.next().await;
        reset(&mut stream, id, REFUSED_STREAM).await;
    }
    assert_eq!(answer.await.unwrap().status(), StatusCode::BAD_GATEWAY);
    upstream.is_left_alone().await;
}

/// Some event-stream helpers set `Connection` whatever the protocol is, which HTTP/2 forbids (RFC 9113 section 8.2.2).
#[tokio::test]
async fn a_server_that_sends_connection_headers_over_http2_is_spoken_to_by_http1() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (acceptor, pem) = acceptor(&[Version::HTTP_2, Version::HTTP_11]);
    let tools = secure_tools(listener.local_addr().unwrap().port(), &pem);
    let (spoken, mut protocols) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, spoken) = (acceptor.clone(), spoken.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                spoken.send(is_http2).unwrap();
                if is_http2 {
                    answer_with_connection_header(&mut stream).await;
                } else {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    let mut read = Vec::new();
                    while stream.read_buf(&mut read).await.is_ok_and(|number| number > 0) {
                        if read.ends_with(b"}") {
                            read.clear();
                            stream.write_all(answer).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&tools));
    for _ in 0..2 {
        assert_eq!(
            bytes(post(sidecar.outbound, "/tools/mcp", LIST).await).await,
            "ok"
        );
    }
    assert_eq!(
        (protocols.recv().await, protocols.recv().await),
        (Some(true), Some(false))
    );

    let mut without = tools.clone();
    without.route.http1_only = true;
    let sidecar = Sidecar::start(unused_address().await, &[without]);
    assert_eq!(
        bytes(post(sidecar.outbound, "/tools/mcp", LIST).await).await,
        "ok"
    );
    assert_eq!(protocols.recv().await, Some(false), "HTTP/2 is not offered");
}

/// One wrong answer, as of a single tool, of a server or an ingress that offers nothing but HTTP/2.
#[tokio::test]
async fn a_server_of_http2_alone_is_still_reached_after_an_answer_that_is_malformed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (acceptor, pem) = acceptor(&[Version::HTTP_2]);
    let tools = secure_tools(listener.local_addr().unwrap().port(), &pem);
    let answered = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answered) = (acceptor.clone(), answered.clone());
            tokio::spawn(async move {
                // HTTP/1.1 alone is refused here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                match answered.fetch_add(1, Ordering::Relaxed) {
                    0 => answer_with_connection_header(&mut stream).await,
                    // `:status: 204` from the table.
                    _ => answer_with(&mut stream, &[0x89]).await,
                }
            });
        }
    });
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&tools));
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let lost = post(sidecar.outbound, "/tools/mcp", call).await;
    assert_eq!(lost.status(), StatusCode::BAD_GATEWAY, "a call is not repeated");
    for message in [list, call, list] {
        let answer = post(sidecar.outbound, "/tools/mcp", message).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{message}");
    }
}

/// Answers each request by headers that only HTTP/1.1 has.
async fn answer_with_connection_header(stream: &mut TlsStream<TcpStream>) {
    // `:status: 200` from the table, and a literal that is not indexed.
    let mut fields = vec![0x88, 0, 10];
    fields.extend(b"connection");
    fields.push(10);
    fields.extend(b"keep-alive");
    answer_with(stream, &fields).await;
}

/// Answers each request by these headers alone, in HPACK.
async fn answer_with(stream: &mut TlsStream<TcpStream>, fields: &[u8]) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 {
            let mut frame = vec![0, 0, fields.len() as u8, 1, 5];
            frame.extend(&head[5..]);
            frame.extend(fields);
            stream.write_all(&frame).await.unwrap();
        }
    }
}
