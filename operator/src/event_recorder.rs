//! Writes events, and no more about objects of one namespace in a minute than it may have: events are read by people, and a
//! flood of them about one tenant is in everybody's etcd.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::api_server::with_deadline;

const WINDOW: Duration = Duration::from_secs(60);
/// Reason of the event that is the last one of a window.
const LIMITED: &str = "EventsLimited";

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct EventRecorder {
    recorder: Recorder,
    budgets: Arc<Mutex<EventBudgets>>,
}

/// What was written of each namespace in its last minute.
struct EventBudgets {
    max_per_window: usize,
    namespaces: HashMap<String, Window>,
}

struct Window {
    began: Instant,
    wanted: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Budget {
    Left,
    /// That is told, once.
    JustSpent,
    Spent,
}

impl EventRecorder {
    pub fn new(recorder: Recorder, max_per_minute: usize) -> Self {
        Self {
            recorder,
            budgets: Arc::new(Mutex::new(EventBudgets::new(max_per_minute))),
        }
    }

    /// Writes an event, if the object's namespace may have one more. Whatever comes of it, the caller goes on: conditions and
    /// annotations say the same.
    pub async fn publish(&self, event: &Event, regarding: &ObjectReference) {
        let namespace = regarding.namespace.as_deref().unwrap_or_default();
        let (budget, max) = {
            let mut budgets = self.budgets.lock();
            (budgets.spend(namespace, Instant::now()), budgets.max_per_window)
        };
        match budget {
            Budget::Left => self.write(event, regarding).await,
            Budget::JustSpent => {
                warn!(namespace, max, "no more events are written in this minute");
                let limited = Event {
                    type_: EventType::Warning,
                    reason: LIMITED.to_owned(),
                    note: Some(format!(
                        "mcp-auth writes {max} events a minute in a namespace (limits.eventsPerNamespace), and there were more: \
                         conditions of resources and annotations of pods say what is not told here"
                    )),
                    action: event.action.clone(),
                    secondary: None,
                };
                self.write(&limited, regarding).await;
            }
            Budget::Spent => {}
        }
    }

    async fn write(&self, event: &Event, regarding: &ObjectReference) {
        if let Err(error) = with_deadline(self.recorder.publish(event, regarding)).await {
            let namespace = &regarding.namespace;
            warn!(%error, namespace, reason = event.reason, "an event could not be written");
        }
    }
}

impl EventBudgets {
    fn new(max_per_window: usize) -> Self {
        Self {
            max_per_window,
            namespaces: HashMap::new(),
        }
    }

    fn spend(&mut self, namespace: &str, now: Instant) -> Budget {
        let is_over = |window: &Window| now.duration_since(window.began) >= WINDOW;
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.retain(|_, window| !is_over(window));
        }
        let window = self.namespaces.entry(namespace.to_owned()).or_insert(Window {
            began: now,
            wanted: 0,
        });
        if is_over(window) {
            *window = Window {
                began: now,
                wanted: 0,
            };
        }
        window.wanted = window.wanted.saturating_add(1);
        match window.wanted.checked_sub(self.max_per_window) {
            None | Some(0) => Budget::Left,
            Some(1) => Budget::JustSpent,
            Some(_) => Budget::Spent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_events_of_a_minute_whatever_another_has_had() {
        let mut budgets = EventBudgets::new(2);
        let start = Instant::now();
        let spent: Vec<_> = (0..4).map(|_| budgets.spend("crowd", start)).collect();
        assert_eq!(
            spent,
            [Budget::Left, Budget::Left, Budget::JustSpent, Budget::Spent]
        );
        assert_eq!(budgets.spend("quiet", start), Budget::Left);
        assert_eq!(budgets.spend("crowd", start + WINDOW), Budget::Left);
        // Namespaces that had none of late are forgotten.
        assert_eq!(budgets.spend("new", start + 2 * WINDOW), Budget::Left);
        assert_eq!(budgets.namespaces.len(), 1);
    }
}
