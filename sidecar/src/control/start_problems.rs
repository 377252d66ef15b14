//! Start problems: what a part of the sidecar waits for before it can serve, such as a port that another process of the pod
//! holds. They go up with the sidecar's report: its log alone is where nobody looks.

use std::collections::BTreeMap;

use mcp_auth_protocol::sync::Problem;
use tokio::sync::watch;

/// By the part that waits. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StartProblems(watch::Sender<BTreeMap<&'static str, Problem>>);

impl StartProblems {
    /// The part waits for this, and for nothing else any more.
    pub fn set(&self, part: &'static str, problem: Problem) {
        self.0.send_if_modified(|problems| {
            let previous = problems.insert(part, problem);
            previous.as_ref() != problems.get(part)
        });
    }

    /// The part serves.
    pub fn clear(&self, part: &'static str) {
        self.0
            .send_if_modified(|problems| problems.remove(part).is_some());
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<&'static str, Problem>> {
        self.0.subscribe()
    }
}
