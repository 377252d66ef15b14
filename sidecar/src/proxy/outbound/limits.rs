//! How long and how many requests wait for a token.

use std::time::Duration;

use mcp_auth_protocol::timeouts::USER_TOKEN;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for another token after the server refused one, or knowing that it does.
    pub patience: Duration,
    /// How long a refusal holds before one request finds out whether the server takes the token again.
    pub probe: Duration,
    /// Longest time that an exchange for a user may take.
    pub exchange: Duration,
    /// Requests that wait at the same time; those beyond are answered at once.
    pub waiting: usize,
    /// Users whose tokens are kept.
    pub users: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            probe: Duration::from_secs(1),
            exchange: USER_TOKEN,
            waiting: 1_000,
            users: 10_000,
        }
    }
}
