//! Requests of clients.

use crate::row::{Half, NOTHING, Row, hold};

#[tokio::test]
async fn what_clients_send_is_refused_or_reaches_the_server_in_one_meaning() {
    hold(&rows()).await;
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name, half, sent: Vec<u8>, gets, sees| {
        rows.push(Row {
            name,
            half,
            sent,
            answer: None,
            gets,
            sees,
        });
    };
    let fill = |before: &str, length: usize, after: &str| {
        format!("{before}{}{after}", "x".repeat(length)).into_bytes()
    };
    let many = |number: usize| {
        format!(
            "GET /a HTTP/1.1\r\nHost: llm\r\n{}\r\n",
            "X-Many: 1\r\n".repeat(number)
        )
        .into_bytes()
    };
    add(
        "a length",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for nobody; open",
        "POST /first HTTP/1.1; host: llm; content-length: 2; {}",
    );
    add(
        "chunks",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for nobody; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    add("length, then chunks (CL.TE)", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; closed", "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}");
    add("chunks, then length (TE.CL)", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; closed", "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}");
    add(
        "two lengths that agree",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for nobody; open",
        "POST /first HTTP/1.1; host: llm; content-length: 2; {}",
    );
    add(
        "two lengths that differ",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length with a plus",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: +2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is negative",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: -2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length with spaces inside",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 1 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is a list",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2, 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length in hexadecimal",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 0x2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that overflows",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 99999999999999999999999\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is empty",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: \r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "an unknown coding",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add("chunks, then identity", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("identity, then chunks", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: identity, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 request_ambiguous; closed", NOTHING);
    add(
        "gzip, then chunks",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    add("chunks twice", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 request_ambiguous; closed", NOTHING);
    add(
        "chunks after a tab",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding:\t chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for nobody; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    add(
        "chunks after a vertical tab",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding:\x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a space before the colon",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "chunks in HTTP/1.0",
        Half::In,
        b"POST /first HTTP/1.0\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a chunk size that is no number",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk size that is negative",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add("a chunk size that overflows", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add(
        "a chunk size with 0x",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk size that is empty",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk without CRLF after it",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk that ends in LF",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk size that ends in LF",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk with an extension",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for nobody; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    add(
        "LF in a chunk extension",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add(
        "a chunk extension of 1 MB",
        Half::In,
        fill(
            "POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2;",
            1 << 20,
            "\r\n{}\r\n0\r\n\r\n",
        ),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add("trailers that frame and authenticate", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 9\r\nAuthorization: x\r\nMcpauth-Context: x\r\n\r\n".to_vec(), "200 for nobody; open", "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}");
    add("a request behind the last chunk of a CL.TE", Half::In, b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y".to_vec(), "200 for nobody; closed", "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked");
    add(
        "a bare CR in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\rb\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a folded header",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\r\n b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a NUL in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\0b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a control character in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\x01b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a NUL in a name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX\0A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a space in a name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "an empty name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\n: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a line without a colon",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a name that is not ASCII",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-\xc3\xa4: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a value that is not ASCII",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: \xc3\xa4\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /first HTTP/1.1; host: llm; x-a: \\xc3\\xa4",
    );
    add(
        "lines that end in LF",
        Half::In,
        b"GET /first HTTP/1.1\nHost: llm\n\n".to_vec(),
        "200 for nobody; open",
        "GET /first HTTP/1.1; host: llm",
    );
    add(
        "two spaces in the request line",
        Half::In,
        b"GET  /first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a tab in the request line",
        Half::In,
        b"GET\t/first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a space in the target",
        Half::In,
        b"GET /first x HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "HTTP/0.9",
        Half::In,
        b"GET /first\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "HTTP/1.0",
        Half::In,
        b"GET /first HTTP/1.0\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; closed",
        "GET /first HTTP/1.1; host: llm",
    );
    add(
        "HTTP/3.0",
        Half::In,
        b"GET /first HTTP/3.0\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a TLS ClientHello",
        Half::In,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "CONNECT",
        Half::In,
        b"CONNECT llm:443 HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "501 method_not_supported; open",
        NOTHING,
    );
    add(
        "no Host",
        Half::In,
        b"GET /first HTTP/1.1\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    add(
        "two Hosts",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nHost: evil\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    add(
        "two Hosts that agree",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nHost: llm\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    add("two requests at once", Half::In, b"GET /first HTTP/1.1\r\nHost: llm\r\nX-Pipelined: 1\r\n\r\nGET /first HTTP/1.1\r\nHost: llm\r\nX-Pipelined: 2\r\n\r\n".to_vec(), "200 for nobody, 200 for nobody; open", "GET /first HTTP/1.1; host: llm; x-pipelined: 1 and GET /first HTTP/1.1; host: llm; x-pipelined: 2");
    add(
        "a fragment",
        Half::In,
        b"GET /first#x HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /first HTTP/1.1; host: llm",
    );
    add(
        "a target of 70 KB",
        Half::In,
        fill("GET /first/", 70_000, " HTTP/1.1\r\nHost: llm\r\n\r\n"),
        "414; closed",
        NOTHING,
    );
    add(
        "a header of 200 KB",
        Half::In,
        fill("GET /first HTTP/1.1\r\nHost: llm\r\nX: ", 200_000, "\r\n\r\n"),
        "431; closed",
        NOTHING,
    );
    add(
        "a header that never ends",
        Half::In,
        fill("GET /first HTTP/1.1\r\nHost: llm\r\nX: ", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    add(
        "a request line that never ends",
        Half::In,
        fill("GET /first", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    add(
        "a length",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for nobody; open",
        "POST /mcp HTTP/1.1; content-length: 2; {}",
    );
    add("chunks", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; open", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add("length, then chunks (CL.TE)", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; closed", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add("chunks, then length (TE.CL)", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; closed", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add(
        "two lengths that agree",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"
            .to_vec(),
        "200 for nobody; open",
        "POST /mcp HTTP/1.1; content-length: 2; {}",
    );
    add(
        "two lengths that differ",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length with a plus",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is negative",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length with spaces inside",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is a list",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length in hexadecimal",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that overflows",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{}"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a length that is empty",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    add("an unknown coding", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("chunks, then identity", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("identity, then chunks", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 request_ambiguous; closed", NOTHING);
    add("gzip, then chunks", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 request_ambiguous; closed", NOTHING);
    add("chunks twice", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 request_ambiguous; closed", NOTHING);
    add("chunks after a tab", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\t chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; open", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add("chunks after a vertical tab", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("a space before the colon", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("chunks in HTTP/1.0", Half::Out, b"POST /tools/mcp HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_vec(), "400; closed", NOTHING);
    add("a chunk size that is no number", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk size that is negative", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk size that overflows", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk size with 0x", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk size that is empty", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add(
        "a chunk without CRLF after it",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add("a chunk that ends in LF", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk size that ends in LF", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add("a chunk with an extension", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n".to_vec(), "200 for nobody; open", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add("LF in a chunk extension", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n".to_vec(), "400 body_unreadable; closed", NOTHING);
    add(
        "a chunk extension of 1 MB",
        Half::Out,
        fill(
            "POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2;",
            1 << 20,
            "\r\n{}\r\n0\r\n\r\n",
        ),
        "400 body_unreadable; closed",
        NOTHING,
    );
    add("trailers that frame and authenticate", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 9\r\nAuthorization: x\r\nMcpauth-Context: x\r\n\r\n".to_vec(), "200 for nobody; open", "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}");
    add("a request behind the last chunk of a CL.TE", Half::Out, b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y".to_vec(), "200 for nobody; closed", "POST /mcp HTTP/1.1; transfer-encoding: chunked");
    add(
        "a bare CR in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\rb\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a folded header",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a NUL in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a control character in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\x01b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a NUL in a name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX\0A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a space in a name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "an empty name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a line without a colon",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a name that is not ASCII",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-\xc3\xa4: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a value that is not ASCII",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: \xc3\xa4\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /mcp HTTP/1.1; x-a: \\xc3\\xa4",
    );
    add(
        "lines that end in LF",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\nHost: localhost\n\n".to_vec(),
        "200 for nobody; open",
        "GET /mcp HTTP/1.1",
    );
    add(
        "two spaces in the request line",
        Half::Out,
        b"GET  /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a tab in the request line",
        Half::Out,
        b"GET\t/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a space in the target",
        Half::Out,
        b"GET /tools/mcp x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "HTTP/0.9",
        Half::Out,
        b"GET /tools/mcp\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "HTTP/1.0",
        Half::Out,
        b"GET /tools/mcp HTTP/1.0\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for nobody; closed",
        "GET /mcp HTTP/1.1",
    );
    add(
        "HTTP/3.0",
        Half::Out,
        b"GET /tools/mcp HTTP/3.0\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "a TLS ClientHello",
        Half::Out,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        "400; closed",
        NOTHING,
    );
    add(
        "CONNECT",
        Half::Out,
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "no Host",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    add(
        "two Hosts",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    add(
        "two Hosts that agree",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    add("two requests at once", Half::Out, b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-Pipelined: 1\r\n\r\nGET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-Pipelined: 2\r\n\r\n".to_vec(), "200 for nobody, 200 for nobody; open", "GET /mcp HTTP/1.1; x-pipelined: 1 and GET /mcp HTTP/1.1; x-pipelined: 2");
    add(
        "a fragment",
        Half::Out,
        b"GET /tools/mcp#x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /mcp HTTP/1.1",
    );
    add(
        "a target of 70 KB",
        Half::Out,
        fill("GET /tools/mcp/", 70_000, " HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "414; closed",
        NOTHING,
    );
    add(
        "a header of 200 KB",
        Half::Out,
        fill(
            "GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX: ",
            200_000,
            "\r\n\r\n",
        ),
        "431; closed",
        NOTHING,
    );
    add(
        "a header that never ends",
        Half::Out,
        fill("GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX: ", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    add(
        "a request line that never ends",
        Half::Out,
        fill("GET /tools/mcp", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    add(
        "99 headers",
        Half::In,
        many(98),
        "200 for nobody; open",
        "GET /a HTTP/1.1; host: llm; x-many: 1; x-many: 1; x-many: 1; ... (1104 bytes)",
    );
    add("101 headers", Half::In, many(100), "431; closed", NOTHING);
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a/../b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a/../b HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a/%2e%2e/b HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a%2fb HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a%2fb HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a%5cb HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a%5cb HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a\\b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a\\b HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET //a HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET //a HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a//b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /a//b HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /%00 HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /%00 HTTP/1.1; host: llm",
    );
    add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /%zz HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /%zz HTTP/1.1; host: llm",
    );
    add(
        "absolute form",
        Half::In,
        b"GET http://other/first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /first HTTP/1.1; host: other",
    );
    add(
        "asterisk form",
        Half::In,
        b"OPTIONS * HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "OPTIONS * HTTP/1.1; host: llm",
    );
    add(
        "leaves the server: below the path",
        Half::Out,
        b"GET /tools/mcp/.. HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "leaves the server: below the path, encoded",
        Half::Out,
        b"GET /tools/mcp/%2e%2e/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "leaves the server: a slash, encoded",
        Half::Out,
        b"GET /tools/mcp/a%2fb HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "leaves the server: a backslash, encoded",
        Half::Out,
        b"GET /tools/mcp/a%5cb HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "leaves the server: a backslash",
        Half::Out,
        b"GET /tools/mcp/a\\b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "leaves the server: NUL, encoded",
        Half::Out,
        b"GET /tools/mcp/a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    add(
        "the name of a server: unknown",
        Half::Out,
        b"GET /other/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: empty",
        Half::Out,
        b"GET //mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: encoded",
        Half::Out,
        b"GET /t%6fols/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: with an encoded slash",
        Half::Out,
        b"GET /tools%2fmcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: dots",
        Half::Out,
        b"GET /../tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: in capitals",
        Half::Out,
        b"GET /TOOLS/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "the name of a server: none",
        Half::Out,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    add(
        "absolute form, this host",
        Half::Out,
        b"GET http://localhost/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for nobody; open",
        "GET /mcp HTTP/1.1",
    );
    add(
        "absolute form, another host",
        Half::Out,
        b"GET http://evil/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    add(
        "another Host",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: evil\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    add(
        "asterisk form",
        Half::Out,
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows
}
