//! Replayable request: a request to an MCP server in a form that can be sent again with another token.
//!
//! A body of a stated length of up to [`message::MAX_BODY_BYTES`] is read before it is sent, and kept; nearly
//! all MCP messages are that short, and LiteLLM states their length. Everything else is streamed and sent
//! once: reading a body without a stated length first could delay it for as long as its client keeps it open.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Body;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::Transport;

use super::error::OutboundError;
use super::header_copy::HeaderCopy;
use super::headers;
use super::message::{self, BodyRead, MessageKind};
use super::user_guard::MissingUser;
use crate::http::body_tap::BodyTap;
use crate::http::request_body::RequestBody;
use crate::proxy::audit::AuditedCall;
use crate::proxy::error::ProxyError;
use crate::proxy::routes::access_token::AccessToken;
use crate::proxy::routes::{McpServer, SessionId, UsableServer};
use crate::proxy::trace_context::Tracing;

/// Bytes of a body that passes through which an audit line is made of.
const MAX_RECORDED_BYTES: usize = 64 * 1024;

/// A request without its credentials, and its body as long as it is kept.
pub struct ReplayableRequest {
    method: Method,
    path: PathAndQuery,
    /// Without those that authenticate; empty once they were sent.
    headers: HeaderMap,
    /// The same, once they were sent, where the body is kept.
    copy: Option<HeaderCopy>,
    /// What hears of interim answers, where they are passed on.
    extensions: Extensions,
    session: Option<SessionId>,
    user: headers::UserPart,
    is_for_nobody: bool,
    body: ReplayableBody,
}

enum ReplayableBody {
    Whole(Option<Bytes>),
    /// `None` once it has been sent.
    Streamed(Option<RequestBody>),
}

impl ReplayableRequest {
    /// `path` is the path at the server, and `user` the user's cookies and headers for it. With `missing` it is an
    /// error unless it may be sent for nobody.
    pub async fn new(
        server: &McpServer,
        usable: &UsableServer,
        request: Request<Incoming>,
        path: PathAndQuery,
        user: headers::UserPart,
        missing: Option<MissingUser>,
    ) -> Result<Self, OutboundError> {
        let (parts, body) = request.into_parts();
        let has_messages = parts.method == Method::POST;
        let reads_messages = missing.is_some() && has_messages;
        let (body, kind) = match reads_messages || is_short(&body) {
            true => read_body(body, reads_messages.then_some(&parts.headers)).await?,
            false => (
                ReplayableBody::Streamed(Some(RequestBody::stream(body))),
                MessageKind::Call,
            ),
        };
        let mut headers = parts.headers;
        let session = SessionId::of_request(usable.transport, &headers, &path);
        if let Some(missing) = missing {
            let kind = has_messages.then_some(kind);
            let checked = missing.check(server, usable, &parts.method, kind, &path, session.as_ref());
            if let Err(error) = checked {
                return Err(OutboundError::new(error, body.into_unsent()));
            }
        }
        headers::prepare_request(&mut headers, usable, &user, session.as_ref());
        Ok(Self {
            method: parts.method,
            path,
            session,
            headers,
            copy: None,
            extensions: parts.extensions,
            user,
            is_for_nobody: matches!(missing, Some(MissingUser::None { .. })),
            body,
        })
    }

    /// Adds headers that LiteLLM's configuration states.
    pub fn add_headers(&mut self, headers: Vec<(HeaderName, HeaderValue)>) {
        self.headers.extend(headers);
    }

    /// The body, where it was read and not streamed.
    pub fn whole_body(&self) -> Option<&[u8]> {
        match &self.body {
            ReplayableBody::Whole(bytes) => bytes.as_deref(),
            ReplayableBody::Streamed(_) => None,
        }
    }

    /// Whether it may call a tool: a longer body may.
    pub fn may_call_tool(&self) -> bool {
        let is_post = self.method == Method::POST;
        is_post && self.whole_body().is_none_or(message::may_call_tool)
    }

    /// With the trace that the server is to go on with.
    pub fn propagate(&mut self, tracing: &Tracing) {
        tracing.propagate(&mut self.headers);
    }

    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// The user's cookies and headers for the server.
    pub fn user(&self) -> &headers::UserPart {
        &self.user
    }

    /// Whether it goes to the endpoint itself, without a session that the server may have ended.
    pub fn begins_session(&self, usable: &UsableServer) -> bool {
        let has_session = self.session.is_some() && usable.transport == Transport::StreamableHttp;
        self.path == usable.endpoint && !has_session
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The session that the request is in.
    pub fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// Whether it carries no user where the server demands one, so that a session which it opens is one of nobody's.
    pub fn is_for_nobody(&self) -> bool {
        self.is_for_nobody
    }

    /// Records the body in `call`: at once where it was read, else while it is sent.
    pub fn record_body(&mut self, call: &mut AuditedCall) {
        match &mut self.body {
            ReplayableBody::Whole(Some(bytes)) => call.set_body(bytes),
            ReplayableBody::Streamed(body) => {
                let tap = Arc::new(BodyTap::keeping(MAX_RECORDED_BYTES));
                *body = body.take().map(|body| body.tapped(tap.clone()));
                call.set_tap(tap);
            }
            ReplayableBody::Whole(None) => {}
        }
    }

    /// Whether it can be sent again.
    pub fn is_replayable(&self) -> bool {
        matches!(self.body, ReplayableBody::Whole(_))
    }

    /// Whether nothing changes if the server carries it out twice (RFC 9110 section 9.2.2). Of a POST the message
    /// says so.
    pub fn is_idempotent(&self) -> bool {
        match (&self.body, &self.method) {
            (ReplayableBody::Whole(Some(bytes)), &Method::POST) => message::is_idempotent(bytes),
            (ReplayableBody::Whole(_), method) => method.is_idempotent(),
            (ReplayableBody::Streamed(_), _) => false,
        }
    }

    /// The request with `token`. `None` if it has been sent and cannot be sent again.
    pub fn request(&mut self, usable: &UsableServer, token: &AccessToken) -> Option<Request<RequestBody>> {
        let body = match &mut self.body {
            ReplayableBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
            ReplayableBody::Streamed(body) => body.take()?,
        };
        let mut headers = match &self.copy {
            Some(copy) => copy.to_map()?,
            None => {
                self.copy = self.is_replayable().then(|| HeaderCopy::of(&self.headers));
                std::mem::take(&mut self.headers)
            }
        };
        let nonce = token.is_bound().then(|| usable.target.nonce()).flatten();
        let nonce = nonce.as_ref().map(|nonce| nonce.as_str());
        let clock_offset = usable.target.clock_offset();
        token.authorize(
            &mut headers,
            &self.method,
            &usable.url,
            &self.path,
            nonce,
            clock_offset,
        );
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        if !self.extensions.is_empty() {
            *request.extensions_mut() = self.extensions.clone();
        }
        Some(request)
    }

    /// The body, to read the identifier of its message from: `None` if it was streamed already.
    pub fn into_body(self) -> Option<RequestBody> {
        self.body.into_unsent()
    }
}

impl ReplayableBody {
    /// `None` once it has been streamed.
    fn into_unsent(self) -> Option<RequestBody> {
        match self {
            Self::Whole(bytes) => Some(RequestBody::Whole(bytes)),
            Self::Streamed(body) => body,
        }
    }
}

fn is_short(body: &Incoming) -> bool {
    let stated = body.size_hint().exact();
    stated.is_some_and(|bytes| bytes <= message::MAX_BODY_BYTES as u64)
}

/// The body, and the kind of its messages where the headers are given.
async fn read_body(
    body: Incoming,
    headers: Option<&HeaderMap>,
) -> Result<(ReplayableBody, MessageKind), OutboundError> {
    if body.is_end_stream() && headers.is_none() {
        return Ok((ReplayableBody::Whole(None), MessageKind::Call));
    }
    let read = message::read(body).await;
    let kind = match headers {
        Some(headers) => message::kind(read.bytes(), headers),
        None => MessageKind::Call,
    };
    let body = match read {
        BodyRead::Failed => return Err(ProxyError::BodyUnreadable.into()),
        BodyRead::Whole(bytes) => ReplayableBody::Whole((!bytes.is_empty()).then_some(bytes)),
        longer => ReplayableBody::Streamed(longer.into_body()),
    };
    Ok((body, kind))
}
