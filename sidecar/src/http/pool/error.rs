//! The error of a request whose connection failed, with the request where it was not sent.

use http::Request;

use crate::http::request_body::RequestBody;

/// Why a request got no answer.
pub struct RequestError {
    pub error: hyper::Error,
    /// The request, if no byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
}
