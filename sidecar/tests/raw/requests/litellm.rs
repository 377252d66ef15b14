//! Requests to LiteLLM: framing, headers, request line.

use super::{Rows, fill};
use crate::row::{Half, NOTHING};

pub fn add_to(rows: &mut Rows) {
    rows.add(
        "a length",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; content-length: 2; {}",
    );
    rows.add(
        "chunks",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    rows.add(
        "length, then chunks (CL.TE)",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\
         {}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; closed",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    rows.add(
        "chunks, then length (TE.CL)",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\n\
         {}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; closed",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    rows.add(
        "two lengths that agree",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; content-length: 2; {}",
    );
    rows.add(
        "two lengths that differ",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length with a plus",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: +2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is negative",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: -2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length with spaces inside",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 1 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is a list",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 2, 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length in hexadecimal",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 0x2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that overflows",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 99999999999999999999999\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is empty",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: \r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "an unknown coding",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "chunks, then identity",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "identity, then chunks",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: identity, chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "gzip, then chunks",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "chunks twice",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
         chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "chunks after a tab",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding:\t chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    rows.add(
        "chunks after a vertical tab",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding:\x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space before the colon",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "chunks in HTTP/1.0",
        Half::In,
        b"POST /first HTTP/1.0\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is no number",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is negative",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that overflows",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size with 0x",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is empty",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk without CRLF after it",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk that ends in LF",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that ends in LF",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n".to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk with an extension",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked; {}",
    );
    rows.add(
        "LF in a chunk extension",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
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
    rows.add(
        "trailers that frame and authenticate",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nTrailer: Content-Length, Authorization, Mcpauth-Context\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 9\r\nAuthorization: x\r\n\
         Mcpauth-Context: x\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /first HTTP/1.1; host: llm; trailer: Content-Length, Authorization, Mcpauth-Context; \
         transfer-encoding: chunked; {}",
    );
    rows.add(
        "a request behind the last chunk of a CL.TE",
        Half::In,
        b"POST /first HTTP/1.1\r\nHost: llm\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y"
            .to_vec(),
        "200 for no user; closed",
        "POST /first HTTP/1.1; host: llm; transfer-encoding: chunked",
    );
    rows.add(
        "a bare CR in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\rb\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a folded header",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\r\n b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a NUL in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\0b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a control character in a value",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: a\x01b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a NUL in a name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX\0A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space in a name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "an empty name",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\n: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a line without a colon",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a name that is not ASCII",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-\xc3\xa4: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a value that is not ASCII",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-A: \xc3\xa4\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /first HTTP/1.1; host: llm; x-a: \\xc3\\xa4",
    );
    rows.add(
        "lines that end in LF",
        Half::In,
        b"GET /first HTTP/1.1\nHost: llm\n\n".to_vec(),
        "200 for no user; open",
        "GET /first HTTP/1.1; host: llm",
    );
    rows.add(
        "two spaces in the request line",
        Half::In,
        b"GET  /first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a tab in the request line",
        Half::In,
        b"GET\t/first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space in the target",
        Half::In,
        b"GET /first x HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "HTTP/0.9",
        Half::In,
        b"GET /first\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "HTTP/1.0",
        Half::In,
        b"GET /first HTTP/1.0\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; closed",
        "GET /first HTTP/1.1; host: llm",
    );
    rows.add(
        "HTTP/3.0",
        Half::In,
        b"GET /first HTTP/3.0\r\nHost: llm\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a TLS ClientHello",
        Half::In,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "CONNECT",
        Half::In,
        b"CONNECT llm:443 HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "501 method_not_supported; open",
        NOTHING,
    );
    rows.add(
        "no Host",
        Half::In,
        b"GET /first HTTP/1.1\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "two Hosts",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nHost: evil\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "two Hosts that agree",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nHost: llm\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "two requests at once",
        Half::In,
        b"GET /first HTTP/1.1\r\nHost: llm\r\nX-Pipelined: 1\r\n\r\nGET /first HTTP/1.1\r\nHost: llm\r\n\
         X-Pipelined: 2\r\n\r\n"
            .to_vec(),
        "200 for no user, 200 for no user; open",
        "GET /first HTTP/1.1; host: llm; x-pipelined: 1 and GET /first HTTP/1.1; host: llm; x-pipelined: 2",
    );
    rows.add(
        "a fragment",
        Half::In,
        b"GET /first#x HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /first HTTP/1.1; host: llm",
    );
    rows.add(
        "a target of 70 KB",
        Half::In,
        fill("GET /first/", 70_000, " HTTP/1.1\r\nHost: llm\r\n\r\n"),
        "414; closed",
        NOTHING,
    );
    rows.add(
        "a header of 200 KB",
        Half::In,
        fill("GET /first HTTP/1.1\r\nHost: llm\r\nX: ", 200_000, "\r\n\r\n"),
        "431; closed",
        NOTHING,
    );
    rows.add(
        "a header that never ends",
        Half::In,
        fill("GET /first HTTP/1.1\r\nHost: llm\r\nX: ", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    rows.add(
        "a request line that never ends",
        Half::In,
        fill("GET /first", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
}
