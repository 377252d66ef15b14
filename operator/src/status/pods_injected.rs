//! The part of `SidecarsSynced` that says why selected pods have no sidecar, and the one thing to do about it.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use mcp_auth_crds::{conditions, reasons};

use super::selection::{Selection, list};
use super::{ConditionDraft, SelectedPod};
use crate::inject::annotations;
use crate::pods::{self, PodMeta};

/// Right after the operator's start the API server may not trust the webhook yet.
const WEBHOOK_START: Duration = Duration::from_secs(30);

/// What is known of the way from the API server to the webhook, and who is to use it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InjectionFacts {
    /// Whether the namespace's label asks for injection; nothing where that cannot be read.
    pub namespace_opted_in: Option<bool>,
    /// Whether the API server has called this replica's webhook since its start.
    pub webhook_called: bool,
    pub operator_started: Timestamp,
    /// The webhook's port.
    pub webhook_port: u16,
}

pub(super) fn draft(holds: bool, reason: &str, message: String) -> Option<ConditionDraft> {
    let type_ = conditions::SIDECARS_SYNCED;
    Some(ConditionDraft::new(type_, Some(holds), reason, message))
}

pub(super) fn none_selected(selection: &Selection<'_>) -> Option<ConditionDraft> {
    if !selection.pods.is_empty() {
        return None;
    }
    let selector = &selection.inputs.resource.spec.pod_selector;
    let selector = serde_json::to_string(selector).expect("a selector is plain values");
    let passed_over = &selection.inputs.passed_over;
    let Some(first) = passed_over.iter().min_by_key(|pod| pod.name_any()) else {
        let message = format!(
            "spec.podSelector {selector} matches no running pod of this namespace: compare it with the pods' labels"
        );
        return draft(false, reasons::NO_PODS_SELECTED, message);
    };
    let message = format!(
        "spec.podSelector {selector} matches {} running pods of this namespace, and none of them gets a sidecar: \
         pod {} {}",
        passed_over.len(),
        first.name_any(),
        why_passed_over(first) + &besides(first)
    );
    draft(false, reasons::PODS_SKIPPED, message)
}

fn why_passed_over(pod: &PodMeta) -> String {
    let skipped = pod.annotations().get(annotations::SKIPPED).map(String::as_str);
    match skipped {
        Some("NotLiteLlm") => format!(
            "serves no LiteLLM API; if it does, name its container in the pod template's annotation {}",
            annotations::CONTAINER
        ),
        Some("RunsToCompletion") => "is not restarted when it ends (restartPolicy)".to_owned(),
        Some("HelmHook") => "is a hook of Helm".to_owned(),
        Some(other) => format!("was skipped: {other}"),
        None if pods::is_of_job(pod) => "belongs to a Job".to_owned(),
        None => format!(
            "has the label {}: \"false\"; take it off the pod template if that is wrong",
            annotations::INJECT_LABEL
        ),
    }
}

/// What there is to warn of in a pod without a sidecar.
fn besides(pod: &PodMeta) -> String {
    let text = pod.annotations().get(annotations::WARNINGS);
    text.map(|text| format!("; {}", text.replace('\n', "; ")))
        .unwrap_or_default()
}

/// The webhook looked at them and left them alone, and said why.
pub(super) fn left_alone(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let mut why: Vec<&str> = selection
        .pods
        .iter()
        .filter_map(|(pod, _)| why_left_alone(pod))
        .collect();
    why.sort_unstable();
    let why = why.first()?;
    let is_alike = |(pod, _): &&SelectedPod| why_left_alone(pod) == Some(why);
    let pods = selection.list(is_alike)?;
    let first = selection
        .pods
        .iter()
        .filter(is_alike)
        .min_by_key(|(pod, _)| pod.name_any());
    let besides = first.map(|(pod, _)| besides(pod)).unwrap_or_default();
    let message = format!(
        "{pods} run without the sidecar, because injection is not possible: {why}{besides}. Change that in the pod \
         template, which restarts them"
    );
    draft(false, reasons::PODS_NOT_INJECTED, message)
}

fn why_left_alone(pod: &PodMeta) -> Option<&str> {
    let why = pod.annotations().get(annotations::NOT_INJECTED)?;
    (!pods::is_injected(pod)).then_some(why)
}

/// Pods that the webhook should have been asked about, and was not.
pub(super) fn webhook_not_reached(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let facts = &selection.inputs.injection;
    let is_marked = |pod: &PodMeta| {
        let keys = [
            annotations::INJECTED,
            annotations::SKIPPED,
            annotations::NOT_INJECTED,
        ];
        keys.iter().any(|key| pod.annotations().contains_key(*key))
    };
    // Each replica is asked about some pods, and the marks of those are seen by all.
    let all_pods = || {
        let selected = selection.pods.iter().map(|(pod, _)| pod);
        selected.chain(&selection.inputs.passed_over)
    };
    let is_evidence = |pod: &Arc<PodMeta>| is_marked(pod) && created_after(pod, facts.operator_started);
    if facts.webhook_called || all_pods().any(is_evidence) {
        return None;
    }
    let grace = SignedDuration::try_from(WEBHOOK_START).unwrap_or_default();
    let resource_created = selection.inputs.resource.metadata.creation_timestamp.as_ref();
    let since = resource_created.map_or(facts.operator_started, |at| at.0.max(facts.operator_started));
    let should_have_been_asked = |(pod, _): &SelectedPod| {
        !is_marked(pod) && asks_for_injection(pod, facts) == Some(true) && created_after(pod, since + grace)
    };
    let pods = selection.list(|pod| should_have_been_asked(pod))?;
    let message = format!(
        "the API server has not called the webhook since this operator started ({}), although {pods} were created: \
         let the control plane reach port {} of the operator's pods (a firewall rule in private clusters; the chart's \
         webhook.port chooses another port), or set the chart's operator.hostNetwork=true where the control plane has \
         no route to pods; then restart the Deployment. `kubectl mcp-auth doctor` looks closer",
        super::seconds(facts.operator_started),
        facts.webhook_port,
    );
    draft(false, reasons::WEBHOOK_NOT_REACHED, message)
}

fn created_after(pod: &PodMeta, time: Timestamp) -> bool {
    let created = pod.metadata.creation_timestamp.as_ref();
    created.is_some_and(|created| created.0 > time)
}

/// Nothing where the namespace's label is not known.
fn asks_for_injection(pod: &PodMeta, facts: &InjectionFacts) -> Option<bool> {
    let asks_itself = pod
        .labels()
        .get(annotations::INJECT_LABEL)
        .is_some_and(|value| value == "true");
    if asks_itself {
        Some(true)
    } else {
        facts.namespace_opted_in
    }
}

pub(super) fn not_injected(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let facts = &selection.inputs.injection;
    let pods = selection.list(|(pod, _)| !pods::is_injected(pod))?;
    let is_missing = |asks: Option<bool>| {
        let is_this =
            |(pod, _): &SelectedPod| !pods::is_injected(pod) && asks_for_injection(pod, facts) == asks;
        selection.pods.iter().any(is_this)
    };
    let restart = "restart the Deployment, as `kubectl rollout restart` does";
    let label =
        "label the namespace mcpauth.dev/injection=enabled (or the pod template mcpauth.dev/inject=true)";
    let advice = if is_missing(Some(false)) {
        format!("{label} and {restart}")
    } else if is_missing(None) {
        format!("{label}, unless it is already, and {restart}")
    } else {
        format!("they are older than the label that asks for it, or the operator was away: {restart}")
    };
    let restart = selection.restart_outcome();
    let message = format!("{pods} run without the sidecar: {advice}{restart}");
    draft(false, reasons::PODS_NOT_INJECTED, message)
}

/// What works in injected pods, but perhaps not as their owner expects.
pub(super) fn warnings(selection: &Selection<'_>) -> Option<String> {
    let warned = |pod: &PodMeta| {
        let text = pod.annotations().get(annotations::WARNINGS).cloned();
        text.filter(|_| pods::is_injected(pod))
    };
    let mut texts: Vec<String> = selection.pods.iter().filter_map(|(pod, _)| warned(pod)).collect();
    texts.sort_unstable();
    let text = texts.into_iter().next()?;
    let pods = selection
        .pods
        .iter()
        .filter(|(pod, _)| warned(pod).as_ref() == Some(&text));
    let names: Vec<String> = pods.map(|(pod, _)| pod.name_any()).collect();
    Some(format!(
        "{} injected with a warning: {}",
        list(&names),
        text.replace('\n', "; ")
    ))
}
