//! Clients: LiteLLM, users and strangers, by whole requests or by bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Body, SECRET, SECRET_HEADER, TEST_TIMEOUT, whole};

pub async fn connect(address: SocketAddr) -> TcpStream {
    tokio::time::timeout(TEST_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| panic!("{address} takes no connection within {TEST_TIMEOUT:?}"))
        .unwrap()
}

/// Sends a request over a connection of its own, as LiteLLM does. The host is the address.
pub async fn send(address: SocketAddr, request: http::request::Builder, body: Body) -> Response<Incoming> {
    send_as_stranger(address, request.header(SECRET_HEADER, SECRET), body).await
}

/// The same by something that is not LiteLLM.
pub async fn send_as_stranger(
    address: SocketAddr,
    request: http::request::Builder,
    body: Body,
) -> Response<Incoming> {
    let stream = connect(address).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = request.header("host", address.to_string()).body(body).unwrap();
    tokio::time::timeout(TEST_TIMEOUT, sender.send_request(request))
        .await
        .expect("an answer in time")
        .unwrap()
}

pub async fn get(address: SocketAddr, path: &str) -> Response<Incoming> {
    send(address, Request::get(path), whole("")).await
}

pub async fn post(address: SocketAddr, path: &str, body: &'static str) -> Response<Incoming> {
    let request = Request::post(path).header("content-type", "application/json");
    send(address, request, whole(body)).await
}

pub async fn bytes(response: Response<Incoming>) -> Bytes {
    tokio::time::timeout(TEST_TIMEOUT, response.into_body().collect())
        .await
        .expect("a body in time")
        .unwrap()
        .to_bytes()
}

pub async fn json(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

/// The request with LiteLLM's secret after each line `Host: localhost`.
pub fn as_litellm(request: &[u8]) -> Vec<u8> {
    const HOST: &[u8] = b"Host: localhost";
    let mut with_secret = Vec::new();
    let mut rest = request;
    while let Some(at) = rest.windows(HOST.len()).position(|window| window == HOST) {
        let (before, after) = rest.split_at(at + HOST.len());
        with_secret.extend_from_slice(before);
        for line_end in ["\r\n", "\n"] {
            if after.starts_with(line_end.as_bytes()) {
                with_secret.extend_from_slice(format!("{line_end}{SECRET_HEADER}: {SECRET}").as_bytes());
                break;
            }
        }
        rest = after;
    }
    with_secret.extend_from_slice(rest);
    with_secret
}

/// Sends these very bytes, with LiteLLM's secret where they say `Host: localhost`, and returns everything until the
/// other side closes.
pub async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&as_litellm(request)).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer))
        .await
        .expect("an end in time")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Everything up to the empty line after the headers.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            tokio::time::timeout(TEST_TIMEOUT, stream.read_u8())
                .await
                .expect("headers in time")
                .unwrap(),
        );
    }
    String::from_utf8(head).unwrap()
}

/// A frame of a WebSocket client with a text message of up to 125 bytes, masked as all of them are.
pub fn client_frame(text: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
    assert!(text.len() < 126, "the length of a longer one takes more bytes");
    let masked = text
        .bytes()
        .zip(MASK.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    let header = [0x81, 0x80 | text.len() as u8];
    header.into_iter().chain(MASK).chain(masked).collect()
}

/// Name and value of each header, sorted.
pub fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    all.sort();
    all
}
