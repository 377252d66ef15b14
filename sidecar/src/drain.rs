//! Whether the pod is about to leave. From then on answers to users close their connection, and connections that nobody
//! uses are closed at once, so that clients find another pod before this one is gone.

use tokio::sync::watch;

/// Shared by the drain hook, which begins it, and the inbound half and its connections, which go by it.
#[derive(Clone, Debug, Default)]
pub struct Drain(watch::Sender<bool>);

impl Drain {
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it has begun.
    pub async fn begun(&self) {
        let mut begun = self.0.subscribe();
        // An error would mean that there is no sender left, and there is this one.
        let _ = begun.wait_for(|begun| *begun).await;
    }
}
