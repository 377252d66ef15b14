//! The pods that a resource selects with their sidecars, and what conditions ask of them.

use jiff::Timestamp;
use kube::ResourceExt;
use mcp_auth_crds::McpServerAuthStatus;

use super::{ConditionDraft, SelectedPod, StatusInputs};

/// How many pods a message names before it only counts them.
const MAX_NAMED: usize = 3;

/// The pods that a resource selects, listed.
pub(super) struct Selection<'a> {
    pub inputs: &'a StatusInputs<'a>,
    pub pods: &'a [SelectedPod],
    pub now: Timestamp,
}

impl Selection<'_> {
    pub fn server(&self) -> &str {
        &self.inputs.resource.spec.server.name
    }

    /// The names of the pods that match, as a message lists them; `None` where there are none.
    pub fn list(&self, matches: impl Fn(&&SelectedPod) -> bool) -> Option<String> {
        let pods = self.pods.iter().filter(matches);
        let names: Vec<String> = pods.map(|(pod, _)| pod.name_any()).collect();
        (!names.is_empty()).then(|| list(&names))
    }

    /// What becomes of the restart that the resource waits for, as the end of a message.
    pub fn restart_outcome(&self) -> String {
        let outcome = self.inputs.restart.as_ref();
        outcome.map(|outcome| format!("; {outcome}")).unwrap_or_default()
    }

    /// A new leader does not know yet which sidecars there are: what its predecessor said holds for so long.
    pub fn kept_while_awaited(&self, type_: &'static str) -> Option<ConditionDraft> {
        if !self.pods.iter().any(|pod| is_awaited(&pod)) {
            return None;
        }
        let conditions = previous_status(self.inputs).map(|status| &status.conditions[..]);
        let previous = conditions
            .unwrap_or_default()
            .iter()
            .find(|condition| condition.type_ == type_)?;
        let holds = match previous.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        let message = previous.message.clone();
        Some(ConditionDraft::new(type_, holds, &previous.reason, message))
    }
}

pub(super) fn is_awaited((_, sidecar): &&SelectedPod) -> bool {
    sidecar.as_deref().is_some_and(|sidecar| sidecar.is_awaited)
}

/// Of this generation: one that changed is another task.
pub(super) fn previous_status<'a>(inputs: &StatusInputs<'a>) -> Option<&'a McpServerAuthStatus> {
    let status = inputs.resource.status.as_ref();
    status.filter(|status| status.observed_generation == inputs.resource.metadata.generation)
}

pub(super) fn list(names: &[String]) -> String {
    let (listed, rest) = names.split_at(names.len().min(MAX_NAMED));
    let pods = if names.len() == 1 { "pod" } else { "pods" };
    let more = if rest.is_empty() {
        String::new()
    } else {
        format!(" and {} more", rest.len())
    };
    format!("{pods} {}{more}", listed.join(", "))
}
