//! Whether the API server has called the webhook of this replica: the webhook notes it, the status tells of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct WebhookCalls {
    /// When this replica started.
    pub started: Timestamp,
    /// The port that the webhook is served on.
    pub port: u16,
    called: Arc<AtomicBool>,
}

impl WebhookCalls {
    pub fn new(started: Timestamp, port: u16) -> Self {
        Self {
            started,
            port,
            called: Arc::default(),
        }
    }

    /// A review has come that the API server has sent, as far as that can be known: it is about a pod of a workload whose UID is
    /// the namespace's own secret ([`crate::pod_owners`]). Anybody in the cluster may send others.
    pub fn record(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    pub fn is_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }
}
