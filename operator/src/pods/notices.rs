//! Turns what injection has written into a pod's annotations into notices for its workload. Every replica watches the pods, and
//! the one that leads tells of them.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{WatchedPod, is_injected};
use crate::inject::annotations;
use crate::workload_events::{NoticeKind, WorkloadEvents};

/// Of a pod that is older an earlier leader has written the events.
const MAX_NEW_POD_AGE: Duration = Duration::from_secs(10 * 60);

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct PodNotices {
    events: WorkloadEvents,
    /// Whether this replica leads.
    leads: watch::Receiver<bool>,
}

impl PodNotices {
    pub fn new(events: WorkloadEvents, leads: watch::Receiver<bool>) -> Self {
        Self { events, leads }
    }

    /// For tests that look at no event.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::new(WorkloadEvents::unread(), watch::channel(false).1)
    }

    /// Tells the workload what injection has to say of its pod, if this replica leads.
    pub fn tell_if_leading(&self, namespace: &str, pod: &WatchedPod) {
        if !*self.leads.borrow() {
            return;
        }
        for (kind, text) in notices(pod, Timestamp::now()) {
            self.events.tell_owner(namespace, pod.owner(), kind, text);
        }
    }
}

/// What there is to tell of a pod: of a new one all, and of an older one what is a fault for as long as the pod runs. What was
/// refused made no pod, and is told by the webhook.
fn notices(pod: &WatchedPod, now: Timestamp) -> Vec<(NoticeKind, &str)> {
    let warning = match is_injected(pod) {
        true => NoticeKind::Warning,
        false => NoticeKind::UnknownAnnotation,
    };
    let kinds = [
        (annotations::NOT_INJECTED, NoticeKind::NotInjected),
        (annotations::SKIPPED, NoticeKind::Skipped),
        (annotations::WARNINGS, warning),
    ];
    let is_new = pod
        .created
        .is_some_and(|created| now <= created + MAX_NEW_POD_AGE);
    let is_told = |kind| !pod.is_ending && (is_new || kind == NoticeKind::NotInjected);
    let stated = kinds
        .into_iter()
        .filter_map(|(key, kind)| Some((kind, pod.annotations().get(key)?.as_str())));
    stated.filter(|(kind, _)| is_told(*kind)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotations: serde_json::Value) -> WatchedPod {
        let metadata =
            json!({"name": "a", "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_pod_that_runs_without_its_sidecar_is_told_of_for_as_long_as_it_does_and_the_rest_while_it_is_new() {
        let young: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let old: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let left_alone = pod(
            json!({"mcpauth.dev/not-injected": "HostNetwork: x", "mcpauth.dev/warnings": "UnknownAnnotation: y"}),
        );
        assert_eq!(
            notices(&left_alone, young),
            [
                (NoticeKind::NotInjected, "HostNetwork: x"),
                (NoticeKind::UnknownAnnotation, "UnknownAnnotation: y")
            ]
        );
        assert_eq!(
            notices(&left_alone, old),
            [(NoticeKind::NotInjected, "HostNetwork: x")]
        );
        let injected = pod(json!({"mcpauth.dev/injected": "1", "mcpauth.dev/warnings": "LowPort: z"}));
        assert_eq!(notices(&injected, young), [(NoticeKind::Warning, "LowPort: z")]);
        assert!(notices(&injected, old).is_empty());
        let skipped = pod(json!({"mcpauth.dev/skipped": "NotLiteLlm"}));
        assert!(notices(&skipped, old).is_empty());
        let mut ending = left_alone;
        ending.is_ending = true;
        assert!(notices(&ending, young).is_empty(), "it is on its way out");
    }
}
