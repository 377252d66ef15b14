//! Writes events, and no more about objects of one namespace in a minute than it may have: events are read by people, and a
//! flood of them about one tenant is in everybody's etcd.
//!
//! The same type, reason and note about the same object is one event with a series, whichever replica wrote it first. Another
//! note is another event: kube's own recorder counts it in the first event's series, and its text is lost.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event as KubernetesEvent, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use crate::api_server::with_deadline;

/// Of the operator, in each of its events.
const CONTROLLER: &str = "mcp-auth-operator";
/// Longest name of an object in Kubernetes (RFC 1123 subdomain).
const MAX_NAME_BYTES: usize = 253;

const WINDOW: Duration = Duration::from_secs(60);
/// Reason of the event that is the last one of a window.
const LIMITED: &str = "EventsLimited";

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct EventRecorder {
    client: Client,
    /// Name of this replica.
    instance: String,
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
    pub fn new(client: Client, instance: String, max_per_minute: usize) -> Self {
        Self {
            client,
            instance,
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
        if let Err(error) = self.create_or_count(event, regarding).await {
            let namespace = &regarding.namespace;
            warn!(%error, namespace, reason = event.reason, "an event could not be written");
        }
    }

    /// Creates the event, or counts once more in its series, which also renews the time that the API server keeps it for.
    async fn create_or_count(&self, event: &Event, regarding: &ObjectReference) -> kube::Result<()> {
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        let api = Api::<KubernetesEvent>::namespaced(self.client.clone(), namespace);
        let new_event = self.kubernetes_event(event, regarding);
        let name = new_event.metadata.name.clone().unwrap_or_default();
        let create = || async {
            let created = with_deadline(api.create(&PostParams::default(), &new_event)).await;
            created.map(drop)
        };
        let created = create().await;
        if !is_status(&created, 409) {
            return created;
        }
        // A patch of nothing reads the event: the operator may not get any.
        let patch = async |change: serde_json::Value| {
            with_deadline(api.patch(&name, &PatchParams::default(), &Patch::Merge(change))).await
        };
        let counted = async {
            let known = patch(json!({})).await?;
            let series = EventSeries {
                count: known.series.map_or(2, |series| series.count.saturating_add(1)),
                last_observed_time: MicroTime(Timestamp::now()),
            };
            patch(json!({"series": series})).await.map(drop)
        };
        let counted = counted.await;
        match is_status(&counted, 404) {
            // Its time has ended meanwhile.
            true => create().await,
            false => counted,
        }
    }

    fn kubernetes_event(&self, event: &Event, regarding: &ObjectReference) -> KubernetesEvent {
        let type_ = match event.type_ {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        KubernetesEvent {
            action: Some(event.action.clone()),
            event_time: Some(MicroTime(Timestamp::now())),
            metadata: ObjectMeta {
                name: Some(event_name(event, type_, regarding)),
                namespace: regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            note: event.note.clone(),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.to_owned()),
            ..KubernetesEvent::default()
        }
    }
}

/// Whether the API server answered with this status code.
fn is_status<T>(outcome: &kube::Result<T>, code: u16) -> bool {
    matches!(outcome, Err(kube::Error::Api(status)) if status.code == code)
}

/// Of the object that it is about, and a digest of all that tells the event from others about it.
fn event_name(event: &Event, type_: &str, regarding: &ObjectReference) -> String {
    let mut hash = Sha256::new();
    let about = [&regarding.api_version, &regarding.kind, &regarding.uid];
    let parts = about.into_iter().chain([&event.note]);
    let parts = parts.map(|part| part.as_deref().unwrap_or_default());
    for part in parts.chain([type_, &event.reason, &event.action]) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut suffix = String::from(".");
    for byte in &digest[..8] {
        write!(suffix, "{byte:02x}").expect("a text takes all");
    }
    let name = regarding.name.as_deref().unwrap_or(CONTROLLER);
    let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES - suffix.len())];
    let name = name.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    format!("{name}{suffix}")
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
