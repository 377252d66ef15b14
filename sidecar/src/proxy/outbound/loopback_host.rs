//! DNS rebinding guard: requests to the outbound listener must name a loopback host.
//!
//! The listener adds the token to every request that reaches it. An attacker can point a DNS name at
//! 127.0.0.1 and so bring a web page, or one of LiteLLM's own fetchers of URLs, to send requests here (DNS
//! rebinding; the security best practices of MCP name it). Such a request has that name as its host, and is
//! answered with an error. LiteLLM's own requests name loopback, by the URL that the overlay gives it.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, HeaderMap};
use http::uri::Uri;

/// Whether the request names only loopback hosts: in the Host header, which must be there, and in the
/// authority of an absolute URI.
pub fn is_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let authority = uri.authority().map(|authority| authority.as_str());
    let mut hosts = headers.get_all(HOST).iter().peekable();
    hosts.peek().is_some()
        && authority.is_none_or(names_loopback)
        && hosts.all(|host| host.to_str().is_ok_and(names_loopback))
}

/// Addresses in any other spelling and names below `localhost` do not count: no client needs them.
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
