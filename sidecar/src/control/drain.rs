//! Connection draining: whether the pod is about to end. From then on answers to users close their
//! connection, so that clients find another pod before this one is gone; and when the time for that is over,
//! idle connections are closed.

use tokio::sync::watch;

/// Shared by the drain hook, which begins and ends it, and the inbound half and its connections, which go by
/// it.
#[derive(Clone, Debug, Default)]
pub struct Drain(watch::Sender<Phase>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Serving,
    Draining,
    Over,
}

impl Drain {
    pub fn begin(&self) {
        self.0.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
    }

    pub fn end(&self) {
        self.0.send_replace(Phase::Over);
    }

    /// The pod is still there: its end was only that of LiteLLM's container, which has a hook for that too.
    pub fn forget(&self) {
        self.0.send_replace(Phase::Serving);
    }

    pub fn is_draining(&self) -> bool {
        *self.0.borrow() != Phase::Serving
    }

    /// Returns when it has ended.
    pub async fn wait_for_end(&self) {
        let mut phase = self.0.subscribe();
        // An error would mean that there is no sender left, and there is this one.
        let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
    }
}
