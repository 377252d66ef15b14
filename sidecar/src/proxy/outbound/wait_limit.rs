//! Wait limit: how many requests may wait for a token at the same time, so that servers without one do not fill the
//! memory. A server may have no more of them wait than it leaves room for others: however many are without a token,
//! there is always room for one more server.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::proxy::error::ProxyError;
use crate::proxy::metrics::Metrics;
use crate::proxy::routes::McpServer;

pub struct WaitLimit {
    capacity: usize,
    waiting: Mutex<Waiting>,
    metrics: Metrics,
}

#[derive(Default)]
struct Waiting {
    total: usize,
    /// By the server's name; none of them is zero.
    by_server: HashMap<Box<str>, usize>,
}

/// Counts one waiting request until it is dropped.
pub struct WaitPermit<'a> {
    limit: &'a WaitLimit,
    server: Box<str>,
}

/// Whether one that has `own` of what several share may take another: only while more than that is free. So it never
/// has more than half, and two never more than a third each.
pub fn has_share(own: usize, total: usize, capacity: usize) -> bool {
    own < capacity.saturating_sub(total)
}

impl WaitLimit {
    pub fn new(capacity: usize, metrics: Metrics) -> Self {
        Self {
            capacity,
            waiting: Mutex::default(),
            metrics,
        }
    }

    /// An error at once where too many wait for this server already.
    pub fn acquire(&self, server: &McpServer) -> Result<WaitPermit<'_>, ProxyError> {
        let mut waiting = self.waiting.lock();
        let own = waiting.by_server.get(&server.name).copied().unwrap_or_default();
        if !has_share(own, waiting.total, self.capacity) {
            return Err(ProxyError::TooManyWaiting {
                resource: server.resource.clone(),
            });
        }
        waiting.total += 1;
        waiting.by_server.insert(server.name.clone(), own + 1);
        self.metrics.waiting().inc();
        Ok(WaitPermit {
            limit: self,
            server: server.name.clone(),
        })
    }
}

impl Drop for WaitPermit<'_> {
    fn drop(&mut self) {
        let mut waiting = self.limit.waiting.lock();
        waiting.total -= 1;
        if let Some(own) = waiting.by_server.get_mut(&self.server) {
            *own -= 1;
            if *own == 0 {
                waiting.by_server.remove(&self.server);
            }
        }
        self.limit.metrics.waiting().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_all_they_can_leaves_room_for_one_more() {
        let mut taken = Vec::new();
        for _ in 0..4 {
            let mut own = 0;
            while has_share(own, taken.iter().sum::<usize>() + own, 1_000) {
                own += 1;
            }
            taken.push(own);
        }
        assert_eq!(taken, [500, 250, 125, 63]);
    }
}
