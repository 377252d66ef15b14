//! What of LiteLLM is not MCP: it must not notice us, nor its users.

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::scene::{
    Scripted, Sidecar, TEST_TIMEOUT, bytes, client_frame, listed, raw, read_head, send, server, streamed,
    whole,
};
use crate::wires::{BOTH, ask};

const SERVER: &str = "https://tools.example.com/mcp";

/// Redirects and cookies of single sign-on, health, metrics and the user interface.
#[tokio::test]
async fn answers_come_back_as_they_are() {
    let litellm = Scripted::start(async |request: Request<Incoming>| {
        let answer = Response::builder();
        match request.uri().path() {
            "/sso/key/generate" => answer
                .status(303)
                .header(
                    "location",
                    "https://idp.example.com/authorize?redirect_uri=https%3A%2F%2Fllm",
                )
                .header("set-cookie", "litellm_sso=1; HttpOnly; Path=/")
                .header("set-cookie", "token=eyJ; Path=/; SameSite=Lax")
                .body(whole("")),
            "/health/liveliness" => answer
                .header("content-type", "application/json")
                .body(whole("\"I'm alive!\"")),
            "/metrics" => answer
                .header("content-type", "text/plain; version=0.0.4")
                .body(whole("# TYPE litellm_x counter\n")),
            "/v1/models" => answer
                .status(401)
                .header("www-authenticate", "Bearer")
                .header("x-litellm-call-id", "c-1")
                .body(whole("{\"error\":{}}")),
            _ => answer
                .header("content-encoding", "gzip")
                .header("etag", "W/\"1\"")
                .header("vary", "accept-encoding, cookie")
                .body(whole(&b"\x1f\x8b"[..])),
        }
        .unwrap()
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    for path in [
        "/sso/key/generate",
        "/health/liveliness",
        "/metrics",
        "/v1/models",
        "/ui/main.js",
    ] {
        let straight = send(litellm.address, Request::get(path), whole("")).await;
        for version in BOTH {
            let through = ask(version, sidecar.inbound, Request::get(path), whole("")).await;
            assert_eq!(through.status(), straight.status(), "{path}");
            let (mut ours, mut theirs) = (through.headers().clone(), straight.headers().clone());
            // It says the second.
            assert!(ours.remove("date").is_some() && theirs.remove("date").is_some());
            assert_eq!(listed(&ours), listed(&theirs), "{path}");
            let cookies =
                |headers: &http::HeaderMap| headers.get_all("set-cookie").iter().cloned().collect::<Vec<_>>();
            assert_eq!(cookies(&ours), cookies(&theirs), "in their order");
        }
        let body = bytes(straight).await;
        let through = ask(Version::HTTP_11, sidecar.inbound, Request::get(path), whole("")).await;
        assert_eq!(bytes(through).await, body);
    }
}

#[tokio::test]
async fn litellm_learns_who_asked_and_how() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    for version in BOTH {
        ask(version, sidecar.inbound, Request::get("/"), whole("")).await;
        let seen = litellm.seen().pop().unwrap().headers;
        assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
        assert!(!seen.contains_key("x-forwarded-proto") && !seen.contains_key("x-forwarded-host"));
        assert_eq!(seen["host"], sidecar.inbound.to_string());

        let behind_an_ingress = Request::get("/")
            .header("x-forwarded-for", "203.0.113.7")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "llm.example.com");
        ask(version, sidecar.inbound, behind_an_ingress, whole("")).await;
        let seen = litellm.seen().pop().unwrap().headers;
        let fields = |name| seen.get_all(name).iter().collect::<Vec<_>>();
        // LiteLLM reads the first of them, its server the last.
        assert_eq!(fields("x-forwarded-for"), ["203.0.113.7", "127.0.0.1"]);
        assert_eq!(fields("x-forwarded-proto"), ["https", "http"]);
        assert_eq!(seen["x-forwarded-host"], "llm.example.com");
    }
}

/// A chunk goes to LiteLLM when it comes, and one of the answer to the user: neither waits for the end of the
/// other.
#[tokio::test]
async fn request_and_answer_stream_at_the_same_time() {
    let litellm = Scripted::start(async |request: Request<Incoming>| {
        Response::new(http_body_util::BodyExt::boxed(http_body_util::BodyExt::map_err(
            Shared(request.into_body()),
            |error| panic!("{error}"),
        )))
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    for version in BOTH {
        let (sender, body) = streamed();
        sender.send("first".into()).unwrap();
        let request = Request::post("/v1/audio/transcriptions");
        let mut answer = ask(version, sidecar.inbound, request, body).await;
        for expected in ["first", "second", "third"] {
            let frame = timeout(TEST_TIMEOUT, http_body_util::BodyExt::frame(answer.body_mut()))
                .await
                .expect("a chunk in time");
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), expected);
            let _ = sender.send(if expected == "first" { "second" } else { "third" }.into());
        }
    }
}

/// A body that only its owner polls may be shared between threads all the same.
struct Shared(Incoming);

impl hyper::body::Body for Shared {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

pub const HANDSHAKE: &str = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The first messages may come in one piece with the handshake, on both sides; and one side may end before
/// the other.
#[tokio::test]
async fn a_websocket_loses_nothing_of_its_beginning_nor_of_its_end() {
    let litellm = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(litellm.local_addr().unwrap(), &[server(SERVER)]);
    let mut client = TcpStream::connect(sidecar.inbound).await.unwrap();
    client
        .write_all(&[HANDSHAKE.as_bytes(), &client_frame("early of the client")].concat())
        .await
        .unwrap();
    let (mut server, _) = litellm.accept().await.unwrap();
    let head = read_head(&mut server).await;
    assert!(
        head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        "{head}"
    );
    server
        .write_all(format!("{SWITCHING}early of the server").as_bytes())
        .await
        .unwrap();
    let head = read_head(&mut client).await;
    assert!(
        head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{head}"
    );
    let mut early = [0; 19];
    timeout(TEST_TIMEOUT, client.read_exact(&mut early))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&early, b"early of the server");
    let mut arrived = [0; 25];
    timeout(TEST_TIMEOUT, server.read_exact(&mut arrived))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(arrived.as_slice(), client_frame("early of the client"));

    client.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(TEST_TIMEOUT, server.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
    server.write_all(b"still something to say").await.unwrap();
    drop(server);
    timeout(TEST_TIMEOUT, client.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, b"still something to say");
}

#[tokio::test]
async fn a_websocket_ends_on_both_sides_when_its_client_is_gone() {
    let litellm = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(litellm.local_addr().unwrap(), &[]);
    let mut client = TcpStream::connect(sidecar.inbound).await.unwrap();
    client.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let (mut server, _) = litellm.accept().await.unwrap();
    read_head(&mut server).await;
    server.write_all(SWITCHING.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    drop(client);
    let mut rest = Vec::new();
    timeout(TEST_TIMEOUT, server.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.is_empty());
}

/// Only the WebSocket is passed through. Anything else is answered as if it had not been asked for.
#[tokio::test]
async fn another_protocol_is_not_switched_to() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
        Upgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    let answer = raw(sidecar.inbound, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let seen = litellm.only().headers;
    assert!(!seen.contains_key("upgrade") && !seen.contains_key("http2-settings"));
    assert_eq!(
        send(sidecar.inbound, Request::get("/"), whole("")).await.status(),
        StatusCode::OK
    );
}
