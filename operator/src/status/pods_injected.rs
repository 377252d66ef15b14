//! The part of `SidecarsSynced` that says why selected pods have no sidecar, and the one thing to do about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mcp_auth_crds::{conditions, reasons};

use super::ConditionDraft;
use super::pod_classes::{PodClass, PodNames, is_marked};
use super::selection::Selection;
use crate::inject::annotations;
use crate::namespaces::{NamespaceInjection, WebhookScope};
use crate::pods::{self, WatchedPod};

/// What the webhook writes into a pod that it finds to be no LiteLLM.
const NOT_LITELLM: &str = "NotLiteLlm";
/// How many reasons a message names beside the first.
const MAX_OTHER_REASONS: usize = 3;
/// Right after the operator's start the API server may not trust the webhook yet.
const WEBHOOK_START: Duration = Duration::from_secs(30);

/// What is known of the way from the API server to the webhook, and who is to use it.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionFacts {
    pub namespace: NamespaceInjection,
    /// Which pods the webhook is asked about at all.
    pub scope: Arc<WebhookScope>,
    /// Whether the API server has called this replica's webhook since its start, as far as that can be known.
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
    if !selection.pods.classes.is_empty() {
        return None;
    }
    let selector = &selection.inputs.resource.spec.pod_selector;
    let selector = serde_json::to_string(selector).expect("a selector is plain values");
    let passed_over = &selection.pods.passed_over;
    let Some(first) = passed_over.first() else {
        if let Some(ending) = selection.pods.ending.list() {
            let message = format!(
                "spec.podSelector {selector} matches pods of this namespace that are ending, and no others: {ending}"
            );
            return draft(false, reasons::PODS_SKIPPED, message);
        }
        // Others, such as those of a Job or a test, are not watched.
        let message = format!(
            "spec.podSelector {selector} matches no running pod of this namespace with restartPolicy Always: compare it \
             with the pods' labels"
        );
        return draft(false, reasons::NO_PODS_SELECTED, message);
    };
    let message = format!(
        "spec.podSelector {selector} matches {} running pods of this namespace, and none of them gets a sidecar: \
         pod {} {}",
        passed_over.iter().map(|class| class.names.count).sum::<usize>(),
        first.names.first().unwrap_or_default(),
        why_passed_over(&first.pod) + &besides(&first.pod)
    );
    draft(false, reasons::PODS_SKIPPED, message)
}

fn why_passed_over(pod: &WatchedPod) -> String {
    let skipped = pod.annotations().get(annotations::SKIPPED).map(String::as_str);
    match skipped {
        Some(NOT_LITELLM) => format!(
            "serves no LiteLLM API; if it does, name its container in the pod template's annotation {}",
            annotations::CONTAINER
        ),
        Some("HelmHook") => "is a hook of Helm".to_owned(),
        Some(other) => format!("was skipped: {other}"),
        None => format!(
            "has the label {}: \"false\"; take it off the pod template if that is wrong",
            annotations::INJECT_LABEL
        ),
    }
}

/// What there is to warn of in a pod without a sidecar.
fn besides(pod: &WatchedPod) -> String {
    let text = pod.annotations().get(annotations::WARNINGS);
    text.map(|text| format!("; {}", text.replace('\n', "; ")))
        .unwrap_or_default()
}

/// The webhook looked at them and left them alone, and said why.
pub(super) fn left_alone(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let Stated {
        text: why,
        pods,
        also,
    } = stated(selection, |class| why_left_alone(&class.pod))?;
    let first = selection
        .classes()
        .find(|class| why_left_alone(&class.pod) == Some(why));
    let besides = first.map(|class| besides(&class.pod)).unwrap_or_default();
    let of_injected = warnings(selection).map(|warnings| format!("; {warnings}"));
    let message = format!(
        "{pods} run without the sidecar, because injection is not possible: {why}{besides}. Change that in the pod \
         template, which restarts them{also}{}",
        of_injected.unwrap_or_default()
    );
    draft(false, reasons::PODS_NOT_INJECTED, message)
}

fn why_left_alone(pod: &WatchedPod) -> Option<&str> {
    let why = pod.annotations().get(annotations::NOT_INJECTED)?;
    (!pods::is_injected(pod)).then_some(why)
}

/// Pods that the webhook should have been asked about, and was not.
pub(super) fn webhook_not_reached(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let facts = &selection.inputs.injection;
    // Each replica is asked about some pods, and the marks of those are seen by all.
    let mut all_pods = selection
        .classes()
        .chain(selection.pods.passed_over.iter().copied());
    let is_evidence =
        |class: &PodClass| is_marked(&class.pod) && created_after(class, facts.operator_started);
    if facts.webhook_called || all_pods.any(is_evidence) {
        return None;
    }
    let grace = SignedDuration::try_from(WEBHOOK_START).unwrap_or_default();
    let resource_created = selection.inputs.resource.metadata.creation_timestamp.as_ref();
    let since = resource_created.map_or(facts.operator_started, |at| at.0.max(facts.operator_started));
    let should_have_been_asked = |class: &PodClass| {
        let pod = &class.pod;
        !is_marked(pod) && asks_for_injection(pod, facts) == Some(true) && created_after(class, since + grace)
    };
    let pods = selection.list(should_have_been_asked)?;
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

fn created_after(class: &PodClass, time: Timestamp) -> bool {
    class.newest_created.is_some_and(|created| created > time)
}

/// Nothing where the namespace's label is not known.
fn asks_for_injection(pod: &WatchedPod, facts: &InjectionFacts) -> Option<bool> {
    let asks_itself = pod
        .labels()
        .get(annotations::INJECT_LABEL)
        .is_some_and(|value| value == "true");
    match facts.namespace {
        _ if facts.scope.why_not_pod(pod.labels()).is_some() => Some(false),
        NamespaceInjection::Excluded { .. } => Some(false),
        NamespaceInjection::OptedIn => Some(true),
        NamespaceInjection::NotOptedIn => Some(asks_itself),
        NamespaceInjection::Unknown => asks_itself.then_some(true),
    }
}

pub(super) fn not_injected(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let facts = &selection.inputs.injection;
    let pods = selection.list(|class| !class.is_injected())?;
    if let NamespaceInjection::Excluded { why } = &facts.namespace {
        let message = format!("{pods} run without the sidecar: {why}");
        return draft(false, reasons::PODS_NOT_INJECTED, message);
    }
    let left_out = |class: &PodClass| match class.is_injected() {
        true => None,
        false => facts.scope.why_not_pod(class.pod.labels()),
    };
    if let Some(why) = selection.classes().find_map(left_out) {
        let pods = selection.list(|class| left_out(class).is_some())?;
        let message = format!("{pods} run without the sidecar: {why}");
        return draft(false, reasons::PODS_NOT_INJECTED, message);
    }
    let is_missing = |asks: Option<bool>| {
        let is_this =
            |class: &PodClass| !class.is_injected() && asks_for_injection(&class.pod, facts) == asks;
        selection.classes().any(is_this)
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
    let Stated { text, pods, also } = stated(selection, injection_warnings)?;
    let text = text.replace('\n', "; ");
    Some(format!("{pods} injected with a warning: {text}{also}"))
}

fn injection_warnings(class: &PodClass) -> Option<&str> {
    let text = class.pod.annotations().get(annotations::WARNINGS)?;
    class.is_injected().then_some(text)
}

/// Pods that are selected beside injected ones, and that the webhook took for something else than LiteLLM: a second LiteLLM that
/// is not recognised would otherwise be seen nowhere. What was left out on purpose is no news.
pub(super) fn not_recognised(selection: &Selection<'_>) -> Option<String> {
    let mut names = PodNames::default();
    let is_other = |class: &&&PodClass| {
        let skipped = class.pod.annotations().get(annotations::SKIPPED);
        skipped.is_some_and(|reason| reason == NOT_LITELLM)
    };
    let others = selection.pods.passed_over.iter().filter(is_other);
    others.for_each(|class| names.merge(&class.names));
    let pods = names.list()?;
    Some(format!(
        "{pods} selected too, and without a container that serves LiteLLM's API: if one does, name it in the pod \
         template's annotation {}",
        annotations::CONTAINER
    ))
}

/// What pods state, as a message tells it.
struct Stated<'a> {
    /// The first in alphabetical order, so that it is the same each time.
    text: &'a str,
    /// Those that state it.
    pods: String,
    /// The reasons that others state, as the end of the message.
    also: String,
}

fn stated<'a>(
    selection: &'a Selection<'_>,
    text_of: impl Fn(&'a PodClass) -> Option<&'a str>,
) -> Option<Stated<'a>> {
    let mut by_text: BTreeMap<&str, PodNames> = BTreeMap::new();
    for class in selection.classes() {
        if let Some(text) = text_of(class) {
            by_text.entry(text).or_default().merge(&class.names);
        }
    }
    let mut by_text = by_text.into_iter();
    let (text, names) = by_text.next()?;
    let others = by_text.len();
    let mut also: String = by_text
        .take(MAX_OTHER_REASONS)
        .filter_map(|(text, names)| Some(format!("; also {} ({})", names.list()?, reason_codes(text))))
        .collect();
    if let Some(more @ 1..) = others.checked_sub(MAX_OTHER_REASONS) {
        also.push_str(&format!("; and for {more} reasons more"));
    }
    Some(Stated {
        text,
        pods: names.list()?,
        also,
    })
}

/// Of an annotation that injection wrote: a line `REASON: text` for each.
pub(super) fn reason_codes(text: &str) -> String {
    let codes = text.lines().filter_map(|line| line.split(':').next());
    codes.collect::<Vec<_>>().join(", ")
}
