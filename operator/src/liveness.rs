//! Liveness: notices a task that has stopped moving, so that the kubelet restarts the operator. What waits for
//! the API server has deadlines and goes on moving: nothing is restarted because another program is away.

use std::collections::{BTreeMap, HashMap};
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
pub struct Liveness(Arc<Mutex<Beats>>);

#[derive(Default)]
struct Beats {
    /// Of tasks that run for as long as the operator does.
    tasks: BTreeMap<&'static str, Instant>,
    /// Of those that end.
    pulses: HashMap<u64, (String, Instant)>,
    last_pulse: u64,
}

/// One task of several, or one piece of work, that has to move until this is dropped.
pub struct Pulse {
    liveness: Liveness,
    number: u64,
}

/// A task that is stuck, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stuck {
    pub task: String,
    pub since: Duration,
}

impl Liveness {
    /// The task moves. It is watched from its first beat on.
    pub fn beat(&self, task: &'static str) {
        self.0.lock().tasks.insert(task, Instant::now());
    }

    /// A task or a piece of work that begins now, and that this names where it is stuck. It ends when the pulse is dropped, unless
    /// that is by a panic: a task that is gone moves no more.
    pub fn pulse(&self, task: String) -> Pulse {
        let mut beats = self.0.lock();
        beats.last_pulse += 1;
        let number = beats.last_pulse;
        beats.pulses.insert(number, (task, Instant::now()));
        Pulse {
            liveness: self.clone(),
            number,
        }
    }

    /// What would be noticed, for tests of those that run.
    #[cfg(test)]
    pub fn watched(&self) -> Vec<String> {
        let beats = self.0.lock();
        let tasks = beats.tasks.keys().map(|task| (*task).to_owned());
        tasks
            .chain(beats.pulses.values().map(|(task, _)| task.clone()))
            .collect()
    }

    pub fn stuck(&self) -> Option<Stuck> {
        let beats = self.0.lock();
        let tasks = beats.tasks.iter().map(|(task, at)| (*task, at.elapsed()));
        let pulses = beats
            .pulses
            .values()
            .map(|(task, at)| (task.as_str(), at.elapsed()));
        let longest = tasks.chain(pulses).max_by_key(|(_, since)| *since);
        let stuck = longest.filter(|(_, since)| *since > LIMIT);
        stuck.map(|(task, since)| Stuck {
            task: task.to_owned(),
            since,
        })
    }
}

impl Pulse {
    /// It moves.
    pub fn beat(&self) {
        if let Some((_, at)) = self.liveness.0.lock().pulses.get_mut(&self.number) {
            *at = Instant::now();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.liveness.0.lock().pulses.remove(&self.number);
        }
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

    #[tokio::test(start_paused = true)]
    async fn work_that_never_ends_is_stuck_and_work_that_ended_is_not() {
        let liveness = Liveness::default();
        let hung = liveness.pulse("status of llm/tools".to_owned());
        drop(liveness.pulse("status of llm/other".to_owned()));
        let moving = liveness.pulse("pods of llm".to_owned());
        tokio::time::advance(LIMIT + BEAT_INTERVAL).await;
        moving.beat();
        assert_eq!(liveness.stuck().unwrap().task, "status of llm/tools");
        hung.beat();
        assert_eq!(liveness.stuck(), None);
        tokio::time::advance(LIMIT + BEAT_INTERVAL).await;
        drop((hung, moving));
        assert_eq!(liveness.stuck(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ended_by_a_panic_is_stuck_and_one_that_was_ended_is_not() {
        let liveness = Liveness::default();
        let pulse = liveness.pulse("pods of llm".to_owned());
        let task = tokio::spawn(async move {
            pulse.beat();
            panic!("as by an error of ours");
        });
        assert!(task.await.unwrap_err().is_panic());
        let pulse = liveness.pulse("pods of other".to_owned());
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            pulse.beat();
        });
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        tokio::time::advance(2 * LIMIT).await;
        assert_eq!(liveness.stuck().unwrap().task, "pods of llm");
    }
}
