//! Room for requests that wait for a token: bounded, so that a server without one does not fill the memory.

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::proxy::metrics::Metrics;
use crate::proxy::respond::Refusal;

pub struct WaitingRoom {
    places: Semaphore,
    metrics: Metrics,
}

/// A place that is taken until it is dropped.
pub struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    waiting: &'a Gauge,
}

impl WaitingRoom {
    pub fn new(places: usize, metrics: Metrics) -> Self {
        Self {
            places: Semaphore::new(places),
            metrics,
        }
    }

    /// Refuses at once where there is no room. `resource` is for the message.
    pub fn enter(&self, resource: &str) -> Result<Place<'_>, Refusal> {
        let permit = self.places.try_acquire().map_err(|_| Refusal::TooManyWaiting {
            resource: resource.into(),
        })?;
        let waiting = self.metrics.waiting();
        waiting.inc();
        Ok(Place {
            _permit: permit,
            waiting,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.dec();
    }
}
