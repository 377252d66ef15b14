//! However a path is spelled, no server reads it as one outside of its own.

use std::sync::{Arc, LazyLock};

use http::Uri;
use mcp_auth_protocol::sync::Transport;
use url::Url;

use crate::proxy::outbound::path::{split_server, target_path};
use crate::proxy::routes::McpServer;

static SERVERS: LazyLock<[Arc<McpServer>; 4]> = LazyLock::new(|| {
    [
        super::server("http://x.example.com/a/mcp", Transport::StreamableHttp),
        super::server("http://x.example.com", Transport::StreamableHttp),
        super::server("http://x.example.com/a/mcp/?key=1", Transport::StreamableHttp),
        super::server("http://x.example.com/sse", Transport::Sse),
    ]
});

/// The first byte chooses the server, the others are the path and query of a request.
pub fn path(data: &[u8]) {
    let Some((first, target)) = data.split_first() else {
        return;
    };
    let server = &SERVERS[usize::from(*first) % SERVERS.len()];
    let server = server.usable().expect("it can be used");
    let Ok(uri) = Uri::try_from([b"/tools".as_slice(), target].concat()) else {
        return;
    };
    let (_, path) = split_server(uri.path());
    // A server with SSE may announce any path.
    let _announced = server.announced.announce(path);
    let Some(target) = target_path(server, path, uri.query()) else {
        return;
    };
    let base = match server.transport {
        Transport::StreamableHttp => server.endpoint.path(),
        Transport::Sse => "/",
    };
    let within = |path: &str| {
        let below = path.strip_prefix(base.trim_end_matches('/'));
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    assert!(within(target.path()));
    match uri.query() {
        Some(query) => assert_eq!(target.query(), Some(query)),
        None => assert!(target.query().is_none() || Some(target.query()) == Some(server.endpoint.query())),
    }
    // As browsers resolve it, and as servers do that decode first and cut parameters off.
    let resolved = Url::parse(&format!("http://x.example.com{}", target.path())).expect("a path makes a URL");
    assert!(within(resolved.path()), "resolved: {}", resolved.path());
    let decoded = decode(target.path());
    let segments = resolve(&decoded).expect("it does not climb above the root");
    assert!(
        within(&format!("/{}", segments.join("/"))),
        "decoded: {segments:?}"
    );
    assert!(
        !segments
            .iter()
            .any(|name| name.eq_ignore_ascii_case(".well-known"))
    );
}

fn decode(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = rest
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if !rest[at + 1..].starts_with('+') => {
                out.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// The segments after those with dots have been resolved; `None` where they lead above the root.
fn resolve(path: &str) -> Option<Vec<&str>> {
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']).skip(1) {
        match segment.split(';').next().unwrap_or_default() {
            "." => {}
            ".." => {
                segments.pop()?;
            }
            name => segments.push(name),
        }
    }
    Some(segments)
}
