//! One place that requests are sent to: LiteLLM, or the origin of an MCP server. Holds its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use prometheus_client::metrics::counter::Counter;
use tokio::time::timeout;

use crate::body::RequestBody;
use crate::dial::{DialError, Io, Peer, Tls, dial};
use crate::pool::{Connection, ExchangeError, Lease, Pool};

pub struct Target {
    peer: Peer,
    tls: Option<Tls>,
    /// Value of `Host`.
    pub host: HeaderValue,
    /// Longest wait for the head of an answer.
    answer_timeout: Option<Duration>,
    connects: Counter,
    /// The newest nonce for proofs of possession that the origin gave (RFC 9449 section 9).
    nonce: ArcSwapOption<String>,
    /// One for each worker: connections belong to the runtime that opened them.
    pools: Box<[Arc<Pool>]>,
}

/// A request that got no answer.
pub struct SendError {
    pub cause: Cause,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection ended before an answer")]
    Exchange(#[from] hyper::Error),
    #[error("no answer in time")]
    Timeout,
}

impl Target {
    pub fn new(
        peer: Peer,
        tls: Option<Tls>,
        host: HeaderValue,
        answer_timeout: Option<Duration>,
        connects: Counter,
        workers: usize,
    ) -> Self {
        let pools = (0..workers).map(|_| Arc::default()).collect();
        Self {
            peer,
            tls,
            host,
            answer_timeout,
            connects,
            nonce: ArcSwapOption::empty(),
            pools,
        }
    }

    pub fn nonce(&self) -> Option<Arc<String>> {
        self.nonce.load_full()
    }

    pub fn set_nonce(&self, nonce: String) {
        self.nonce.store(Some(Arc::new(nonce)));
    }

    /// LiteLLM, which owns its timeouts: a model may think for many minutes.
    pub fn litellm(address: SocketAddr, workers: usize) -> Self {
        let host =
            HeaderValue::try_from(address.to_string()).expect("an address is made of header characters");
        Self::new(
            Peer::Address(address),
            None,
            host,
            None,
            Counter::default(),
            workers,
        )
    }

    /// Sends a request over a kept connection, or a new one. A request is sent twice only if the kept connection
    /// turns out to be closed before any of it was sent, or if it is safe to repeat (RFC 9110 section 9.2.2).
    pub async fn send(
        &self,
        worker: usize,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Lease>, Box<SendError>> {
        if let Some(connection) = self.pools[worker].take() {
            let spare = repeatable(&request);
            match self.exchange(worker, connection, request).await {
                Err(error) => match (error.cause, error.unsent.or(spare)) {
                    (Cause::Exchange(_), Some(again)) => request = again,
                    (cause, unsent) => return Err(Box::new(SendError { cause, unsent })),
                },
                answered => return answered,
            }
        }
        let connection = match self.connect().await {
            Ok(io) => Connection::open(io).await.map_err(Cause::from),
            Err(error) => Err(error.into()),
        };
        match connection {
            Ok(connection) => self.exchange(worker, connection, request).await,
            Err(cause) => Err(Box::new(SendError {
                cause,
                unsent: Some(request),
            })),
        }
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Io, DialError> {
        self.connects.inc();
        dial(&self.peer, self.tls.as_ref()).await
    }

    /// Closes a worker's connections that nobody needs any more.
    pub fn sweep(&self, worker: usize) {
        self.pools[worker].sweep();
    }

    async fn exchange(
        &self,
        worker: usize,
        connection: Connection,
        request: Request<RequestBody>,
    ) -> Result<Response<Lease>, Box<SendError>> {
        let exchange = connection.exchange(request);
        let answer = match self.answer_timeout {
            None => exchange.await,
            Some(longest) => match timeout(longest, exchange).await {
                Ok(answer) => answer,
                Err(_) => {
                    return Err(Box::new(SendError {
                        cause: Cause::Timeout,
                        unsent: None,
                    }));
                }
            },
        };
        match answer {
            Ok((response, connection)) => {
                let home = self.pools[worker].clone();
                Ok(response.map(|body| Lease::new(body, connection, home)))
            }
            Err(failed) => {
                let ExchangeError { error, unsent } = *failed;
                Err(Box::new(SendError {
                    cause: Cause::Exchange(error),
                    unsent,
                }))
            }
        }
    }
}

/// A copy of a request that has no body and changes nothing.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::Whole(None));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
