//! Why an exchange over HTTP/1.1 failed. Nothing of request or answer is in it.

use std::io;

use crate::http::idle_timeout::BodyError;

#[derive(Debug, thiserror::Error)]
pub enum Http1Error {
    #[error("connection closed before message completed")]
    Incomplete,
    #[error("the server sends something without having been asked")]
    Unasked,
    #[error("connection error: {0}")]
    Io(#[source] io::Error),
    #[error("malformed head of an answer: {0}")]
    Head(#[source] httparse::Error),
    #[error("the head of an answer is too long, or has too many fields")]
    HeadTooLarge,
    #[error("more interim answers (1xx), or empty lines, come before an answer than are taken")]
    PreambleTooLong,
    #[error("ambiguous length of an answer: {0}")]
    Framing(&'static str),
    #[error("malformed chunks: {0}")]
    Chunk(&'static str),
    #[error("the request's body broke off")]
    RequestBody(#[source] BodyError),
    #[error("the request's body is shorter than was stated")]
    RequestBodyShort,
}

impl Http1Error {
    /// Whether the other side closed the connection, rather than answering with something that is no answer.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Incomplete => true,
            // Of TLS without a closing alert.
            Self::Io(error) => is_reset(error) || error.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }

    /// Whether something came that is no answer.
    pub fn is_of_answer(&self) -> bool {
        matches!(
            self,
            Self::Unasked
                | Self::Head(_)
                | Self::HeadTooLarge
                | Self::PreambleTooLong
                | Self::Framing(_)
                | Self::Chunk(_)
        )
    }

    /// Whether it is the request that cannot be sent as it is.
    pub fn is_of_request(&self) -> bool {
        matches!(self, Self::RequestBody(_) | Self::RequestBodyShort)
    }

    /// The fault of the request's own body, if it is that.
    pub fn body_error(&self) -> Option<&BodyError> {
        match self {
            Self::RequestBody(error) => Some(error),
            _ => None,
        }
    }
}

pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}
