//! Where a body ends: lengths, codings, chunks and trailers.

use crate::requests::{Rows, fill};
use crate::row::{Half, NOTHING};

pub fn add_to(rows: &mut Rows) {
    rows.add(
        "a length",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; content-length: 2; {}",
    );
    rows.add(
        "chunks",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}",
    );
    rows.add(
        "length, then chunks (CL.TE)",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: \
         chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; closed",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}",
    );
    rows.add(
        "chunks, then length (TE.CL)",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: \
         3\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "200 for no user; closed",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}",
    );
    rows.add(
        "two lengths that agree",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"
            .to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; content-length: 2; {}",
    );
    rows.add(
        "two lengths that differ",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length with a plus",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is negative",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length with spaces inside",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is a list",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length in hexadecimal",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x2\r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that overflows",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n{}"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a length that is empty",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\n{}".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "an unknown coding",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "chunks, then identity",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\n\
         {}\r\n0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "identity, then chunks",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity, chunked\r\n\r\n2\r\n\
         {}\r\n0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "gzip, then chunks",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "chunks twice",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
         chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "chunks after a tab",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\t chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}",
    );
    rows.add(
        "chunks after a vertical tab",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:\x0bchunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space before the colon",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "chunks in HTTP/1.0",
        Half::Out,
        b"POST /tools/mcp HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is no number",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is negative",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that overflows",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         fffffffffffffffff\r\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size with 0x",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that is empty",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk without CRLF after it",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk that ends in LF",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
          \r\n2\r\n{}\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk size that ends in LF",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
          \r\n2\n{}\r\n0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
        "a chunk with an extension",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked; {}",
    );
    rows.add(
        "LF in a chunk extension",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n\
         0\r\n\r\n"
            .to_vec(),
        "400 body_unreadable; closed",
        NOTHING,
    );
    rows.add(
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
    rows.add(
        "trailers that frame and authenticate",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nTrailer: Content-Length, Authorization, \
         Mcpauth-Context\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 9\r\n\
         Authorization: x\r\nMcpauth-Context: x\r\n\r\n"
            .to_vec(),
        "200 for no user; open",
        "POST /mcp HTTP/1.1; trailer: Content-Length, Authorization, Mcpauth-Context; transfer-encoding: \
         chunked; {}",
    );
    rows.add(
        "a request behind the last chunk of a CL.TE",
        Half::Out,
        b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\nTransfer-Encoding: \
         chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y"
            .to_vec(),
        "200 for no user; closed",
        "POST /mcp HTTP/1.1; transfer-encoding: chunked",
    );
}
