//! Server hints: what the answers of one authorization server have taught its clients so far.

use std::sync::atomic::AtomicBool;

use mcp_auth_http_auth::ClockOffset;
use parking_lot::Mutex;

/// Shared by the clones of a client, and by clients of equal registrations.
#[derive(Debug, Default)]
pub(crate) struct ServerHints {
    /// It was the alternate secret that was last taken.
    pub alternate_taken: AtomicBool,
    /// The newest that the server named (RFC 9449 section 8.2).
    nonce: Mutex<Option<String>>,
    /// Of the server's clock.
    pub clock_offset: ClockOffset,
}

impl ServerHints {
    pub fn nonce(&self) -> Option<String> {
        self.nonce.lock().clone()
    }

    pub fn remember(&self, nonce: &str) {
        *self.nonce.lock() = Some(nonce.to_owned());
    }
}
