//! `SidecarsSynced`: whether the selected pods have sidecars that use the newest snapshot.

use kube::ResourceExt;
use mcp_auth_crds::{SidecarsStatus, conditions, reasons};
use mcp_auth_protocol::sync::Problem;

use super::{ConditionDraft, SelectedPod, StatusInputs, first_draft};
use crate::inject::annotations;
use crate::pods;
use crate::sidecars::Sidecar;

/// What is kept of a message that comes from an annotation.
const MAX_MESSAGE_BYTES: usize = 1024;
/// How many pods a message names before it only counts them.
const MAX_NAMED: usize = 3;

const CHECKS: &[for<'a> fn(&Selection<'a>) -> Option<ConditionDraft>] = &[
    none_selected,
    left_alone,
    not_injected,
    sidecar_problem,
    not_up_to_date,
    restart_needed,
    injection_warning,
    synced,
];

/// The pods that a resource selects, listed.
struct Selection<'a> {
    inputs: &'a StatusInputs<'a>,
    pods: &'a [SelectedPod],
}

pub(super) fn check_pods(inputs: &StatusInputs<'_>) -> (ConditionDraft, Option<SidecarsStatus>) {
    let Some(pods) = &inputs.pods else {
        let message = "the selected pods are being listed";
        let unlisted = ConditionDraft::new(conditions::SIDECARS_SYNCED, None, reasons::PENDING, message);
        return (unlisted, None);
    };
    let (up_to_date, total) = (pods.iter().filter(is_up_to_date).count(), pods.len());
    let counts = SidecarsStatus {
        synced: i32::try_from(up_to_date).unwrap_or(i32::MAX),
        total: i32::try_from(total).unwrap_or(i32::MAX),
        summary: format!("{up_to_date}/{total}"),
    };
    (first_draft(CHECKS, &Selection { inputs, pods }), Some(counts))
}

impl Selection<'_> {
    fn server(&self) -> &str {
        &self.inputs.resource.spec.server.name
    }

    /// The names of the pods that match, as a message lists them; `None` where there are none.
    fn list(&self, matches: impl Fn(&&SelectedPod) -> bool) -> Option<String> {
        let pods = self.pods.iter().filter(matches);
        let names: Vec<String> = pods.map(|(pod, _)| pod.name_any()).collect();
        (!names.is_empty()).then(|| list(&names))
    }
}

fn draft(holds: bool, reason: &str, message: String) -> Option<ConditionDraft> {
    Some(ConditionDraft::new(
        conditions::SIDECARS_SYNCED,
        Some(holds),
        reason,
        message,
    ))
}

fn none_selected(selection: &Selection<'_>) -> Option<ConditionDraft> {
    if !selection.pods.is_empty() {
        return None;
    }
    let selector = &selection.inputs.resource.spec.pod_selector;
    let selector = serde_json::to_string(selector).expect("a selector is plain values");
    let skipped = &selection.inputs.skipped;
    let message = match skipped.is_empty() {
        true => format!(
            "spec.podSelector {selector} matches no running pod of this namespace: compare it with the \
             pods' labels"
        ),
        false => format!(
            "spec.podSelector {selector} matches {}, and none of them is known to run LiteLLM: narrow the \
             selector, or name LiteLLM's container in the annotation {} of the pod template",
            list(skipped),
            annotations::CONTAINER
        ),
    };
    draft(false, reasons::NO_PODS_SELECTED, message)
}

/// The webhook said why; its message has the way out.
fn left_alone(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let told = |(pod, _): &&SelectedPod| pods::not_injected_because(pod).is_some() && !pods::is_injected(pod);
    let names = selection.list(told)?;
    let reason = selection
        .pods
        .iter()
        .find_map(|(pod, _)| pods::not_injected_because(pod))?;
    let message = format!("{names} run without the sidecar: {reason}");
    draft(false, reasons::PODS_NOT_INJECTED, truncated(message))
}

fn not_injected(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let pods = selection.list(|(pod, _)| !pods::is_injected(pod))?;
    let message = format!(
        "{pods} run without the sidecar: label the namespace mcpauth.dev/injection=enabled (or the pod \
         template mcpauth.dev/inject=true) and restart the Deployment, as `kubectl rollout restart` does"
    );
    draft(false, reasons::PODS_NOT_INJECTED, message)
}

fn sidecar_problem(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (pod, problem) = selection
        .pods
        .iter()
        .find_map(|(pod, sidecar)| Some((pod, concerning(sidecar.as_ref()?, selection.server())?)))?;
    let message = format!(
        "{} reports {}: {}",
        pod.name_any(),
        problem.reason,
        problem.message
    );
    draft(false, reasons::SIDECAR_PROBLEM, message)
}

fn not_up_to_date(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let pods = selection.list(|pod| !is_up_to_date(pod))?;
    draft(
        false,
        reasons::SIDECARS_BEHIND,
        format!("{pods} not yet up to date"),
    )
}

fn restart_needed(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let server = selection.server();
    let needs_restart = |sidecar: &Sidecar| sidecar.restart_needed_for.iter().any(|name| name == server);
    let pods = selection.list(|(_, sidecar)| sidecar.as_ref().is_some_and(needs_restart))?;
    let message = format!(
        "LiteLLM reads its servers only at start: restart {pods} (`kubectl rollout restart`) to make it call \
         {server} this way"
    );
    draft(false, reasons::RESTART_NEEDED, message)
}

fn injection_warning(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let names = selection.list(|(pod, _)| pods::injection_warnings(pod).is_some())?;
    let warnings = selection
        .pods
        .iter()
        .find_map(|(pod, _)| pods::injection_warnings(pod))?;
    let message = format!("{names}: {}", warnings.replace('\n', "; "));
    draft(true, reasons::INJECTION_WARNING, truncated(message))
}

/// Annotations may be written by others, and may be long.
fn truncated(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    message
}

fn synced(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let total = selection.pods.len();
    let message = format!("{total} of {total} sidecars are up to date");
    draft(true, reasons::SYNCED, message)
}

fn is_up_to_date((_, sidecar): &&SelectedPod) -> bool {
    sidecar.as_ref().is_some_and(Sidecar::is_up_to_date)
}

/// The first problem of the whole pod or of this server: one server's fault is not another's.
fn concerning<'a>(sidecar: &'a Sidecar, server: &str) -> Option<&'a Problem> {
    let concerns = |problem: &&Problem| problem.server.as_deref().is_none_or(|name| name == server);
    sidecar.problems.iter().find(concerns)
}

fn list(names: &[String]) -> String {
    let (listed, rest) = names.split_at(names.len().min(MAX_NAMED));
    let pods = if names.len() == 1 { "pod" } else { "pods" };
    let more = if rest.is_empty() {
        String::new()
    } else {
        format!(" and {} more", rest.len())
    };
    format!("{pods} {}{more}", listed.join(", "))
}
