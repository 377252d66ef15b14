//! `TokenIssued`: whether there is a token to use, and what is to be said of it.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_oauth::{PreflightProblem, UserTokenLimit};
use mcp_auth_protocol::sync::Credential;

use super::{Check, ConditionDraft, first_draft, seconds};
use crate::not_served::NotServedError;
use crate::store::{ClientUsage, Issuance, ServerLookUp, TokenInUse};

pub(super) const CHECKS: &[Check<Issuance>] = &[
    conflict,
    limit_exceeded,
    users_only,
    renewal_failed,
    fresh_tokens_rejected,
    scopes_refused,
    scopes_not_allowed,
    mismatch,
    alternate_secret_in_use,
    quota,
    user_tokens_limited,
    audit_keys_unavailable,
    clock_skew,
    in_use,
    not_resolved,
    request_failed,
    first_request_under_way,
];

/// What is said of requests for nobody.
pub const USERS_ONLY: &str = "spec.oauth2.serviceToken is None: each user's token is exchanged when it is needed, and \
                              requests for no user, such as LiteLLM's discovery at its start, have none and are \
                              answered with an error";

/// What sidecars get where there is no token. With `keep` they go on with a token that this operator does not
/// know of, because it was restarted; not where the resource is in conflict or not allowed.
pub fn unavailable(issuance: &Issuance) -> Credential {
    let ConditionDraft { reason, message, .. } = first_draft(CHECKS, issuance);
    let ends_use = issuance.problem.as_ref().is_some_and(NotServedError::ends_use);
    Credential::Unavailable {
        reason,
        message,
        keep: !ends_use,
    }
}

fn draft(holds: impl Into<Option<bool>>, reason: &str, message: impl Into<String>) -> Option<ConditionDraft> {
    Some(ConditionDraft::new(
        conditions::TOKEN_ISSUED,
        holds.into(),
        reason,
        message,
    ))
}

fn conflict(issuance: &Issuance) -> Option<ConditionDraft> {
    let conflict = issuance
        .problem
        .as_ref()
        .filter(|problem| problem.is_conflict())?;
    draft(false, conflict.reason(), conflict.message())
}

/// What there was serves on.
fn limit_exceeded(issuance: &Issuance) -> Option<ConditionDraft> {
    draft(
        issuance.token.in_use.is_some(),
        reasons::LIMIT_EXCEEDED,
        limit_exceeded_message(issuance)?,
    )
}

/// What is more than the limits allow, and what becomes of the token that there is.
pub(super) fn limit_exceeded_message(issuance: &Issuance) -> Option<String> {
    let problem = issuance.problem.as_ref().filter(|problem| problem.is_limit())?;
    let serves = match &issuance.token.in_use {
        Some(token) => {
            let until = token
                .expires_at
                .map_or("it is replaced".to_owned(), |at| seconds(at).to_string());
            format!("; the token in use serves until {until}, and no other is requested")
        }
        None => superseded(issuance),
    };
    Some(format!("{}{serves}", problem.message()))
}

fn users_only(issuance: &Issuance) -> Option<ConditionDraft> {
    let look_up = issuance.token.users_only?;
    // What keeps the source from being as the spec says is told first.
    if issuance.problem.is_some() {
        return None;
    }
    if let Some(error) = &issuance.token.last_error {
        let message = format!(
            "{}; no user's token can be exchanged before that. {USERS_ONLY}",
            error.message
        );
        return draft(false, error.condition, message);
    }
    let asked = match (look_up, &issuance.token.server) {
        (ServerLookUp::Pending | ServerLookUp::Failed, _) => {
            let message = format!("the authorization server's metadata are being looked for. {USERS_ONLY}");
            return draft(None, reasons::PENDING, message);
        }
        (ServerLookUp::Discovered, Some(server)) => format!("the metadata of {} were read", server.issuer),
        (ServerLookUp::Stated | ServerLookUp::Discovered, _) => {
            "its tokenUrl is stated, so that the authorization server was asked nothing".to_owned()
        }
    };
    let of_identity_provider = issuance.token.identity_provider.as_ref();
    let of_identity_provider = of_identity_provider.map_or(String::new(), |issuer| {
        format!("; the metadata of the identity provider {issuer} were read")
    });
    let foretold = preflight(issuance, PreflightProblem::is_stated);
    let message = format!(
        "{USERS_ONLY}; {asked}{of_identity_provider}{foretold}; no token was requested: whether they are exchanged shows with the first user's"
    );
    if let Some((reason, quota)) = quota_problem(issuance) {
        return draft(true, reason, format!("{quota}; {message}"));
    }
    if let Some(said) = said_before(issuance) {
        return Some(said);
    }
    match user_tokens_limit(issuance) {
        Some(limit) => draft(true, reasons::LIMIT_EXCEEDED, format!("{limit}; {message}")),
        None => draft(true, reasons::USER_TOKENS_ONLY, message),
    }
}

/// Tokens are requested all the same.
fn quota(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    match quota_problem(issuance) {
        Some((reason, message)) => draft(true, reason, message),
        None => said_before(issuance),
    }
}

/// A new leader does not know at once whose tokens its predecessor counted: what that said of the quota holds for so long.
fn said_before(issuance: &Issuance) -> Option<ConditionDraft> {
    let usage = issuance.token.usage.as_ref()?;
    let said = usage.said_before.as_ref().filter(|_| usage.is_partial)?;
    draft(true, said.reason, said.message.clone())
}

/// Whether more tokens are issued today to the resource's client than the resource states that there may be.
fn quota_problem(issuance: &Issuance) -> Option<(&'static str, String)> {
    let usage = issuance.token.usage.as_ref()?;
    let quota = usage.quota?;
    let (issued, forecast) = usage.of_client();
    let shared = usage.client.as_ref().map_or(String::new(), resources);
    let way_out = "nothing is refused because of that: look what makes them so many (short-lived tokens, refreshBefore, a \
                   token that does not fit, users), or raise the quota at the provider and here";
    if issued > quota {
        let message = format!(
            "{issued} tokens were issued today (UTC){shared}, and spec.oauth2.quota.tokensPerDay is {quota}; {way_out}"
        );
        return Some((reasons::QUOTA_EXCEEDED, message));
    }
    let message = format!(
        "{issued} tokens were issued today (UTC), about {forecast} will be by midnight if it goes on like \
         this{shared}, and spec.oauth2.quota.tokensPerDay is {quota}; {way_out}"
    );
    (forecast > quota).then_some((reasons::QUOTA_FORECAST, message))
}

/// What makes the tokens of a client: those that take the most are what to look at.
fn resources(client: &ClientUsage) -> String {
    let count = client.resources;
    let named = client.largest.iter();
    let named: Vec<_> = named
        .map(|(name, forecast)| format!("{name} {forecast}"))
        .collect();
    let others = match count.saturating_sub(named.len()) {
        0 => String::new(),
        others => format!(", and {others} others"),
    };
    let former = match client.issued_to_former {
        0 => String::new(),
        issued => format!("; {issued} were for resources that have another client by now"),
    };
    let have = match count {
        1 => "1 resource of this namespace has".to_owned(),
        count => format!("{count} resources of this namespace have"),
    };
    format!(
        " to the client that {have} (by midnight: {}{others}{former})",
        named.join(", ")
    )
}

/// Each user gets a token all the same: only more are requested.
fn user_tokens_limited(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    draft(true, reasons::LIMIT_EXCEEDED, user_tokens_limit(issuance)?)
}

fn user_tokens_limit(issuance: &Issuance) -> Option<String> {
    let what_goes = "the one that was used least recently goes, and is exchanged anew when its user calls";
    Some(match issuance.token.user_tokens_limited_to? {
        UserTokenLimit::Tokens(limit) => format!(
            "{limit} users' tokens are kept for all resources of this namespace (limits.userTokensPerNamespace and \
             limits.userTokens), and that many there are: {what_goes}; ask who runs mcp-auth to raise the limit"
        ),
        UserTokenLimit::Bytes(limit) => format!(
            "{} kB of users' tokens are kept for all resources of this namespace, and that many there are: {what_goes}; \
             have the authorization server issue shorter ones, such as without the user's groups",
            limit / 1000
        ),
    })
}

fn renewal_failed(issuance: &Issuance) -> Option<ConditionDraft> {
    let token = issuance.token.in_use.as_ref()?;
    let error = issuance.token.last_error.as_ref()?;
    let until = token
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
    draft(true, reason, message)
}

fn fresh_tokens_rejected(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance
        .token
        .in_use
        .as_ref()
        .filter(|_| issuance.token.rejected)?;
    let message = "the MCP server answers 401 to tokens that were just issued: compare oauth2.resource, \
                   audience and scopes with what it expects, and its clock with the authorization server's";
    draft(false, reasons::TOKEN_REFUSED, message)
}

fn scopes_refused(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    let scopes = issuance.token.scopes_refused.as_ref()?;
    let message = format!(
        "the MCP server demands scopes that the authorization server does not grant: {scopes}; allow this \
         client those scopes, or the calls that need them go on failing"
    );
    draft(true, reasons::INSUFFICIENT_SCOPE, message)
}

fn scopes_not_allowed(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    let scopes = issuance.token.scopes_not_allowed.as_ref()?;
    let message = format!(
        "the MCP server demands scopes that this resource does not allow to be requested: {scopes}; list them in \
         oauth2.stepUpAllowedScopes if every LiteLLM that is selected may have them, or the calls that need them go on \
         failing"
    );
    draft(true, reasons::INSUFFICIENT_SCOPE, message)
}

fn mismatch(issuance: &Issuance) -> Option<ConditionDraft> {
    let mismatch = issuance.token.in_use.as_ref()?.mismatch.as_ref()?;
    let message = format!("the token in use does not fit this resource: {mismatch}");
    draft(true, reasons::TOKEN_MISMATCH, message)
}

fn alternate_secret_in_use(issuance: &Issuance) -> Option<ConditionDraft> {
    let by_alternate = |token: &&TokenInUse| token.by_alternate_secret;
    issuance.token.in_use.as_ref().filter(by_alternate)?;
    let message = "alternateClientSecretRef works, and the secret of clientSecretRef is refused with \
                   invalid_client: replace the one in clientSecretRef";
    draft(true, reasons::ALTERNATE_SECRET_IN_USE, message)
}

/// The token is there all the same: only lines of the audit log lack their users.
fn audit_keys_unavailable(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    let problem = issuance.audit_keys_problem.as_ref()?;
    let message = format!(
        "the keys of spec.audit.user.jwks could not be fetched, so that users' tokens are verified by the keys of \
         before, if there are any: {problem}"
    );
    draft(true, reasons::AUDIT_KEYS_UNAVAILABLE, message)
}

/// Less is no problem of anybody's.
const TOLD_FROM_SECONDS: i64 = 30;

/// Which clock differs, where that is worth a word.
fn difference_of_clocks(issuance: &Issuance) -> Option<String> {
    let offset = issuance.token.clock_offset;
    let direction = if offset > 0 { "ahead of" } else { "behind" };
    (offset.abs() >= TOLD_FROM_SECONDS).then(|| {
        format!(
            "the authorization server's clock is {} s {direction} the operator's: set the wrong one of the two right",
            offset.abs()
        )
    })
}

/// Requests say the server's time meanwhile; a token's end is counted by the operator's clock.
fn clock_skew(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    let message = format!(
        "{}; until then assertions and proofs for that server say its time",
        difference_of_clocks(issuance)?
    );
    draft(true, reasons::CLOCK_SKEW, message)
}

fn in_use(issuance: &Issuance) -> Option<ConditionDraft> {
    let message = match issuance.token.in_use.as_ref()?.expires_at {
        Some(at) => format!("the token in use is valid until {}", seconds(at)),
        None => "the token in use does not say until when it is valid".to_owned(),
    };
    draft(true, reasons::ISSUED, message)
}

fn not_resolved(issuance: &Issuance) -> Option<ConditionDraft> {
    let problem = issuance.problem.as_ref()?;
    let holds = (!problem.is_pending()).then_some(false);
    let message = format!("{}{}", problem.message(), superseded(issuance));
    draft(holds, problem.reason(), message)
}

fn request_failed(issuance: &Issuance) -> Option<ConditionDraft> {
    let error = issuance.token.last_error.as_ref()?;
    let foretold = preflight(issuance, |problem| problem.explains(&error.reason));
    let clocks = difference_of_clocks(issuance).map_or(String::new(), |told| format!("; {told}"));
    let quota = quota_problem(issuance).map_or(String::new(), |(_, told)| format!("; {told}"));
    draft(
        false,
        error.condition,
        format!(
            "{}{clocks}{foretold}{quota}{}",
            error.message,
            superseded(issuance)
        ),
    )
}

fn first_request_under_way(issuance: &Issuance) -> Option<ConditionDraft> {
    let foretold = preflight(issuance, PreflightProblem::is_stated);
    let message = format!(
        "the first token is being requested{foretold}{}",
        superseded(issuance)
    );
    draft(None, reasons::PENDING, message)
}

/// What the authorization server's metadata say against the request.
fn preflight(issuance: &Issuance, matters: impl Fn(&PreflightProblem) -> bool) -> String {
    let problems = issuance.token.preflight.iter();
    let problems = problems.filter(|problem| matters(problem));
    let told: String = problems.map(|problem| format!("; {problem}")).collect();
    match told.strip_prefix("; ") {
        Some(told) => format!("; the authorization server's metadata speak against it: {told}"),
        None => told,
    }
}

/// What sidecars do while the changed resource has brought no token.
fn superseded(issuance: &Issuance) -> String {
    match &issuance.token.superseded {
        None => String::new(),
        Some(token) => {
            let until = token
                .expires_at
                .map_or("it is replaced".to_owned(), |at| seconds(at).to_string());
            format!("; sidecars go on with the token of before this change of the resource until {until}")
        }
    }
}

#[cfg(test)]
mod tests;
