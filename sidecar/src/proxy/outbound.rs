//! The outbound half, from LiteLLM's MCP client to MCP servers. It takes requests whose host is loopback
//! ([`loopback_host`]) and that show the secret of LiteLLM's configuration
//! ([`OutboundSecret`]), finds the server that the path names ([`path`]), authenticates the request to it
//! ([`headers`], [`token_selection`]), sends it, once more if the server rejects the token
//! ([`replayable_request`], [`server_answer`], [`auth_outcome`], [`token_rejection`]), and passes the answer on
//! ([`response`]).
//! LiteLLM takes the sidecar for the server, so nothing in an answer may lead it around the sidecar: no
//! challenge, no redirect ([`location`]), no endpoint ([`endpoint`]).

mod auth_outcome;
mod call;
pub(crate) mod endpoint;
mod envelope;
mod error;
mod header_copy;
pub(crate) mod headers;
mod limits;
mod location;
mod loopback_host;
mod message;
pub(crate) mod path;
mod refused_sessions;
mod replayable_request;
mod response;
mod server_answer;
mod suspect_users;
mod token_rejection;
mod token_selection;
mod user_guard;
mod user_tokens;
mod wait_limit;

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::header::{Entry, HeaderMap, HeaderName};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::Transport;
use secrecy::SecretString;
use serde_json::Value;

use crate::control::context_checks::ContextChecks;
use crate::control::exchange_client::TokenExchanger;
use crate::control::litellm_config::static_headers::StaticHeaders;
use crate::control::outbound_secret::OutboundSecret;
use crate::http::framing;
use crate::http::request_body::RequestBody;
use crate::proxy::audit::{AuditLog, AuditedCall};
use crate::proxy::clock::unix_now;
use crate::proxy::error::{ProxyError, ReplayError};
use crate::proxy::metrics::{ContextResult, Half, Metrics, RetryCause};
use crate::proxy::respond::{accepted, json_rpc, of_stand_in, problem, session_ended};
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{McpServer, Routes, SessionId, UsableServer};
use crate::proxy::user_context::seal::{OpenError, Sealer};
use crate::proxy::user_context::{Context, NO_CONTEXT, names_user};
use call::{Call, Destination};
use error::OutboundError;
use headers::UserPart;
pub use limits::Limits;
use refused_sessions::{RefusedSession, RefusedSessions};
use replayable_request::ReplayableRequest;
use server_answer::ServerAnswer;
use token_rejection::TokenRejection;
use token_selection::TokenSelector;
use user_guard::MissingUser;

const CONTEXT: HeaderName = HeaderName::from_static(CONTEXT_HEADER);

/// The half on loopback.
pub struct Outbound {
    routes: Routes,
    token_selector: TokenSelector,
    refused_sessions: RefusedSessions,
    sealer: Arc<Sealer>,
    secret: OutboundSecret,
    audit_log: AuditLog,
    metrics: Metrics,
    /// Absent where LiteLLM's configuration is not seen.
    static_headers: Option<StaticHeaders>,
    context_checks: ContextChecks,
}

impl Outbound {
    /// `sealer` is shared with the inbound half; `secret` is what LiteLLM shows; `exchanger` requests users' own
    /// tokens.
    pub fn new(
        routes: Routes,
        sealer: Arc<Sealer>,
        secret: OutboundSecret,
        exchanger: Arc<dyn TokenExchanger>,
        limits: Limits,
        audit_log: AuditLog,
        metrics: Metrics,
    ) -> Self {
        let token_selector = TokenSelector::new(routes.clone(), exchanger, limits, metrics.clone());
        Self {
            routes,
            token_selector,
            refused_sessions: RefusedSessions::default(),
            sealer,
            secret,
            audit_log,
            metrics,
            static_headers: None,
            context_checks: ContextChecks::default(),
        }
    }

    /// With what the overlay calls the keys of gateways in LiteLLM's configuration.
    pub fn with_static_headers(self, static_headers: StaticHeaders) -> Self {
        Self {
            static_headers: Some(static_headers),
            ..self
        }
    }

    /// Tells these checks of the requests that have their values.
    pub fn with_context_checks(self, context_checks: ContextChecks) -> Self {
        Self {
            context_checks,
            ..self
        }
    }

    pub(crate) async fn answer(
        &self,
        worker: usize,
        mut request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let (name, _) = path::split_server(request.uri().path());
        let server = self.routes.table().server(name).cloned();
        let unknown = server.is_none().then(|| Box::<str>::from(name));
        let mut call = Call::begin(&request, server.as_ref(), &self.audit_log);
        let id = call.id;
        let session = server
            .as_ref()
            .and_then(|server| stream_session(server, &request));
        // As the path has it.
        let name = server.as_ref().map(|server| &*server.name);
        let name = name.or(unknown.as_deref()).unwrap_or_default();
        let refused_session = self.refused_session(name, request.method(), &call);
        let answer = match &server {
            _ if !loopback_host::is_loopback(request.uri(), request.headers()) => {
                Err(OutboundError::with_body(
                    ProxyError::HostNotAllowed,
                    RequestBody::stream(request.into_body()),
                ))
            }
            _ if !self.secret.take_from(request.headers_mut()) => Err(OutboundError::with_body(
                ProxyError::CallerNotAllowed,
                RequestBody::stream(request.into_body()),
            )),
            _ if refused_session.is_some() => {
                call.refused_session = refused_session;
                Box::pin(self.answer_in_refused_session(request, &mut call)).await
            }
            Some(server) => match framing::check(&request) {
                // Boxed: else each connection would keep room for the whole future even while it is idle.
                Ok(()) => {
                    id.scope(Box::pin(self.forward(worker, server, request, &mut call)))
                        .await
                }
                Err(ambiguous) => Err(OutboundError::with_body(
                    ambiguous.into(),
                    RequestBody::stream(request.into_body()),
                )),
            },
            None => Err(OutboundError::with_body(
                ProxyError::UnknownServer,
                RequestBody::stream(request.into_body()),
            )),
        };
        // Only a configured name is logged: what else the path says comes from the client.
        let configured = server.as_ref().map(|server| &*server.name);
        let status;
        let mut response = match answer {
            Ok(response) => {
                status = response.status();
                tracing::debug!(
                    half = "outbound",
                    request = %id,
                    server = configured,
                    status = status.as_u16(),
                    "answered"
                );
                response
            }
            Err(failed) => {
                self.metrics.count_error(Half::Outbound, failed.error.reason());
                status = failed.error.status();
                let stream = server
                    .as_ref()
                    .and_then(|server| server.usable())
                    .zip(session.as_ref());
                let destination = Destination {
                    server: configured,
                    name,
                    stream,
                    refused_sessions: &self.refused_sessions,
                };
                call.refuse(failed, destination).await
            }
        };
        // What was refused counts as what it is, though a tool call is told by a result.
        self.metrics.answered(Half::Outbound, status);
        if let Some(server) = &server {
            let (total, upstream_time) = (call.started.elapsed(), call.upstream_time);
            server.metrics.answered(status, total, upstream_time);
        }
        call.answered(&mut response, status);
        response
    }

    /// A request that is not even looked at.
    pub(crate) fn refuse(&self, method: &Method, error: &ProxyError) -> Response<ResponseBody> {
        self.metrics.count_error(Half::Outbound, error.reason());
        let response = match *method == Method::POST {
            true => json_rpc(error, Value::Null),
            false => problem(error),
        };
        self.metrics.answered(Half::Outbound, response.status());
        response
    }

    /// Counts a request that the parser answered with an error before it got here.
    pub(crate) fn count_unparsed(&self, reason: &'static str) {
        self.metrics.count_error(Half::Outbound, reason);
    }

    pub(crate) fn sweep(&self, worker: usize) {
        self.routes.sweep(worker);
        if worker == 0 {
            self.token_selector.sweep();
            self.refused_sessions.sweep();
        }
    }

    pub(crate) fn workers(&self) -> NonZeroUsize {
        self.routes.workers()
    }

    /// The session that a request to the server of this name is in, if it was refused and the request is not for the server.
    fn refused_session(&self, server: &str, method: &Method, call: &Call) -> Option<Box<RefusedSession>> {
        let found = self.refused_sessions.find(server, call.session.as_ref())?;
        // Stream and end of a session of the server's own are the server's.
        (found.is_stand_in || *method == Method::POST).then(|| Box::new(found))
    }

    /// Answers a request within a session that was refused: tool calls by the reason.
    async fn answer_in_refused_session(
        &self,
        mut request: Request<Incoming>,
        call: &mut Call,
    ) -> Result<Response<ResponseBody>, OutboundError> {
        let context = self.take_context(request.headers_mut(), unix_now());
        call.record(|audited| audited.set_context(context.ok().flatten()));
        let session = call.refused_session.clone();
        if request.method() != Method::POST {
            let is_end = request.method() == Method::DELETE;
            if let Some(session) = session.filter(|_| is_end) {
                self.refused_sessions.end(&session);
            }
            return Ok(of_stand_in(is_end));
        }
        let error = session.and_then(|session| session.error);
        let body = message::read(request.into_body()).await;
        let whole = body.bytes();
        if let Some(whole) = whole {
            call.record(|audited| audited.set_body(whole));
        }
        if whole.is_some_and(refused_sessions::is_notification) {
            return Ok(accepted());
        }
        match error {
            Some(error) => Err(OutboundError::new(error, body.into_body())),
            None => Ok(session_ended(
                None,
                whole.map(message::request_id).unwrap_or_default(),
            )),
        }
    }

    async fn forward(
        &self,
        worker: usize,
        server: &Arc<McpServer>,
        mut request: Request<Incoming>,
        call: &mut Call,
    ) -> Result<Response<ResponseBody>, OutboundError> {
        let (usable, path) = match route_request(server, request.method(), request.uri()) {
            Ok(route) => route,
            Err(error) => {
                return Err(OutboundError::with_body(
                    error,
                    RequestBody::stream(request.into_body()),
                ));
            }
        };
        let (context, invalid) = match self.take_context(request.headers_mut(), unix_now()) {
            Ok(context) => (context, None),
            Err(invalid) => (None, Some(invalid)),
        };
        let user = UserPart::from_context(context.as_ref(), &usable.allowed);
        let subject = match subject(server, usable, context.as_ref()) {
            Ok(subject) => subject,
            Err(error) => {
                return Err(OutboundError::with_body(
                    error,
                    RequestBody::stream(request.into_body()),
                ));
            }
        };
        let has_user = subject.is_some() || usable.exchange.is_none() && user.names_user();
        let missing = MissingUser::find(usable, has_user, invalid);
        call.record(|audited| audited.set_context(context));
        let of_configuration = self.static_headers.as_ref();
        let of_configuration = of_configuration.map(|names| names.take(request.headers_mut()));
        let mut replayable = ReplayableRequest::new(server, usable, request, path, user, missing).await?;
        if let Some(headers) = of_configuration.filter(|headers| !headers.is_empty()) {
            replayable.add_headers(headers);
        }
        if replayable.may_call_tool() {
            server.tool_calls.came();
        }
        replayable.propagate(call.trace(replayable.whole_body()));
        call.record(|audited| replayable.record_body(audited));
        let mut selected = match self.token_selector.select(server, usable, subject).await {
            Ok(selected) => selected,
            Err(error) => return Err(OutboundError::new(error, replayable.into_body())),
        };
        let (mut previous, mut nonce_given, mut clock_corrected, mut reconnected) =
            (None, false, false, false);
        // The request is sent five times at most: once more with a nonce, once more by the server's clock, once more with
        // another token, and once more over another connection.
        loop {
            let answer = match self.send(worker, &mut replayable, &selected, call).await {
                Ok(answer) => answer,
                // The body that was kept still holds the identifier for the error.
                Err(OutboundError { error, body: None }) => {
                    return Err(OutboundError::new(error, replayable.into_body()));
                }
                Err(error) => return Err(error),
            };
            let rejection = match answer {
                ServerAnswer::Accepted(response) => return Ok(response),
                ServerAnswer::Rejected(rejection) => rejection,
                ServerAnswer::ConnectionEnded(error) if reconnected => return Err(error),
                ServerAnswer::ConnectionEnded(_) => {
                    reconnected = true;
                    self.metrics.replayed(RetryCause::ConnectionEnded);
                    call.record(AuditedCall::set_replayed);
                    continue;
                }
                // The token may well be good: another is requested only where this is refused by the right time too.
                ServerAnswer::ClockCorrected if clock_corrected || !replayable.is_replayable() => {
                    TokenRejection::Unauthorized
                }
                ServerAnswer::ClockCorrected => {
                    clock_corrected = true;
                    self.metrics.replayed(RetryCause::DpopClock);
                    call.record(AuditedCall::set_replayed);
                    continue;
                }
                // The token may well be good, so no other is requested from the operator.
                ServerAnswer::NonceRequired if nonce_given => {
                    let status = StatusCode::UNAUTHORIZED;
                    return Err(OutboundError::new(
                        selected.to_error(status),
                        replayable.into_body(),
                    ));
                }
                ServerAnswer::NonceRequired => {
                    if !replayable.is_replayable() {
                        let error = ProxyError::NotRepeated {
                            resource: server.resource.clone(),
                            why: ReplayError::Streamed,
                        };
                        return Err(OutboundError::new(error, replayable.into_body()));
                    }
                    nonce_given = true;
                    self.metrics.replayed(RetryCause::DpopNonce);
                    call.record(AuditedCall::set_replayed);
                    continue;
                }
            };
            selected = match self
                .token_selector
                .replace_rejected(
                    selected,
                    replayable.user(),
                    &rejection,
                    replayable.is_replayable(),
                    previous.as_ref(),
                )
                .await
            {
                Ok(selected) => selected,
                Err(error) => return Err(OutboundError::new(error, replayable.into_body())),
            };
            self.metrics.replayed(rejection.cause());
            call.record(AuditedCall::set_replayed);
            previous = Some(rejection);
        }
    }

    /// The user context that the request carries, or why it cannot be opened: a session of LiteLLM's may well
    /// outlive it. It is taken out of the headers: no server is to see it.
    fn take_context(&self, headers: &mut HeaderMap, now: i64) -> Result<Option<Context>, OpenError> {
        let opened = match headers.entry(CONTEXT) {
            Entry::Vacant(_) => Ok(None),
            Entry::Occupied(stated) => {
                // Of two values that differ, the user's is unknown.
                let is_one = stated.iter().all(|value| value == stated.get());
                let value = stated.remove();
                match is_one {
                    true if value == NO_CONTEXT => Ok(None),
                    true => self.sealer.open(&value, now).map(Some),
                    false => Err(OpenError::Forged),
                }
            }
        };
        self.metrics.context(match &opened {
            Ok(None) => ContextResult::None,
            Ok(Some(_)) => ContextResult::Opened,
            Err(OpenError::Forged) => ContextResult::Forged,
            Err(OpenError::Expired) => ContextResult::Expired,
            Err(OpenError::Malformed) => ContextResult::Malformed,
        });
        opened
    }
}

/// The session of a message over legacy SSE, whose answers come in its stream.
fn stream_session<B>(server: &McpServer, request: &Request<B>) -> Option<SessionId> {
    let usable = server.usable()?;
    if usable.transport != Transport::Sse || request.method() != Method::POST {
        return None;
    }
    let (_, path) = path::split_server(request.uri().path());
    let path = path::target_path(usable, path, request.uri().query())?;
    SessionId::of_request(usable.transport, request.headers(), &path)
}

/// The server that the request goes to, and path and query at it; an error where the request may not be sent.
fn route_request<'a>(
    server: &'a McpServer,
    method: &Method,
    uri: &Uri,
) -> Result<(&'a UsableServer, PathAndQuery), ProxyError> {
    if method == Method::CONNECT {
        return Err(ProxyError::MethodNotSupported);
    }
    let usable = server.require_usable()?;
    let (_, path) = path::split_server(uri.path());
    match path::target_path(usable, path, uri.query()) {
        Some(path) => Ok((usable, path)),
        None => Err(ProxyError::PathNotServed {
            resource: server.resource.clone(),
        }),
    }
}

/// The cookie or header of the user that is exchanged for a token. One that names nobody counts as none.
fn subject(
    server: &McpServer,
    usable: &UsableServer,
    context: Option<&Context>,
) -> Result<Option<SecretString>, ProxyError> {
    let value = usable.exchange.as_ref().zip(context);
    let value = value.and_then(|(subject, context)| context.value(subject));
    let Some(value) = value.filter(|value| names_user(value)) else {
        return Ok(None);
    };
    match std::str::from_utf8(value) {
        Ok(text) => Ok(Some(text.into())),
        Err(_) => Err(ProxyError::ExchangeFailed {
            resource: server.resource.clone(),
            why: "SubjectInvalid".into(),
            message: "the cookie or header that is exchanged is no text".into(),
        }),
    }
}

#[cfg(test)]
mod tests;
