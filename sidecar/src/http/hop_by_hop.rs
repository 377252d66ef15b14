//! Hop-by-hop headers: removed, since they are meant for one connection only (RFC 9110 section 7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Removes those of a request, and headers that are `unwanted` there. `Expect` goes too: the connection to
/// the client has already answered it.
pub fn strip_request(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let stripped = strip(headers, |name| name == "expect" || unwanted(name));
    // We pass trailers on, so a client that takes them may be sent some (RFC 9110 section 10.1.4).
    if stripped.takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // A body of unknown length stays one: without the header, a GET's would be sent as empty.
    if stripped.is_chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Removes those of an answer, and headers that are `unwanted` there.
pub fn strip_response(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    strip(headers, unwanted);
}

/// Whether the client asks for a WebSocket (RFC 6455 section 4.1). No other protocol is passed through.
pub fn wants_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket") && has_token(headers, header::CONNECTION, "upgrade")
}

/// Whether a header that is a list of tokens has this one.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Removes every header whose name is `unwanted`.
pub fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    for name in &names(headers, unwanted) {
        headers.remove(name);
    }
}

/// The names in the map that are `unwanted`. A message has a dozen names, so looking at each of them once takes less than
/// asking the map for each name that might be there.
fn names(headers: &HeaderMap, unwanted: impl Fn(&str) -> bool) -> Vec<HeaderName> {
    let mut present = Vec::new();
    for name in headers.keys().filter(|name| unwanted(name.as_str())) {
        // Of a request there are several, of an answer mostly none.
        if present.is_empty() {
            present.reserve(8);
        }
        present.push(name.clone());
    }
    present
}

/// Whether the header is for one connection only, whatever `Connection` says. `Trailer` is not: it announces
/// what follows the body, which is passed on. The length tells most names apart.
#[inline]
fn is_hop_by_hop(name: &str) -> bool {
    match name.len() {
        2 => name == "te",
        7 => name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        18 => name == "proxy-authenticate",
        19 => name == "proxy-authorization",
        _ => false,
    }
}

/// What headers that were removed have said.
#[derive(Default)]
struct Stripped {
    is_chunked: bool,
    takes_trailers: bool,
}

/// Removes the headers that `Connection` names, and the `unwanted` ones.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) -> Stripped {
    let present = names(headers, |name| is_hop_by_hop(name) || unwanted(name));
    let (mut stripped, mut options) = (Stripped::default(), Vec::new());
    for name in &present {
        match *name {
            header::CONNECTION => options = connection_options(headers),
            header::TE => stripped.takes_trailers = has_token(headers, header::TE, "trailers"),
            header::TRANSFER_ENCODING => stripped.is_chunked = true,
            _ => {}
        }
    }
    for name in options.iter().chain(&present) {
        headers.remove(name);
    }
    stripped
}

/// The headers that `Connection` names.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    // Most requests have one field with nothing but keep-alive or close in it: then nothing is collected here.
    let mut options = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            if token.is_empty() || is_persistence_option(token) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && !is_end_to_end(name.as_str())
            {
                options.push(name);
            }
        }
    }
    options
}

/// End-to-end headers, which `Connection` must not name (RFC 9110 section 7.6.1): by having one removed, a
/// client could turn its request into another one, hide what an ingress says of it, or have LiteLLM find another key than
/// the one that is recorded.
fn is_end_to_end(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "content-type"
            | "authorization"
            | "cookie"
            | "forwarded"
            | "x-litellm-api-key"
            | "api-key"
            | "x-api-key"
            | "x-goog-api-key"
            | "ocp-apim-subscription-key"
    ) || name.starts_with("x-forwarded-")
}

fn is_persistence_option(token: &[u8]) -> bool {
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
        strip_request(&mut map, |_| false);
        assert_eq!(map, headers(&[("x-three", "3")]));
    }

    #[test]
    fn who_takes_trailers_may_be_sent_some() {
        let mut map = headers(&[("te", "gzip;q=0.5, Trailers"), ("trailer", "x-sum")]);
        strip_request(&mut map, |_| false);
        let kept = [("te", "trailers"), ("connection", "te"), ("trailer", "x-sum")];
        assert_eq!(map, headers(&kept));
    }

    #[test]
    fn connection_takes_nothing_away_that_a_request_is_judged_by() {
        let kept = [("host", "a"), ("x-forwarded-for", "10.0.0.1"), ("cookie", "a=1")];
        let mut map = headers(&kept);
        map.insert(
            "connection",
            HeaderValue::from_static("Host, X-Forwarded-For, Cookie, x-hop"),
        );
        map.insert("x-hop", HeaderValue::from_static("1"));
        strip_request(&mut map, |_| false);
        assert_eq!(map, headers(&kept));
    }

    #[test]
    fn a_body_of_unknown_length_stays_one() {
        let mut map = headers(&[("transfer-encoding", "chunked"), ("expect", "100-continue")]);
        strip_request(&mut map, |_| false);
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
