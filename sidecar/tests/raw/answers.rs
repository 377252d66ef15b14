//! Answers of servers.

use crate::row::{Half, Row, Then, hold};

const ASK_IN: &[u8] = b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\n\r\n{}";
const ASK_OUT: &[u8] = b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn what_servers_answer_harms_neither_the_client_nor_the_next_user() {
    hold(&rows()).await;
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (half, sent, sees, failed, unusable) in [
        (
            Half::In,
            ASK_IN,
            "POST /first HTTP/1.1; host: llm; content-length: 2; {}",
            "502 litellm_failed; open",
            "502 litellm_failed; open",
        ),
        (
            Half::Out,
            ASK_OUT,
            "POST /mcp HTTP/1.1; content-length: 2; {}",
            "502 server_failed; open",
            "502 answer_unusable; open",
        ),
    ] {
        let mut add = |name, answer: Vec<u8>, then, gets| {
            let (sent, answer) = (sent.to_vec(), Some((answer, then)));
            rows.push(Row {
                name,
                half,
                sent,
                answer,
                gets,
                sees,
            });
        };
        let cookies = "Set-Cookie: a=b\r\n";
        let headers =
            |lines: String, body: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").into_bytes();
        let long = |name: &str, length| format!("{name}: {}\r\n", "x".repeat(length));
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let closes = Then::Closes;
        let stays = Then::Stays;
        let resets = Then::Resets;
        add("closes without a word", Vec::new(), closes, failed);
        add("resets without a word", Vec::new(), resets, failed);
        add(
            "resets within the headers",
            b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(),
            resets,
            failed,
        );
        add(
            "resets within the body",
            headers("Content-Length: 9\r\n".into(), "ok"),
            resets,
            "closed",
        );
        add("garbage", b"\x00\xff\x00garbage\r\n\r\n".to_vec(), stays, failed);
        add(
            "another protocol",
            b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
            stays,
            failed,
        );
        add("half a status line", b"HTTP/1.1 20".to_vec(), closes, failed);
        add(
            "half of the headers",
            b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(),
            closes,
            failed,
        );
        add(
            "a status out of range",
            b"HTTP/1.1 099 No\r\n\r\n".to_vec(),
            closes,
            failed,
        );
        add(
            "one header of 1 MB",
            headers(long("X-Long", 1 << 20), ""),
            closes,
            failed,
        );
        add(
            "an endless header",
            headers("x".repeat(2 << 20), ""),
            closes,
            failed,
        );
        add(
            "200 cookies",
            headers(cookies.repeat(200) + "Content-Length: 2\r\n", "ok"),
            stays,
            "200; open",
        );
        add(
            "1,000 cookies",
            headers(cookies.repeat(1_000), ""),
            closes,
            failed,
        );
        add(
            "two lengths that differ",
            headers("Content-Length: 2\r\nContent-Length: 3\r\n".into(), "abc"),
            stays,
            failed,
        );
        add(
            "two lengths that agree",
            headers("Content-Length: 2\r\nContent-Length: 2\r\n".into(), "ok"),
            stays,
            unusable,
        );
        add(
            "a list of lengths",
            headers("Content-Length: 2, 2\r\n".into(), "ok"),
            stays,
            unusable,
        );
        add(
            "a length with a sign",
            headers("Content-Length: +2\r\n".into(), "ok"),
            stays,
            failed,
        );
        add(
            "length and chunks",
            headers(
                "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n".into(),
                "2\r\nok\r\n0\r\n\r\n",
            ),
            stays,
            unusable,
        );
        add(
            "less than the length",
            headers("Content-Length: 9\r\n".into(), "ok"),
            closes,
            "closed",
        );
        add(
            "more than the length",
            headers(
                "Content-Length: 2\r\n".into(),
                "okHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfor evil",
            ),
            stays,
            "200; open",
        );
        add(
            "two answers to one request",
            format!("{ok}{ok}").into_bytes(),
            stays,
            "200; open",
        );
        add(
            "a bad chunk size",
            headers("Transfer-Encoding: chunked\r\n".into(), "zz\r\nok\r\n0\r\n\r\n"),
            stays,
            "closed",
        );
        add(
            "a chunk size that overflows",
            headers("Transfer-Encoding: chunked\r\n".into(), "fffffffffffffffff\r\nok"),
            stays,
            "closed",
        );
        add(
            "a chunk without an end",
            headers("Transfer-Encoding: chunked\r\n".into(), "2\r\nokX"),
            stays,
            "closed",
        );
        add(
            "chunks without the last",
            headers("Transfer-Encoding: chunked\r\n".into(), "2\r\nok\r\n"),
            closes,
            "closed",
        );
        add(
            "trailers unasked",
            headers(
                "Transfer-Encoding: chunked\r\n".into(),
                "2\r\nok\r\n0\r\nSet-Cookie: a=b\r\n\r\n",
            ),
            stays,
            "200; open",
        );
        for (name, coding) in [
            ("gzip, then chunks", "Transfer-Encoding: gzip, chunked\r\n"),
            (
                "chunks, then identity",
                "Transfer-Encoding: chunked, identity\r\n",
            ),
            (
                "chunks twice",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
            ("an unknown coding", "Transfer-Encoding: xchunked\r\n"),
            ("no coding, said", "Transfer-Encoding: identity\r\n"),
        ] {
            add(
                name,
                headers(coding.into(), "2\r\nok\r\n0\r\n\r\n"),
                stays,
                failed,
            );
        }
        add(
            "chunks in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
            stays,
            failed,
        );
        add(
            "a CR in a header",
            headers("X-Cr: a\rb\r\nContent-Length: 2\r\n".into(), "ok"),
            stays,
            failed,
        );
        for (name, chunks) in [
            ("a chunk size that ends in LF", "2\nok\r\n0\r\n\r\n".to_owned()),
            ("a chunk size in two parts", "2 2\r\nok\r\n0\r\n\r\n".to_owned()),
            ("LF in a chunk extension", "2;a\nok\r\n0\r\n\r\n".to_owned()),
            ("a chunk extension of 1 MB", format!("2;{}", "x".repeat(1 << 20))),
            (
                "trailers of 1 MB",
                format!("2\r\nok\r\n0\r\nX: {}", "x".repeat(1 << 20)),
            ),
            (
                "a folded trailer",
                "2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n".to_owned(),
            ),
        ] {
            add(
                name,
                headers("Transfer-Encoding: chunked\r\n".into(), &chunks),
                stays,
                "closed",
            );
        }
        add(
            "an answer behind the last chunk",
            headers(
                "Transfer-Encoding: chunked\r\n".into(),
                "2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfor evil",
            ),
            stays,
            "200; open",
        );
        add(
            "a folded header",
            headers("X-Folded: a\r\n b\r\nContent-Length: 2\r\n".into(), "ok"),
            stays,
            failed,
        );
        add(
            "a space before the colon",
            headers("Content-Length : 2\r\n".into(), "ok"),
            stays,
            failed,
        );
        add(
            "a NUL in a header",
            headers("X-Nul: a\0b\r\nContent-Length: 2\r\n".into(), "ok"),
            stays,
            failed,
        );
        let interims =
            |count| format!("{}{ok}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count)).into_bytes();
        add("1,000 interim answers", interims(1_000), stays, "200; open");
        add("10,000 interim answers", interims(10_000), stays, failed);
        add(
            "200 kB of empty lines",
            format!("{}{ok}", "\r\n".repeat(100_000)).into_bytes(),
            stays,
            "200; open",
        );
        add(
            "10 MB of empty lines",
            format!("{}{ok}", "\r\n".repeat(5_000_000)).into_bytes(),
            stays,
            failed,
        );
        add(
            "a protocol switched unasked",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            stays,
            unusable,
        );
        add(
            "HTTP/1.0 without a length",
            b"HTTP/1.0 200 OK\r\n\r\nok".to_vec(),
            closes,
            "200; open",
        );
        add(
            "HTTP/3.0",
            b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            stays,
            failed,
        );
        add(
            "204 with a body",
            b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            stays,
            "204; open",
        );
    }
    rows
}
