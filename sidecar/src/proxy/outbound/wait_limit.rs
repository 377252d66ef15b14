//! Wait limit: how many requests may wait for a token at the same time, so that a server without one does not
//! fill the memory.

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::proxy::error::ProxyError;
use crate::proxy::metrics::Metrics;

pub struct WaitLimit {
    permits: Semaphore,
    metrics: Metrics,
}

/// Counts one waiting request until it is dropped.
pub struct WaitPermit<'a> {
    _permit: SemaphorePermit<'a>,
    waiting: &'a Gauge,
}

impl WaitLimit {
    pub fn new(permits: usize, metrics: Metrics) -> Self {
        Self {
            permits: Semaphore::new(permits),
            metrics,
        }
    }

    /// An error at once where too many wait already. `resource` is for its message.
    pub fn acquire(&self, resource: &str) -> Result<WaitPermit<'_>, ProxyError> {
        let permit = self
            .permits
            .try_acquire()
            .map_err(|_| ProxyError::TooManyWaiting {
                resource: resource.into(),
            })?;
        let waiting = self.metrics.waiting();
        waiting.inc();
        Ok(WaitPermit {
            _permit: permit,
            waiting,
        })
    }
}

impl Drop for WaitPermit<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}
