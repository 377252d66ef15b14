//! What is kept of users' tokens: for a bounded number of users in all, and for each MCP server by itself. Where there
//! is no room, the server with the most users loses the one that was used least recently, so a flood of users at one
//! server takes no token from the users of another.

use std::collections::HashMap;
use std::sync::Arc;

use mcp_auth_resilience::single_flight::{AllInFlight, Lookup, SingleFlightCache, StartedRequest};
use tokio::sync::Semaphore;

use super::{CachedResult, ExchangeResult, UserKey};
use crate::proxy::outbound::wait_limit::has_share;

/// Token exchanges for one server that run at the same time: an authorization server that is slow for one does not
/// hold up the others.
const MAX_CONCURRENT_EXCHANGES: usize = 64;

pub struct UserTokenCache {
    capacity: usize,
    servers: HashMap<Box<str>, ServerCache>,
}

struct ServerCache {
    users: SingleFlightCache<UserKey, Option<CachedResult>, ExchangeResult>,
    exchanges: Arc<Semaphore>,
}

impl UserTokenCache {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            servers: HashMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.servers.values().map(|server| server.users.len()).sum()
    }

    pub fn lookup(
        &mut self,
        server: &str,
        user: &UserKey,
    ) -> Option<Lookup<'_, Option<CachedResult>, ExchangeResult>> {
        self.servers.get_mut(server)?.users.lookup(user)
    }

    pub fn get_mut(&mut self, server: &str, user: &UserKey) -> Option<&mut Option<CachedResult>> {
        self.servers.get_mut(server)?.users.get_mut(user)
    }

    /// Enters an exchange, and returns what bounds those of its server.
    pub fn start(
        &mut self,
        server: &str,
        user: UserKey,
    ) -> Result<(StartedRequest<ExchangeResult>, Arc<Semaphore>), AllInFlight> {
        let in_flight = |cache: &ServerCache| cache.users.in_flight();
        let total_in_flight = self.servers.values().map(in_flight).sum();
        let own_in_flight = self.servers.get(server).map(in_flight).unwrap_or_default();
        if !has_share(own_in_flight, total_in_flight, self.capacity) {
            return Err(AllInFlight);
        }
        if self.get_mut(server, &user).is_none() && self.len() >= self.capacity {
            // Those with an exchange under way stay.
            let idle = |cache: &&mut ServerCache| cache.users.len() - cache.users.in_flight();
            let most = self.servers.values_mut().max_by_key(idle);
            if !most.is_some_and(|most| most.users.evict()) {
                return Err(AllInFlight);
            }
        }
        let cache = self.servers.entry(server.into()).or_insert_with(|| ServerCache {
            users: SingleFlightCache::new(self.capacity),
            exchanges: Arc::new(Semaphore::new(MAX_CONCURRENT_EXCHANGES)),
        });
        Ok((cache.users.start(user)?, cache.exchanges.clone()))
    }

    pub fn finish(&mut self, server: &str, user: UserKey) -> Option<&mut Option<CachedResult>> {
        self.servers.get_mut(server)?.users.finish(user)
    }

    pub fn retain(&mut self, keep: impl Fn(&Option<CachedResult>) -> bool) {
        self.servers.retain(|_, server| {
            server.users.retain(&keep);
            !server.users.is_empty()
        });
    }
}
