//! What the webhook writes into a pod that it does not inject: why, so that the resource's status and the workload's events can say
//! it, and what there is to warn of.

use json_patch::{Patch, PatchOperation};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::annotations::{self, annotation};
use super::error::InjectionError;
use super::operations::Operations;
use super::warning::Warning;

/// Keys and values of all annotations of an object (`TotalAnnotationSizeLimitB` of Kubernetes).
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// Marks a pod that needs no sidecar: with the reason where it is selected, so that the resource's status does not wait
/// for one, and with what there is to warn of.
pub(super) fn mark_skipped(pod: &Pod, reason: Option<&'static str>, warnings: &[Warning]) -> Patch {
    let mark = reason.map(|reason| Mark {
        key: annotations::SKIPPED,
        reason,
        text: reason.to_owned(),
        replaces: annotations::NOT_INJECTED,
    });
    marked(pod, mark, warnings)
}

/// What the webhook says of a pod that it does not inject.
struct Mark {
    key: &'static str,
    reason: &'static str,
    text: String,
    /// The mark that a copied pod template may have in its place.
    replaces: &'static str,
}

/// With the mark and the warnings as annotations, as far as Kubernetes takes the pod then; where not even the mark's text fits,
/// with its reason as a label, whose size the annotations do not bound.
fn marked(pod: &Pod, mark: Option<Mark>, warnings: &[Warning]) -> Patch {
    let annotated = |added: &[(&'static str, String)]| {
        let mut operations = Operations::default();
        operations.annotate(pod, added);
        if let Some(mark) = &mark {
            remove_marks(&mut operations, pod, &[mark.replaces]);
        }
        let patch = operations.into_patch();
        has_room_for_annotations(pod, &patch).then_some(patch)
    };
    let text = mark.as_ref().map(|mark| (mark.key, mark.text.clone()));
    let all: Vec<_> = text
        .clone()
        .into_iter()
        .chain(warnings_annotation(warnings))
        .collect();
    if let Some(patch) = annotated(&all).or_else(|| annotated(text.as_slice())) {
        return patch;
    }
    let mut operations = Operations::default();
    if let Some(mark) = &mark {
        operations.label(pod, mark.key, mark.reason);
        remove_marks(&mut operations, pod, &[mark.replaces]);
    }
    operations.into_patch()
}

/// Whether Kubernetes takes the pod with the annotations that the patch adds.
pub(super) fn has_room_for_annotations(pod: &Pod, patch: &Patch) -> bool {
    let mut pod = serde_json::json!({"metadata": {"annotations": pod.metadata.annotations}});
    let is_of_annotations =
        |operation: &&PatchOperation| operation.path().as_str().starts_with("/metadata/annotations");
    let operations = patch.0.iter().filter(is_of_annotations).cloned().collect();
    if json_patch::patch(&mut pod, &Patch(operations)).is_err() {
        return true;
    }
    let annotations = pod["metadata"]["annotations"].as_object();
    let bytes = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    annotations.into_iter().flatten().map(bytes).sum::<usize>() <= MAX_ANNOTATIONS_BYTES
}

/// Marks a pod that starts without the sidecar that it should have, so that the resource's status can say why.
pub(super) fn mark_not_injected(pod: &Pod, error: &InjectionError, warnings: &[Warning]) -> Patch {
    let mark = Mark {
        key: annotations::NOT_INJECTED,
        reason: error.reason(),
        text: format!("{}: {error}", error.reason()),
        replaces: annotations::SKIPPED,
    };
    marked(pod, Some(mark), warnings)
}

/// Adds to the warnings of a pod that keeps the sidecar of an earlier injection.
pub(super) fn warn_of_previous(pod: &Pod, warning: &Warning) -> Patch {
    let mut operations = Operations::default();
    operations.annotate(pod, with_warning(pod, warning).as_slice());
    let patch = operations.into_patch();
    match has_room_for_annotations(pod, &patch) {
        true => patch,
        false => Patch::default(),
    }
}

/// The annotation of the pod's warnings with one more line; nothing where it has that line.
pub(super) fn with_warning(pod: &Pod, warning: &Warning) -> Option<(&'static str, String)> {
    let stated = annotation(pod, annotations::WARNINGS).unwrap_or_default();
    let line = format!("{}: {}", warning.reason, warning.message);
    let is_stated = stated.lines().any(|known| known == line);
    let lines = stated.lines().chain([line.as_str()]).collect::<Vec<_>>();
    (!is_stated).then(|| (annotations::WARNINGS, lines.join("\n")))
}

/// Takes these out, whether they are annotations or labels.
pub(super) fn remove_marks(operations: &mut Operations, pod: &Pod, keys: &[&str]) {
    let labels = pod.metadata.labels.as_ref();
    for key in keys {
        if annotation(pod, key).is_some() {
            operations.remove(&["metadata", "annotations", key]);
        }
        if labels.is_some_and(|labels| labels.contains_key(*key)) {
            operations.remove(&["metadata", "labels", key]);
        }
    }
}

/// The lasting warnings, a line each; nothing where there is none.
pub(super) fn warnings_annotation(warnings: &[Warning]) -> Option<(&'static str, String)> {
    let lasting = warnings.iter().filter(|warning| warning.is_lasting);
    let lines: Vec<String> = lasting
        .map(|warning| format!("{}: {}", warning.reason, warning.message))
        .collect();
    (!lines.is_empty()).then(|| (annotations::WARNINGS, lines.join("\n")))
}
