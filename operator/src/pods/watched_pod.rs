//! What is kept of a pod, in as little memory as that takes: every replica keeps it of every pod, and pods of one Deployment
//! share what they have in common.

use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use super::{PodFacts, PodMeta};
use crate::entitlement::Labels;
use crate::inject::annotations;
use crate::pod_owners::controller;

/// What injection has written, and is told of.
const RETAINED_ANNOTATIONS: [&str; 4] = [
    annotations::INJECTED,
    annotations::SKIPPED,
    annotations::NOT_INJECTED,
    annotations::WARNINGS,
];
/// What is kept of one.
const MAX_ANNOTATION_BYTES: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Deserialize), serde(from = "PodMeta"))]
pub struct WatchedPod {
    pub name: Box<str>,
    pub uid: Box<str>,
    pub created: Option<Timestamp>,
    /// It has been deleted, and may still run.
    pub is_ending: bool,
    shared: Arc<SharedMeta>,
}

/// What the pods of one workload have in common.
#[derive(Clone, Debug, PartialEq)]
struct SharedMeta {
    labels: Labels,
    annotations: BTreeMap<String, String>,
    /// Whoever made the pod and looks after it.
    owner: Option<OwnerReference>,
}

impl WatchedPod {
    pub fn labels(&self) -> &Labels {
        &self.shared.labels
    }

    /// Those that injection has written.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.shared.annotations
    }

    pub fn owner(&self) -> Option<&OwnerReference> {
        self.shared.owner.as_ref()
    }

    #[cfg(test)]
    pub fn set_labels(&mut self, labels: Labels) {
        Arc::make_mut(&mut self.shared).labels = labels;
    }

    #[cfg(test)]
    pub fn set_annotations(&mut self, annotations: BTreeMap<String, String>) {
        Arc::make_mut(&mut self.shared).annotations = annotations;
    }
}

impl From<PodMeta> for WatchedPod {
    fn from(pod: PodMeta) -> Self {
        let shared = SharedMeta {
            owner: controller(pod.owner_references()).cloned(),
            annotations: retained(pod.annotations(), pod.labels()),
            labels: pod.metadata.labels.unwrap_or_default(),
        };
        Self {
            name: pod.metadata.name.unwrap_or_default().into(),
            uid: pod.metadata.uid.unwrap_or_default().into(),
            created: pod.metadata.creation_timestamp.map(|time| time.0),
            is_ending: pod.metadata.deletion_timestamp.is_some(),
            shared: shared.into(),
        }
    }
}

/// A mark that is a label counts as the annotation that it stands for.
fn retained(annotations: &BTreeMap<String, String>, labels: &Labels) -> BTreeMap<String, String> {
    let retained = RETAINED_ANNOTATIONS.iter().filter_map(|key| {
        let text = annotations::mark(key, annotations, labels)?;
        let end = text.floor_char_boundary(MAX_ANNOTATION_BYTES);
        Some(((*key).to_owned(), text[..end].to_owned()))
    });
    retained.collect()
}

impl PodFacts for WatchedPod {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels().get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations().get(key).map(String::as_str)
    }

    fn is_ending(&self) -> bool {
        self.is_ending
    }
}

impl Eq for SharedMeta {}

impl Hash for SharedMeta {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.labels.hash(state);
        self.annotations.hash(state);
        // What else is different is told apart all the same.
        self.owner.as_ref().map(|owner| &owner.uid).hash(state);
    }
}

/// Gives pods that have the same in common one copy of it.
#[derive(Default)]
pub struct SharedMetas {
    known: HashSet<Arc<SharedMeta>>,
    /// From so many on it is looked which are still in use.
    look_at: usize,
}

impl SharedMetas {
    pub fn share(&mut self, pod: &mut WatchedPod) {
        if let Some(known) = self.known.get(&pod.shared) {
            pod.shared = known.clone();
            return;
        }
        if self.known.len() >= self.look_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.look_at = 2 * self.known.len() + 16;
        }
        self.known.insert(pod.shared.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, labels: &serde_json::Value) -> WatchedPod {
        let metadata = json!({
            "name": name, "uid": format!("uid-{name}"), "labels": labels,
            "annotations": {annotations::INJECTED: "0.1.0", annotations::WARNINGS: "ü".repeat(600), "team": "red"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "litellm", "uid": "2", "controller": true},
            ],
            "managedFields": [{"manager": "kubelet"}],
        });
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn of_a_pod_is_kept_what_is_decided_by_and_no_endless_text() {
        let pod = pod("a", &json!({"app": "litellm"}));
        assert_eq!((&*pod.name, &*pod.uid), ("a", "uid-a"));
        assert_eq!(pod.labels()["app"], "litellm");
        assert_eq!(pod.owner().unwrap().name, "litellm");
        assert!(!pod.is_ending);
        let annotations = pod.annotations();
        assert_eq!(annotations.len(), 2, "{annotations:?}");
        assert_eq!(annotations[annotations::WARNINGS], "ü".repeat(512));
    }

    #[test]
    fn a_mark_that_is_a_label_counts_as_the_annotation_that_there_was_no_room_for() {
        let marked = |key: &str, reason: &str| pod("a", &json!({key: reason}));
        let too_large = marked(annotations::NOT_INJECTED, "AnnotationsTooLarge");
        let said = &too_large.annotations()[annotations::NOT_INJECTED];
        assert!(
            said.starts_with("AnnotationsTooLarge: ")
                && said.contains("256 KiB")
                && said.ends_with("take some out"),
            "{said}"
        );
        let other = marked(annotations::NOT_INJECTED, "HostNetwork");
        let said = &other.annotations()[annotations::NOT_INJECTED];
        assert!(
            said.starts_with("HostNetwork: ") && said.contains("docs/injection.md"),
            "{said}"
        );
        let skipped = marked(annotations::SKIPPED, "NotLiteLlm");
        assert_eq!(skipped.annotations()[annotations::SKIPPED], "NotLiteLlm");
        // Whether a pod is injected is never said by a label.
        let labelled = serde_json::from_value::<WatchedPod>(
            json!({"metadata": {"name": "a", "labels": {annotations::INJECTED: "1"}}}),
        );
        assert!(labelled.unwrap().annotations().is_empty());
    }

    #[test]
    fn pods_of_one_workload_share_what_they_have_in_common_and_what_is_gone_is_forgotten() {
        let mut metas = SharedMetas::default();
        let mut shared = |name: &str, labels| {
            let mut pod = pod(name, &labels);
            metas.share(&mut pod);
            pod
        };
        let [a, b] = ["a", "b"].map(|name| shared(name, json!({"app": "litellm"})));
        let other = shared("c", json!({"app": "other"}));
        assert!(Arc::ptr_eq(&a.shared, &b.shared));
        assert_eq!(other.labels()["app"], "other");
        for number in 0..1000 {
            shared("gone", json!({"app": number.to_string()}));
        }
        assert!(metas.known.len() < 100, "{}", metas.known.len());
        assert!(metas.known.contains(&a.shared));
    }
}
