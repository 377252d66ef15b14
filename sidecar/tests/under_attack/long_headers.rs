//! Requests under way whose headers are long: they stay in memory until the request is over.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BODY_BYTES, Sidecar, TEST_TIMEOUT, connect, keep_open};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn long_headers_before_bodies_that_never_end_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("long-headers").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let long = "x".repeat(60_000);
    let sent = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTraceparent: {TRACEPARENT}\r\nX: {long}\r\nContent-Length: {BODY_BYTES}\r\n\r\nx"
    );
    let _open = keep_open(sidecar.inbound, 3_000, sent.as_bytes()).await;
    sidecar
        .serves(
            &mut user,
            "3,000 requests with 60,000 bytes of headers whose body does not end",
        )
        .await;
}

/// What a read buffer has grown to for a request stays until the connection is parked.
#[tokio::test]
async fn bodies_that_stop_amid_what_was_read_at_once_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("long-bodies").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let mut sent = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n".to_vec();
    sent.resize(sent.len() + 150_000, b'x');
    let _open = keep_open(sidecar.inbound, 3_000, &sent).await;
    sidecar
        .serves(&mut user, "3,000 bodies of 200,000 bytes that stop at 150,000")
        .await;
}

/// A header that the connection has named once costs a byte each time, and the sidecar all of it.
#[tokio::test]
async fn indexed_headers_of_http2_cost_no_user_and_no_probe() {
    const CONNECTIONS: usize = 13;
    const STREAMS: u32 = 256;
    let Some(mut sidecar) = Sidecar::start("http2-headers").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(sidecar.inbound).await.unwrap();
        let sent = timeout(TEST_TIMEOUT, send_requests(&mut stream, STREAMS)).await;
        sent.expect("little is sent").unwrap();
        open.push(stream);
    }
    let attack = format!(
        "{CONNECTIONS} connections over HTTP/2 with {STREAMS} requests each with 56,000 bytes of headers, by index"
    );
    sidecar.serves(&mut user, &attack).await;
}

/// Requests whose body does not end, in frames written by hand (RFC 9113, RFC 7541): no library would name a header so
/// often.
async fn send_requests(stream: &mut TcpStream, number: u32) -> std::io::Result<()> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_HEADERS: u8 = 4;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    // POST http://a/, by the static table.
    let pseudo_headers = [0x83, 0x86, 0x84, 0x01, 1, b'a'];
    // With incremental indexing, a new name, and a value of 4,000 bytes: 127 + 3,873, in groups of seven bits.
    let mut named = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    named.resize(named.len() + 4_000, b'x');
    let indexed = [0xbe; 14];
    for stream_id in (0..number).map(|index| 2 * index + 1) {
        let mut block = pseudo_headers.to_vec();
        if stream_id == 1 {
            block.extend_from_slice(&named);
        }
        // The first has one more of them.
        block.extend_from_slice(&indexed[usize::from(stream_id == 1)..]);
        stream
            .write_all(&frame(HEADERS, END_HEADERS, stream_id, &block))
            .await?;
        stream.write_all(&frame(DATA, 0, stream_id, b"x")).await?;
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream_id.to_be_bytes(), payload].concat()
}
