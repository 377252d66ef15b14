//! The error of a request whose connection failed, with the request where it was not sent.

use http::Request;

use crate::http::request_body::RequestBody;

/// Why a request got no answer.
pub enum RequestError {
    /// None came in time.
    Timeout,
    Connection(Box<ConnectionError>),
}

pub struct ConnectionError {
    pub error: hyper::Error,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}

impl From<hyper::client::conn::TrySendError<Request<RequestBody>>> for RequestError {
    fn from(mut failed: hyper::client::conn::TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message();
        let error = failed.into_error();
        Self::Connection(Box::new(ConnectionError { error, unsent }))
    }
}
