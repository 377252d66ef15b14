//! Errors of the outbound half: a [`ProxyError`] with the rest of the request's body, from which the
//! identifier of the JSON-RPC message is read for the answer.

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::envelope::{Envelope, read_envelope};
use super::message::{self, BodyRead};
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
    let why = cause.in_full();
    let is_of_body = cause.body_error().is_some();
    let error = match cause {
        UpstreamError::Connect(_) => ProxyError::ServerUnreachable { resource, why },
        UpstreamError::Http(_) if is_of_body => ProxyError::BodyUnreadable,
        UpstreamError::Http(_) => ProxyError::ServerFailed { resource, why },
        UpstreamError::Timeout => ProxyError::ServerTimeout { resource },
    };
    OutboundError {
        error,
        body: unsent.map(Request::into_body),
    }
}

/// The message in a body that was not sent.
pub enum UnsentMessage {
    Whole(Bytes),
    /// Of one that is too long to be kept.
    Long(Envelope),
}

impl UnsentMessage {
    /// `None` where the body was sent, or is no message.
    pub async fn read(body: Option<RequestBody>) -> Option<Self> {
        let (first, rest) = match body?.untapped() {
            RequestBody::Whole(bytes) => return bytes.map(Self::Whole),
            RequestBody::Stream(body) => match message::read(body.into_inner()).await {
                BodyRead::Whole(bytes) => return Some(Self::Whole(bytes)),
                BodyRead::Beginning { first, rest } => (first, rest),
                BodyRead::Failed => return None,
            },
            RequestBody::Resumed { first, rest } => (first.unwrap_or_default(), rest.into_inner()),
            RequestBody::Filtered(_) | RequestBody::Tapped(_) => return None,
        };
        read_envelope(&first, rest).await.map(Self::Long)
    }

    pub fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Long(_) => None,
        }
    }

    /// The message's identifier; `null` where there is none that JSON-RPC allows.
    pub fn request_id(&self) -> Value {
        match self {
            Self::Whole(bytes) => message::request_id(bytes),
            Self::Long(envelope) => message::allowed_id(envelope.id.clone()).unwrap_or_default(),
        }
    }

    /// Whether it asks for an answer.
    pub fn is_request(&self) -> bool {
        let has_method = match self {
            Self::Whole(bytes) => message::has_method(bytes),
            Self::Long(envelope) => envelope.method.is_some(),
        };
        has_method && !self.request_id().is_null()
    }

    /// The identifier of a tool call; `None` for anything else, and where the call has none that JSON-RPC allows.
    pub fn tool_call_id(&self) -> Option<Value> {
        match self {
            Self::Whole(bytes) => message::tool_call_id(bytes),
            Self::Long(envelope) => {
                let is_call = envelope.method.as_deref() == Some(message::TOOL_CALL);
                message::allowed_id(envelope.id.clone()).filter(|_| is_call)
            }
        }
    }
}
