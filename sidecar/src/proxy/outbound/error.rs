//! Errors of the outbound half: a [`ProxyError`] with the rest of the request's body, from which the
//! identifier of the JSON-RPC message is read for the answer.

use std::error::Error;

use bytes::Bytes;
use http::Request;

use super::message;
use crate::http::idle_timeout::body_error;
use crate::http::request_body::RequestBody;
use crate::http::upstream::{SendError, UpstreamError};
use crate::proxy::error::ProxyError;
use crate::proxy::routes::McpServer;

/// Why a request is not answered by the MCP server, and its body if the identifier of the message can still
/// be read from it.
pub struct OutboundError {
    pub error: ProxyError,
    pub body: Option<RequestBody>,
}

impl OutboundError {
    /// `body`: `None` where it was streamed already.
    pub fn new(error: ProxyError, body: Option<RequestBody>) -> Self {
        Self { error, body }
    }

    pub fn with_body(error: ProxyError, body: RequestBody) -> Self {
        Self::new(error, Some(body))
    }
}

/// For a request whose body has been sent, or that has none.
impl From<ProxyError> for OutboundError {
    fn from(error: ProxyError) -> Self {
        Self { error, body: None }
    }
}

/// The error for a request that got no answer.
pub fn send_error(server: &McpServer, error: SendError) -> OutboundError {
    let resource = server.resource.clone();
    let SendError { cause, unsent, .. } = error;
    let why = match cause.source() {
        Some(source) => format!("{cause}: {source}").into(),
        None => cause.to_string().into(),
    };
    let error = match cause {
        UpstreamError::Connect(_) => ProxyError::ServerUnreachable { resource, why },
        UpstreamError::Http(error) if body_error(&error).is_some() => ProxyError::BodyUnreadable,
        UpstreamError::Http(_) => ProxyError::ServerFailed { resource, why },
        UpstreamError::Timeout => ProxyError::ServerTimeout { resource },
    };
    OutboundError {
        error,
        body: unsent.map(Request::into_body),
    }
}

/// The message in a body that was not sent.
pub async fn unsent_message(body: Option<RequestBody>) -> Option<Bytes> {
    match body?.untapped() {
        RequestBody::Whole(bytes) => bytes,
        RequestBody::Stream(body) => message::read(body.into_inner()).await.bytes().cloned(),
        RequestBody::Resumed { .. } | RequestBody::Filtered(_) | RequestBody::Tapped(_) => None,
    }
}
