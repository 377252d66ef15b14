//! Writes the head of a request, and says how its body is framed (RFC 9112 sections 3 and 6).

use std::io::Write as _;

use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body::{Body, SizeHint};

use super::content_length::parse_content_length;

/// How the body of a request is sent.
#[derive(Debug, Default, Eq, PartialEq)]
pub enum BodyFraming {
    /// There is none, or it is sent.
    #[default]
    Done,
    /// So many bytes are yet to be sent.
    Length(u64),
    /// With these trailers, should they come.
    Chunked(Vec<HeaderName>),
}

pub struct RequestHead {
    pub framing: BodyFraming,
    /// The request asks for the connection to end with it.
    pub closes: bool,
}

/// Appends the head to `out`. A length or chunks that the headers state go before what the body says of itself.
pub fn write<B: Body>(
    out: &mut Vec<u8>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &B,
) -> RequestHead {
    out.reserve(128 + headers.len() * 48);
    push(out, &[method.as_str().as_bytes(), b" "]);
    write_target(out, uri);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let (mut length, mut is_chunked, mut closes, mut has_trailer) = (None, false, false, false);
    for (name, value) in headers {
        if name == CONTENT_LENGTH {
            // What else a client states was refused before.
            length = length.or_else(|| parse_content_length(value.as_bytes()));
            continue;
        }
        if name == TRANSFER_ENCODING {
            is_chunked = true;
            continue;
        }
        if name == CONNECTION {
            closes |= asks_to_close(value);
        }
        has_trailer |= name == TRAILER;
        push(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    let framing = match body.is_end_stream() {
        true => {
            // A GET's is not stated unless it was.
            if length == Some(0) {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            BodyFraming::Done
        }
        false => framing(method, length, is_chunked, &body.size_hint()),
    };
    let framing = match framing {
        BodyFraming::Chunked(_) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            BodyFraming::Chunked(match has_trailer {
                true => announced_trailers(headers),
                false => Vec::new(),
            })
        }
        BodyFraming::Length(length) => {
            push(
                out,
                &[
                    b"content-length: ",
                    itoa::Buffer::new().format(length).as_bytes(),
                    b"\r\n",
                ],
            );
            match length {
                0 => BodyFraming::Done,
                length => BodyFraming::Length(length),
            }
        }
        BodyFraming::Done => BodyFraming::Done,
    };
    out.extend_from_slice(b"\r\n");
    RequestHead { framing, closes }
}

/// Of a body that has not ended.
fn framing(method: &Method, stated: Option<u64>, is_chunked: bool, hint: &SizeHint) -> BodyFraming {
    match stated.or(hint.exact()) {
        _ if is_chunked => BodyFraming::Chunked(Vec::new()),
        Some(length) => BodyFraming::Length(length),
        // Next to none of these has a body, and whoever sends one says so.
        None if matches!(*method, Method::GET | Method::HEAD | Method::CONNECT) => BodyFraming::Done,
        None => BodyFraming::Chunked(Vec::new()),
    }
}

/// Path and query; the whole URI where it has a host.
fn write_target(out: &mut Vec<u8>, uri: &Uri) {
    match uri.path_and_query() {
        Some(path) if uri.scheme().is_none() && uri.authority().is_none() => {
            if !path.as_str().starts_with(['/', '*']) {
                out.push(b'/');
            }
            out.extend_from_slice(path.as_str().as_bytes());
        }
        // Cannot fail: it is memory.
        _ => drop(write!(out, "{uri}")),
    }
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn asks_to_close(value: &HeaderValue) -> bool {
    let mut options = value.as_bytes().split(|byte| *byte == b',');
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// The names in `Trailer`: no others are sent (RFC 9110 section 6.6.2).
fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let lists = headers
        .get_all(TRAILER)
        .iter()
        .filter_map(|list| list.to_str().ok());
    let names = lists.flat_map(|list| list.split(','));
    names
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect()
}
