//! Trailers, filtered: a server may merge them into the headers long after those were checked, so none
//! passes that frames, routes or authenticates a message (RFC 9110 section 6.5.1), or speaks
//! in a proxy's name or ours.

use std::borrow::Cow;

use bytes::Bytes;
use http_body::Frame;
use mcp_auth_protocol::header_denylist::{DENIED_HEADERS, DENIED_PREFIXES};

use crate::http::hop_by_hop;

/// In addition to the header denylist. LiteLLM sends `x-mcp-SERVER-HEADER` to that server as HEADER.
const FORBIDDEN_PREFIXES: [&str; 2] = ["x-forwarded-", "x-mcp-"];
const FORBIDDEN_NAMES: [&str; 4] = ["cache-control", "dpop-nonce", "location", "retry-after"];

/// The frame without trailers that must not pass.
pub fn strip_forbidden(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hop_by_hop::remove(&mut trailers, is_forbidden);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

fn is_forbidden(name: &str) -> bool {
    // To many servers (CGI, WSGI) it is the same.
    let name = match name.contains('_') {
        true => Cow::Owned(name.replace('_', "-")),
        false => Cow::Borrowed(name),
    };
    DENIED_HEADERS.contains(&&*name)
        || FORBIDDEN_NAMES.contains(&&*name)
        || DENIED_PREFIXES
            .iter()
            .chain(&FORBIDDEN_PREFIXES)
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    #[test]
    fn a_sum_passes_and_nothing_that_a_header_would_mean() {
        let names = [
            "x-sum",
            "grpc-status",
            "content-length",
            "transfer-encoding",
            "authorization",
            "set-cookie",
            "host",
            "x-forwarded-user",
            "x_forwarded_user",
            "mcpauth-context",
            "mcpauth_context",
            "x-mcp-tools-mcpauth-context",
            "mcp-session-id",
            "location",
        ];
        let named = |name: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static("v"));
        let sent: HeaderMap = names.iter().map(named).collect();
        let received = strip_forbidden(Frame::trailers(sent)).into_trailers().unwrap();
        assert_eq!(received, names[..2].iter().map(named).collect());
        let data = strip_forbidden(Frame::data(Bytes::from_static(b"x"))).into_data();
        assert_eq!(data.unwrap(), "x");
    }
}
