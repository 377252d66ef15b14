//! `SidecarsSynced`: whether the selected pods have sidecars that use the newest snapshot.

use std::collections::BTreeSet;

use mcp_auth_crds::{SidecarsStatus, conditions, reasons};
use mcp_auth_protocol::bounds::MAX_SNAPSHOT_BYTES;
use mcp_auth_protocol::sync::{Problem, notices};

use super::namespace_pods::Selected;
use super::pod_classes::{PodClass, PodNames};
use super::pods_injected::{
    draft, left_alone, none_selected, not_injected, not_recognised, warnings, webhook_not_reached,
};
use super::pods_refused::{pods_refused, refused_before_start};
use super::selection::{Selection, previous_status};
use super::{ConditionDraft, StatusInputs, first_draft};
use crate::sidecars::Sidecar;
use crate::version_skew::is_too_old;

/// Servers that a message names, and characters of one: a sidecar may report anything.
const MAX_NAMED_SERVERS: usize = 3;
const MAX_SERVER_NAME: usize = 64;

const CHECKS: &[for<'a> fn(&Selection<'a>) -> Option<ConditionDraft>] = &[
    pods_refused,
    |selection| refused_before_start(selection.inputs),
    none_selected,
    left_alone,
    webhook_not_reached,
    not_injected,
    left_out,
    sidecar_problem,
    awaited,
    not_up_to_date,
    restart_needed,
    stale_servers,
    configuration_differs,
    notice,
    synced,
];

pub(super) fn check_pods(inputs: &StatusInputs<'_>) -> (ConditionDraft, Option<SidecarsStatus>) {
    let Some(pods) = &inputs.pods else {
        let message = "the selected pods are being listed";
        let unlisted = ConditionDraft::new(conditions::SIDECARS_SYNCED, None, reasons::PENDING, message);
        return (refused_before_start(inputs).unwrap_or(unlisted), None);
    };
    if pods.classes.iter().any(|class| class.is_awaited())
        && let Some(counts) = previous_status(inputs).and_then(|status| status.sidecars.clone())
    {
        let selection = Selection { inputs, pods };
        return (first_draft(CHECKS, &selection), Some(counts));
    }
    let (up_to_date, total) = (pods.count(PodClass::is_up_to_date), pods.count(|_| true));
    let counts = SidecarsStatus {
        synced: i32::try_from(up_to_date).unwrap_or(i32::MAX),
        total: i32::try_from(total).unwrap_or(i32::MAX),
        summary: format!("{up_to_date}/{total}"),
        not_injected: count(pods, |class| !class.is_injected() && !class.is_starting()),
        too_old: count(pods, |class| class.sidecar().is_some_and(is_too_old)),
    };
    (first_draft(CHECKS, &Selection { inputs, pods }), Some(counts))
}

fn count(pods: &Selected<'_>, matches: impl Fn(&PodClass) -> bool) -> i32 {
    i32::try_from(pods.count(matches)).unwrap_or(i32::MAX)
}

/// Their sidecars may be up to date: with what they were sent.
fn left_out(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let left_out = selection.inputs.left_out?;
    let message = format!(
        "sidecars are not given {}: with the servers of older resources there is no room for it in what a sidecar reads at once \
         ({} servers of the pods are {} kB, and {} kB are read, of it {} kB), which CA bundles and client certificates take for the \
         most part: name a bundle that has only the authorities that the server needs (spec.server.tls.caBundle), or have other pods \
         call some of the servers (spec.podSelector)",
        selection.server(),
        left_out.servers,
        left_out.total_bytes / 1000,
        MAX_SNAPSHOT_BYTES / 1000,
        left_out.bytes / 1000,
    );
    draft(false, reasons::LIMIT_EXCEEDED, message)
}

fn sidecar_problem(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (pod, problem) = selection.classes().find_map(|class| {
        let problems = &class.sidecar()?.problems;
        Some((class.names.first()?, concerning(problems, selection.server())?))
    })?;
    let message = format!(
        "{pod} reports {}: {}{}",
        problem.reason,
        problem.message,
        selection.restart_outcome()
    );
    draft(false, reasons::SIDECAR_PROBLEM, with_remarks(selection, message))
}

fn awaited(selection: &Selection<'_>) -> Option<ConditionDraft> {
    selection.kept_while_awaited(conditions::SIDECARS_SYNCED)
}

/// A pod that is starting beside others that serve, as in a rollout, is no fault.
fn not_up_to_date(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let is_any_up_to_date = selection.classes().any(PodClass::is_up_to_date);
    let is_excused = |class: &PodClass| is_any_up_to_date && class.is_starting();
    let pods = selection.list(|class| !class.is_up_to_date() && !is_excused(class))?;
    draft(
        false,
        reasons::SIDECARS_BEHIND,
        with_remarks(selection, format!("{pods} not yet up to date")),
    )
}

fn restart_needed(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let server = selection.server();
    let needs_restart = |sidecar: &Sidecar| sidecar.restart_needed_for.iter().any(|name| name == server);
    let pods = selection.list(|class| class.sidecar().is_some_and(needs_restart))?;
    let message = format!(
        "LiteLLM reads its servers only at start: restart {pods} (`kubectl rollout restart`) to make it call \
         {server} this way{}",
        selection.restart_outcome()
    );
    draft(false, reasons::RESTART_NEEDED, with_remarks(selection, message))
}

/// True all the same: the resource's own server is called as it should be. Each resource that selects the pods tells it, since the
/// one that was about the server is gone, or no longer about these pods.
fn stale_servers(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let stale = &selection.pods.stale_servers;
    let mut pods = PodNames::default();
    stale.values().for_each(|names| pods.merge(names));
    // Of one that is told of, all pods; of several, each pod once at least.
    let pods = match stale.len() {
        1 => pods.list()?,
        _ => pods.first().map(|pod| format!("pod {pod} and others"))?,
    };
    let shortened = |server: &String| server.chars().take(MAX_SERVER_NAME).collect::<String>();
    let named: Vec<_> = stale.keys().take(MAX_NAMED_SERVERS).map(shortened).collect();
    let more = match stale.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "LiteLLM reads its servers only at start, and still offers {}{more}, which no McpServerAuth serves to {pods} any more: \
         restart the workload (`kubectl rollout restart`){}",
        named.join(", "),
        selection.restart_outcome()
    );
    draft(true, reasons::RESTART_NEEDED, with_remarks(selection, message))
}

/// True all the same: LiteLLM calls the server this way, though not with all that the resource says. What weighs more, such as
/// calls that go past the sidecar, is told instead.
fn configuration_differs(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (_, notice) = first_notice(selection, is_for_the_reason)?;
    if notice.reason != notices::CONFIGURATION_DIFFERS {
        return None;
    }
    let also = other_notices(selection, &notice.reason);
    let message = with_remarks(selection, format!("{}{also}", notice.message));
    draft(true, reasons::LITELLM_CONFIGURATION_DIFFERS, message)
}

/// A cookie that never arrived is told where all else is well.
fn is_for_the_reason(notice: &Problem) -> bool {
    notice.reason != notices::COOKIE_NEVER_ARRIVED
}

/// Sidecars work, and something of LiteLLM's configuration should be looked at.
fn notice(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let (pods, notice) = first_notice(selection, is_for_the_reason)?;
    let also = other_notices(selection, &notice.reason);
    let message = format!("{pods} report {}: {}{also}", notice.reason, notice.message);
    draft(true, reasons::SIDECAR_NOTICE, with_remarks(selection, message))
}

/// The reasons of the notices beside the one that is told, as the end of a message.
fn other_notices(selection: &Selection<'_>, told: &str) -> String {
    let all = selection
        .classes()
        .flat_map(|class| concerning_notices(selection, class));
    let others: BTreeSet<&str> = all
        .filter(|other| is_for_the_reason(other) && other.reason != told)
        .map(|other| other.reason.as_str())
        .collect();
    match others.is_empty() {
        true => String::new(),
        false => format!("; also {}", Vec::from_iter(others).join(", ")),
    }
}

/// The message of a condition, and what injection has to say of the pods besides.
fn with_remarks(selection: &Selection<'_>, message: String) -> String {
    let parts = [Some(message), warnings(selection), not_recognised(selection)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The notice of this kind that weighs most, and the pods that report it.
fn first_notice(
    selection: &Selection<'_>,
    is_wanted: impl Fn(&Problem) -> bool,
) -> Option<(String, Problem)> {
    let all = selection
        .classes()
        .flat_map(|class| concerning_notices(selection, class));
    let wanted = all.filter(|notice| is_wanted(notice));
    let first = wanted.min_by_key(|notice| (notices::rank(&notice.reason), *notice))?;
    let reports = |class: &PodClass| concerning_notices(selection, class).any(|notice| notice == first);
    let pods = selection.list(reports)?;
    Some((pods, first.clone()))
}

/// What the sidecar of a pod has to say of it or of this server.
fn concerning_notices<'a>(
    selection: &'a Selection<'_>,
    class: &'a PodClass,
) -> impl Iterator<Item = &'a Problem> {
    let server = selection.server();
    let notices = class.sidecar().into_iter().flat_map(|sidecar| &sidecar.notices);
    notices.filter(move |notice| concerns(notice, server))
}

fn synced(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let starting = selection.list(|class| !class.is_up_to_date());
    let message = match starting {
        None => {
            let total = selection.total();
            format!("{total} of {total} sidecars are up to date")
        }
        Some(pods) => format!("all sidecars are up to date; {pods} starting"),
    };
    let cookies = first_notice(selection, |notice| notice.reason == notices::COOKIE_NEVER_ARRIVED);
    let cookies =
        cookies.map(|(pods, notice)| format!("{pods} report {}: {}", notice.reason, notice.message));
    let message = [Some(with_remarks(selection, message)), cookies];
    let message = message.into_iter().flatten().collect::<Vec<_>>().join("; ");
    draft(true, reasons::SYNCED, message)
}

/// The first problem of the whole pod or of this server: one server's fault is not another's.
fn concerning<'a>(problems: &'a [Problem], server: &str) -> Option<&'a Problem> {
    problems.iter().find(|problem| concerns(problem, server))
}

/// Whether the problem is one of the whole pod or of this server.
pub(super) fn concerns(problem: &Problem, server: &str) -> bool {
    problem.server.as_deref().is_none_or(|name| name == server)
}
