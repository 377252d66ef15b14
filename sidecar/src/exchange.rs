//! Asks the operator to exchange what a user sent for a token of the user's own (RFC 8693). The operator holds the
//! client's credentials, so it is the one that asks the authorization server.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Credential, EXCHANGE_PATH, ExchangeRequest, Exchanged, Pod, Problem};
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::follow::{Connection, Dial, Endpoint, FollowError, OperatorCa, bearer};

/// Longest answer: a token and a certificate-bound key are a few kilobytes.
const MAX_ANSWER: usize = 256 * 1024;

/// For whom a token is asked for.
pub struct Ask {
    /// LiteLLM's name of the server.
    pub server: Box<str>,
    /// The URL that it is for, as the operator states it.
    pub url: Box<str>,
    pub subject: SecretString,
    /// Name of the user's token that the server refused.
    pub refused: Option<Box<str>>,
}

pub type Answer = Pin<Box<dyn Future<Output = Result<Credential, Problem>> + Send>>;

/// A seam between the data path, which asks, and the operator, which tests replace.
pub trait Exchange: Send + Sync + 'static {
    fn exchange(&self, ask: Ask) -> Answer;
}

/// The operator, over an HTTP/2 connection of its own: opened when it is first needed, kept while it lasts.
pub struct AtOperator<D>(Arc<Inner<D>>);

struct Inner<D> {
    endpoint: Endpoint,
    operator_ca: OperatorCa,
    token_file: PathBuf,
    pod: Pod,
    timing: Timing,
    dial: D,
    open: Mutex<Option<Open>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// From the request to the head of the answer. After that the connection counts as lost.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(8),
        }
    }
}

#[derive(Clone)]
struct Open {
    connection: Arc<Connection>,
    /// What it was verified by. With other certificates to trust, it is not used any more.
    trusted: Arc<str>,
}

impl<D: Dial + 'static> AtOperator<D> {
    pub fn new(
        endpoint: Endpoint,
        operator_ca: OperatorCa,
        token_file: PathBuf,
        pod: Pod,
        timing: Timing,
        dial: D,
    ) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            operator_ca,
            token_file,
            pod,
            timing,
            dial,
            open: Mutex::default(),
        }))
    }
}

impl<D: Dial + 'static> Exchange for AtOperator<D> {
    fn exchange(&self, ask: Ask) -> Answer {
        let inner = self.0.clone();
        Box::pin(async move {
            let asked = inner.ask(ask).await;
            asked.unwrap_or_else(|error| Err(Problem::new(error.reason(), error.to_string())))
        })
    }
}

impl<D: Dial> Inner<D> {
    /// Twice at the most: a kept connection may turn out to be closed, and to ask again does no harm.
    async fn ask(&self, ask: Ask) -> Result<Result<Credential, Problem>, FollowError> {
        let body = ExchangeRequest {
            pod: self.pod.clone(),
            server: ask.server.into(),
            url: ask.url.into(),
            subject_token: ask.subject,
            refused: ask.refused.map(Into::into),
        };
        let body = serde_json::to_vec(&body).expect("a request is strings");
        let body = Bytes::from(body);
        let (open, kept) = self.connection().await?;
        let response = match self.send(&open, body.clone()).await {
            Err(FollowError::Http(_)) if kept => {
                self.drop_connection(&open).await;
                let (open, _) = self.connection().await?;
                self.send(&open, body).await?
            }
            answered => answered?,
        };
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let answer = answer
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        Ok(read(status, &answer))
    }

    async fn send(&self, open: &Open, body: Bytes) -> Result<http::Response<Incoming>, FollowError> {
        let mut request = Request::new(BodyExt::boxed_unsync(Full::new(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri(EXCHANGE_PATH);
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer(&self.token_file)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut sender = open.connection.sender.clone();
        let answer = timeout(self.timing.answer, sender.send_request(request)).await;
        if answer.is_err() {
            // A peer that is gone without a word would otherwise have every request wait as long.
            self.drop_connection(open).await;
        }
        let seconds = self.timing.answer.as_secs();
        Ok(answer.map_err(|_| FollowError::Silent { seconds })??)
    }

    /// The connection that is open, or a new one; and whether it was open before.
    async fn connection(&self) -> Result<(Open, bool), FollowError> {
        let mut open = self.open.lock().await;
        let trusted = self.operator_ca.get();
        if let Some(known) = &*open
            && known.trusted == trusted
            && !known.connection.sender.is_closed()
        {
            return Ok((known.clone(), true));
        }
        let opening = Connection::open(&self.dial, &self.endpoint, &trusted);
        let opened = timeout(self.timing.connect, opening).await;
        let connection = opened.map_err(|_| FollowError::ConnectTimeout {
            address: self.endpoint.to_string(),
            seconds: self.timing.connect.as_secs(),
        })??;
        let new = Open {
            connection: Arc::new(connection),
            trusted,
        };
        *open = Some(new.clone());
        Ok((new, false))
    }

    async fn drop_connection(&self, failed: &Open) {
        let mut open = self.open.lock().await;
        if open
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(&open.connection, &failed.connection))
        {
            *open = None;
        }
    }
}

/// What serde says of a failure may quote the answer, which holds a token. So it is not told.
fn read(status: StatusCode, answer: &[u8]) -> Result<Credential, Problem> {
    if status != StatusCode::OK {
        let said = serde_json::from_slice::<Problem>(answer).ok();
        return Err(said.unwrap_or_else(|| {
            let message = format!("the operator refuses with {status} and does not say why");
            Problem::new("OperatorRefused", message)
        }));
    }
    match serde_json::from_slice::<Exchanged>(answer) {
        Ok(Exchanged {
            credential: credential @ Credential::Bearer { .. },
        }) => Ok(credential),
        _ => Err(Problem::new(
            "OperatorAnswerInvalid",
            "the operator's answer is no token; sidecar and operator may be of different versions",
        )),
    }
}

#[cfg(test)]
mod tests;
