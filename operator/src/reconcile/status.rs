//! The status of a resource: a pure function of what was found.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use mcp_auth_crds::{
    AuthorizationServerStatus, McpServerAuth, McpServerAuthStatus, SidecarsStatus, TokenError, TokenStatus,
    conditions, reasons,
};
use mcp_auth_protocol::sync::{Credential, Problem};

use super::resolve::Blocked;
use crate::pods::{self, PodMeta};
use crate::sidecars::Sidecar;

/// How many pods or problems a message names before it only counts them.
const NAMED: usize = 3;

/// What the status is made of.
pub struct Found<'a> {
    pub resource: &'a McpServerAuth,
    /// Why the resource is not served at all: not supported, or in conflict with an older one.
    pub refused: Option<Blocked>,
    pub references: Result<(), Blocked>,
    pub token: Token,
    /// The selected pods, with the state of their sidecars; none while they have not been listed.
    pub pods: Option<Vec<(Arc<PodMeta>, Option<Sidecar>)>>,
}

/// What is known of the token, without the token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub held: Option<Held>,
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<LastError>,
    /// The authorization server, where it was discovered.
    pub server: Option<Server>,
    /// The MCP server refuses tokens that were just issued.
    pub refused: bool,
    /// Scopes that the MCP server demands and the authorization server does not grant, and why not.
    pub scopes_refused: Option<String>,
    /// The authorization server is ill, and nothing is asked before the next attempt.
    pub pauses: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub issuer: String,
    pub token_endpoint: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Unknown of a token that somebody else minted.
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// As in [`TokenStatus::type`].
    pub kind: Option<&'static str>,
    pub scope: Option<String>,
    pub by_alternate_secret: bool,
    /// What does not fit the resource, where that is only to be reported.
    pub mismatch: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    pub at: Timestamp,
    /// The authorization server's code, or the kind of failure.
    pub reason: String,
    /// The condition's reason.
    pub condition: &'static str,
    pub message: String,
}

/// One condition before it knows since when it holds.
struct Verdict {
    type_: &'static str,
    /// Unknown where nothing.
    holds: Option<bool>,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(type_: &'static str, holds: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

pub fn status(found: &Found<'_>, now: Timestamp) -> McpServerAuthStatus {
    let secrets = secrets(found);
    let token = token(found);
    let (sidecars, counts) = sidecars(found);
    let ready = ready(found, [&secrets, &token, &sidecars]);
    let before = found
        .resource
        .status
        .as_ref()
        .map(|status| &status.conditions[..])
        .unwrap_or_default();
    let generation = found.resource.metadata.generation;
    let conditions = [ready, secrets, token, sidecars];
    McpServerAuthStatus {
        observed_generation: generation,
        conditions: conditions
            .into_iter()
            .map(|verdict| since(verdict, before, generation, now))
            .collect(),
        token: Some(token_status(&found.token)).filter(|status| *status != TokenStatus::default()),
        authorization_server: authorization_server(found),
        sidecars: counts,
    }
}

/// What sidecars are told where there is no token. A resource that is refused serves nobody; otherwise a token that
/// this operator does not know of, because it was restarted, is still good.
pub fn unavailable(status: &McpServerAuthStatus, refused: bool) -> Credential {
    let token = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == conditions::TOKEN_ISSUED);
    Credential::Unavailable {
        reason: token.map_or(reasons::PENDING.into(), |condition| condition.reason.clone()),
        message: token.map_or(String::new(), |condition| condition.message.clone()),
        keep: !refused,
    }
}

fn secrets(found: &Found<'_>) -> Verdict {
    match &found.references {
        Ok(()) => {
            let message = "every referenced Secret and ConfigMap has been read";
            Verdict::new(
                conditions::SECRETS_RESOLVED,
                Some(true),
                reasons::RESOLVED,
                message,
            )
        }
        Err(blocked) => {
            let holds = (blocked.reason != reasons::PENDING).then_some(false);
            Verdict::new(
                conditions::SECRETS_RESOLVED,
                holds,
                blocked.reason,
                &blocked.message,
            )
        }
    }
}

fn token(found: &Found<'_>) -> Verdict {
    let verdict =
        |holds, reason: &str, message: String| Verdict::new(conditions::TOKEN_ISSUED, holds, reason, message);
    if let Some(refused) = &found.refused {
        return verdict(Some(false), refused.reason, refused.message.clone());
    }
    match (&found.token.held, &found.token.last_error, &found.references) {
        (Some(held), Some(error), _) => {
            let until = held
                .expires_at
                .map_or("it is replaced".to_owned(), |at| seconds(at).to_string());
            let message = format!(
                "the token in use still serves until {until}, but the last request for a new one failed: {}",
                error.message
            );
            let reason = match error.condition {
                reasons::REQUEST_FAILED => reasons::RENEWAL_FAILED,
                other => other,
            };
            verdict(Some(true), reason, message)
        }
        (Some(held), None, _) => in_use(found, held),
        (None, _, Err(blocked)) => {
            let holds = (blocked.reason != reasons::PENDING).then_some(false);
            verdict(holds, blocked.reason, blocked.message.clone())
        }
        (None, Some(error), Ok(())) => verdict(Some(false), error.condition, error.message.clone()),
        (None, None, Ok(())) => verdict(
            None,
            reasons::PENDING,
            "the first token is being requested".to_owned(),
        ),
    }
}

/// Of a token that was issued without an error.
fn in_use(found: &Found<'_>, held: &Held) -> Verdict {
    let verdict = |holds, reason: &str, message: String| {
        Verdict::new(conditions::TOKEN_ISSUED, Some(holds), reason, message)
    };
    if found.token.refused {
        let message = "the MCP server answers 401 to tokens that were just issued: compare oauth2.resource, audience and \
                       scopes with what it expects, and its clock with the authorization server's";
        return verdict(false, reasons::TOKEN_REFUSED, message.to_owned());
    }
    if let Some(scopes) = &found.token.scopes_refused {
        let message = format!(
            "the MCP server demands scopes that the authorization server does not grant: {scopes}; allow this client \
             those scopes, or the calls that need them go on failing"
        );
        return verdict(true, reasons::INSUFFICIENT_SCOPE, message);
    }
    if let Some(mismatch) = &held.mismatch {
        let message = format!("the token in use does not fit this resource: {mismatch}");
        return verdict(true, reasons::TOKEN_MISMATCH, message);
    }
    if held.by_alternate_secret {
        let message = "alternateClientSecretRef works, and the secret of clientSecretRef is refused with invalid_client: \
                       replace the one in clientSecretRef";
        return verdict(true, reasons::ALTERNATE_SECRET_IN_USE, message.to_owned());
    }
    let message = match held.expires_at {
        Some(at) => format!("the token in use is valid until {}", seconds(at)),
        None => "the token in use does not say until when it is valid".to_owned(),
    };
    verdict(true, reasons::ISSUED, message)
}

fn sidecars(found: &Found<'_>) -> (Verdict, Option<SidecarsStatus>) {
    let verdict = |holds, reason: &str, message: String| {
        Verdict::new(conditions::SIDECARS_SYNCED, holds, reason, message)
    };
    let Some(pods) = &found.pods else {
        return (
            verdict(
                None,
                reasons::PENDING,
                "the selected pods are being listed".to_owned(),
            ),
            None,
        );
    };
    let synced = |sidecar: &Option<Sidecar>| sidecar.as_ref().is_some_and(Sidecar::is_up_to_date);
    let total = pods.len();
    let up_to_date = pods.iter().filter(|(_, sidecar)| synced(sidecar)).count();
    let counts = SidecarsStatus {
        synced: i32::try_from(up_to_date).unwrap_or(i32::MAX),
        total: i32::try_from(total).unwrap_or(i32::MAX),
        summary: format!("{up_to_date}/{total}"),
    };
    let server = &found.resource.spec.server.name;
    let of = |wanted: &dyn Fn(&PodMeta, &Option<Sidecar>) -> bool| -> Vec<String> {
        pods.iter()
            .filter(|(pod, sidecar)| wanted(pod, sidecar))
            .map(|(pod, _)| pod.name_any())
            .collect()
    };
    let uninjected = of(&|pod, _| !pods::is_injected(pod));
    let restart = of(&|_, sidecar| {
        sidecar
            .as_ref()
            .is_some_and(|it| it.restart_needed_for.contains(server))
    });
    let behind = of(&|_, sidecar| !synced(sidecar));
    let problem = pods
        .iter()
        .find_map(|(pod, sidecar)| Some((pod, concerning(sidecar.as_ref()?, server)?)));
    let said = if total == 0 {
        let selector =
            serde_json::to_string(&found.resource.spec.pod_selector).expect("a selector is plain values");
        let message = format!(
            "spec.podSelector {selector} matches no running pod of this namespace: compare it with the pods' labels"
        );
        verdict(Some(false), reasons::NO_PODS_SELECTED, message)
    } else if !uninjected.is_empty() {
        let message = format!(
            "{} run without the sidecar: label the namespace mcpauth.dev/injection=enabled (or the pod template \
             mcpauth.dev/inject=true) and restart the Deployment, as `kubectl rollout restart` does",
            list(&uninjected)
        );
        verdict(Some(false), reasons::PODS_NOT_INJECTED, message)
    } else if let Some((pod, problem)) = problem {
        let message = format!(
            "{} reports {}: {}",
            pod.name_any(),
            problem.reason,
            problem.message
        );
        verdict(Some(false), reasons::SIDECAR_PROBLEM, message)
    } else if !behind.is_empty() {
        let message = format!("{} not yet up to date", list(&behind));
        verdict(Some(false), reasons::SIDECARS_BEHIND, message)
    } else if !restart.is_empty() {
        let message = format!(
            "LiteLLM reads its servers only at start: restart {} (`kubectl rollout restart`) to make it call {server} this way",
            list(&restart)
        );
        verdict(Some(false), reasons::RESTART_NEEDED, message)
    } else {
        verdict(
            Some(true),
            reasons::SYNCED,
            format!("{total} of {total} sidecars are up to date"),
        )
    };
    (said, Some(counts))
}

/// The first problem of the whole pod or of this server: one server's fault is not another's.
fn concerning<'a>(sidecar: &'a Sidecar, server: &str) -> Option<&'a Problem> {
    let concerns = |problem: &&Problem| problem.server.as_deref().is_none_or(|of| of == server);
    sidecar.problems.iter().find(concerns)
}

/// False at the first part that is false, unknown at the first that is unknown.
fn ready(found: &Found<'_>, parts: [&Verdict; 3]) -> Verdict {
    let verdict =
        |holds, reason: &str, message: String| Verdict::new(conditions::READY, holds, reason, message);
    if let Some(refused) = &found.refused {
        return verdict(Some(false), refused.reason, refused.message.clone());
    }
    // A renewal that fails while the token serves is told, but LiteLLM still reaches the server.
    for holds in [Some(false), None] {
        if let Some(part) = parts.iter().find(|part| part.holds == holds) {
            return verdict(holds, &part.reason, part.message.clone());
        }
    }
    let warning = parts
        .iter()
        .find(|part| reasons::WARNINGS.contains(&part.reason.as_str()));
    if let Some(part) = warning {
        return verdict(Some(true), &part.reason, part.message.clone());
    }
    let message = format!(
        "LiteLLM reaches {} with a valid token{}",
        found.resource.spec.server.name,
        insecure(found)
    );
    verdict(Some(true), reasons::READY, message)
}

/// Plain HTTP is never silent.
fn insecure(found: &Found<'_>) -> String {
    let spec = &found.resource.spec;
    let plain = |url: &str| url.starts_with("http://");
    let server = plain(&spec.server.url).then_some("the MCP server");
    let stated = spec
        .oauth2
        .as_ref()
        .and_then(|oauth2| oauth2.token_url.as_deref());
    let discovered = found.token.server.as_ref();
    let token_url = stated.or(discovered.map(|server| server.token_endpoint.as_str()));
    let endpoint = token_url.filter(|url| plain(url)).map(|_| "the token endpoint");
    match (server, endpoint) {
        (None, None) => String::new(),
        (Some(one), None) | (None, Some(one)) => format!("; {one} is reached over plain http, as allowed"),
        (Some(one), Some(other)) => format!("; {one} and {other} are reached over plain http, as allowed"),
    }
}

fn list(names: &[String]) -> String {
    let (named, rest) = names.split_at(names.len().min(NAMED));
    let pods = if names.len() == 1 { "pod" } else { "pods" };
    let more = if rest.is_empty() {
        String::new()
    } else {
        format!(" and {} more", rest.len())
    };
    format!("{pods} {}{more}", named.join(", "))
}

fn since(verdict: Verdict, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
    let status = match verdict.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let same = before
        .iter()
        .find(|condition| condition.type_ == verdict.type_ && condition.status == status);
    Condition {
        type_: verdict.type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: same.map_or(Time(seconds(now)), |condition| {
            condition.last_transition_time.clone()
        }),
    }
}

/// Kubernetes' times have whole seconds; more would differ from what comes back, again and again.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// What was discovered, now or by an earlier run: the issuer that is kept to must not be forgotten by a restart.
fn authorization_server(found: &Found<'_>) -> Option<AuthorizationServerStatus> {
    let spec = &found.resource.spec;
    // With `tokenUrl` there is nothing to discover.
    spec.oauth2.as_ref().filter(|oauth2| oauth2.token_url.is_none())?;
    let discovered = found
        .token
        .server
        .as_ref()
        .map(|server| AuthorizationServerStatus {
            issuer: server.issuer.clone(),
            token_endpoint: server.token_endpoint.clone(),
            resource: spec.server.url.clone(),
        });
    discovered.or_else(|| known_server(found.resource).cloned())
}

/// The authorization server of an earlier status, if that spoke of the same MCP server.
pub fn known_server(resource: &McpServerAuth) -> Option<&AuthorizationServerStatus> {
    let known = resource.status.as_ref()?.authorization_server.as_ref()?;
    (known.resource == resource.spec.server.url).then_some(known)
}

fn token_status(token: &Token) -> TokenStatus {
    let time = |at: Timestamp| Time(seconds(at));
    let held = token.held.as_ref();
    TokenStatus {
        issued_at: held.and_then(|held| held.issued_at).map(time),
        expires_at: held.and_then(|held| held.expires_at).map(time),
        next_refresh_at: token.next_attempt_at.map(time),
        r#type: held.and_then(|held| held.kind).map(str::to_owned),
        scope: held.and_then(|held| held.scope.clone()),
        last_error: token.last_error.as_ref().map(|error| TokenError {
            time: time(error.at),
            reason: error.reason.clone(),
            message: error.message.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
