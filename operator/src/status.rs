//! The status of a resource: a pure function of what its token source published and of its pods.
//!
//! Each condition is judged by a list of pure checks: the first that has something to say decides
//! ([`mcp_auth_credentials::conditions`], where those that need no cluster are too).

mod authorization_server;
mod events;
mod fleet;
mod learned;
mod namespace_pods;
mod pod_classes;
mod pods_injected;
mod pods_refused;
mod ready;
mod selection;
mod server_reachable;
mod sidecars_synced;
mod write_records;
mod writer;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use mcp_auth_crds::{
    EffectiveOAuth2, ManagedKeyStatus, McpServerAuth, McpServerAuthStatus, TokenClaims, TokenError,
    TokenStatus, TokenUsage,
};
use mcp_auth_credentials::conditions::{
    ConditionDraft, first_draft, seconds, secrets_resolved, token_issued,
};
use mcp_auth_credentials::credential_expiry::{CredentialExpiry, credential_expiring};
use mcp_auth_credentials::{EffectiveSettings, Issuance, TokenInUse, TokenSnapshot, TokenUsage as Usage};
use mcp_auth_oauth::ReportedClaims;

use namespace_pods::Selected;

use crate::refused_pods::RefusedPod;
use crate::sync::LeftOut;

pub use pods_injected::InjectionFacts;
pub use server_reachable::advice as reachability_advice;
pub use writer::{EventSinks, KeptSecrets, ObservedPods, StatusWriter, run};

/// What the status is made of.
pub struct StatusInputs<'a> {
    pub resource: &'a McpServerAuth,
    pub issuance: &'a Issuance,
    /// The selected pods, with the state of their sidecars; none while they have not been listed.
    pub pods: Option<Selected<'a>>,
    /// Pods that the resource selects and that the webhook refused a while ago.
    pub refused: Vec<Arc<RefusedPod>>,
    /// Whether refusals of before the operator's start may stand that no record is left of.
    pub may_miss_refusals: bool,
    pub injection: InjectionFacts,
    /// What the spec refers to and when it ends.
    pub expiries: Vec<CredentialExpiry>,
    /// The key that the operator makes for the client.
    pub managed_key: Option<ManagedKeyStatus>,
    /// What becomes of the restart that LiteLLM needs, where the operator is to see to it.
    pub restart: Option<String>,
    /// Of selected pods, sidecars are not given the server: there is no room for it in what they read at once.
    pub left_out: Option<LeftOut>,
}

pub fn status(inputs: &StatusInputs<'_>, now: Timestamp) -> McpServerAuthStatus {
    let secrets = secrets_resolved(inputs.issuance);
    let token = token_issued(inputs.issuance);
    let (sidecars, counts) = sidecars_synced::check_pods(inputs);
    let server = server_reachable::server_reachable(inputs);
    let expiring = credential_expiring(&inputs.expiries, now);
    let judged = [&secrets, &token, &sidecars, &server].into_iter();
    let ready_inputs = ready::ReadyInputs {
        inputs,
        conditions: judged.chain(&expiring).collect(),
    };
    let ready = first_draft(ready::CHECKS, &ready_inputs);
    let previous = inputs.resource.status.as_ref();
    let previous = previous.map(|status| &status.conditions[..]).unwrap_or_default();
    let generation = inputs.resource.metadata.generation;
    let conditions = [ready, secrets, token, sidecars, server];
    let previous_token = inputs.resource.status.as_ref();
    let previous_token = previous_token.and_then(|status| status.token.as_ref());
    let token = token_status(&inputs.issuance.token, previous_token, now);
    McpServerAuthStatus {
        observed_generation: generation,
        conditions: conditions
            .into_iter()
            .chain(expiring)
            .map(|draft| with_transition_time(draft, previous, generation, now))
            .collect(),
        token: Some(token).filter(|status| *status != TokenStatus::default()),
        authorization_server: authorization_server::authorization_server(inputs),
        effective: effective(inputs),
        managed_key: inputs.managed_key.clone(),
        sidecars: counts,
    }
}

/// What counts of `spec.oauth2`, as far as it is known without Secrets.
fn effective(inputs: &StatusInputs<'_>) -> Option<EffectiveOAuth2> {
    let spec = &inputs.resource.spec;
    let oauth2 = spec.oauth2.as_ref()?;
    let effective = EffectiveSettings::new(spec, oauth2, oauth2.client_id.as_deref());
    Some(effective.in_status(oauth2, inputs.issuance.token.server.as_ref()))
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

fn token_status(token: &TokenSnapshot, previous: Option<&TokenStatus>, now: Timestamp) -> TokenStatus {
    let time = |at: Timestamp| Time(seconds(at));
    let in_use = token.in_use.as_ref();
    let issued_at = in_use.and_then(|token| token.issued_at).map(time);
    // The request is under way. Its outcome is written in a moment, and what was said of the token in use stays until then: one
    // renewal is one write.
    let is_under_way = token.next_attempt_at.is_some_and(|at| at <= now);
    let of_same_token = |status: &&TokenStatus| status.issued_at == issued_at;
    let of_token = previous.filter(of_same_token);
    let previous = of_token.filter(|_| is_under_way);
    let today = token.usage.as_ref();
    let today = today.filter(|usage| usage.today.is_of(now)).map(usage);
    let as_before = |today: &TokenUsage| {
        let before = of_token?.usage.as_ref()?;
        let only_forecast_differs =
            (&before.date, before.issued, before.quota) == (&today.date, today.issued, today.quota);
        // The next leader counts from whole seconds, and so may come to one more or less.
        let is_rounding = before.forecast.abs_diff(today.forecast) <= 1;
        (only_forecast_differs && (is_under_way || is_rounding)).then(|| before.clone())
    };
    TokenStatus {
        next_refresh_at: match token.next_attempt_at {
            Some(at) if !is_under_way => Some(time(at)),
            Some(_) => previous.and_then(|status| status.next_refresh_at.clone()),
            None => None,
        },
        issued_at,
        expires_at: in_use.and_then(|token| token.expires_at).map(time),
        r#type: in_use.and_then(|token| token.kind).map(str::to_owned),
        scope: in_use.and_then(|token| token.scope.clone()),
        format: in_use.map(|token| token_format(token).to_owned()),
        claims: in_use.and_then(|token| token.claims.as_deref()).map(claims),
        usage: today.map(|today| as_before(&today).unwrap_or(today)),
        last_error: token.last_error.as_ref().map(|error| TokenError {
            time: time(error.at),
            reason: error.reason.clone(),
            message: error.message.clone(),
        }),
    }
}

fn usage(usage: &Usage) -> TokenUsage {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    TokenUsage {
        date: usage.today.day.to_string(),
        issued: count(usage.today.issued),
        forecast: count(usage.today.forecast),
        quota: usage.quota.map(count),
    }
}

/// As in [`TokenStatus::format`].
fn token_format(token: &TokenInUse) -> &'static str {
    match token.claims {
        Some(_) => "JWT",
        None => "Opaque",
    }
}

fn claims(claims: &ReportedClaims) -> TokenClaims {
    let time = |at: Option<i64>| Some(Time(Timestamp::from_second(at?).ok()?));
    TokenClaims {
        issuer: claims.issuer.clone(),
        subject: claims.subject.clone(),
        client_id: claims.client_id.clone(),
        audience: claims.audiences.clone(),
        scope: claims.scopes.clone(),
        expires_at: time(claims.expires_at),
        not_before: time(claims.not_before),
        issued_at: time(claims.issued_at),
        key_thumbprint: claims.key_thumbprint.clone(),
        certificate_thumbprint: claims.certificate_thumbprint.clone(),
    }
}

#[cfg(test)]
mod tests;
