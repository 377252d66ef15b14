//! By which name a request came to the outbound listener.
//!
//! The listener adds the token for whoever reaches it. A web page, or one of LiteLLM's own fetchers of URLs, can be led
//! to it by a DNS name that resolves to 127.0.0.1 (DNS rebinding; the security best practices of MCP name it). Such a
//! request has that name for its host, and is refused. Who comes on purpose, as LiteLLM does by the URL that the
//! overlay gives it, names loopback itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, HeaderMap};
use http::uri::Uri;

/// Whether all that the request says of its host is loopback: the header, which must be there, and the authority of an
/// absolute URI.
pub fn is_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let authority = uri.authority().map(|authority| authority.as_str());
    let mut hosts = headers.get_all(HOST).iter().peekable();
    hosts.peek().is_some()
        && authority.is_none_or(names_loopback)
        && hosts.all(|host| host.to_str().is_ok_and(names_loopback))
}

/// Addresses in any other spelling, and names below `localhost`, are nothing that anybody needs.
fn names_loopback(host: &str) -> bool {
    let (loopback, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let address = address.parse::<Ipv6Addr>();
            (address.is_ok_and(|address| address.is_loopback()), port)
        }
        None => {
            let (name, port) = host.split_at(memchr::memchr(b':', host.as_bytes()).unwrap_or(host.len()));
            // The overlay's own spelling needs no parser.
            let loopback = name == "127.0.0.1"
                || name.eq_ignore_ascii_case("localhost")
                || name
                    .parse::<Ipv4Addr>()
                    .is_ok_and(|address| address.is_loopback());
            (loopback, port)
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    loopback && (port.is_empty() || port.strip_prefix(':').is_some_and(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_in_its_plain_spelling_is_loopback() {
        for host in [
            "localhost",
            "LocalHost:16481",
            "127.0.0.1",
            "127.0.0.1:16481",
            "127.255.0.9:1",
            "[::1]",
            "[::1]:16481",
        ] {
            assert!(names_loopback(host), "{host}");
        }
        for host in [
            "",
            ":16481",
            "evil.example.com",
            "127.0.0.1.evil.example.com:16481",
            "localhost.evil.example.com",
            "evil.localhost",
            "localhost@evil.example.com",
            "localhost:16481@evil.example.com",
            "localhost:x",
            "128.0.0.1",
            "0.0.0.0",
            "2130706433",
            "127.1",
            "::1",
            "[::]",
            "[::1",
            "[::1]x",
            "[::1].evil.example.com",
            "[::ffff:10.0.0.1]",
            "[localhost]",
        ] {
            assert!(!names_loopback(host), "{host}");
        }
    }
}
