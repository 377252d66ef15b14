//! Numbers of headers, and where requests lead to.

use super::{Rows, many};
use crate::row::{Half, NOTHING};

pub fn add_to(rows: &mut Rows) {
    rows.add(
        "99 headers",
        Half::In,
        many(98),
        "200 for no user; open",
        "GET /a HTTP/1.1; host: llm; x-many: 1; x-many: 1; x-many: 1; ... (1104 bytes)",
    );
    rows.add("101 headers", Half::In, many(100), "431; closed", NOTHING);
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a/../b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a/../b HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a/%2e%2e/b HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a%2fb HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a%2fb HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a%5cb HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a%5cb HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a\\b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a\\b HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET //a HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET //a HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /a//b HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /a//b HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /%00 HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /%00 HTTP/1.1; host: llm",
    );
    rows.add(
        "a path that LiteLLM judges",
        Half::In,
        b"GET /%zz HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /%zz HTTP/1.1; host: llm",
    );
    rows.add(
        "absolute form",
        Half::In,
        b"GET http://other/first HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /first HTTP/1.1; host: other",
    );
    rows.add(
        "asterisk form",
        Half::In,
        b"OPTIONS * HTTP/1.1\r\nHost: llm\r\n\r\n".to_vec(),
        "200 for no user; open",
        "OPTIONS * HTTP/1.1; host: llm",
    );
    rows.add(
        "leaves the server: below the path",
        Half::Out,
        b"GET /tools/mcp/.. HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "leaves the server: below the path, encoded",
        Half::Out,
        b"GET /tools/mcp/%2e%2e/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "leaves the server: a slash, encoded",
        Half::Out,
        b"GET /tools/mcp/a%2fb HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "leaves the server: a backslash, encoded",
        Half::Out,
        b"GET /tools/mcp/a%5cb HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "leaves the server: a backslash",
        Half::Out,
        b"GET /tools/mcp/a\\b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "leaves the server: NUL, encoded",
        Half::Out,
        b"GET /tools/mcp/a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 path_not_served; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: unknown",
        Half::Out,
        b"GET /other/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: empty",
        Half::Out,
        b"GET //mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: encoded",
        Half::Out,
        b"GET /t%6fols/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: with an encoded slash",
        Half::Out,
        b"GET /tools%2fmcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: dots",
        Half::Out,
        b"GET /../tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: in capitals",
        Half::Out,
        b"GET /TOOLS/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "the name of a server: none",
        Half::Out,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
    rows.add(
        "absolute form, this host",
        Half::Out,
        b"GET http://localhost/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "200 for no user; open",
        "GET /mcp HTTP/1.1",
    );
    rows.add(
        "absolute form, another host",
        Half::Out,
        b"GET http://evil/tools/mcp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    rows.add(
        "another Host",
        Half::Out,
        b"GET /tools/mcp HTTP/1.1\r\nHost: evil\r\n\r\n".to_vec(),
        "403 host_not_allowed; open",
        NOTHING,
    );
    rows.add(
        "asterisk form",
        Half::Out,
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        "404 unknown_server; open",
        NOTHING,
    );
}
