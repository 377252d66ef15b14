//! Header fields and request lines.

use crate::requests::{Rows, fill};
use crate::row::{Half, NOTHING};

pub fn add_to(rows: &mut Rows) {
    rows.add(
        "a bare CR in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\rb\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a folded header",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a NUL in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a control character in a value",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: a\x01b\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a NUL in a name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX\0A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space in a name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX A: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "an empty name",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a line without a colon",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a name that is not ASCII",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-\xc3\xa4: a\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a value that is not ASCII",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-A: \xc3\xa4\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /mcp HTTP/1.1; x-a: \\xc3\\xa4",
    );
    rows.add(
        "lines that end in LF",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\nHost: localhost\n\n".to_vec(),
        "200 for no user; open",
        "GET /mcp HTTP/1.1",
    );
    rows.add(
        "two spaces in the request line",
        Half::Out,
        b"GET  /tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a tab in the request line",
        Half::Out,
        b"GET\t/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a space in the target",
        Half::Out,
        b"GET /tools/mcp x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "HTTP/0.9",
        Half::Out,
        b"GET /tools/mcp\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "HTTP/1.0",
        Half::Out,
        b"GET /tools/mcp HTTP/1.0\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for no user; closed",
        "GET /mcp HTTP/1.1",
    );
    rows.add(
        "HTTP/3.0",
        Half::Out,
        b"GET /tools/mcp HTTP/3.0\r\nHost: localhost\r\n\r\n".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "a TLS ClientHello",
        Half::Out,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        "400; closed",
        NOTHING,
    );
    rows.add(
        "CONNECT",
        Half::Out,
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "no Host",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    rows.add(
        "two Hosts",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    rows.add(
        "two Hosts that agree",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_vec(),
        "400 request_ambiguous; closed",
        NOTHING,
    );
    rows.add(
        "two requests at once",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX-Pipelined: 1\r\n\r\nGET /tools/mcp HTTP/1.1\r\n\
         Host: localhost\r\nX-Pipelined: 2\r\n\r\n"
            .to_vec(),
        "200 for no user, 200 for no user; open",
        "GET /mcp HTTP/1.1; x-pipelined: 1 and GET /mcp HTTP/1.1; x-pipelined: 2",
    );
    rows.add(
        "a fragment",
        Half::Out,
        b"GET /tools/mcp#x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /mcp HTTP/1.1",
    );
    rows.add(
        "a target of 70 KB",
        Half::Out,
        fill("GET /tools/mcp/", 70_000, " HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "414; closed",
        NOTHING,
    );
    rows.add(
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
    rows.add(
        "a header that never ends",
        Half::Out,
        fill("GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nX: ", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
    rows.add(
        "a request line that never ends",
        Half::Out,
        fill("GET /tools/mcp", 2 << 20, ""),
        "431; closed",
        NOTHING,
    );
}
