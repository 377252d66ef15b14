//! `TokenIssued`: whether there is a token to use, and what is to be said of it.

use mcp_auth_crds::{conditions, reasons};
use mcp_auth_oauth::PreflightProblem;
use mcp_auth_protocol::sync::Credential;

use super::{Check, ConditionDraft, first_draft, seconds};
use crate::not_served::NotServedError;
use crate::store::{Issuance, ServerLookUp, TokenInUse};

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
        (ServerLookUp::Discovered, Some(server)) => format!(
            "the metadata of {} were read{}",
            server.issuer,
            preflight(issuance, PreflightProblem::is_stated)
        ),
        (ServerLookUp::Stated | ServerLookUp::Discovered, _) => {
            "its tokenUrl is stated, so that the authorization server was asked nothing".to_owned()
        }
    };
    let message = format!(
        "{USERS_ONLY}; {asked}; no token was requested: whether they are exchanged shows with the first user's"
    );
    match user_tokens_limit(issuance) {
        Some(limit) => draft(true, reasons::LIMIT_EXCEEDED, format!("{limit}; {message}")),
        None => draft(true, reasons::USER_TOKENS_ONLY, message),
    }
}

/// Each user gets a token all the same: only more are requested.
fn user_tokens_limited(issuance: &Issuance) -> Option<ConditionDraft> {
    issuance.token.in_use.as_ref()?;
    draft(true, reasons::LIMIT_EXCEEDED, user_tokens_limit(issuance)?)
}

fn user_tokens_limit(issuance: &Issuance) -> Option<String> {
    let limit = issuance.token.user_tokens_limited_to?;
    Some(format!(
        "{limit} users' tokens are kept for all resources of this namespace (limits.userTokensPerNamespace and \
         limits.userTokens), and that many there are: the one that was used least recently goes, and is exchanged \
         anew when its user calls; ask who runs mcp-auth to raise the limit"
    ))
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
    draft(
        false,
        error.condition,
        format!("{}{clocks}{foretold}{}", error.message, superseded(issuance)),
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
mod tests {
    use mcp_auth_crds::reasons;

    use super::*;
    use crate::store::{LastError, TokenSnapshot};

    fn issuance(last_error: Option<LastError>) -> Issuance {
        Issuance {
            token: TokenSnapshot {
                preflight: vec![
                    PreflightProblem::Grant {
                        grant: "client_credentials",
                        listed: vec!["authorization_code".into()],
                    },
                    PreflightProblem::MethodByDefault {
                        method: "client_secret_post",
                    },
                ],
                last_error,
                ..TokenSnapshot::default()
            },
            ..Issuance::default()
        }
    }

    fn failed(reason: &str) -> LastError {
        LastError {
            at: jiff::Timestamp::UNIX_EPOCH,
            reason: reason.into(),
            condition: reasons::REQUEST_FAILED,
            message: "refused".into(),
        }
    }

    /// Entra's metadata list `openid`, `profile`, `email` and `offline_access`, and no scope of an application.
    #[test]
    fn a_scope_that_is_not_listed_is_told_only_after_the_server_refused_a_scope() {
        let message = |last_error| {
            let mut issuance = issuance(last_error);
            issuance.token.preflight = vec![PreflightProblem::Scopes {
                unlisted: vec!["api://tools/.default".into()],
            }];
            first_draft(CHECKS, &issuance).message
        };
        for silent in [
            message(None),
            message(Some(failed("invalid_client"))),
            message(Some(failed("ConnectDns"))),
        ] {
            assert!(!silent.contains("metadata"), "{silent}");
        }
        let told = message(Some(failed("invalid_scope")));
        assert!(
            told.contains("scopes_supported does not list api://tools/.default"),
            "{told}"
        );
    }

    #[test]
    fn what_is_beyond_a_limit_is_told_and_the_token_in_use_serves_on() {
        let problem = crate::NotServedError::new(crate::NotServedReason::LimitExceeded, "one too many");
        let mut issuance = Issuance {
            problem: Some(problem),
            ..Issuance::default()
        };
        let none = first_draft(CHECKS, &issuance);
        assert_eq!(
            (none.holds, none.reason.as_str()),
            (Some(false), reasons::LIMIT_EXCEEDED)
        );
        issuance.token.in_use = Some(TokenInUse {
            expires_at: Some(jiff::Timestamp::UNIX_EPOCH),
            ..TokenInUse::default()
        });
        let serves = first_draft(CHECKS, &issuance);
        assert_eq!(
            (serves.holds, serves.reason.as_str()),
            (Some(true), reasons::LIMIT_EXCEEDED)
        );
        assert!(
            serves
                .message
                .starts_with("one too many; the token in use serves until 1970-01-01T00:00:00Z")
        );
        let secrets = super::super::secrets_resolved(&issuance);
        assert_eq!((secrets.holds, secrets.message), (Some(true), serves.message));
    }

    #[test]
    fn users_tokens_at_their_limit_are_told_beside_a_token_that_serves_and_without_one() {
        let mut issuance = Issuance::default();
        issuance.token.user_tokens_limited_to = Some(7);
        issuance.token.users_only = Some(ServerLookUp::Stated);
        let drafts = [first_draft(CHECKS, &issuance), {
            issuance.token.users_only = None;
            issuance.token.in_use = Some(TokenInUse::default());
            first_draft(CHECKS, &issuance)
        }];
        for told in drafts {
            assert_eq!(
                (told.holds, told.reason.as_str()),
                (Some(true), reasons::LIMIT_EXCEEDED)
            );
            assert!(
                told.message.starts_with("7 users' tokens") && told.message.contains("limits.userTokens")
            );
        }
    }

    #[test]
    fn clocks_that_differ_are_told_beside_the_token_and_beside_a_failure() {
        let with = |clock_offset, in_use: bool| {
            let mut issuance = issuance((!in_use).then(|| failed("invalid_client")));
            issuance.token.clock_offset = clock_offset;
            issuance.token.in_use = in_use.then(TokenInUse::default);
            first_draft(CHECKS, &issuance)
        };
        let behind = with(-90, true);
        assert_eq!(
            (behind.holds, behind.reason.as_str()),
            (Some(true), reasons::CLOCK_SKEW)
        );
        assert!(
            behind
                .message
                .starts_with("the authorization server's clock is 90 s behind the operator's"),
            "{}",
            behind.message
        );
        assert_eq!(with(29, true).reason, reasons::ISSUED);
        let failing = with(90, false).message;
        assert!(failing.contains("90 s ahead of the operator's"), "{failing}");
    }

    #[test]
    fn what_the_metadata_state_is_told_before_the_first_answer_and_their_silence_after_it() {
        let before = first_draft(CHECKS, &issuance(None));
        assert_eq!((before.holds, before.reason.as_str()), (None, reasons::PENDING));
        assert_eq!(
            before.message,
            "the first token is being requested; the authorization server's metadata speak against it: \
             grant_types_supported has authorization_code, and not client_credentials: allow this client that grant, \
             or use another"
        );
        let after = first_draft(CHECKS, &issuance(Some(failed("unauthorized_client"))));
        assert_eq!(after.reason, reasons::REQUEST_FAILED);
        for part in [
            "refused; ",
            "client_credentials",
            "token_endpoint_auth_methods_supported",
        ] {
            assert!(after.message.contains(part), "{}", after.message);
        }
    }
}
