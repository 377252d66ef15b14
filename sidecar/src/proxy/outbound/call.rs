//! One request to an MCP server: what is noted of it on its way, and how its client is told why it is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::CONTEXT;
use super::error::{OutboundError, UnsentMessage};
use super::refused_sessions::{OpeningMessage, RefusedSession, RefusedSessions};
use crate::proxy::audit::{self, AuditLog, AuditedCall};
use crate::proxy::error::ProxyError;
use crate::proxy::request_id::RequestId;
use crate::proxy::respond::{accepted, json_rpc, problem, session_ended, stand_in, tool_result};
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{McpServer, SESSION_HEADER, SessionId, UsableServer};
use crate::proxy::trace_context::{TRACEPARENT, TraceId, TraceParent, Tracing};

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// A request, and how its client reads errors.
pub struct Call {
    pub id: RequestId,
    pub started: Instant,
    /// How long the MCP server took, from the request to the head of the answer, all attempts together.
    pub upstream_time: Duration,
    audited: Option<AuditedCall>,
    parent: Option<TraceParent>,
    tracing: Tracing,
    /// It has a message, and its answer is one.
    is_post: bool,
    /// Its client reads why a tool failed in the tool's result.
    takes_results: bool,
    /// A user's request to LiteLLM led to it, and not discovery or a health check of LiteLLM's.
    is_of_user: bool,
    /// The session that it is in.
    pub session: Option<HeaderValue>,
    /// The same, where there is none at the server.
    pub refused_session: Option<Box<RefusedSession>>,
}

/// Where a refused request was to go.
pub struct Destination<'a> {
    /// As it is configured.
    pub server: Option<&'a str>,
    /// As the path has it, which the client made.
    pub name: &'a str,
    /// The session over legacy SSE that a message is in: its client takes no answer from elsewhere.
    pub stream: Option<(&'a UsableServer, &'a SessionId)>,
    pub refused_sessions: &'a RefusedSessions,
}

impl Call {
    /// Begins with the request.
    pub fn begin<B>(request: &Request<B>, server: Option<&Arc<McpServer>>, audit_log: &AuditLog) -> Self {
        let (id, started) = (RequestId::next(), Instant::now());
        let is_post = request.method() == Method::POST;
        let traceparent = request.headers().get(TRACEPARENT);
        let mut call = Self {
            id,
            started,
            upstream_time: Duration::ZERO,
            audited: server.and_then(|server| audit_log.begin(server, request, traceparent, id, started)),
            // Not the header itself, which is a part of the buffer that all of them were read into.
            parent: traceparent.and_then(TraceParent::of_header),
            tracing: match server.is_some() && audit_log.traces() {
                true => Tracing::of_headers(request.headers()),
                false => Tracing::Off,
            },
            is_post,
            takes_results: is_post && is_mcp_client(request.headers()),
            is_of_user: request.headers().contains_key(CONTEXT),
            session: request.headers().get(SESSION_HEADER).cloned(),
            refused_session: None,
        };
        call.record_span();
        call
    }

    /// Decides by the message what becomes of the trace, where the headers have not, and says what the MCP server gets.
    pub fn trace(&mut self, body: Option<&[u8]>) -> &Tracing {
        if self.tracing == Tracing::Undecided {
            self.tracing.decide(|| body.and_then(audit::traceparent));
            self.record_span();
        }
        &self.tracing
    }

    fn record_span(&mut self) {
        if let (Some(audited), Some(span)) = (&mut self.audited, self.tracing.span()) {
            audited.set_span(span.clone());
        }
    }

    /// By its span, by its `traceparent` or, as LiteLLM's OpenTelemetry has it, by its message.
    fn trace_id(&self, message: Option<&[u8]>) -> Option<TraceId> {
        if let Some(span) = self.tracing.span() {
            return Some(span.trace_id());
        }
        let parent = self.parent.or_else(|| message.and_then(audit::traceparent));
        parent.map(TraceParent::trace_id)
    }

    /// Notes something for the audit line, if there is to be one.
    pub fn record(&mut self, note: impl FnOnce(&mut AuditedCall)) {
        if let Some(audited) = &mut self.audited {
            note(audited);
        }
    }

    /// The answer of the sidecar to a request that fails. Logged with nothing of the request but its numbers.
    pub async fn refuse(
        &mut self,
        failed: OutboundError,
        destination: Destination<'_>,
    ) -> Response<ResponseBody> {
        let OutboundError { error, body } = failed;
        let reason = error.reason();
        self.record(|audited| audited.set_failed(reason));
        let message = match self.is_post {
            true => UnsentMessage::read(body).await,
            false => None,
        };
        let whole = message.as_ref().and_then(UnsentMessage::whole);
        let text = whole.map(|bytes| &**bytes);
        self.trace(text);
        tracing::warn!(
            half = "outbound",
            request = %self.id,
            trace_id = self.trace_id(text).map(|id| id.to_string()),
            server = destination.server,
            reason,
            status = error.status().as_u16(),
            %error,
            "request refused"
        );
        if !self.is_post {
            return problem(&error);
        }
        if let Some(whole) = whole {
            self.record(|audited| audited.set_body(whole));
        }
        if let Some(opened) = text.and_then(|text| self.open_stand_in(&error, text, &destination)) {
            return opened;
        }
        let id = message
            .as_ref()
            .map(UnsentMessage::request_id)
            .unwrap_or_default();
        let call_id = message.as_ref().and_then(UnsentMessage::tool_call_id);
        let answer = |takes_result: bool| match call_id.clone().filter(|_| takes_result) {
            Some(id) => tool_result(&error, id),
            None => json_rpc(&error, id.clone()),
        };
        if let (Some(session), Some(_)) = (&self.refused_session, &call_id)
            && !destination.refused_sessions.is_first_call(session)
        {
            return session_ended(Some(&error), id);
        }
        // The answer to a request of the server has the server's identifier, by which a client would take this for its own.
        let asks = message.as_ref().is_some_and(UnsentMessage::is_request);
        let stream = destination.stream.filter(|_| error.is_for_users() && asks);
        if let Some((usable, session)) = stream
            && let ResponseBody::Whole(Some(text)) = answer(true).body()
            && usable.refusals.send(session, text)
        {
            return accepted();
        }
        answer(self.takes_results && error.is_for_users())
    }

    /// Where the message opens a session for a user, the answer that has the session go on without the server until a tool
    /// is called in it.
    fn open_stand_in(
        &self,
        error: &ProxyError,
        message: &[u8],
        destination: &Destination<'_>,
    ) -> Option<Response<ResponseBody>> {
        if !self.takes_results || !self.is_of_user || !error.is_for_users() || self.refused_session.is_some()
        {
            return None;
        }
        let Destination {
            name,
            refused_sessions,
            ..
        } = destination;
        match OpeningMessage::read(message)? {
            OpeningMessage::Initialize { id, version } => {
                let session = refused_sessions.open(name, error)?;
                let mut opened = stand_in(error, id, &version);
                opened.headers_mut().insert(SESSION_HEADER, session);
                Some(opened)
            }
            // Clients end with the refusal of this, before the call that would be told why.
            OpeningMessage::Initialized => {
                if let Some(session) = &self.session {
                    refused_sessions.refuse(name, session, error);
                }
                Some(accepted())
            }
        }
    }

    /// The end of the answer is recorded once it has come.
    pub fn answered(self, response: &mut Response<ResponseBody>, status: StatusCode) {
        if let Some(mut audited) = self.audited {
            audited.set_answer(status, self.upstream_time);
            // In place: to move an answer takes longer than this.
            let body = std::mem::replace(response.body_mut(), ResponseBody::Whole(None));
            *response.body_mut() = body.audited(audited);
        }
    }
}

/// Whether the request is of an MCP client with streamable HTTP, which names both types that it takes. Others, such as a
/// probe, are told by the status.
fn is_mcp_client(headers: &HeaderMap) -> bool {
    // Nearly all name it last.
    let names_stream = |value: &HeaderValue| {
        value.as_bytes().ends_with(EVENT_STREAM)
            || memchr::memmem::find(value.as_bytes(), EVENT_STREAM).is_some()
    };
    headers.get_all(ACCEPT).iter().any(names_stream)
}
