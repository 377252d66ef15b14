//! The pods that a resource selects with their sidecars, and what conditions ask of them.

use mcp_auth_crds::McpServerAuthStatus;

use super::namespace_pods::Selected;
use super::pod_classes::{PodClass, PodNames};
use super::{ConditionDraft, StatusInputs};

/// The pods that a resource selects, listed.
pub(super) struct Selection<'a> {
    pub inputs: &'a StatusInputs<'a>,
    pub pods: &'a Selected<'a>,
}

impl Selection<'_> {
    pub fn server(&self) -> &str {
        &self.inputs.resource.spec.server.name
    }

    /// The pods that ought to have a sidecar.
    pub fn classes(&self) -> impl Iterator<Item = &PodClass> {
        self.pods.classes.iter().copied()
    }

    pub fn total(&self) -> usize {
        self.pods.count(|_| true)
    }

    /// The names of the pods that match, as a message lists them; `None` where there are none.
    pub fn list(&self, matches: impl Fn(&PodClass) -> bool) -> Option<String> {
        let mut names = PodNames::default();
        let matching = self.classes().filter(|class| matches(class));
        matching.for_each(|class| names.merge(&class.names));
        names.list()
    }

    /// What becomes of the restart that the resource waits for, as the end of a message.
    pub fn restart_outcome(&self) -> String {
        let outcome = self.inputs.restart.as_ref();
        outcome.map(|outcome| format!("; {outcome}")).unwrap_or_default()
    }

    /// A new leader does not know yet which sidecars there are: what its predecessor said holds for so long.
    pub fn kept_while_awaited(&self, type_: &'static str) -> Option<ConditionDraft> {
        if !self.classes().any(PodClass::is_awaited) {
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

impl Selected<'_> {
    /// How many pods that ought to have a sidecar match.
    pub fn count(&self, matches: impl Fn(&PodClass) -> bool) -> usize {
        let matching = self.classes.iter().filter(|class| matches(class));
        matching.map(|class| class.names.count).sum()
    }
}

/// Of this generation: one that changed is another task.
pub(super) fn previous_status<'a>(inputs: &StatusInputs<'a>) -> Option<&'a McpServerAuthStatus> {
    let status = inputs.resource.status.as_ref();
    status.filter(|status| status.observed_generation == inputs.resource.metadata.generation)
}
