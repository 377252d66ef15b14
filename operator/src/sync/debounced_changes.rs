//! Debounced changes: wakes the streams of a namespace once for changes that come within a moment of one another, such as
//! ten tokens renewed at once. One timer for the namespace, in place of one for each of its streams.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_credentials::Changes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Changes within this time of the first become one.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct DebouncedChanges {
    changes: Changes,
    /// By namespace, for as long as anybody has subscribed to it.
    relays: Arc<Mutex<HashMap<String, watch::Sender<()>>>>,
}

impl DebouncedChanges {
    pub fn new(changes: Changes) -> Self {
        Self {
            changes,
            relays: Arc::default(),
        }
    }

    /// A receiver that has seen what came before.
    pub fn subscribe(&self, namespace: &str) -> watch::Receiver<()> {
        let mut relays = self.relays.lock();
        if let Some(relay) = relays.get(namespace) {
            return relay.subscribe();
        }
        let (relay, receiver) = watch::channel(());
        relays.insert(namespace.to_owned(), relay.clone());
        // Before the lock is released, so that no change is lost between.
        let changes = self.changes.subscribe(namespace);
        tokio::spawn(self.clone().pass_on(namespace.to_owned(), changes, relay));
        receiver
    }

    async fn pass_on(self, namespace: String, mut changes: watch::Receiver<u64>, relay: watch::Sender<()>) {
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    // The operator is stopping.
                    if changed.is_err() { break }
                    tokio::time::sleep(DEBOUNCE).await;
                    changes.mark_unchanged();
                    relay.send_replace(());
                }
                () = relay.closed() => {
                    let mut relays = self.relays.lock();
                    // Somebody may have subscribed since.
                    if relay.is_closed() {
                        relays.remove(&namespace);
                        return;
                    }
                }
            }
        }
        self.relays.lock().remove(&namespace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_one_moment_wake_a_stream_once_and_those_of_another_namespace_do_not() {
        let changes = Changes::default();
        let debounced = DebouncedChanges::new(changes.clone());
        let [mut here, mut beside] = [(); 2].map(|()| debounced.subscribe("apps"));
        let there = debounced.subscribe("other");
        for _ in 0..10 {
            changes.announce("apps");
        }
        here.changed().await.unwrap();
        beside.changed().await.unwrap();
        tokio::time::sleep(10 * DEBOUNCE).await;
        assert!(!here.has_changed().unwrap() && !there.has_changed().unwrap());
        changes.announce("apps");
        here.changed().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_without_streams_is_forgotten_and_the_next_stream_hears_of_its_changes() {
        let changes = Changes::default();
        let debounced = DebouncedChanges::new(changes.clone());
        drop(debounced.subscribe("apps"));
        while !debounced.relays.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let mut again = debounced.subscribe("apps");
        changes.announce("apps");
        again.changed().await.unwrap();
    }
}
