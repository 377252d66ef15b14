//! From LiteLLM's MCP client to MCP servers: takes requests that know where they are ([`host`]), finds the server that
//! one names ([`path`]), authenticates the request to it ([`headers`], [`tokens`]), sends it, once more if the server
//! refuses the token ([`call`], [`verdict`], [`objection`]), and passes the answer on ([`accept`]). LiteLLM takes us for
//! the server, so nothing of an answer may lead it past us: no challenge, no redirect ([`location`]), no endpoint
//! ([`endpoint`]).

mod accept;
mod call;
mod doubts;
pub(crate) mod endpoint;
pub(crate) mod headers;
mod host;
mod limits;
mod location;
mod message;
mod objection;
pub(crate) mod path;
mod tokens;
mod users;
mod verdict;
mod waiting;

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::UserContext;
use secrecy::SecretString;

use crate::control::exchange_client::TokenExchanger;
use crate::http::framing;
use crate::http::idle_timeout::is_of_body;
use crate::http::request_body::RequestBody;
use crate::http::upstream::{Cause, SendError};
use crate::proxy::clock::unix_now;
use crate::proxy::error::{NotRepeated, Refusal};
use crate::proxy::metrics::{ContextResult, Half, Metrics, Why};
use crate::proxy::respond::{json_rpc, problem};
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{Routes, Server, Usable};
use crate::proxy::user_context::Context;
use crate::proxy::user_context::seal::{OpenError, Sealer};
use accept::accept;
use call::Call;
use headers::UserPart;
pub use limits::Limits;
use objection::Objection;
use tokens::{Chosen, Tokens};
use verdict::{Verdict, verdict};

const CONTEXT: HeaderName = HeaderName::from_static(CONTEXT_HEADER);

/// The half on loopback.
pub struct Outbound {
    routes: Routes,
    tokens: Tokens,
    sealer: Arc<Sealer>,
    metrics: Metrics,
}

/// A refusal, and the request's body if it can still be read for the identifier of the message.
struct Refused {
    refusal: Refusal,
    body: Option<RequestBody>,
}

/// How the server answered, as far as it is of the token.
// There is one a request and it moves once: a box would cost more than its size.
#[expect(clippy::large_enum_variant)]
enum Answer {
    /// It is for the client.
    Passes(Response<ResponseBody>),
    Refused(Objection),
    /// The same token with the nonce that came along.
    NonceDemanded,
}

impl Outbound {
    /// `sealer` is shared with the inbound half; `exchange` gets users' own tokens.
    pub fn new(
        routes: Routes,
        sealer: Arc<Sealer>,
        exchange: Arc<dyn TokenExchanger>,
        limits: Limits,
        metrics: Metrics,
    ) -> Self {
        let tokens = Tokens::new(routes.clone(), exchange, limits, metrics.clone());
        Self {
            routes,
            tokens,
            sealer,
            metrics,
        }
    }

    pub(crate) async fn answer(&self, worker: usize, request: Request<Incoming>) -> Response<ResponseBody> {
        let posted = request.method() == Method::POST;
        let (name, _) = path::split(request.uri().path());
        let server = self.routes.table().server(name).cloned();
        let answer = match &server {
            _ if !host::is_loopback(request.uri(), request.headers()) => Err(Refused::with(
                Refusal::HostNotAllowed,
                RequestBody::stream(request.into_body()),
            )),
            Some(server) => match framing::check(&request) {
                // In a place of its own: a connection keeps room for the whole answer even while it has nothing to do.
                Ok(()) => Box::pin(self.forward(worker, server, request)).await,
                Err(ambiguous) => Err(Refused::with(
                    ambiguous.into(),
                    RequestBody::stream(request.into_body()),
                )),
            },
            None => Err(Refused::with(
                Refusal::UnknownServer,
                RequestBody::stream(request.into_body()),
            )),
        };
        // Only a configured name is told on: the path's own words are the client's.
        let server = server.as_ref().map(|server| &*server.name);
        let response = match answer {
            Ok(response) => {
                tracing::debug!(
                    half = "outbound",
                    server,
                    status = response.status().as_u16(),
                    "answered"
                );
                response
            }
            Err(refused) => {
                let refusal = &refused.refusal;
                self.metrics.refused(Half::Outbound, refusal.reason());
                let status = refusal.status().as_u16();
                tracing::warn!(half = "outbound", server, reason = refusal.reason(), status, %refusal, "request refused");
                match posted {
                    true => json_rpc(refusal, request_id(refused.body).await),
                    false => problem(refusal),
                }
            }
        };
        self.metrics.answered(Half::Outbound, response.status());
        response
    }

    /// The parser has refused a request, which nobody else has seen.
    pub(crate) fn refused_unread(&self, reason: &'static str) {
        self.metrics.refused(Half::Outbound, reason);
    }

    pub(crate) fn sweep(&self, worker: usize) {
        self.routes.sweep(worker);
        if worker == 0 {
            self.tokens.sweep();
        }
    }

    pub(crate) fn workers(&self) -> NonZeroUsize {
        self.routes.workers()
    }

    async fn forward(
        &self,
        worker: usize,
        server: &Arc<Server>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let (usable, path) = match lead(server, request.method(), request.uri()) {
            Ok(led) => led,
            Err(refusal) => return Err(Refused::with(refusal, RequestBody::stream(request.into_body()))),
        };
        let context = self.context(request.headers(), unix_now());
        let user = UserPart::of(context.as_ref(), &usable.allowed);
        let subject = match subject(server, usable, context.as_ref()) {
            Ok(subject) => subject,
            Err(refusal) => return Err(Refused::with(refusal, RequestBody::stream(request.into_body()))),
        };
        let nobody = subject.is_none()
            && (usable.exchange.is_some() || usable.user_context == UserContext::Required && user.is_empty());
        let mut call = Call::hold(server, usable, request, path, user, nobody).await?;
        let mut chosen = match self.tokens.first(server, usable, subject).await {
            Ok(chosen) => chosen,
            Err(refusal) => return Err(Refused::of(refusal, call)),
        };
        let (mut before, mut nonce_given) = (None, false);
        // Three times at the most: with a nonce, and with another token.
        loop {
            let sent = match self.send(worker, &mut call, &chosen).await {
                Ok(sent) => sent,
                // A body that was kept still tells which message the error answers.
                Err(Refused { refusal, body: None }) => return Err(Refused::of(refusal, call)),
                Err(refused) => return Err(refused),
            };
            let objection = match sent {
                Answer::Passes(response) => return Ok(response),
                Answer::Refused(objection) => objection,
                // The token may well be good, so nobody is asked for another.
                Answer::NonceDemanded if nonce_given => {
                    let status = StatusCode::UNAUTHORIZED;
                    return Err(Refused::of(chosen.not_taken(status), call));
                }
                Answer::NonceDemanded => {
                    if !call.repeats() {
                        let refusal = Refusal::NotRepeated {
                            resource: server.resource.clone(),
                            why: NotRepeated::Streamed,
                        };
                        return Err(Refused::of(refusal, call));
                    }
                    nonce_given = true;
                    self.metrics.replayed(Why::DpopNonce);
                    continue;
                }
            };
            chosen = match self
                .tokens
                .instead(chosen, call.user(), &objection, call.repeats(), before.as_ref())
                .await
            {
                Ok(chosen) => chosen,
                Err(refusal) => return Err(Refused::of(refusal, call)),
            };
            self.metrics.replayed(objection.why());
            before = Some(objection);
        }
    }

    /// Sends the call once.
    async fn send(&self, worker: usize, call: &mut Call, chosen: &Chosen) -> Result<Answer, Refused> {
        let server = &chosen.server;
        let usable = server.require_usable()?;
        let request = call
            .request(usable, &chosen.token)
            .ok_or(Refusal::BodyUnreadable)?;
        let sent = usable.target.send(worker, request).await;
        let response = sent.map_err(|error| unanswered(server, *error))?;
        if chosen.token.is_bound()
            && let Some(nonce) = verdict::nonce(response.headers())
        {
            usable.target.set_nonce(nonce.to_owned());
        }
        match verdict(response.status(), response.headers(), chosen.token.is_bound()) {
            Verdict::Taken => {
                if !response.status().is_server_error() {
                    self.tokens.taken(chosen);
                }
                let getting = call.method() == Method::GET;
                let accepted = accept(server, usable, call.path(), getting, response)?;
                Ok(Answer::Passes(accepted))
            }
            Verdict::Unauthorized => Ok(Answer::Refused(Objection::Unauthorized)),
            Verdict::InsufficientScope(scopes) => {
                // It is valid, only not for this call.
                self.tokens.taken(chosen);
                Ok(Answer::Refused(Objection::InsufficientScope(scopes)))
            }
            Verdict::NonceDemanded => Ok(Answer::NonceDemanded),
            Verdict::Challenged => Err(chosen.not_taken(StatusCode::FORBIDDEN).into()),
        }
    }

    /// The user context that the request carries. Whatever is wrong with it, the request has none: a session of
    /// LiteLLM's may well outlive it.
    fn context(&self, headers: &HeaderMap, now: i64) -> Option<Context> {
        let mut values = headers.get_all(CONTEXT).iter();
        let (result, context) = match values.next() {
            None => (ContextResult::None, None),
            // Two that differ: which of them is the user's is unknown.
            Some(first) if values.any(|other| other != first) => (ContextResult::Forged, None),
            Some(first) => match self.sealer.open(first, now) {
                Ok(context) => (ContextResult::Opened, Some(context)),
                Err(OpenError::Forged) => (ContextResult::Forged, None),
                Err(OpenError::Expired) => (ContextResult::Expired, None),
                Err(OpenError::Malformed) => (ContextResult::Malformed, None),
            },
        };
        self.metrics.context(result);
        context
    }
}

impl Refused {
    fn with(refusal: Refusal, body: RequestBody) -> Self {
        Self {
            refusal,
            body: Some(body),
        }
    }

    fn of(refusal: Refusal, call: Call) -> Self {
        Self {
            refusal,
            body: call.into_body(),
        }
    }
}

/// The body has been sent, or there is none.
impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, body: None }
    }
}

/// Whether the server may be asked at all, and for what.
fn lead<'a>(server: &'a Server, method: &Method, uri: &Uri) -> Result<(&'a Usable, PathAndQuery), Refusal> {
    if method == Method::CONNECT {
        return Err(Refusal::MethodNotSupported);
    }
    let usable = server.require_usable()?;
    let (_, path) = path::split(uri.path());
    match path::lead(usable, path, uri.query()) {
        Some(path) => Ok((usable, path)),
        None => Err(Refusal::PathNotServed {
            resource: server.resource.clone(),
        }),
    }
}

/// What of the user is exchanged for a token. An empty value is none.
fn subject(
    server: &Server,
    usable: &Usable,
    context: Option<&Context>,
) -> Result<Option<SecretString>, Refusal> {
    let value = usable.exchange.as_ref().zip(context);
    let value = value.and_then(|(subject, context)| context.value(subject));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match std::str::from_utf8(value) {
        Ok(text) => Ok(Some(text.into())),
        Err(_) => Err(Refusal::ExchangeFailed {
            resource: server.resource.clone(),
            why: "SubjectInvalid".into(),
            message: "the cookie or header that is exchanged is no text".into(),
        }),
    }
}

fn unanswered(server: &Server, error: SendError) -> Refused {
    let resource = server.resource.clone();
    let SendError { cause, unsent } = error;
    let why = match cause.source() {
        Some(source) => format!("{cause}: {source}").into(),
        None => cause.to_string().into(),
    };
    let refusal = match cause {
        Cause::Dial(_) => Refusal::ServerUnreachable { resource, why },
        Cause::Http(error) if is_of_body(&error) => Refusal::BodyUnreadable,
        Cause::Http(_) => Refusal::ServerFailed { resource, why },
        Cause::Timeout => Refusal::ServerTimeout { resource },
    };
    Refused {
        refusal,
        body: unsent.map(Request::into_body),
    }
}

/// The identifier of the message in a body that was not sent.
async fn request_id(body: Option<RequestBody>) -> serde_json::Value {
    let bytes = match body {
        Some(RequestBody::Whole(bytes)) => bytes,
        Some(RequestBody::Stream(body)) => message::read(body.into_inner()).await.bytes().cloned(),
        Some(RequestBody::Resumed { .. } | RequestBody::Filtered(_)) | None => None,
    };
    bytes.map_or(serde_json::Value::Null, |bytes| message::request_id(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::routes::State;
    use mcp_auth_protocol::sync::{self, Transport};
    use prometheus_client::registry::Registry;
    use tokio::sync::watch;

    pub(super) fn server(url: &str, transport: Transport) -> Arc<Server> {
        let routes = Routes::new(
            NonZeroUsize::MIN,
            Metrics::new(&mut Registry::default()),
            watch::Sender::default(),
        );
        let route = sync::Route {
            resource: "tools".into(),
            server: "tools".into(),
            url: url.into(),
            transport,
            ca_bundle: None,
            cookies: vec!["session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            user_context: UserContext::Optional,
            exchange: None,
            minted_for: String::new(),
        };
        let credential = sync::Credential::Bearer {
            id: String::new(),
            token: "service".into(),
            proof_key: None,
            expires_at: Some(1_000),
        };
        assert_eq!(
            routes.apply(&[sync::Server {
                route,
                credential,
                client_certificate: None,
                declined: None,
            }]),
            []
        );
        routes.table().server("tools").unwrap().clone()
    }

    pub(super) fn usable<T>(url: &str, transport: Transport, then: impl FnOnce(&Usable) -> T) -> T {
        match &server(url, transport).state {
            State::Usable(usable) => then(usable),
            State::Unusable(unusable) => panic!("{unusable}"),
        }
    }
}
