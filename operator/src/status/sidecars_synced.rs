//! `SidecarsSynced`: whether the selected pods have sidecars that use the newest snapshot.

use jiff::Timestamp;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuthStatus, SidecarsStatus, conditions, reasons};
use mcp_auth_protocol::sync::Problem;

use super::{ConditionDraft, SelectedPod, StatusInputs, first_draft};
use crate::pods;
use crate::sidecars::Sidecar;

/// How many pods a message names before it only counts them.
const MAX_NAMED: usize = 3;

const CHECKS: &[for<'a> fn(&Selection<'a>) -> Option<ConditionDraft>] = &[
    none_selected,
    not_injected,
    sidecar_problem,
    awaited,
    not_up_to_date,
    restart_needed,
    configuration_differs,
    synced,
];

/// The pods that a resource selects, listed.
struct Selection<'a> {
    inputs: &'a StatusInputs<'a>,
    pods: &'a [SelectedPod],
    now: Timestamp,
}

pub(super) fn check_pods(
    inputs: &StatusInputs<'_>,
    now: Timestamp,
) -> (ConditionDraft, Option<SidecarsStatus>) {
    let Some(pods) = &inputs.pods else {
        let message = "the selected pods are being listed";
        let unlisted = ConditionDraft::new(conditions::SIDECARS_SYNCED, None, reasons::PENDING, message);
        return (unlisted, None);
    };
    if pods.iter().any(|pod| is_awaited(&pod))
        && let Some(counts) = previous_status(inputs).and_then(|status| status.sidecars.clone())
    {
        let selection = Selection { inputs, pods, now };
        return (first_draft(CHECKS, &selection), Some(counts));
    }
    let (up_to_date, total) = (pods.iter().filter(is_up_to_date).count(), pods.len());
    let counts = SidecarsStatus {
        synced: i32::try_from(up_to_date).unwrap_or(i32::MAX),
        total: i32::try_from(total).unwrap_or(i32::MAX),
        summary: format!("{up_to_date}/{total}"),
    };
    (
        first_draft(CHECKS, &Selection { inputs, pods, now }),
        Some(counts),
    )
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
    let message = format!(
        "spec.podSelector {selector} matches no running pod of this namespace: compare it with the \
         pods' labels"
    );
    draft(false, reasons::NO_PODS_SELECTED, message)
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
    let (pod, problem) = selection.pods.iter().find_map(|(pod, sidecar)| {
        let problems = &sidecar.as_ref()?.problems;
        Some((pod, concerning(problems, selection.server())?))
    })?;
    let message = format!(
        "{} reports {}: {}",
        pod.name_any(),
        problem.reason,
        problem.message
    );
    draft(false, reasons::SIDECAR_PROBLEM, message)
}

/// A new leader does not know yet which sidecars there are: what its predecessor said holds for so long.
fn awaited(selection: &Selection<'_>) -> Option<ConditionDraft> {
    if !selection.pods.iter().any(|pod| is_awaited(&pod)) {
        return None;
    }
    let conditions = previous_status(selection.inputs).map(|status| &status.conditions[..]);
    let previous = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == conditions::SIDECARS_SYNCED)?;
    let holds = match previous.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    let message = previous.message.clone();
    Some(ConditionDraft::new(
        conditions::SIDECARS_SYNCED,
        holds,
        &previous.reason,
        message,
    ))
}

/// A pod that is starting beside others that serve, as in a rollout, is no fault.
fn not_up_to_date(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let is_any_up_to_date = selection.pods.iter().any(|pod| is_up_to_date(&pod));
    let is_excused = |(pod, _): &SelectedPod| is_any_up_to_date && pods::is_starting(pod, selection.now);
    let pods = selection.list(|pod| !is_up_to_date(pod) && !is_excused(pod))?;
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

/// True all the same: LiteLLM calls the server this way, though not with all that the resource says.
fn configuration_differs(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let notices = selection.pods.iter().filter_map(|(_, sidecar)| {
        let notices = &sidecar.as_ref()?.notices;
        concerning(notices, selection.server())
    });
    let notice = notices.min()?;
    draft(
        true,
        reasons::LITELLM_CONFIGURATION_DIFFERS,
        notice.message.clone(),
    )
}

fn synced(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let starting = selection.list(|pod| !is_up_to_date(pod));
    let message = match starting {
        None => {
            let total = selection.pods.len();
            format!("{total} of {total} sidecars are up to date")
        }
        Some(pods) => format!("all sidecars are up to date; {pods} starting"),
    };
    draft(true, reasons::SYNCED, message)
}

fn is_up_to_date((_, sidecar): &&SelectedPod) -> bool {
    sidecar.as_ref().is_some_and(Sidecar::is_up_to_date)
}

fn is_awaited((_, sidecar): &&SelectedPod) -> bool {
    sidecar.as_ref().is_some_and(|sidecar| sidecar.is_awaited)
}

/// Of this generation: one that changed is another task.
fn previous_status<'a>(inputs: &StatusInputs<'a>) -> Option<&'a McpServerAuthStatus> {
    let status = inputs.resource.status.as_ref();
    status.filter(|status| status.observed_generation == inputs.resource.metadata.generation)
}

/// The first problem of the whole pod or of this server: one server's fault is not another's.
fn concerning<'a>(problems: &'a [Problem], server: &str) -> Option<&'a Problem> {
    let concerns = |problem: &&Problem| problem.server.as_deref().is_none_or(|name| name == server);
    problems.iter().find(concerns)
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
