//! Token exchange client: requests a user's own token (RFC 8693) from the operator, in exchange for the
//! subject token that the user sent. The operator holds the client's credentials, so it is the one that asks
//! the authorization server.

mod shared_connection;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use mcp_auth_protocol::bounds::MAX_EXCHANGE_RESPONSE_BYTES;
use mcp_auth_protocol::reasons::NOT_LEADING;
use mcp_auth_protocol::sync::{Credential, EXCHANGE_PATH, ExchangeRequest, ExchangeResponse, Pod, Problem};
use mcp_auth_protocol::timeouts::EXCHANGE_RESPONSE;
use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout};

use crate::control::clock_offset::ClockOffset;
use crate::control::sync_client::{
    Connection, Connector, Endpoint, OperatorCa, SyncError, UNREACHABLE, bearer,
};
use shared_connection::SharedConnection;

/// Before each further connection that is tried: until the Service no longer leads to a replica that has just gone.
const RETRY_DELAYS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1_600),
];

/// One token exchange to request from the operator.
pub struct UserTokenRequest {
    /// LiteLLM's name of the server.
    pub server: Box<str>,
    /// The URL that it is for, as the operator states it.
    pub url: Box<str>,
    pub subject: SecretString,
    /// Name of the user's token that the server refused.
    pub refused: Option<Box<str>>,
}

pub type UserTokenResponse = Pin<Box<dyn Future<Output = Result<Credential, Problem>> + Send>>;

/// A seam between the data path, which asks, and the operator, which tests replace.
pub trait TokenExchanger: Send + Sync + 'static {
    fn exchange(&self, request: UserTokenRequest) -> UserTokenResponse;
}

/// The operator, over an HTTP/2 connection of its own: opened when it is first needed, kept while it lasts
/// and leads to the replica that leads.
pub struct OperatorTokenExchanger<D>(Arc<ExchangeClient<D>>);

struct ExchangeClient<D> {
    token_file: PathBuf,
    pod: Pod,
    timing: Timing,
    connection: Arc<SharedConnection<D>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// From the request to the end of the answer.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: EXCHANGE_RESPONSE,
        }
    }
}

/// What the operator answered, not parsed yet.
struct OperatorResponse {
    status: StatusCode,
    body: Bytes,
}

impl<D: Connector + 'static> OperatorTokenExchanger<D> {
    pub fn new(
        endpoint: Endpoint,
        operator_ca: OperatorCa,
        token_file: PathBuf,
        pod: Pod,
        timing: Timing,
        connector: D,
    ) -> Self {
        let connection = SharedConnection::new(endpoint, operator_ca, timing.connect, connector);
        Self(Arc::new(ExchangeClient {
            token_file,
            pod,
            timing,
            connection: Arc::new(connection),
        }))
    }
}

impl<D: Connector + 'static> TokenExchanger for OperatorTokenExchanger<D> {
    fn exchange(&self, request: UserTokenRequest) -> UserTokenResponse {
        let client = self.0.clone();
        Box::pin(async move { client.request_token(request).await })
    }
}

impl<D: Connector + 'static> ExchangeClient<D> {
    /// Asks again on a new connection where this one was closed, was refused, or leads to a replica that does not lead: to
    /// ask again does no harm.
    async fn request_token(&self, request: UserTokenRequest) -> Result<Credential, Problem> {
        let body = ExchangeRequest {
            pod: self.pod.clone(),
            server: request.server.into(),
            url: request.url.into(),
            subject_token: request.subject,
            refused: request.refused.map(Into::into),
        };
        let body = serde_json::to_vec(&body).expect("a request is strings");
        let body = Bytes::from(body);
        let mut delays = RETRY_DELAYS.into_iter();
        let began = Instant::now();
        loop {
            let connection = match self.connection.connection().await {
                Ok(connection) => connection,
                Err(problem) => {
                    let is_worth_another =
                        problem.reason == UNREACHABLE && began.elapsed() < self.timing.connect;
                    let Some(delay) = delays.next().filter(|_| is_worth_another) else {
                        return Err(problem);
                    };
                    sleep(delay).await;
                    continue;
                }
            };
            let answered = self.send(&connection, body.clone()).await;
            let is_elsewhere = match &answered {
                Ok(response) => response.is_not_leading(),
                Err(error) => matches!(error, SyncError::Http(_)),
            };
            if is_elsewhere {
                self.connection.retire(&connection);
                if let Some(delay) = delays.next() {
                    sleep(delay).await;
                    continue;
                }
            }
            let response = answered.map_err(|error| error.to_problem())?;
            return read_credential(response.status, &response.body);
        }
    }

    async fn send(&self, connection: &Connection, body: Bytes) -> Result<OperatorResponse, SyncError> {
        let mut request = Request::new(BodyExt::boxed_unsync(Full::new(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.connection.endpoint.uri(EXCHANGE_PATH);
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer(&self.token_file).await?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut sender = connection.sender.clone();
        let answer = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = match Limited::new(response.into_body(), MAX_EXCHANGE_RESPONSE_BYTES)
                .collect()
                .await
            {
                Ok(body) => body.to_bytes(),
                Err(error) => match error.downcast::<hyper::Error>() {
                    Ok(broken) => return Err(SyncError::Http(*broken)),
                    // An answer as long as that is none.
                    Err(_) => Bytes::new(),
                },
            };
            Ok(OperatorResponse { status, body })
        };
        let seconds = self.timing.answer.as_secs();
        timeout(self.timing.answer, answer)
            .await
            .unwrap_or(Err(SyncError::Silent { seconds }))
    }
}

impl OperatorResponse {
    fn is_not_leading(&self) -> bool {
        let problem = || serde_json::from_slice::<Problem>(&self.body).ok();
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && problem().is_some_and(|problem| problem.reason == NOT_LEADING)
    }
}

/// A serde error may quote the answer, which holds a token, so it is not repeated.
fn read_credential(status: StatusCode, answer: &[u8]) -> Result<Credential, Problem> {
    if status != StatusCode::OK {
        let response = serde_json::from_slice::<Problem>(answer).ok();
        return Err(response.unwrap_or_else(|| {
            let message = format!("the operator refuses with {status} and does not say why");
            Problem::new("OperatorRefused", message)
        }));
    }
    match serde_json::from_slice::<ExchangeResponse>(answer) {
        Ok(ExchangeResponse {
            credential: mut credential @ Credential::Bearer { .. },
            sent_at,
        }) => {
            let mut offset = ClockOffset::default();
            offset.observe(sent_at);
            offset.apply(&mut credential);
            Ok(credential)
        }
        _ => Err(Problem::new(
            "OperatorAnswerInvalid",
            "the operator's answer is no token; sidecar and operator may be of different versions",
        )),
    }
}

#[cfg(test)]
mod tests;
