//! The status of a resource: a pure function of what its token source published and of its pods.
//!
//! Each condition is judged by a list of pure checks: the first that has something to say decides.

mod authorization_server;
mod events;
mod ready;
mod secrets_resolved;
mod sidecars_synced;
mod token_issued;
mod write_records;
mod writer;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, TokenError, TokenStatus};

use crate::credentials::{Issuance, TokenSnapshot};
use crate::pods::PodMeta;
use crate::sidecars::Sidecar;

pub use authorization_server::known_server;
pub use token_issued::unavailable;
pub use writer::{StatusWriter, run};

/// What the status is made of.
pub struct StatusInputs<'a> {
    pub resource: &'a McpServerAuth,
    pub issuance: &'a Issuance,
    /// The selected pods, with the state of their sidecars; none while they have not been listed.
    pub pods: Option<Vec<SelectedPod>>,
}

/// A pod and its sidecar, if that is connected.
pub type SelectedPod = (Arc<PodMeta>, Option<Sidecar>);

/// What a check says of one condition: the whole of it, but since when it holds.
#[derive(Clone, Debug, PartialEq)]
struct ConditionDraft {
    type_: &'static str,
    /// Unknown where nothing.
    holds: Option<bool>,
    reason: String,
    message: String,
}

impl ConditionDraft {
    fn new(type_: &'static str, holds: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// A pure check: what it says of its condition, or nothing where the next check is to decide.
type Check<I> = fn(&I) -> Option<ConditionDraft>;

/// The draft of the first check that says something. The last one of each list always does.
fn first_draft<I>(checks: &[Check<I>], inputs: &I) -> ConditionDraft {
    let mut drafts = checks.iter().filter_map(|check| check(inputs));
    drafts.next().expect("the last check of a list always decides")
}

pub fn status(inputs: &StatusInputs<'_>, now: Timestamp) -> McpServerAuthStatus {
    let secrets = first_draft(secrets_resolved::CHECKS, inputs.issuance);
    let token = first_draft(token_issued::CHECKS, inputs.issuance);
    let (sidecars, counts) = sidecars_synced::check_pods(inputs);
    let ready_inputs = ready::ReadyInputs {
        inputs,
        conditions: [&secrets, &token, &sidecars],
    };
    let ready = first_draft(ready::CHECKS, &ready_inputs);
    let previous = inputs.resource.status.as_ref();
    let previous = previous.map(|status| &status.conditions[..]).unwrap_or_default();
    let generation = inputs.resource.metadata.generation;
    let conditions = [ready, secrets, token, sidecars];
    let token = token_status(&inputs.issuance.token, now);
    McpServerAuthStatus {
        observed_generation: generation,
        conditions: conditions
            .into_iter()
            .map(|draft| with_transition_time(draft, previous, generation, now))
            .collect(),
        token: Some(token).filter(|status| *status != TokenStatus::default()),
        authorization_server: authorization_server::authorization_server(inputs),
        sidecars: counts,
    }
}

/// The condition with the time since when its status holds.
fn with_transition_time(
    draft: ConditionDraft,
    previous: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = match draft.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let unchanged = previous
        .iter()
        .find(|condition| condition.type_ == draft.type_ && condition.status == status);
    Condition {
        type_: draft.type_.to_owned(),
        status: status.to_owned(),
        reason: draft.reason,
        message: draft.message,
        observed_generation: generation,
        last_transition_time: unchanged.map_or(Time(seconds(now)), |condition| {
            condition.last_transition_time.clone()
        }),
    }
}

/// Kubernetes' times have whole seconds; more would differ from what comes back, again and again.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn token_status(token: &TokenSnapshot, now: Timestamp) -> TokenStatus {
    let time = |at: Timestamp| Time(seconds(at));
    let in_use = token.in_use.as_ref();
    TokenStatus {
        issued_at: in_use.and_then(|token| token.issued_at).map(time),
        expires_at: in_use.and_then(|token| token.expires_at).map(time),
        // In the past it means that the request is under way.
        next_refresh_at: token.next_attempt_at.filter(|at| *at > now).map(time),
        r#type: in_use.and_then(|token| token.kind).map(str::to_owned),
        scope: in_use.and_then(|token| token.scope.clone()),
        last_error: token.last_error.as_ref().map(|error| TokenError {
            time: time(error.at),
            reason: error.reason.clone(),
            message: error.message.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
