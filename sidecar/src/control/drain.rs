//! Connection draining: whether the pod is about to end. From then on answers to users close their
//! connection, so that clients find another pod before this one is gone; and when the time for that is over,
//! idle connections are closed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// From the end of draining until the pod is taken for one that stays. By then it has gone, or its end was taken back.
const RESET_AFTER: Duration = Duration::from_secs(120);

/// Shared by the drain hook, which begins it, and the inbound half and its connections, which go by it.
#[derive(Clone, Debug, Default)]
pub struct Drain(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    phase: Phase,
    /// How often draining was asked for.
    requests: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Serving,
    Draining,
    Over,
}

impl Drain {
    /// Begins to drain for as long as `time`, unless that has been begun: `false`. Whether whoever asked waits for the
    /// end makes no difference.
    pub fn start(&self, time: Duration) -> bool {
        let begins = self.0.send_if_modified(|state| {
            state.requests += 1;
            let serving = state.phase == Phase::Serving;
            if serving {
                state.phase = Phase::Draining;
            }
            serving
        });
        if begins {
            let drain = self.clone();
            tokio::spawn(async move {
                sleep(time).await;
                drain.enter(Phase::Over);
                let mut seen = None;
                while seen != Some(drain.0.borrow().requests) {
                    seen = Some(drain.0.borrow().requests);
                    sleep(RESET_AFTER).await;
                }
                drain.enter(Phase::Serving);
            });
        }
        begins
    }

    pub fn is_draining(&self) -> bool {
        self.0.borrow().phase != Phase::Serving
    }

    /// Returns when it has ended.
    pub async fn wait_for_end(&self) {
        let mut state = self.0.subscribe();
        // An error would mean that there is no sender left, and there is this one.
        let _ = state.wait_for(|state| state.phase == Phase::Over).await;
    }

    fn enter(&self, phase: Phase) {
        self.0.send_modify(|state| state.phase = phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    const TIME: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_is_forgotten_even_if_nobody_waits() {
        let drain = Drain::default();
        assert!(drain.start(TIME));
        let impatient = timeout(Duration::from_secs(1), drain.wait_for_end()).await;
        assert!(impatient.is_err() && drain.is_draining());
        sleep(TIME + RESET_AFTER + Duration::from_secs(1)).await;
        assert!(!drain.is_draining(), "the pod is still there");
        assert!(drain.start(TIME), "it may begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn to_ask_again_begins_nothing_anew_and_is_remembered() {
        let drain = Drain::default();
        let began = Instant::now();
        assert!(drain.start(TIME));
        sleep(TIME / 2).await;
        assert!(!drain.start(TIME));
        drain.wait_for_end().await;
        assert_eq!(began.elapsed(), TIME);
        sleep(RESET_AFTER / 2).await;
        assert!(!drain.start(TIME), "it is over");
        drain.wait_for_end().await;
        sleep(RESET_AFTER).await;
        assert!(drain.is_draining(), "it was asked for a minute ago");
        sleep(RESET_AFTER).await;
        assert!(!drain.is_draining());
    }
}
