//! The error of a request whose connection failed, with the request where it was not sent.

use http::Request;

use crate::http::request_body::RequestBody;

/// Why a request got no answer.
pub enum RequestError {
    /// None came in time.
    Timeout,
    Connection {
        error: hyper::Error,
        /// The request, if no byte of it was sent.
        unsent: Option<Request<RequestBody>>,
    },
}
