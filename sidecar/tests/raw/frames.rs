//! Requests over HTTP/2 (h2c), frame by frame: what is malformed costs its stream or its connection, and nobody else
//! anything.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peer::Client;
use crate::row::{NOTHING, scene};
use crate::scene::TEST_TIMEOUT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct FrameRow {
    pub name: &'static str,
    /// After the preface.
    sent: Vec<u8>,
    /// The first thing that ends a request or the connection.
    pub gets: &'static str,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field that is spelled out.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.bytes());
    field.push(u8::try_from(value.len()).unwrap());
    field.extend(value.bytes());
    field
}

/// `GET http://llm/first`, with more fields.
fn get(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    block.extend(field(":path", "/first"));
    block.extend(field(":authority", "llm"));
    for (name, value) in more {
        block.extend(field(name, value));
    }
    block
}

fn request(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &get(more))
}

pub fn rows() -> Vec<FrameRow> {
    let row = |name, sent: Vec<u8>, gets| FrameRow { name, sent, gets };
    let begun = |more: &[(&str, &str)]| frame(HEADERS, END_HEADERS, 1, &get(more));
    let in_pieces = |last_flags| {
        let block = get(&[]);
        let (first, rest) = block.split_at(3);
        [
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, last_flags, 1, rest),
        ]
        .concat()
    };
    let endless = {
        let piece = frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100)).repeat(100));
        [frame(HEADERS, END_STREAM, 1, &get(&[])), piece.repeat(200)].concat()
    };
    vec![
        row("a request", request(&[]), "200"),
        row("headers in two frames", in_pieces(END_HEADERS), "200"),
        row(
            "headers that never end",
            endless,
            "connection ended, ENHANCE_YOUR_CALM",
        ),
        row(
            "an unknown frame first",
            [frame(0x77, 0xff, 0, b"x"), request(&[])].concat(),
            "200",
        ),
        row(
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &get(&[])),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "another frame amid the headers",
            [frame(HEADERS, END_STREAM, 1, &get(&[])), frame(DATA, 0, 1, b"x")].concat(),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a stream of the server's",
            frame(HEADERS, END_STREAM | END_HEADERS, 2, &get(&[])),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "headers on the connection",
            frame(HEADERS, END_STREAM | END_HEADERS, 0, &get(&[])),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a frame longer than agreed",
            frame(DATA, 0, 1, &[0; 16_385]),
            "connection ended, FRAME_SIZE_ERROR",
        ),
        row(
            "data before headers",
            frame(DATA, END_STREAM, 1, b"x"),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a window that grows by nothing",
            [begun(&[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a window beyond all bounds",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            "connection ended, FLOW_CONTROL_ERROR",
        ),
        row(
            "settings of half a length",
            frame(SETTINGS, 0, 0, &[0; 5]),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a compressed field out of range",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f]),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "Connection",
            request(&[("connection", "close")]),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "Transfer-Encoding",
            request(&[("transfer-encoding", "chunked")]),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "a name in capitals",
            request(&[("X-Name", "1")]),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a line break in a value",
            request(&[("x", "a\r\nb: c")]),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "a pseudo field that is unknown",
            request(&[(":other", "1")]),
            "connection ended, PROTOCOL_ERROR",
        ),
        row(
            "the path twice",
            request(&[(":path", "/second")]),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "no path",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x82, 0x86]),
            "200",
        ),
        row("Host beside the authority", request(&[("host", "evil")]), "200"),
        row(
            "two lengths that differ",
            begun(&[("content-length", "2"), ("content-length", "3")]),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "more than the length",
            [
                begun(&[("content-length", "1")]),
                frame(DATA, END_STREAM, 1, b"xyz"),
            ]
            .concat(),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "less than the length",
            [
                begun(&[("content-length", "9")]),
                frame(DATA, END_STREAM, 1, b"xyz"),
            ]
            .concat(),
            "reset, PROTOCOL_ERROR",
        ),
        row(
            "garbage instead of frames",
            b"garbage, and more of it, and more".to_vec(),
            "connection ended, FRAME_SIZE_ERROR",
        ),
    ]
}

/// What comes back first that ends the request or the connection.
async fn outcome(stream: &mut TcpStream) -> String {
    let mut head = [0; 9];
    loop {
        if stream.read_exact(&mut head).await.is_err() {
            return "closed".to_owned();
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return "closed".to_owned();
        }
        let code = |payload: &[u8]| u32::from_be_bytes(payload[..4].try_into().unwrap());
        match head[3] {
            HEADERS => return status(&payload),
            RESET => return format!("reset, {}", name(code(&payload))),
            GOAWAY => return format!("connection ended, {}", name(code(&payload[4..]))),
            _ => {}
        }
    }
}

/// Of the first field, which is the status: an index, or digits.
fn status(block: &[u8]) -> String {
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block[0] {
        index @ 0x88..=0x8e => known[usize::from(index) - 0x88].to_string(),
        _ => huffman_digits(&block[2..]),
    }
}

/// Three digits by the code of RFC 7541, appendix B.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let (mut digits, mut rest) = (String::new(), &bits[..]);
    while digits.len() < 3 {
        let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | bit);
        let (value, length) = match number(&rest[..5]) {
            value @ 0..=2 => (value, 5),
            _ => (number(&rest[..6]) - 0b01_1001 + 3, 6),
        };
        digits.push(char::from(b'0' + value));
        rest = &rest[length..];
    }
    digits
}

fn name(code: u32) -> &'static str {
    match code {
        0 => "NO_ERROR",
        1 => "PROTOCOL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        _ => "another code",
    }
}

#[tokio::test]
async fn frames_of_a_client_harm_no_other_user() {
    let (sidecar, upstream) = scene().await;
    let mut differ = Vec::new();
    for row in rows() {
        upstream.begin(None);
        let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        // The other side may well close before it has had all.
        let _ = stream.write_all(&row.sent).await;
        let got = timeout(TEST_TIMEOUT, outcome(&mut stream)).await;
        let got = got.unwrap_or_else(|_| panic!("{}: nothing comes back", row.name));
        if got != row.gets {
            differ.push(format!("{}: {got}", row.name));
        }
        let reaches_litellm = upstream.seen() != NOTHING;
        assert_eq!(reaches_litellm, got == "200", "{}", row.name);
        for user in ["ada", "grace"] {
            let next = Client::connect(sidecar.inbound).await.next(user).await;
            assert_eq!(next, Some(format!("200 for {user}")), "{}", row.name);
        }
    }
    assert!(
        differ.is_empty(),
        "{} rows differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}
