//! Whether the pod is about to leave. From then on answers to users close their connection, so that clients find
//! another pod before this one is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the drain hook, which begins it, and the inbound half, which asks for each answer.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
