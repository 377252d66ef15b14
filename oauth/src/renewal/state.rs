//! The state that a token source publishes: enough for a status, without further decisions.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{Circuit, Error, StepUp, Token};

/// The state of a token source.
#[derive(Clone, Debug)]
pub struct TokenSourceState {
    /// The token to use now. `None`: none was issued yet, or the last one has expired without a successor.
    pub token: Option<Arc<Token>>,
    /// A resource server refused this token. It stays published until its successor is there: other
    /// servers, and other calls, may take it.
    pub rejected: bool,
    /// Refusals of one token after the other, until one has lived without for ten minutes or to its regular
    /// renewal.
    pub rejections_in_a_row: u32,
    /// What became of scopes that a resource server demanded.
    pub step_up: StepUp,
    /// Why the last request failed. `None`: it succeeded, or none is finished yet.
    pub last_error: Option<Failure>,
    /// When the next request is made. In the past: it is under way.
    pub next_attempt_at: Timestamp,
    /// Requests begun since the source was started. Rises without a notice; the outcome gives one.
    pub requests: u64,
    /// Failed requests since the last success, or since the client was replaced.
    pub failures_in_a_row: u32,
    /// Whether requests are made at all. Turns half open without a notice; the outcome gives one.
    pub circuit: Circuit,
    /// Counts the clients that this source was given, from 0.
    pub generation: u64,
    /// The client that the token in use was issued to. `None`: there is none, or it was handed over.
    pub token_generation: Option<u64>,
}

/// A failed token request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub at: Timestamp,
    pub error: Error,
}

impl TokenSourceState {
    pub(crate) fn new(token: Option<Arc<Token>>, next_attempt_at: Timestamp) -> Self {
        Self {
            token,
            rejected: false,
            rejections_in_a_row: 0,
            step_up: StepUp::None,
            last_error: None,
            next_attempt_at,
            requests: 0,
            failures_in_a_row: 0,
            circuit: Circuit::Closed,
            generation: 0,
            token_generation: None,
        }
    }

    /// Whether the token in use was issued for the secret, key and registration that are configured now.
    pub fn is_verified(&self) -> bool {
        self.token_generation == Some(self.generation)
    }
}
