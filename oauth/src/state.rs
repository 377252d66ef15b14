//! What a token source tells its subscribers: enough for a status, without further decisions.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{Error, Token};

/// The state of a token source.
#[derive(Clone, Debug)]
pub struct State {
    /// The token to use now. `None`: none was issued yet, or the last one has expired without a successor.
    pub token: Option<Arc<Token>>,
    /// Why the last request failed. `None`: it succeeded, or none is finished yet.
    pub last_error: Option<Failure>,
    /// When the next request is made. In the past: it is under way.
    pub next_attempt_at: Timestamp,
    /// Requests begun since the source was started. Rises without a notice; the outcome gives one.
    pub requests: u64,
    /// Failed requests since the last success, or since the client was replaced.
    pub failures_in_a_row: u32,
}

/// A failed token request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub at: Timestamp,
    pub error: Error,
}

impl State {
    pub(crate) fn new(token: Option<Arc<Token>>, next_attempt_at: Timestamp) -> Self {
        Self {
            token,
            last_error: None,
            next_attempt_at,
            requests: 0,
            failures_in_a_row: 0,
        }
    }
}
