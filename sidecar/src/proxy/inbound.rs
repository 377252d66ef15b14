//! The inbound half, from users to LiteLLM. A request passes as it is, except that its allow-listed cookies
//! and headers are also sealed into the one header that LiteLLM forwards to MCP servers.

pub mod answered_call;
pub mod client_address;
mod tunnel;

pub(crate) use tunnel::CONNECTION_GUARD;
use tunnel::TunnelLimit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use mcp_auth_protocol::pod::{CONTEXT_HEADER, DEFAULT_TOOL_PREFIX_SEPARATOR};

use crate::control::drain::Drain;
use crate::http::body_progress::BodyProgress;
use crate::http::content_coding::{ContentCoding, DecoderLimit};
use crate::http::framing;
use crate::http::hop_by_hop;
use crate::http::idle_timeout::BodyError;
use crate::http::request_body::{FilterSettings, RequestBody};
use crate::http::upstream::{Target, UpstreamError};
use crate::proxy::audit::ClientKeys;
use crate::proxy::clock::unix_now;
use crate::proxy::error::ProxyError;
use crate::proxy::fingerprint::Fingerprinter;
use crate::proxy::inbound::answered_call::{UserCall, UserCalls};
use crate::proxy::inbound::client_address::{ClientPeer, TrustedProxies};
use crate::proxy::metrics::{ContextResult, Half, Metrics};
use crate::proxy::request_id::RequestId;
use crate::proxy::respond::problem;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::{RouteTable, Routes};
use crate::proxy::trace_context::{TRACEPARENT, TraceParent};
use crate::proxy::user_context::seal::Sealer;
use crate::proxy::user_context::{Context, NO_CONTEXT, gather};

const CONTEXT: HeaderName = HeaderName::from_static(CONTEXT_HEADER);

/// Paths, below LiteLLM's `SERVER_ROOT_PATH`, at which it lists tools with headers for one server each.
const LIST_PATHS: [&str; 2] = ["/mcp-rest/tools/list", "/v1/messages"];

/// Longest copies of the context for one server each, names and values of all together. LiteLLM's server takes headers
/// of 64 KiB: with the context for all of them, 28 KiB of that remain for the client's own. The copies begin with `x-`,
/// and LiteLLM sends such headers to LLM providers where `forward_client_headers_to_llm_api` is set.
const MAX_COPIES_BYTES: usize = 24 * 1024;

/// Where LiteLLM's server is.
#[derive(Clone, Debug)]
pub struct LitellmServer {
    pub address: SocketAddr,
    /// How long it keeps connections without a request.
    pub keep_alive: Duration,
    /// What it puts between the name of an MCP server and that of its tool.
    pub tool_prefix_separator: Box<str>,
}

/// The half on the port LiteLLM used to own.
pub struct Inbound {
    litellm: Target,
    trusted_proxies: TrustedProxies,
    routes: Routes,
    sealer: Arc<Sealer>,
    client_keys: ClientKeys,
    user_calls: UserCalls,
    decoder_limit: DecoderLimit,
    tunnel_limit: TunnelLimit,
    metrics: Metrics,
    drain: Drain,
}

impl From<SocketAddr> for LitellmServer {
    /// Its server is uvicorn, as it is without an option.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            keep_alive: Duration::from_secs(5),
            tool_prefix_separator: DEFAULT_TOOL_PREFIX_SEPARATOR.into(),
        }
    }
}

impl Inbound {
    /// `litellm` is at the loopback address that LiteLLM was moved to; `trusted_proxies` are those whose `X-Forwarded-`
    /// headers its server trusts; `sealer` is shared with the outbound half, and `fingerprinter` with the audit
    /// log.
    pub fn new(
        litellm: impl Into<LitellmServer>,
        trusted_proxies: TrustedProxies,
        routes: Routes,
        sealer: Arc<Sealer>,
        fingerprinter: Fingerprinter,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        let LitellmServer {
            address,
            keep_alive,
            tool_prefix_separator,
        } = litellm.into();
        Self {
            litellm: Target::litellm(address, keep_alive, routes.workers().get()),
            trusted_proxies,
            routes,
            sealer,
            client_keys: ClientKeys::new(fingerprinter),
            user_calls: UserCalls::new(tool_prefix_separator),
            decoder_limit: DecoderLimit::default(),
            tunnel_limit: TunnelLimit::default(),
            metrics,
            drain,
        }
    }

    /// With decoders of bodies that hold so many bytes together, and one in any case.
    pub fn with_decoding_memory(self, bytes: usize) -> Self {
        Self {
            decoder_limit: DecoderLimit::within(bytes),
            ..self
        }
    }

    /// With WebSockets that hold so many bytes together, and one in any case.
    pub fn with_tunnel_memory(self, bytes: usize) -> Self {
        Self {
            tunnel_limit: TunnelLimit::within(bytes),
            ..self
        }
    }

    pub(crate) async fn answer(
        &self,
        worker: usize,
        peer: &ClientPeer,
        request: Request<Incoming>,
        progress: &Arc<BodyProgress>,
    ) -> Response<ResponseBody> {
        let (method, id) = (request.method().clone(), RequestId::next());
        // Not the header itself: it is a part of the buffer that all of them were read into.
        let headers = request.headers();
        let parent = headers.get(TRACEPARENT).and_then(TraceParent::of_header);
        // HTTP/2 has no `Connection` header; there the connection itself is drained by GOAWAY.
        let closable = request.version() != Version::HTTP_2;
        // Boxed: else each connection would keep room for the whole future even while it is idle.
        let mut response = match Box::pin(self.forward(worker, peer, request, progress)).await {
            Ok(response) => {
                tracing::debug!(half = "inbound", request = %id, %method, status = response.status().as_u16(), "answered");
                response
            }
            Err(error) => {
                self.metrics.count_error(Half::Inbound, error.reason());
                let status = error.status().as_u16();
                let (reason, trace_id) = (error.reason(), parent.map(|parent| parent.trace_id().to_string()));
                let why = error.litellm_cause();
                tracing::warn!(half = "inbound", request = %id, trace_id, %method, reason, status, why, "request refused");
                problem(&error)
            }
        };
        self.metrics.answered(Half::Inbound, response.status());
        // A WebSocket's answer needs `Connection: upgrade` here, and its connection ends with the tunnel.
        if closable && self.drain.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// A request that is not even looked at.
    pub(crate) fn refuse(&self, error: &ProxyError) -> Response<ResponseBody> {
        self.metrics.count_error(Half::Inbound, error.reason());
        let response = problem(error);
        self.metrics.answered(Half::Inbound, response.status());
        response
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// Returns when the drain has lasted long enough for clients to find another pod.
    pub(crate) async fn drained(&self) {
        self.drain.wait_for_end().await;
    }

    /// Counts a request that the parser answered with an error before it got here.
    pub(crate) fn count_unparsed(&self, reason: &'static str) {
        self.metrics.count_error(Half::Inbound, reason);
    }

    pub(crate) fn sweep(&self, worker: usize) {
        self.litellm.sweep(worker);
    }

    async fn forward(
        &self,
        worker: usize,
        peer: &ClientPeer,
        mut request: Request<Incoming>,
        progress: &Arc<BodyProgress>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        if request.method() == Method::CONNECT {
            return Err(ProxyError::MethodNotSupported);
        }
        framing::check(&request)?;
        // Only a GET asks for one (RFC 6455 section 4.1).
        let websocket = request.method() == Method::GET && hop_by_hop::wants_websocket(request.headers());
        to_origin_form(&mut request, &self.litellm.host);
        let lists_by_server_header = is_list_path(request.uri().path());
        // Probes and pages of the user interface need no user.
        let may_call_tools = request.method() == Method::POST;
        let headers = request.headers_mut();
        // Before hop-by-hop headers are removed: a user's header counts even if `Connection` names it.
        let context = self.context(headers)?;
        if may_call_tools {
            self.routes.count_cookies(context.as_ref());
        }
        let table = self.routes.table();
        hop_by_hop::strip_request(headers, |name| is_forgeable(name, &table));
        let (servers, has_servers) = (table.names_in_bodies().clone(), !table.is_empty());
        drop(table);
        if let Some(context) = context {
            let now = unix_now();
            if lists_by_server_header {
                self.add_copies(headers, &context, now);
            }
            headers.insert(CONTEXT, self.sealer.seal(&context, now));
        } else if (may_call_tools || websocket) && has_servers {
            // So that the outbound half tells calls for users from what LiteLLM does by itself.
            headers.insert(CONTEXT, NO_CONTEXT);
        }
        client_address::set(headers, peer, &self.trusted_proxies);
        if websocket {
            // Boxed: else each request would make, and copy, room for the opening of a connection.
            return Box::pin(tunnel::open(&self.litellm, request, servers, &self.tunnel_limit)).await;
        }
        let user_call = match (may_call_tools, request.uri().path_and_query()) {
            (true, Some(path)) => self.user_calls.begin(&self.routes, path),
            _ => None,
        };
        let headers = request.headers();
        let settings = FilterSettings {
            is_said_to_be_form: is_said_to_be_form(headers),
            servers,
            coding: ContentCoding::of(headers).map(|coding| (coding, self.decoder_limit.clone())),
        };
        let tapped = |body: Incoming| {
            let body = match body.is_end_stream() {
                true => RequestBody::Whole(None),
                false => RequestBody::filtered(body, progress.clone(), settings),
            };
            match &user_call {
                Some(call) => body.tapped(call.request_tap()),
                None => body,
            }
        };
        let response = self
            .litellm
            .send(worker, request.map(tapped))
            .await
            .map_err(|error| litellm_error(&error.cause))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched || !response.body().has_one_length(response.headers()) {
            let why = match switched {
                true => "it switches protocols without having been asked",
                false => "its answer states more than one length",
            };
            return Err(ProxyError::LiteLlmFailed { why: why.into() });
        }
        let mut response = response.map(|body| match user_call.and_then(UserCall::answered) {
            Some(call) => ResponseBody::Stream(body).watched(call),
            None => ResponseBody::Stream(body),
        });
        hop_by_hop::strip_response(response.headers_mut(), |_| false);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// Adds to each server that takes something of this user what it takes, as long as there is room. A server that gets
    /// none lists its tools as for nobody.
    fn add_copies(&self, headers: &mut HeaderMap, context: &Context, now: i64) {
        let mut room = MAX_COPIES_BYTES;
        for (name, allowed) in self.routes.table().context_headers() {
            let Some(part) = context.part(allowed) else {
                continue;
            };
            let sealed = self.sealer.seal(&part, now);
            match room.checked_sub(name.as_str().len() + sealed.len()) {
                Some(rest) => {
                    room = rest;
                    headers.insert(name, sealed);
                }
                None => self.metrics.context_copy_dropped(),
            }
        }
    }

    fn context(&self, headers: &HeaderMap) -> Result<Option<Context>, ProxyError> {
        let table = self.routes.table();
        let gathered = gather(headers, table.allowed());
        match gathered {
            Ok(gathered) => {
                self.metrics.count_gathered(&gathered);
                let client_key = match table.is_audited() {
                    true => self.client_keys.fingerprint(headers)?,
                    false => None,
                };
                Ok(match client_key {
                    Some(fingerprint) => {
                        Some(gathered.context.unwrap_or_default().with_client_key(fingerprint))
                    }
                    None => gathered.context,
                })
            }
            Err(too_large) => {
                self.metrics.context(ContextResult::TooLarge);
                Err(too_large.into())
            }
        }
    }
}

fn litellm_error(cause: &UpstreamError) -> ProxyError {
    match cause.body_error() {
        Some(BodyError::NotUtf8) => return ProxyError::BodyNotUtf8,
        Some(BodyError::NamesHeaders) => return ProxyError::BodyNamesHeaders,
        Some(BodyError::Undecodable) => return ProxyError::BodyUndecodable,
        Some(BodyError::NoDecoder) => return ProxyError::Overloaded,
        Some(BodyError::Broken(_) | BodyError::BrokenAnswer(_) | BodyError::IdleTimeout(_)) => {
            return ProxyError::BodyUnreadable;
        }
        None => {}
    }
    let why = cause.in_full();
    match cause {
        UpstreamError::Connect(_) => ProxyError::LiteLlmUnreachable { why },
        UpstreamError::Http(_) | UpstreamError::Timeout => ProxyError::LiteLlmFailed { why },
    }
}

/// Turns the request target into origin form. In absolute form it states the host (RFC 9112 section 3.2.2).
fn to_origin_form(request: &mut Request<Incoming>, default_host: &HeaderValue) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).unwrap_or_else(|_| default_host.clone());
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        request.headers_mut().insert(header::HOST, host);
    }
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, default_host.clone());
    }
}

/// Whether LiteLLM lists tools for this request without the headers that `extra_headers` names, but with
/// those of `x-mcp-SERVER-HEADER` (LiteLLM 1.109.1). These are set nowhere else, since LiteLLM takes them for
/// the client's own authentication.
fn is_list_path(path: &str) -> bool {
    LIST_PATHS.iter().any(|end| path.ends_with(end))
}

/// Whether a client could speak in our name by this header: the sidecar's own `mcpauth-` headers, and LiteLLM's
/// `x-mcp-SERVER-HEADER`, which it sends to that server as HEADER. Of those, all go that are for a server of ours: what
/// such a server gets of a user is what its resource names.
fn is_forgeable(name: &str, table: &RouteTable) -> bool {
    name.starts_with("mcpauth-")
        || name.starts_with("x-mcp-")
            && (name.contains("mcpauth-") || table.is_for_server(name) || is_for_group(name, table))
}

/// Other servers of the group, which may not be ours, do not get the header either: that is told.
fn is_for_group(name: &str, table: &RouteTable) -> bool {
    let is_for_group = table.is_for_group(name);
    if is_for_group {
        tracing::debug!(
            header = name,
            "removed a client's header for an access group of LiteLLM that has a server of ours"
        );
    }
    is_for_group
}

/// LiteLLM reads a body as JSON unless it is a form, whatever type the request states.
fn is_said_to_be_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = value
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    essence.eq_ignore_ascii_case(b"multipart/form-data")
        || essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use prometheus_client::registry::Registry;
    use tokio::sync::watch;

    use super::*;
    use crate::http::http1::Http1Error;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    /// By its name alone.
    #[test]
    fn a_header_that_is_removed_for_a_group_is_in_the_log() {
        let (workers, reports) = (NonZeroUsize::MIN, watch::Sender::default());
        let routes = Routes::new(workers, Metrics::new(&mut Registry::default()), reports);
        routes.set_access_groups(["staff".to_owned()].into());
        let log = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(log.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(file)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut map = headers(&[
                ("x-mcp-staff-x-tenant", "secret"),
                ("x-mcp-crm-x-tenant", "other"),
            ]);
            hop_by_hop::remove(&mut map, |name| is_forgeable(name, &routes.table()));
            assert_eq!(map, headers(&[("x-mcp-crm-x-tenant", "other")]));
        });
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(text.contains("x-mcp-staff-x-tenant"), "{text}");
        assert!(!text.contains("secret") && !text.contains("crm"), "{text}");
    }

    #[test]
    fn every_header_in_our_name_goes() {
        let mut map = headers(&[
            ("mcpauth-context", "1"),
            ("MCPAuth-Context", "2"),
            ("mcpauth-other", "3"),
            ("x-mcp-tools-mcpauth-context", "4"),
            ("x-mcp-tools-other", "5"),
            ("x-mcpauth-context", "6"),
        ]);
        hop_by_hop::remove(&mut map, |name| is_forgeable(name, &RouteTable::default()));
        assert_eq!(
            map,
            headers(&[("x-mcp-tools-other", "5"), ("x-mcpauth-context", "6")])
        );
    }

    #[test]
    fn the_log_says_why_litellm_gave_no_answer_and_the_client_is_not_sent_it() {
        let error = litellm_error(&UpstreamError::Http(Http1Error::HeadTooLarge.into()));
        assert_eq!(error.reason(), "litellm_failed");
        let why =
            "its answer cannot be understood: the head of an answer is too long, or has too many fields";
        assert_eq!(error.litellm_cause(), Some(why));
        assert!(!error.to_string().contains(why));
        let error = litellm_error(&UpstreamError::Timeout);
        assert_eq!(error.litellm_cause(), Some("no answer in time"));
    }

    #[test]
    fn only_one_type_that_is_a_form_s_says_so() {
        for (types, expected) in [
            (&[][..], false),
            (&["application/json"], false),
            (&["application/json; a=multipart/form-data"], false),
            (&["multipart/form-data", "text/plain"], false),
            (&["Multipart/Form-Data; boundary=x"], true),
            (&["application/x-www-form-urlencoded"], true),
        ] {
            let lines = types.iter().map(|value| ("content-type", *value));
            let map = headers(&lines.collect::<Vec<_>>());
            assert_eq!(is_said_to_be_form(&map), expected, "{types:?}");
        }
    }
}
