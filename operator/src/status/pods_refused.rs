//! The part of `SidecarsSynced` that says which pods the webhook refuses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use mcp_auth_crds::{conditions, reasons};

use super::pod_classes::PodClass;
use super::pods_injected::{draft, reason_codes};
use super::selection::{Selection, previous_status};
use super::{ConditionDraft, StatusInputs, seconds};
use crate::inject::NOT_INJECTED_REASONS;
use crate::refused_pods::{PodMaker, RefusedPod};

/// While old pods serve on, a rollout goes no further: nothing else that is wrong weighs as much.
pub(super) fn pods_refused(selection: &Selection<'_>) -> Option<ConditionDraft> {
    let standing = standing_refusals(selection.inputs);
    let mut standing = standing.iter();
    let first = standing.next()?;
    let others: Vec<String> = standing
        .map(|other| format!("of {} ({})", other.maker(), reason_codes(&other.text)))
        .collect();
    let also = match others.is_empty() {
        true => String::new(),
        false => format!("; also those {}", others.join(", ")),
    };
    let message = format!("the pods of {} are refused: {}{also}", first.maker(), first.text);
    draft(false, reasons::PODS_REFUSED, message)
}

/// What the resource's condition says of refusals, where all replicas have ended since and left no other record. It stands until the
/// workload is refused again, which is recorded, or a selected pod is made.
pub(super) fn refused_before_start(inputs: &StatusInputs<'_>) -> Option<ConditionDraft> {
    if !inputs.may_miss_refusals {
        return None;
    }
    let conditions = &previous_status(inputs)?.conditions;
    let previous = conditions
        .iter()
        .find(|condition| condition.type_ == conditions::SIDECARS_SYNCED)?;
    let since = previous.last_transition_time.0;
    let is_newer = |class: &PodClass| class.newest_created.is_some_and(|created| created >= since);
    if previous.reason != reasons::PODS_REFUSED || selected_pods(inputs).any(is_newer) {
        return None;
    }
    draft(false, reasons::PODS_REFUSED, previous.message.clone())
}

/// How many workloads are refused, by the reason: one of a closed set, since labels of a metric are made of them.
pub(super) fn refusals_by_reason(inputs: &StatusInputs<'_>) -> BTreeMap<&'static str, i64> {
    let mut counted = BTreeMap::new();
    for refused in standing_refusals(inputs) {
        let stated = reason_codes(&refused.text);
        if let Some(known) = NOT_INJECTED_REASONS.iter().find(|known| **known == stated) {
            *counted.entry(*known).or_default() += 1;
        }
    }
    counted
}

fn selected_pods<'a>(inputs: &'a StatusInputs<'_>) -> impl Iterator<Item = &'a PodClass> {
    let pods = inputs.pods.iter();
    pods.flat_map(|pods| pods.classes.iter().chain(&pods.passed_over))
        .copied()
}

/// The refusals that no pod has come after: of a workload that makes pods again there is nothing to say. Times of the API server
/// are whole seconds.
pub(super) fn standing_refusals(inputs: &StatusInputs<'_>) -> Vec<Arc<RefusedPod>> {
    if inputs.refused.is_empty() {
        return Vec::new();
    }
    let mut newest: HashMap<PodMaker, Timestamp> = HashMap::new();
    for class in selected_pods(inputs) {
        if let (Some(owner), Some(created)) = (class.pod.owner(), class.newest_created) {
            let known = newest
                .entry(PodMaker::new(owner, class.pod.labels()))
                .or_insert(created);
            *known = created.max(*known);
        }
    }
    let is_over = |refused: &RefusedPod| {
        let newest = newest.get(&refused.maker());
        newest.is_some_and(|newest| *newest >= seconds(refused.at))
    };
    let all = inputs.refused.iter();
    all.filter(|refused| !is_over(refused)).cloned().collect()
}
