//! Turns the answer of an MCP server into one for LiteLLM, which takes the sidecar for the server: nothing in
//! it may lead LiteLLM around the sidecar.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Version};
use mcp_auth_protocol::sync::Transport;

use super::endpoint::EndpointRewriter;
use super::replayable_request::ReplayableRequest;
use super::{headers, location};
use crate::http::pool::Lease;
use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{McpServer, OpeningStream, UsableServer};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Prepares the answer to a request whose token was accepted.
pub fn prepare_response(
    server: &Arc<McpServer>,
    usable: &UsableServer,
    request: &ReplayableRequest,
    mut response: Response<Lease>,
) -> Result<Response<ResponseBody>, ProxyError> {
    let requested = request.path();
    let opens_stream = usable.transport == Transport::Sse && request.method() == Method::GET;
    let stream = opens_stream.then(|| OpeningStream {
        is_nobodys: request.is_for_nobody(),
        set_cookies: response
            .headers()
            .get_all(header::SET_COOKIE)
            .iter()
            .cloned()
            .collect(),
    });
    let resource = || server.resource.clone();
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProxyError::AnswerUnusable {
            resource: resource(),
            why: "it changes the protocol unasked",
        });
    }
    if !response.body().has_one_length(response.headers()) {
        return Err(ProxyError::AnswerUnusable {
            resource: resource(),
            why: "its length is stated in more than one way",
        });
    }
    headers::strip_response(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if status.is_redirection() {
        rewrite_location_header(server, usable, requested, response.headers_mut())?;
    }
    let Some(stream) = stream.filter(|_| status.is_success()) else {
        return Ok(match is_event_stream(response.headers()) {
            true => response.map(ResponseBody::Stream),
            false => response.map(|body| ResponseBody::with_idle_timeout(body, usable.answer_timeout)),
        });
    };
    if let Err(why) = check_event_stream(response.headers()) {
        return Err(ProxyError::AnswerUnusable {
            resource: resource(),
            why,
        });
    }
    response.headers_mut().insert(header::CONTENT_TYPE, EVENT_STREAM);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    let rewriter = EndpointRewriter::new(server.clone(), requested.as_str(), stream);
    Ok(response.map(|lease| ResponseBody::rewritten(lease, rewriter)))
}

/// A redirect within the origin is rewritten to lead through the sidecar; any other is an error.
fn rewrite_location_header(
    server: &McpServer,
    usable: &UsableServer,
    requested: &PathAndQuery,
    headers: &mut HeaderMap,
) -> Result<(), ProxyError> {
    let mut locations = headers.get_all(header::LOCATION).iter();
    let Some(first) = locations.next() else {
        return Ok(());
    };
    let location = match (first.to_str(), locations.next()) {
        (Ok(location), None) => {
            location::rewrite_location(&server.name, usable, requested.as_str(), location)
        }
        _ => None,
    };
    let location = location.and_then(|location| HeaderValue::try_from(location).ok());
    let location = location.ok_or_else(|| ProxyError::RedirectRefused {
        resource: server.resource.clone(),
    })?;
    headers.insert(header::LOCATION, location);
    Ok(())
}

/// An error unless LiteLLM's MCP client reads the same events in this answer as the rewriter: the client
/// takes other types for event streams too, and decodes whatever charset and encoding are stated.
fn check_event_stream(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let content_type = match (types.next(), types.next()) {
        (Some(only), None) => only.as_bytes().to_ascii_lowercase(),
        _ => return Err("it has not one Content-Type, where an event stream was requested"),
    };
    let content_type: Vec<u8> = content_type
        .into_iter()
        .filter(|byte| !matches!(byte, b' ' | b'\t' | b'"'))
        .collect();
    let content_type = content_type.strip_suffix(b";").unwrap_or(&content_type);
    if content_type != b"text/event-stream" && content_type != b"text/event-stream;charset=utf-8" {
        return Err("it is no event stream in UTF-8, where one was requested");
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    match encodings.all(|encoding| encoding == "identity") {
        true => Ok(()),
        false => Err("its event stream is compressed, though the request asked for none"),
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
