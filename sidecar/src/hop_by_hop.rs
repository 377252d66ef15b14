//! Removes what is meant for one connection only (RFC 9110 section 7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// `Trailer` is not among them: it announces what follows the body, which is passed on.
const HOP_BY_HOP: [HeaderName; 7] = [
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// Of a request. `Expect` goes too: the connection to the client has already answered it.
pub fn strip_request(headers: &mut HeaderMap) {
    // A body of unknown length stays one: without the header, hyper would send a GET's as empty.
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    // We pass trailers on, so whoever takes them may be sent some (RFC 9110 section 10.1.4).
    let trailers = headers.contains_key(header::TE) && has(headers, header::TE, "trailers");
    strip(headers);
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Of an answer.
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
}

/// Whether the client asks for a WebSocket (RFC 6455 section 4.1). No other protocol is passed through.
pub fn wants_websocket(headers: &HeaderMap) -> bool {
    has(headers, header::UPGRADE, "websocket") && has(headers, header::CONNECTION, "upgrade")
}

/// Whether a list of tokens has this one.
fn has(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn strip(headers: &mut HeaderMap) {
    // Most requests have one Connection field with nothing but keep-alive or close in it, or none: then nothing
    // is collected here.
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if token.is_empty() || is_plain(token) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token) {
                named.push(name);
            }
        }
    }
    headers.remove(header::CONNECTION);
    for name in &named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_plain(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn removes_what_connection_names_in_any_of_its_fields_and_cases() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-One"),
            ("connection", "x-two ,, close"),
            ("keep-alive", "timeout=5"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
        ]);
        strip_request(&mut map);
        assert_eq!(map, headers(&[("x-three", "3")]));
    }

    #[test]
    fn who_takes_trailers_may_be_sent_some() {
        let mut map = headers(&[("te", "gzip;q=0.5, Trailers"), ("trailer", "x-sum")]);
        strip_request(&mut map);
        let kept = [("te", "trailers"), ("connection", "te"), ("trailer", "x-sum")];
        assert_eq!(map, headers(&kept));
    }

    #[test]
    fn a_body_of_unknown_length_stays_one() {
        let mut map = headers(&[("transfer-encoding", "chunked"), ("expect", "100-continue")]);
        strip_request(&mut map);
        assert_eq!(map, headers(&[("transfer-encoding", "chunked")]));
    }

    #[test]
    fn a_websocket_needs_both_headers() {
        assert!(wants_websocket(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ])));
        assert!(!wants_websocket(&headers(&[("upgrade", "websocket")])));
        assert!(!wants_websocket(&headers(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c")
        ])));
    }
}
