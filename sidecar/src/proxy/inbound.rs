//! From users to LiteLLM. A request passes as it is, except that its allow-listed cookies and headers go along a
//! second time, sealed, in the one header that LiteLLM forwards to MCP servers.

mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use mcp_auth_protocol::pod::CONTEXT_HEADER;

use crate::control::drain::Drain;
use crate::http::framing;
use crate::http::hop_by_hop;
use crate::http::idle_timeout::is_of_body;
use crate::http::request_body::RequestBody;
use crate::http::upstream::{Cause, Target};
use crate::proxy::clock::unix_now;
use crate::proxy::error::Refusal;
use crate::proxy::metrics::{ContextResult, Half, Metrics};
use crate::proxy::respond::problem;
use crate::proxy::response_body::ResponseBody;
use crate::proxy::routes::Routes;
use crate::proxy::user_context::seal::Sealer;
use crate::proxy::user_context::{Context, TooLarge, gather};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CONTEXT: HeaderName = HeaderName::from_static(CONTEXT_HEADER);

/// Below LiteLLM's `SERVER_ROOT_PATH`.
const LISTS_BY_SERVER: [&str; 2] = ["/mcp-rest/tools/list", "/v1/messages"];

/// The half on the port LiteLLM used to own.
pub struct Inbound {
    litellm: Target,
    routes: Routes,
    sealer: Arc<Sealer>,
    metrics: Metrics,
    drain: Drain,
}

impl Inbound {
    /// `litellm` is the loopback address LiteLLM was moved to; `sealer` is shared with the outbound half.
    pub fn new(
        litellm: SocketAddr,
        routes: Routes,
        sealer: Arc<Sealer>,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        Self {
            litellm: Target::litellm(litellm, routes.workers().get()),
            routes,
            sealer,
            metrics,
            drain,
        }
    }

    pub(crate) async fn answer(
        &self,
        worker: usize,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let method = request.method().clone();
        // HTTP/2 has no such header; it is the connection that says it there.
        let closable = request.version() != Version::HTTP_2;
        // In a place of its own: a connection keeps room for the whole answer even while it has nothing to do.
        let mut response = match Box::pin(self.forward(worker, peer, request)).await {
            Ok(response) => {
                tracing::debug!(half = "inbound", %method, status = response.status().as_u16(), "answered");
                response
            }
            Err(refusal) => {
                self.metrics.refused(Half::Inbound, refusal.reason());
                let status = refusal.status().as_u16();
                tracing::warn!(half = "inbound", %method, reason = refusal.reason(), status, "request refused");
                problem(&refusal)
            }
        };
        self.metrics.answered(Half::Inbound, response.status());
        // A connection that changes its protocol says so in the same header, and ends with the tunnel.
        if closable && self.drain.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// Returns when the time is over in which clients could find another pod.
    pub(crate) async fn drained(&self) {
        self.drain.ended().await;
    }

    /// The parser has refused a request, which nobody else has seen.
    pub(crate) fn refused_unread(&self, reason: &'static str) {
        self.metrics.refused(Half::Inbound, reason);
    }

    pub(crate) fn sweep(&self, worker: usize) {
        self.litellm.sweep(worker);
    }

    async fn forward(
        &self,
        worker: usize,
        peer: IpAddr,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::MethodNotSupported);
        }
        framing::check(&request)?;
        let websocket = hop_by_hop::wants_websocket(request.headers());
        target_form(&mut request, &self.litellm.host);
        let by_server = lists_by_server(request.uri().path());
        let headers = request.headers_mut();
        // Before anything goes: what says who the user is counts even if `Connection` names it.
        let context = self.context(headers)?;
        hop_by_hop::strip_request(headers, is_ours);
        if let Some(context) = context {
            let sealed = self.sealer.seal(&context, unix_now());
            if by_server {
                for name in self.routes.table().contexts() {
                    headers.insert(name, sealed.clone());
                }
            }
            headers.insert(CONTEXT, sealed);
        }
        forwarded(headers, peer);
        if websocket {
            return tunnel::open(&self.litellm, request).await;
        }
        let filter = !request.body().is_end_stream() && may_be_json(request.headers());
        let wrap = if filter {
            RequestBody::filtered
        } else {
            RequestBody::stream
        };
        let response = self
            .litellm
            .send(worker, request.map(wrap))
            .await
            .map_err(|error| refusal(&error.cause))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched || !framing::one_length(response.headers()) {
            return Err(Refusal::LiteLlmFailed);
        }
        let mut response = response.map(ResponseBody::Stream);
        hop_by_hop::strip_response(response.headers_mut(), |_| false);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    fn context(&self, headers: &HeaderMap) -> Result<Option<Context>, TooLarge> {
        let gathered = gather(headers, self.routes.table().allowed());
        match gathered {
            Ok(gathered) => {
                self.metrics.gathered(&gathered);
                Ok(gathered.context)
            }
            Err(too_large) => {
                self.metrics.context(ContextResult::TooLarge);
                Err(too_large)
            }
        }
    }
}

fn refusal(cause: &Cause) -> Refusal {
    match cause {
        Cause::Dial(_) => Refusal::LiteLlmUnreachable,
        Cause::Http(error) if is_of_body(error) => Refusal::BodyUnreadable,
        Cause::Http(_) | Cause::Timeout => Refusal::LiteLlmFailed,
    }
}

/// Sends the request in origin form. A request in absolute form states its host there (RFC 9112 section 3.2.2).
fn target_form(request: &mut Request<Incoming>, default_host: &HeaderValue) {
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

/// Whether LiteLLM lists tools for this request without the headers that `extra_headers` names, but with those of
/// `x-mcp-SERVER-HEADER` (LiteLLM 1.109.1). Nowhere else are they used: they count as the client's own authentication.
fn lists_by_server(path: &str) -> bool {
    LISTS_BY_SERVER.iter().any(|end| path.ends_with(end))
}

/// A header by which a client could speak in our name: our own, and LiteLLM's `x-mcp-SERVER-HEADER`, which it sends to
/// that server as HEADER.
fn is_ours(name: &str) -> bool {
    name.starts_with("mcpauth-") || name.starts_with("x-mcp-") && name.contains("mcpauth-")
}

/// LiteLLM's server believes these headers from loopback. What the client says of itself stays in front of the
/// address that really connected, so it is never taken for ours.
fn forwarded(headers: &mut HeaderMap, peer: IpAddr) {
    let peer = peer.to_canonical().to_string();
    let before: usize = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .map(|value| value.len() + 2)
        .sum();
    let mut addresses = Vec::with_capacity(before + peer.len());
    for value in headers.get_all(X_FORWARDED_FOR) {
        addresses.extend_from_slice(value.as_bytes());
        addresses.extend_from_slice(b", ");
    }
    addresses.extend_from_slice(peer.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(addresses)) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// LiteLLM reads a body as JSON unless it is a form, whatever its type and encoding are said to be.
fn may_be_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else {
        return true;
    };
    let essence = value
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    !essence.eq_ignore_ascii_case(b"multipart/form-data")
        && !essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        hop_by_hop::remove(&mut map, is_ours);
        assert_eq!(
            map,
            headers(&[("x-mcp-tools-other", "5"), ("x-mcpauth-context", "6")])
        );
    }

    #[test]
    fn what_the_client_says_of_itself_stays_in_front_of_its_address() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("host", "h:4000"),
        ]);
        forwarded(&mut map, "::ffff:10.0.0.9".parse().unwrap());
        let expected = [
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.9"),
            ("host", "h:4000"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "h:4000"),
        ];
        assert_eq!(map, headers(&expected));
    }

    #[test]
    fn what_a_front_proxy_has_set_stays() {
        let mut map = headers(&[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "llm.example.com"),
        ]);
        forwarded(&mut map, "10.0.0.9".parse().unwrap());
        assert_eq!(map["x-forwarded-proto"], "https");
        assert_eq!(map["x-forwarded-host"], "llm.example.com");
    }

    #[test]
    fn only_forms_are_not_json() {
        assert!(may_be_json(&headers(&[])));
        assert!(may_be_json(&headers(&[
            ("content-type", "application/json"),
            ("content-encoding", "gzip")
        ])));
        assert!(may_be_json(&headers(&[(
            "content-type",
            "application/json; a=multipart/form-data"
        )])));
        assert!(may_be_json(&headers(&[
            ("content-type", "multipart/form-data"),
            ("content-type", "text/plain")
        ])));
        assert!(!may_be_json(&headers(&[(
            "content-type",
            "Multipart/Form-Data; boundary=x"
        )])));
        assert!(!may_be_json(&headers(&[(
            "content-type",
            "application/x-www-form-urlencoded"
        )])));
    }
}
