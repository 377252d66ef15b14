//! The answer of an MCP server on its way to LiteLLM, which takes us for the server: nothing of it may lead LiteLLM
//! past us.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Response, StatusCode, Version};
use mcp_auth_protocol::sync::Transport;

use super::endpoint::EndpointRewriter;
use super::{headers, location};
use crate::body::ResponseBody;
use crate::framing;
use crate::pool::Lease;
use crate::respond::Refusal;
use crate::routes::{Server, Usable};

/// What becomes of an answer to a request whose token was taken.
pub fn accept(
    server: &Arc<Server>,
    usable: &Usable,
    requested: &PathAndQuery,
    getting: bool,
    mut response: Response<Lease>,
) -> Result<Response<ResponseBody>, Refusal> {
    let resource = || server.resource.clone();
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::AnswerUnusable {
            resource: resource(),
            why: "it changes the protocol unasked",
        });
    }
    if !framing::one_length(response.headers()) {
        return Err(Refusal::AnswerUnusable {
            resource: resource(),
            why: "its length is stated in more than one way",
        });
    }
    headers::clean(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if status.is_redirection() {
        relocate(server, usable, requested, response.headers_mut())?;
    }
    let events = usable.transport == Transport::Sse && getting && is_event_stream(response.headers());
    if !events {
        return Ok(match is_event_stream(response.headers()) {
            true => response.map(ResponseBody::Stream),
            false => response.map(ResponseBody::awaited),
        });
    }
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let why = "its event stream is compressed, though it was asked not to be";
        return Err(Refusal::AnswerUnusable {
            resource: resource(),
            why,
        });
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    let rewriter = EndpointRewriter::new(server.clone(), requested.as_str());
    Ok(response.map(|lease| ResponseBody::rewritten(lease, rewriter)))
}

/// A redirect within the origin leads LiteLLM back to us; any other is an error.
fn relocate(
    server: &Server,
    usable: &Usable,
    requested: &PathAndQuery,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let mut locations = headers.get_all(header::LOCATION).iter();
    let Some(first) = locations.next() else {
        return Ok(());
    };
    let location = match (first.to_str(), locations.next()) {
        (Ok(location), None) => location::relocate(&server.name, usable, requested.as_str(), location),
        _ => None,
    };
    let location = location.and_then(|location| HeaderValue::try_from(location).ok());
    let location = location.ok_or_else(|| Refusal::RedirectRefused {
        resource: server.resource.clone(),
    })?;
    headers.insert(header::LOCATION, location);
    Ok(())
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let essence = |value: &HeaderValue| {
        let essence = value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        essence.eq_ignore_ascii_case(b"text/event-stream")
    };
    headers.get(header::CONTENT_TYPE).is_some_and(essence)
}
