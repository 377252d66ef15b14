//! What a client has in common with others of its process: clock, limits, counts, and what is known of servers.

use std::sync::Arc;

use super::Client;
use crate::{Clock, RequestLimiter, SharedTokenSlot, TokenCount, TokenDigest};

impl Client {
    /// Takes the time of assertions, proofs, certificates, metadata and tokens from another clock than the
    /// system's.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.discovery = self
            .discovery
            .map(|discovery| Arc::new(discovery.with_clock(clock.clone())));
        self.identity_provider = self
            .identity_provider
            .map(|client| Box::new(client.with_clock(clock.clone())));
        self.clock = clock;
        self
    }

    /// Keeps to the rate limits that other clients of this process keep to.
    pub fn with_limiter(mut self, limiter: RequestLimiter) -> Self {
        self.identity_provider = self
            .identity_provider
            .map(|client| Box::new(client.with_limiter(limiter.clone())));
        self.limiter = limiter;
        self
    }

    /// Counts the requests of this client and what the authorization server issues to it; not what an identity provider does.
    pub fn with_count(mut self, count: TokenCount) -> Self {
        self.count = count;
        self
    }

    /// Shares what answers teach with the other clients of the same registration.
    pub fn with_shared_hints(mut self, slot: &SharedTokenSlot) -> Self {
        self.hints = Arc::clone(&slot.hints);
        self
    }

    /// How its tokens are told apart from those of other registrations; none where they are its own alone.
    pub fn token_digest(&self) -> Option<TokenDigest> {
        TokenDigest::of(&self.registration, self.transport.limits().deadline)
    }

    /// Takes over what another client knows of the issuer, where both are to find it by the same MCP server.
    /// For a client that takes the place of another of the same registration, such as one with a changed
    /// secret: that one may have shown its secret to a server that issued nothing, and is as bound to it as
    /// after a token.
    pub fn with_known_issuer_from(mut self, earlier: &Self) -> Self {
        if let (Some(discovery), Some(earlier)) = (&self.discovery, &earlier.discovery) {
            self.discovery = Some(Arc::new(discovery.with_known_issuer_from(earlier)));
        }
        self
    }
}
