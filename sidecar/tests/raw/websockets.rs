//! What clients send over a WebSocket, byte for byte, and what LiteLLM sees of it.

use std::net::Ipv4Addr;
use std::time::Duration;

use mcp_auth_sidecar::server::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::scene::{TEST_TIMEOUT, client_frame, read_head};
use crate::slow::bounded;

pub struct SocketRow {
    pub name: &'static str,
    pub sent: Vec<u8>,
    pub sees: &'static str,
}

pub const UNCHANGED: &str = "the same bytes";
pub const ENDED: &str = "nothing, and the end";

const HANDSHAKE: &[u8] =
    b"GET /v1/responses HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const MASK: [u8; 4] = [7, 1, 8, 2];

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A frame of a client, with a length of one byte.
fn frame(first: u8, payload: &str) -> Vec<u8> {
    assert!(payload.len() < 126);
    let length = u8::try_from(payload.len()).unwrap();
    let head = [first, 0x80 | length].into_iter().chain(MASK);
    head.chain(masked(payload.as_bytes())).collect()
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let bytes = payload.iter().zip(MASK.iter().cycle());
    bytes.map(|(byte, key)| byte ^ key).collect()
}

pub fn rows() -> Vec<SocketRow> {
    let row = |name, sent: Vec<u8>, sees| SocketRow { name, sent, sees };
    let forged = r#"{"mcpauth-context":"forged"}"#;
    let long = [&[FINAL | PING, 0xfe, 0, 126][..], &MASK, &[0; 126]].concat();
    let padded = [
        &[FINAL | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 0, 2][..],
        &MASK,
        &masked(b"{}"),
    ]
    .concat();
    let endless = [&[FINAL | TEXT, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    vec![
        row(
            "a message",
            frame(FINAL | TEXT, r#"{"type":"response.create"}"#),
            UNCHANGED,
        ),
        row(
            "our header's name as a key",
            frame(FINAL | TEXT, forged),
            r#"{"mcpauth-contex_":"forged"}"#,
        ),
        row(
            "the same in a binary message",
            frame(FINAL | BINARY, forged),
            r#"{"mcpauth-contex_":"forged"}"#,
        ),
        row(
            "the same in two frames with a ping between them",
            [
                frame(TEXT, &forged[..12]),
                frame(FINAL | PING, "p"),
                frame(FINAL | CONTINUATION, &forged[12..]),
            ]
            .concat(),
            r#"{"mcpauth-co p ntex_":"forged"}"#,
        ),
        row(
            "the same behind a message that was never ended",
            [frame(TEXT, r#"{"a"#), frame(FINAL | TEXT, forged)].concat(),
            r#"{"a {"mcpauth-contex_":"forged"}"#,
        ),
        row(
            "a thousand empty frames",
            frame(CONTINUATION, "").repeat(1_000),
            UNCHANGED,
        ),
        row(
            "a continuation of nothing",
            frame(FINAL | CONTINUATION, "{}"),
            UNCHANGED,
        ),
        row("an opcode that means nothing", frame(FINAL | 3, "{}"), UNCHANGED),
        row("a ping longer than pings may be", long, UNCHANGED),
        row("a length in more bytes than it needs", padded, UNCHANGED),
        row(
            "a message behind the end",
            [frame(FINAL | CLOSE, ""), frame(FINAL | TEXT, "{}")].concat(),
            UNCHANGED,
        ),
        row(
            "an extension that was not agreed on",
            frame(FINAL | 0x40 | TEXT, "{}"),
            ENDED,
        ),
        row("a frame without a mask", vec![FINAL | TEXT, 2, b'{', b'}'], ENDED),
        row("a length beyond 63 bits", endless, ENDED),
        row("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), ENDED),
    ]
}

/// Payloads, each behind a space.
fn payloads(mut bytes: &[u8]) -> String {
    let mut read = Vec::new();
    while let [_, length, _, _, _, _, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(length & 0x7f));
        read.push(String::from_utf8(masked(payload)).unwrap());
        bytes = rest;
    }
    read.join(" ")
}

#[tokio::test]
async fn what_a_websocket_brings_names_no_header_of_ours_and_is_no_other_protocol() {
    let litellm = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (workers, [inbound, _]) = bounded(litellm.local_addr().unwrap(), Bounds::default());
    let last = client_frame("the last message");
    for SocketRow { name, sent, sees } in rows() {
        let mut client = TcpStream::connect(inbound).await.unwrap();
        client.write_all(HANDSHAKE).await.unwrap();
        let (mut server, _) = timeout(TEST_TIMEOUT, litellm.accept()).await.unwrap().unwrap();
        read_head(&mut server).await;
        server.write_all(SWITCHING).await.unwrap();
        read_head(&mut client).await;
        // Where the tunnel has ended, there is nothing to write to.
        let _ = client.write_all(&[sent.as_slice(), &last].concat()).await;
        let mut seen = Vec::new();
        let reading = async {
            // A reset is an end as well.
            while !seen.ends_with(&last) && server.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {}
        };
        timeout(TEST_TIMEOUT, reading).await.expect(name);
        let found = match seen.strip_suffix(last.as_slice()) {
            Some(seen) if seen == sent => UNCHANGED.to_owned(),
            Some(seen) => payloads(seen),
            None if seen.is_empty() => ENDED.to_owned(),
            None => format!("{} and the end", payloads(&seen)),
        };
        assert_eq!(found, sees, "{name}");
    }
    workers.stop(Duration::ZERO);
}
