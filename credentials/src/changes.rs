//! Change notifications: wakes the streams of a namespace's sidecars when something of the namespace
//! changed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// One counter for each namespace. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Changes(Arc<Mutex<HashMap<String, watch::Sender<u64>>>>);

impl Changes {
    pub fn announce(&self, namespace: &str) {
        self.with_counter(namespace, |counter| counter.send_modify(|count| *count += 1));
    }

    /// How many there were of this namespace.
    pub fn count(&self, namespace: &str) -> u64 {
        self.with_counter(namespace, |counter| *counter.borrow())
    }

    /// A receiver that has not seen what came before.
    pub fn subscribe(&self, namespace: &str) -> watch::Receiver<u64> {
        self.with_counter(namespace, |counter| counter.subscribe())
    }

    fn with_counter<T>(&self, namespace: &str, act: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
        let mut counters = self.0.lock();
        act(counters
            .entry(namespace.to_owned())
            .or_insert_with(|| watch::Sender::new(0)))
    }
}
