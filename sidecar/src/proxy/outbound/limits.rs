//! Limits: how long and how many requests wait for a token.

use std::time::Duration;

use mcp_auth_protocol::timeouts::USER_TOKEN;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for another token after the server has rejected one, in this request or in an earlier
    /// one.
    pub token_wait: Duration,
    /// How long requests wait after a rejection before one of them probes whether the server accepts the
    /// token again.
    pub probe_interval: Duration,
    /// Longest time that a token exchange for a user may take.
    pub exchange_timeout: Duration,
    /// Requests that wait at the same time; those beyond are answered at once. One server has half of them at most.
    pub max_waiting: usize,
    /// Users whose tokens are kept, of all servers together.
    pub max_users: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_wait: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            exchange_timeout: USER_TOKEN,
            max_waiting: 1_000,
            max_users: 10_000,
        }
    }
}
