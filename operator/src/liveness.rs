//! Liveness: notices a task that has stopped moving, so that the kubelet restarts the operator. What waits for
//! the API server has deadlines and goes on moving: nothing is restarted because another program is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often a task without work shows that it moves.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(10);
/// A task that has not moved for this long is stuck: longer than whatever it may wait for.
const LIMIT: Duration = Duration::from_secs(150);

/// When each task last moved. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Liveness(Arc<Mutex<BTreeMap<&'static str, Instant>>>);

/// A task that is stuck, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stuck {
    pub task: &'static str,
    pub since: Duration,
}

impl Liveness {
    /// The task moves. It is watched from its first beat on.
    pub fn beat(&self, task: &'static str) {
        self.0.lock().insert(task, Instant::now());
    }

    pub fn stuck(&self) -> Option<Stuck> {
        let beats = self.0.lock();
        let silences = beats.iter().map(|(task, at)| Stuck {
            task,
            since: at.elapsed(),
        });
        silences
            .max_by_key(|silence| silence.since)
            .filter(|silence| silence.since > LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_moves_no_more_is_named() {
        let liveness = Liveness::default();
        assert_eq!(liveness.stuck(), None);
        liveness.beat("reconcile");
        for _ in 0..100 {
            tokio::time::advance(BEAT_INTERVAL).await;
            liveness.beat("certificates");
            if liveness.stuck().is_some() {
                break;
            }
        }
        let stuck = liveness.stuck().unwrap();
        assert_eq!(stuck.task, "reconcile");
        assert!(
            stuck.since > LIMIT && stuck.since <= LIMIT + BEAT_INTERVAL,
            "{stuck:?}"
        );
        liveness.beat("reconcile");
        assert_eq!(liveness.stuck(), None);
    }
}
