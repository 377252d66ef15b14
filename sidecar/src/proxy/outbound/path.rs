//! Path of a request to the outbound listener: `/{server}`, and then the path at the server.

use http::uri::PathAndQuery;
use mcp_auth_protocol::sync::Transport;

use crate::proxy::routes::UsableServer;

/// Splits into the server's name and the path at the server, which is empty or begins with a slash.
pub fn split_server(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_at(path.find('/').unwrap_or(path.len()))
}

/// Path and query at the server; `None` for a path that is not served.
///
/// What is served is the URL's own path and what lies below it. With SSE these are also the paths for messages that the
/// server has announced in a stream that is still open. Never `.well-known`: LiteLLM looks there for the
/// OAuth metadata of what it takes for the server, and must find none.
pub fn target_path(server: &UsableServer, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    let endpoint_path = server.endpoint.path();
    let path = if path.is_empty() { "/" } else { path };
    let below_endpoint = match path.strip_prefix(endpoint_path) {
        Some("") if query.is_none() || query == server.endpoint.query() => {
            return Some(server.endpoint.clone());
        }
        Some("") => "",
        Some(below_endpoint) if endpoint_path.ends_with('/') || below_endpoint.starts_with('/') => {
            below_endpoint
        }
        _ if server.transport == Transport::Sse && server.announced.is_announced(path) => path,
        _ => return None,
    };
    if !below_endpoint.split('/').all(is_plain_segment) {
        return None;
    }
    match query {
        None => path.parse().ok(),
        Some(query) => format!("{path}?{query}").parse().ok(),
    }
}

/// Whether every server takes the segment for a name. Servers do not for `.` and `..` in any spelling and
/// with parameters after `;`, nor for encoded slashes, backslashes and NUL.
fn is_plain_segment(segment: &str) -> bool {
    if segment
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    {
        return true;
    }
    let decoded = decode(segment);
    let name = decoded.split(|byte| *byte == b';').next().unwrap_or_default();
    !decoded.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0))
        && name != b"."
        && name != b".."
        && !name.eq_ignore_ascii_case(b".well-known")
}

fn decode(segment: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut rest = segment.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        rest = after;
        match after {
            [high, low, after @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push((high << 4 | low) as u8);
                    rest = after;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(*first),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::outbound::tests::usable;

    fn target(url: &str, transport: Transport, request: &str) -> Option<String> {
        let (path, query) = match request.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request, None),
        };
        let (server, path) = split_server(path);
        assert_eq!(server, "tools");
        usable(url, transport, |server| {
            target_path(server, path, query).map(|path| path.to_string())
        })
    }

    fn streamable(url: &str, request: &str) -> Option<String> {
        target(url, Transport::StreamableHttp, request)
    }

    #[test]
    fn the_first_segment_is_the_server() {
        assert_eq!(split_server("/tools/mcp/x"), ("tools", "/mcp/x"));
        assert_eq!(split_server("/tools"), ("tools", ""));
        assert_eq!(split_server("/"), ("", ""));
        assert_eq!(split_server("//mcp"), ("", "/mcp"));
        assert_eq!(split_server("*"), ("*", ""));
    }

    #[test]
    fn the_own_path_and_what_lies_below_is_served() {
        let url = "http://x/a/mcp";
        for (request, expected) in [
            ("/tools/a/mcp", Some("/a/mcp")),
            ("/tools/a/mcp?k=v", Some("/a/mcp?k=v")),
            ("/tools/a/mcp/", Some("/a/mcp/")),
            ("/tools/a/mcp/b%20c", Some("/a/mcp/b%20c")),
            ("/tools/a/mcpx", None),
            ("/tools/a/", None),
            ("/tools", None),
            ("/tools/A/mcp", None),
        ] {
            assert_eq!(streamable(url, request).as_deref(), expected, "{request}");
        }
    }

    #[test]
    fn the_query_of_the_url_is_used_where_the_request_has_none() {
        assert_eq!(
            streamable("http://x/mcp?key=1", "/tools/mcp").as_deref(),
            Some("/mcp?key=1")
        );
        assert_eq!(
            streamable("http://x/mcp?key=1", "/tools/mcp?key=2").as_deref(),
            Some("/mcp?key=2")
        );
        assert_eq!(streamable("http://x", "/tools").as_deref(), Some("/"));
        assert_eq!(streamable("http://x/", "/tools/?a").as_deref(), Some("/?a"));
    }

    #[test]
    fn nothing_leaves_the_path() {
        for tail in [
            "..",
            "../admin",
            "%2e%2e/admin",
            ".%2E/admin",
            "..%2fadmin",
            "..%5Cadmin",
            "x/..;a=b/..",
            "..%3b/x",
            ".",
            "a%00b",
            "a\\b",
            "./x",
        ] {
            assert_eq!(
                streamable("http://x/mcp", &format!("/tools/mcp/{tail}")),
                None,
                "{tail}"
            );
            assert_eq!(
                target("http://x/sse", Transport::Sse, &format!("/tools/{tail}")),
                None,
                "{tail}"
            );
        }
    }

    #[test]
    fn oauth_metadata_is_never_found() {
        for url in ["http://x/", "http://x/mcp"] {
            for path in [
                "/tools/.well-known/x",
                "/tools/mcp/.well-known/openid-configuration",
                "/tools/mcp/%2Ewell-known/x",
            ] {
                assert_eq!(streamable(url, path), None, "{url} {path}");
                assert_eq!(target(url, Transport::Sse, path), None, "{url} {path}");
            }
        }
    }

    #[test]
    fn with_sse_the_announced_endpoint_is_served_too_and_nothing_else_of_the_origin() {
        usable("http://x/sse", Transport::Sse, |server| {
            let target =
                |path: &str| target_path(server, path, Some("session_id=1")).map(|path| path.to_string());
            assert_eq!(target("/messages/"), None);
            let announced = server.announced.announce("/messages/");
            assert_eq!(target("/messages/").as_deref(), Some("/messages/?session_id=1"));
            assert_eq!(target("/sse/x").as_deref(), Some("/sse/x?session_id=1"));
            for path in [
                "/",
                "/admin",
                "/messages",
                "/messages/..",
                "/messages/x",
                "/.well-known/x",
            ] {
                assert_eq!(target(path), None, "{path}");
            }
            let dotted = server.announced.announce("/a/%2e%2e/b");
            assert_eq!(target("/a/%2e%2e/b"), None, "nothing leaves the path");
            drop((announced, dotted));
            assert_eq!(target("/messages/"), None, "its stream has ended");
        });
    }
}
