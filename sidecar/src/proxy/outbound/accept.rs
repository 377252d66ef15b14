//! The answer of an MCP server on its way to LiteLLM, which takes us for the server: nothing of it may lead LiteLLM
//! past us.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Response, StatusCode, Version};
use mcp_auth_protocol::sync::Transport;

use super::endpoint::EndpointRewriter;
use super::{headers, location};
use crate::http::framing;
use crate::http::pool::Lease;
use crate::proxy::respond::Refusal;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{Server, Usable};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

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
    if usable.transport != Transport::Sse || !getting || !status.is_success() {
        return Ok(match is_event_stream(response.headers()) {
            true => response.map(ResponseBody::Stream),
            false => response.map(ResponseBody::awaited),
        });
    }
    if let Err(why) = readable(response.headers()) {
        return Err(Refusal::AnswerUnusable {
            resource: resource(),
            why,
        });
    }
    response.headers_mut().insert(header::CONTENT_TYPE, EVENT_STREAM);
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

/// Whether LiteLLM's MCP client could read events in this answer only as we do: it takes other types for event streams too,
/// and decodes whatever charset and encoding are stated.
fn readable(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let stated = match (types.next(), types.next()) {
        (Some(only), None) => only.as_bytes().to_ascii_lowercase(),
        _ => return Err("it has not one Content-Type, where an event stream was asked for"),
    };
    let stated: Vec<u8> = stated
        .into_iter()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'"'))
        .collect();
    let stated = stated.strip_suffix(b";").unwrap_or(&stated);
    if stated != b"text/event-stream" && stated != b"text/event-stream;charset=utf-8" {
        return Err("it is no event stream in UTF-8, where one was asked for");
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    match encodings.all(|encoding| encoding == "identity") {
        true => Ok(()),
        false => Err("its event stream is compressed, though it was asked not to be"),
    }
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
