//! From LiteLLM's MCP client to MCP servers: finds the server a request names ([`path`]), authenticates the
//! request to it ([`headers`]) and passes the answer on. LiteLLM takes us for the server, so nothing of an answer
//! may lead it past us: no challenge, no redirect ([`location`]), no endpoint ([`endpoint`]).

pub(crate) mod endpoint;
mod headers;
mod location;
mod message;
mod path;

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::{Transport, UserContext};

use crate::body::{RequestBody, ResponseBody};
use crate::clock::unix_now;
use crate::context::Context;
use crate::context::seal::{OpenError, Sealer};
use crate::metrics::{ContextResult, Half, Metrics};
use crate::pool::Lease;
use crate::respond::{Refusal, json_rpc, problem};
use crate::routes::{Credential, Routes, Server, State, Usable};
use crate::upstream::{Cause, SendError};
use endpoint::EndpointRewriter;
use headers::UserPart;
use message::Read;

const CONTEXT: HeaderName = HeaderName::from_static(CONTEXT_HEADER);

/// The half on loopback.
pub struct Outbound {
    routes: Routes,
    sealer: Arc<Sealer>,
    metrics: Metrics,
}

/// A refusal, and the request's body if it can still be read for the identifier of the message.
struct Refused {
    refusal: Refusal,
    body: Option<RequestBody>,
}

/// A request as far as it is decided without I/O.
struct Decided {
    authorization: HeaderValue,
    requested: PathAndQuery,
}

impl Outbound {
    /// `sealer` is shared with the inbound half.
    pub fn new(routes: Routes, sealer: Arc<Sealer>, metrics: Metrics) -> Self {
        Self {
            routes,
            sealer,
            metrics,
        }
    }

    pub(crate) async fn answer(&self, worker: usize, request: Request<Incoming>) -> Response<ResponseBody> {
        let posted = request.method() == Method::POST;
        let (name, _) = path::split(request.uri().path());
        let server = self.routes.table().server(name).cloned();
        let answer = match &server {
            Some(server) => self.forward(worker, server, request).await,
            None => Err(Refused::with(
                Refusal::UnknownServer,
                RequestBody::Stream(request.into_body()),
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

    pub(crate) fn sweep(&self, worker: usize) {
        self.routes.sweep(worker);
    }

    pub(crate) fn workers(&self) -> NonZeroUsize {
        self.routes.workers()
    }

    async fn forward(
        &self,
        worker: usize,
        server: &Arc<Server>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let now = unix_now();
        let decided = decide(server, request.method(), request.uri(), now);
        let (
            usable,
            Decided {
                authorization,
                requested,
            },
        ) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return Err(Refused::with(refusal, RequestBody::Stream(request.into_body()))),
        };
        let context = self.context(request.headers(), now);
        let user = UserPart::of(context.as_ref(), &usable.allowed);
        let nobody = usable.user_context == UserContext::Required && user.is_empty();
        headers::prepare(request.headers_mut(), usable, authorization, user);
        *request.uri_mut() = Uri::from(requested.clone());
        *request.version_mut() = Version::HTTP_11;

        let request = match nobody && request.method() == Method::POST {
            true => without_user(server, request).await?,
            false => request.map(RequestBody::Stream),
        };
        let getting = request.method() == Method::GET;
        match usable.target.send(worker, request).await {
            Ok(response) => Ok(accept(server, usable, &requested, getting, response)?),
            Err(error) => Err(unanswered(server, *error)),
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
}

/// The body has been sent, or there is none.
impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, body: None }
    }
}

/// Whether the server may be asked at all, with what, and for what.
fn decide<'a>(
    server: &'a Server,
    method: &Method,
    uri: &Uri,
    now: i64,
) -> Result<(&'a Usable, Decided), Refusal> {
    let resource = || server.resource.clone();
    if method == Method::CONNECT {
        return Err(Refusal::MethodNotSupported);
    }
    let usable = match &server.state {
        State::Usable(usable) => usable,
        State::Unusable(unusable) => {
            return Err(Refusal::RouteUnusable {
                resource: resource(),
                message: unusable.to_string().into(),
            });
        }
    };
    let (_, path) = path::split(uri.path());
    let Some(requested) = path::lead(usable, path, uri.query()) else {
        return Err(Refusal::PathNotServed { resource: resource() });
    };
    match &usable.credential {
        Credential::Unavailable { reason, message, .. } => Err(Refusal::TokenUnavailable {
            resource: resource(),
            why: reason.clone(),
            message: message.clone(),
        }),
        Credential::Bearer {
            expires_at: Some(end),
            ..
        } if now >= *end => Err(Refusal::TokenExpired { resource: resource() }),
        Credential::Bearer { authorization, .. } => Ok((
            usable,
            Decided {
                authorization: authorization.clone(),
                requested,
            },
        )),
    }
}

/// Nobody's request to a server that demands a user: passes unless it may call a tool.
async fn without_user(server: &Server, request: Request<Incoming>) -> Result<Request<RequestBody>, Refused> {
    let (parts, body) = request.into_parts();
    let read = message::read(body).await;
    if let Read::Failed = read {
        return Err(Refusal::BodyUnreadable.into());
    }
    let calls = message::may_call_a_tool(read.bytes());
    let body = read.into_body().ok_or(Refusal::BodyUnreadable)?;
    if calls {
        let resource = server.resource.clone();
        return Err(Refused::with(Refusal::UserContextRequired { resource }, body));
    }
    Ok(Request::from_parts(parts, body))
}

/// What becomes of an answer. Once renewal on demand is there, a refused token is where it begins.
fn accept(
    server: &Arc<Server>,
    usable: &Usable,
    requested: &PathAndQuery,
    getting: bool,
    mut response: Response<Lease>,
) -> Result<Response<ResponseBody>, Refusal> {
    let resource = || server.resource.clone();
    let status = response.status();
    // A 403 without a challenge is the server's word on this user or tool, and none of the token's.
    let challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN && challenged {
        return Err(Refusal::TokenRefused {
            resource: resource(),
            status: status.as_u16(),
        });
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::AnswerUnusable {
            resource: resource(),
            why: "it changes the protocol unasked",
        });
    }
    headers::clean(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if status.is_redirection() {
        relocate(server, usable, requested, response.headers_mut())?;
    }
    let events = usable.transport == Transport::Sse && getting && is_event_stream(response.headers());
    if !events {
        return Ok(response.map(ResponseBody::Stream));
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

fn unanswered(server: &Server, error: SendError) -> Refused {
    let resource = server.resource.clone();
    let SendError { cause, unsent } = error;
    let why = match cause.source() {
        Some(source) => format!("{cause}: {source}").into(),
        None => cause.to_string().into(),
    };
    let refusal = match cause {
        Cause::Dial(_) => Refusal::ServerUnreachable { resource, why },
        Cause::Exchange(_) => Refusal::ServerFailed { resource, why },
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
        Some(RequestBody::Stream(body)) => message::read(body).await.bytes().cloned(),
        Some(RequestBody::Resumed { .. } | RequestBody::Filtered(_)) | None => None,
    };
    bytes.map_or(serde_json::Value::Null, |bytes| message::request_id(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp_auth_protocol::sync;
    use prometheus_client::registry::Registry;

    pub(super) fn server(url: &str, transport: Transport) -> Arc<Server> {
        let routes = Routes::new(NonZeroUsize::MIN, Metrics::new(&mut Registry::default()));
        let route = sync::Route {
            resource: "tools".into(),
            server: "tools".into(),
            url: url.into(),
            transport,
            ca_bundle: None,
            cookies: vec!["session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            user_context: UserContext::Optional,
        };
        let credential = sync::Credential::Bearer {
            token: "service".into(),
            expires_at: Some(1_000),
        };
        assert_eq!(routes.apply(&[sync::Server { route, credential }]), []);
        routes.table().server("tools").unwrap().clone()
    }

    pub(super) fn usable<T>(url: &str, transport: Transport, then: impl FnOnce(&Usable) -> T) -> T {
        match &server(url, transport).state {
            State::Usable(usable) => then(usable),
            State::Unusable(unusable) => panic!("{unusable}"),
        }
    }

    #[test]
    fn a_token_is_used_until_the_second_it_ends() {
        let server = server("http://127.0.0.1:1/mcp", Transport::StreamableHttp);
        let decide = |now| decide(&server, &Method::POST, &Uri::from_static("/tools/mcp"), now);
        assert!(decide(999).is_ok());
        assert_eq!(
            decide(1_000).err().map(|refusal| refusal.reason()),
            Some("token_expired")
        );
    }
}
