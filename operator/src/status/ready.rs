//! `Ready`: false at the first condition that is false, unknown at the first that is unknown.

use mcp_auth_crds::{conditions, reasons};

use super::{ConditionDraft, StatusInputs};

/// What Ready is judged by.
pub(super) struct ReadyInputs<'a> {
    pub inputs: &'a StatusInputs<'a>,
    pub conditions: Vec<&'a ConditionDraft>,
}

pub(super) const CHECKS: &[for<'a> fn(&ReadyInputs<'a>) -> Option<ConditionDraft>] =
    &[conflict, first_false, first_unknown, first_warning, ready];

fn draft(holds: impl Into<Option<bool>>, reason: &str, message: impl Into<String>) -> Option<ConditionDraft> {
    Some(ConditionDraft::new(
        conditions::READY,
        holds.into(),
        reason,
        message,
    ))
}

fn conflict(ready_inputs: &ReadyInputs<'_>) -> Option<ConditionDraft> {
    let problem = ready_inputs.inputs.issuance.problem.as_ref();
    let conflict = problem.filter(|problem| problem.is_conflict())?;
    draft(false, conflict.reason(), conflict.message())
}

fn first_false(ready_inputs: &ReadyInputs<'_>) -> Option<ConditionDraft> {
    first_matching(ready_inputs, |condition| condition.holds == Some(false))
}

/// A server that has not been spoken to yet is no fault, and sidecars of an earlier version report none.
fn first_unknown(ready_inputs: &ReadyInputs<'_>) -> Option<ConditionDraft> {
    first_matching(ready_inputs, |condition| {
        condition.holds.is_none() && condition.type_ != conditions::SERVER_REACHABLE
    })
}

/// A renewal that fails while the token serves is a warning: LiteLLM still reaches the server.
fn first_warning(ready_inputs: &ReadyInputs<'_>) -> Option<ConditionDraft> {
    first_matching(ready_inputs, |condition| {
        reasons::WARNINGS.contains(&condition.reason.as_str())
    })
}

fn ready(ready_inputs: &ReadyInputs<'_>) -> Option<ConditionDraft> {
    let server = &ready_inputs.inputs.resource.spec.server.name;
    let insecure = insecure(ready_inputs.inputs);
    let is_reached = ready_inputs
        .conditions
        .iter()
        .any(|condition| condition.type_ == conditions::SERVER_REACHABLE && condition.holds == Some(true));
    let (token, tokens) = match ready_inputs.inputs.issuance.token.users_only.is_some() {
        true => ("users' own tokens", "gets users' own tokens"),
        false => ("a valid token", "has a valid token"),
    };
    let message = match is_reached {
        true => format!("LiteLLM reaches {server} with {token}{insecure}"),
        false => {
            format!("every sidecar {tokens} for {server}, and none has spoken to the server yet{insecure}")
        }
    };
    draft(true, reasons::READY, message)
}

fn first_matching(
    ready_inputs: &ReadyInputs<'_>,
    matches: impl Fn(&ConditionDraft) -> bool,
) -> Option<ConditionDraft> {
    let condition = ready_inputs
        .conditions
        .iter()
        .find(|condition| matches(condition))?;
    draft(condition.holds, &condition.reason, condition.message.clone())
}

/// Plain HTTP is never silent.
fn insecure(inputs: &StatusInputs<'_>) -> String {
    let spec = &inputs.resource.spec;
    let plain = |url: &str| url.starts_with("http://");
    let server = plain(&spec.server.url).then_some("the MCP server");
    let stated = spec
        .oauth2
        .as_ref()
        .and_then(|oauth2| oauth2.token_url.as_deref());
    let discovered = inputs.issuance.token.server.as_ref();
    let token_url = stated.or(discovered.map(|server| server.token_endpoint.as_str()));
    let endpoint = token_url.filter(|url| plain(url)).map(|_| "the token endpoint");
    match (server, endpoint) {
        (None, None) => String::new(),
        (Some(first), None) | (None, Some(first)) => {
            format!("; {first} is reached over plain http, as allowed")
        }
        (Some(first), Some(second)) => {
            format!("; {first} and {second} are reached over plain http, as allowed")
        }
    }
}
