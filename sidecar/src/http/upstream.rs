//! Upstream: LiteLLM, or the origin of an MCP server, with its connection pools.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use hyper_util::rt::TokioIo;
use mcp_auth_http_auth::ClockOffset;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, timeout, timeout_at};

use crate::http::connect::{CONNECT_TIMEOUT, ConnectError, Way, connect};
use crate::http::http2_offer::Http2Offer;
use crate::http::idle_timeout::BodyError;
use crate::http::io::Io;
use crate::http::pool::shared::{Multiplexed, Stream, StreamFailure};
use crate::http::pool::{Connection, DEFAULT_IDLE, HttpError, Lease, Pool, RequestError};
use crate::http::request_body::RequestBody;
use crate::http::tls::Tls;
use crate::http::transport::Peer;

/// Most attempts at a request that the other side says it did not process.
const MAX_ATTEMPTS: usize = 3;

pub struct Target {
    way: Way,
    tls: Option<Tls>,
    /// Value of `Host`.
    pub host: HeaderValue,
    /// The same for HTTP/2.
    authority: Option<Authority>,
    /// Longest wait for the head of an answer over HTTP/2; over HTTP/1.1 the pools look after it.
    answer_timeout: Option<Duration>,
    http2: Http2Offer,
    connects: Counter,
    /// The newest nonce for proofs of possession that the origin gave (RFC 9449 section 9).
    nonce: ArcSwapOption<String>,
    /// Of the origin, by its answers to requests with such proofs.
    clock_offset: ClockOffset,
    /// One for each worker: connections belong to the runtime that opened them.
    pools: Box<[Arc<Pool>]>,
}

/// A request that got no answer.
pub struct SendError {
    pub cause: UpstreamError,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    /// The connection had been kept and ended before the answer began: the other side may have closed it before
    /// it saw the request (RFC 9112 section 9.5). Or the answer was malformed over HTTP/2, and another over HTTP/1.1 may
    /// not be.
    pub kept_connection_ended: bool,
}

enum OpenedConnection {
    Own(Connection),
    /// And whether it is new.
    Shared((Multiplexed, Stream), bool),
}

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", no_answer(.0))]
    Http(#[from] HttpError),
    #[error("no answer in time")]
    Timeout,
}

fn no_answer(error: &HttpError) -> &'static str {
    match error.is_of_answer() {
        true => "its answer cannot be understood",
        false => "the connection ended before an answer",
    }
}

impl UpstreamError {
    /// With its cause. Nothing of request or answer is in it.
    pub fn in_full(&self) -> Box<str> {
        match self.source() {
            Some(source) => format!("{self}: {source}").into(),
            None => self.to_string().into(),
        }
    }

    /// The fault of the request's own body for which no answer came, if it was that.
    pub fn body_error(&self) -> Option<&BodyError> {
        match self {
            Self::Http(error) => error.body_error(),
            Self::Connect(_) | Self::Timeout => None,
        }
    }
}

impl SendError {
    fn new(cause: UpstreamError, unsent: Option<Request<RequestBody>>) -> Self {
        Self {
            cause,
            unsent,
            kept_connection_ended: false,
        }
    }

    fn from_request(failed: RequestError) -> Box<Self> {
        Box::new(match failed {
            RequestError::Timeout => Self::new(UpstreamError::Timeout, None),
            RequestError::Connection(failed) => Self::new(UpstreamError::Http(failed.error), failed.unsent),
        })
    }
}

impl Target {
    pub fn new(
        way: impl Into<Way>,
        tls: Option<Tls>,
        host: HeaderValue,
        answer_timeout: Option<Duration>,
        connects: Counter,
        workers: usize,
    ) -> Self {
        let authority = Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok();
        let pools = (0..workers)
            .map(|_| Arc::new(Pool::new(DEFAULT_IDLE, answer_timeout)))
            .collect();
        Self {
            way: way.into(),
            tls,
            host,
            authority,
            answer_timeout,
            http2: Http2Offer::new(false),
            connects,
            nonce: ArcSwapOption::empty(),
            clock_offset: ClockOffset::default(),
            pools,
        }
    }

    /// HTTP/2 is not offered.
    pub fn http1_only(self) -> Self {
        let http2 = Http2Offer::new(true);
        Self { http2, ..self }
    }

    /// Whether an answer over HTTP/2 was malformed not long ago.
    pub fn http2_was_malformed(&self) -> bool {
        self.http2.was_malformed()
    }

    pub fn nonce(&self) -> Option<Arc<String>> {
        self.nonce.load_full()
    }

    pub fn set_nonce(&self, nonce: String) {
        self.nonce.store(Some(Arc::new(nonce)));
    }

    pub fn clock_offset(&self) -> &ClockOffset {
        &self.clock_offset
    }

    /// LiteLLM, which owns its timeouts: a model may think for many minutes. Its server closes connections that wait
    /// for as long as `keep_alive`.
    pub fn litellm(address: SocketAddr, keep_alive: Duration, workers: usize) -> Self {
        let host =
            HeaderValue::try_from(address.to_string()).expect("an address is made of header characters");
        let mut litellm = Self::new(
            Peer::Address(address),
            None,
            host,
            None,
            Counter::default(),
            workers,
        );
        // A little less, so that none is used at the moment at which it is closed.
        let idle = keep_alive
            .saturating_sub(Duration::from_secs(1))
            .max(keep_alive / 2);
        litellm.pools = (0..workers).map(|_| Arc::new(Pool::new(idle, None))).collect();
        litellm
    }

    /// Sends a request over a kept connection, or a new one. A request is sent twice only if a kept connection of
    /// HTTP/2 turns out to be closed before any of it was sent, if the other side says that it has not processed it,
    /// or if it is safe to repeat (RFC 9110 section 9.2.2).
    pub async fn send(
        &self,
        worker: usize,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Lease>, Box<SendError>> {
        let pool = &self.pools[worker];
        // What HTTP/1.1 seldom or never needs is in boxes, so that its requests need not make room for it.
        if self.tls.is_some()
            && pool.shared.may_be_shared()
            && let Some(shared) = pool.shared.take()
        {
            return Box::pin(self.multiplex(worker, shared, true, request)).await;
        }
        if let Some(connection) = pool.take() {
            let spare = is_repeatable(&request).then(|| copy(&request)).flatten();
            match self.send_on(worker, connection, request).await {
                Err(error) => match (error.cause, error.unsent.or(spare)) {
                    (UpstreamError::Http(_), Some(again)) => request = again,
                    (cause, unsent) => {
                        let kept_connection_ended =
                            matches!(&cause, UpstreamError::Http(error) if error.has_ended());
                        return Err(Box::new(SendError {
                            cause,
                            unsent,
                            kept_connection_ended,
                        }));
                    }
                },
                answered => return answered,
            }
        }
        match Box::pin(self.open(worker)).await {
            Ok(OpenedConnection::Own(connection)) => self.send_on(worker, connection, request).await,
            Ok(OpenedConnection::Shared(shared, fresh)) => {
                Box::pin(self.multiplex(worker, shared, !fresh, request)).await
            }
            Err(cause) => Err(Box::new(SendError::new(cause, Some(request)))),
        }
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Io, ConnectError> {
        self.connects.inc();
        let connecting = |offers_http2| connect(&self.way, self.tls.as_ref(), offers_http2);
        match connecting(self.http2.is_made()).await {
            Err(error) if self.http2.resume_after(&error) => connecting(true).await,
            connected => connected,
        }
    }

    /// Closes a worker's connections that were idle for long.
    pub fn sweep(&self, worker: usize) {
        self.pools[worker].sweep();
    }

    /// A connection of the protocol that the other side chooses. Where that may be HTTP/2, one is opened at a
    /// time, and the requests that wait for it share it.
    async fn open(&self, worker: usize) -> Result<OpenedConnection, UpstreamError> {
        let pool = &self.pools[worker];
        let shared = &pool.shared;
        let mut opening_lock = None;
        if self.tls.is_some() && shared.may_be_shared() {
            let lock = timeout_at(Instant::now() + CONNECT_TIMEOUT, shared.opening.lock()).await;
            opening_lock = Some(lock.map_err(|_| ConnectError::Timeout)?);
            if let Some(free_stream) = shared.take() {
                return Ok(OpenedConnection::Shared(free_stream, false));
            }
            if !shared.may_be_shared() {
                opening_lock = None;
            }
        }
        let io = self.connect().await?;
        let connection = if io.is_http2() {
            shared.negotiated(true);
            let opened = shared.open(TokioIo::new(io)).await;
            OpenedConnection::Shared(opened.map_err(HttpError::from)?, true)
        } else {
            shared.negotiated(false);
            OpenedConnection::Own(pool.open(io).map_err(HttpError::from)?)
        };
        drop(opening_lock);
        Ok(connection)
    }

    async fn send_on(
        &self,
        worker: usize,
        connection: Connection,
        request: Request<RequestBody>,
    ) -> Result<Response<Lease>, Box<SendError>> {
        let sent = connection.send_request(request).await;
        let (response, connection) = sent.map_err(SendError::from_request)?;
        let home = self.pools[worker].clone();
        home.answered(&connection, response.headers());
        Ok(response.map(|()| Lease::new(connection, home)))
    }

    /// Sends a request over HTTP/2. `kept` says that the connection has been there for some time.
    async fn multiplex(
        &self,
        worker: usize,
        mut shared: (Multiplexed, Stream),
        mut kept: bool,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Lease>, Box<SendError>> {
        let pool = &self.pools[worker];
        let mut attempts = 1;
        loop {
            let (mut connection, stream) = shared;
            let spare = copy(&request);
            let safe = is_repeatable(&request);
            self.to_http2(&mut request);
            let error = match self
                .within_answer_timeout(connection.send_request(request, stream))
                .await
            {
                Ok((response, stream)) => return Ok(response.map(|body| Lease::shared(body, stream))),
                Err(error) => *error,
            };
            let SendError { cause, unsent, .. } = error;
            let UpstreamError::Http(HttpError::Http2(failed)) = &cause else {
                return Err(Box::new(SendError::new(cause, unsent)));
            };
            let failure = StreamFailure::classify(failed);
            if failure != StreamFailure::Reset {
                pool.shared.retire(&connection);
            }
            if failure == StreamFailure::Malformed {
                self.fall_back_to_http1();
            }
            let again = match (unsent, failure) {
                (Some(mut unsent), _) => {
                    self.to_http1(&mut unsent);
                    Some(unsent)
                }
                (None, StreamFailure::Unprocessed) => spare,
                (None, StreamFailure::Connection) if kept && safe => spare,
                (None, StreamFailure::Malformed) if safe => spare,
                (None, _) => None,
            };
            request = match again {
                Some(again) if attempts < MAX_ATTEMPTS => again,
                unsent => {
                    return Err(Box::new(SendError {
                        cause,
                        unsent,
                        kept_connection_ended: kept && failure == StreamFailure::Connection
                            || failure == StreamFailure::Malformed,
                    }));
                }
            };
            attempts += 1;
            shared = match self.open(worker).await {
                Ok(OpenedConnection::Shared(next, fresh)) => {
                    kept = !fresh;
                    next
                }
                // It has changed its mind, or another server has taken its place.
                Ok(OpenedConnection::Own(connection)) => {
                    return self.send_on(worker, connection, request).await;
                }
                Err(cause) => return Err(Box::new(SendError::new(cause, Some(request)))),
            };
        }
    }

    /// Event streams are sent with `Connection: keep-alive` by some servers whatever the protocol is, which HTTP/2 forbids
    /// (RFC 9113 section 8.2.2).
    fn fall_back_to_http1(&self) {
        if self.http2.pause() {
            let server = self.host.to_str().unwrap_or_default();
            tracing::warn!(server, "an answer over HTTP/2 is malformed: HTTP/1.1 for a while");
        }
        for pool in &self.pools {
            pool.shared.negotiated(false);
        }
    }

    async fn within_answer_timeout<T>(
        &self,
        sending: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, Box<SendError>> {
        let answer = match self.answer_timeout {
            None => sending.await,
            Some(limit) => timeout(limit, sending)
                .await
                .unwrap_or(Err(RequestError::Timeout)),
        };
        answer.map_err(SendError::from_request)
    }

    /// The host is part of the target there (RFC 9113 section 8.3.1), and nothing belongs to the connection
    /// alone.
    fn to_http2(&self, request: &mut Request<RequestBody>) {
        request.headers_mut().remove(header::CONNECTION);
        request.headers_mut().remove(header::TRANSFER_ENCODING);
        request.headers_mut().remove(header::HOST);
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = self.authority.clone();
        parts.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        // Without an authority it stays as it is, and the other side decides.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }

    fn to_http1(&self, request: &mut Request<RequestBody>) {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        request.headers_mut().insert(header::HOST, self.host.clone());
    }
}

/// Without a body, and without an effect.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    safe && request.body().is_end_stream()
}

/// A copy of a request whose body is at hand.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let body = match request.body() {
        RequestBody::Whole(bytes) => bytes.clone(),
        body if body.is_end_stream() => None,
        _ => return None,
    };
    let mut copy = Request::new(RequestBody::Whole(body));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
