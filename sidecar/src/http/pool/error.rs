//! The errors of a request whose connection failed, with the request where it was not sent.

use http::Request;

use crate::http::http1::{Http1Error, is_reset};
use crate::http::idle_timeout::BodyError;
use crate::http::request_body::RequestBody;

/// Why a request got no answer.
pub enum RequestError {
    /// None came in time.
    Timeout,
    Connection(Box<ConnectionError>),
}

pub struct ConnectionError {
    pub error: HttpError,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}

/// Of either protocol.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Http1(#[from] Http1Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl HttpError {
    /// Whether the other side closed the connection, rather than answering with something that is no answer.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Http1(error) => error.has_ended(),
            Self::Http2(error) => {
                let source = std::error::Error::source(error);
                let io = source.and_then(|source| source.downcast_ref());
                error.is_incomplete_message() || io.is_some_and(is_reset)
            }
        }
    }

    /// Whether something came that is no answer.
    pub fn is_of_answer(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_of_answer(),
            Self::Http2(error) => error.is_parse(),
        }
    }

    /// The fault of its own body for which a request failed, if it did.
    pub fn body_error(&self) -> Option<&BodyError> {
        let error = match self {
            Self::Http1(error) => return error.body_error(),
            Self::Http2(error) => error,
        };
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref() {
                return Some(error);
            }
            source = error.source();
        }
        None
    }
}

impl From<HttpError> for RequestError {
    fn from(error: HttpError) -> Self {
        let unsent = None;
        Self::Connection(Box::new(ConnectionError { error, unsent }))
    }
}

impl From<hyper::client::conn::TrySendError<Request<RequestBody>>> for RequestError {
    fn from(mut failed: hyper::client::conn::TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message();
        let error = failed.into_error().into();
        Self::Connection(Box::new(ConnectionError { error, unsent }))
    }
}
