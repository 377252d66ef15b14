//! Sync errors: why a sidecar is not served, and the one place where that becomes an HTTP answer.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mcp_auth_credentials::ExchangeError;
use mcp_auth_protocol::reasons;
use mcp_auth_protocol::sync::Problem;
use thiserror::Error;

use crate::connection_bounds::TooManyOfPodError;
use crate::http::BodyError;

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SyncError {
    #[error("the request has no bearer token: send the ServiceAccount token of the pod")]
    NoToken,
    #[error("the API server does not accept the token: {0}")]
    InvalidToken(String),
    #[error("the token is for another audience: it must be projected with audience `{0}`")]
    WrongAudience(&'static str),
    #[error("the token is not bound to a pod: it must be a projected ServiceAccount token")]
    NotBoundToPod,
    #[error("the request is for pod {claimed}, but its token is bound to pod {bound}")]
    OtherPod { claimed: String, bound: String },
    #[error("{0}: close some of them")]
    TooManyConnections(#[from] TooManyOfPodError),
    #[error("the pod has {0} streams, or all pods have as many as there may be: close some of them")]
    TooManyStreams(u32),
    #[error(
        "no McpServerAuth selects the pod, and there are as many streams of such pods as there may be, of its namespace or in \
         total: it has one as soon as one of their turns is free, or a resource selects it"
    )]
    TooManyUnselected,
    #[error("pod {0} does not exist any more")]
    NoSuchPod(String),
    #[error(
        "the McpServerAuth resources of namespace {0} have not been listed yet: where that lasts, the operator \
         has no right to list them, as after a namespace and its Role were deleted"
    )]
    NotListed(String),
    #[error("the first line must be the sidecar's report: {0}")]
    NoReport(String),
    #[error(
        "this replica neither leads nor knows the tokens of the one that does: connect again to reach another"
    )]
    NotLeading,
    #[error("the token is of the ServiceAccount {0}, which is not the operator's")]
    NotAReplica(String),
    #[error("{}", problem.message)]
    OfLeader { status: StatusCode, problem: Problem },
    #[error("the API server could not be asked: {0}")]
    ApiServer(String),
    #[error("too many users' tokens are asked for at once, by this pod, its namespace or in total")]
    TooManyExchanges,
    #[error("the body is no exchange request: {0}")]
    NoExchangeRequest(&'static str),
    #[error("the body is no exchange request: {0}")]
    UnreadableBody(BodyError),
    #[error("no McpServerAuth with the server name {0:?} selects this pod")]
    NotEntitled(String),
    #[error(
        "the sidecar asks for another URL than spec.server.url: it has not yet taken the newest routes over"
    )]
    OtherUrl,
    #[error("the McpServerAuth of server {0:?} has no spec.oauth2.tokenExchange, or is not ready for it yet")]
    NoExchange(String),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

impl SyncError {
    /// One of [`reasons`]; the label in the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => reasons::NO_TOKEN,
            Self::InvalidToken(_) => reasons::INVALID_TOKEN,
            Self::WrongAudience(_) => reasons::WRONG_AUDIENCE,
            Self::NotBoundToPod => reasons::NOT_BOUND_TO_POD,
            Self::OtherPod { .. } => reasons::OTHER_POD,
            Self::TooManyConnections(_) => reasons::TOO_MANY_CONNECTIONS,
            Self::TooManyStreams(_) | Self::TooManyUnselected => reasons::TOO_MANY_STREAMS,
            Self::NoSuchPod(_) => reasons::NO_SUCH_POD,
            Self::NotListed(_) => reasons::NOT_LISTED,
            Self::NoReport(_) => reasons::NO_REPORT,
            Self::NotLeading => reasons::NOT_LEADING,
            Self::NotAReplica(_) => reasons::NOT_A_REPLICA,
            Self::OfLeader { problem, .. } => {
                reasons::known(&problem.reason).unwrap_or(reasons::EXCHANGE_FAILED)
            }
            Self::ApiServer(_) => reasons::API_SERVER,
            Self::NoExchangeRequest(_) | Self::UnreadableBody(_) => reasons::NO_EXCHANGE_REQUEST,
            Self::TooManyExchanges => reasons::TOO_MANY_EXCHANGES,
            Self::NotEntitled(_) => reasons::NOT_ENTITLED,
            Self::OtherUrl => reasons::OTHER_URL,
            Self::NoExchange(_) => reasons::NO_EXCHANGE,
            Self::Exchange(error) => error.reason(),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::InvalidToken(_) | Self::WrongAudience(_) => StatusCode::UNAUTHORIZED,
            Self::NotBoundToPod | Self::OtherPod { .. } | Self::NoSuchPod(_) | Self::NotAReplica(_) => {
                StatusCode::FORBIDDEN
            }
            Self::TooManyConnections(_)
            | Self::TooManyStreams(_)
            | Self::TooManyUnselected
            | Self::TooManyExchanges => StatusCode::TOO_MANY_REQUESTS,
            Self::OfLeader { status, .. } => *status,
            Self::NotEntitled(_) => StatusCode::FORBIDDEN,
            Self::NoReport(_) | Self::NoExchangeRequest(_) | Self::UnreadableBody(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::OtherUrl => StatusCode::CONFLICT,
            Self::NoExchange(_) => StatusCode::NOT_FOUND,
            Self::NotLeading | Self::NotListed(_) | Self::ApiServer(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Exchange(ExchangeError::Slow(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Exchange(ExchangeError::Failed { .. }) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl IntoResponse for SyncError {
    fn into_response(self) -> Response {
        let problem = Problem::new(self.reason(), self.to_string());
        (self.status(), Json(problem)).into_response()
    }
}
