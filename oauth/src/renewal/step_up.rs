//! Step-up authorization: scopes that an MCP server demands beyond those of the registration (403,
//! `insufficient_scope`): which of them to ask for, how often, and what the authorization server made of it.
//! A refusal costs nothing but itself: the token in use serves on, and renewals go on with what was granted
//! last.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use oauth2::basic::BasicErrorResponseType;

use crate::clock::time_after;
use crate::{Error, ErrorCode};

/// Most scopes beyond the registration's. More make no sense for a tool, and a token request has to stay
/// small.
const MAX_SCOPES: usize = 32;
/// Longest scope in bytes; scopes that are URLs are known.
const MAX_SCOPE_LEN: usize = 256;
/// Most requests for other scopes within [`ATTEMPT_MEMORY`].
const MAX_STEP_UPS: usize = 3;
/// How long it is remembered what was asked for.
const ATTEMPT_MEMORY: Duration = Duration::from_secs(60 * 60);
/// Requests for the same scopes that may fail for other reasons before regular renewals come first again.
const MAX_TRIES: u32 = 3;

/// What became of the scopes that were demanded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum StepUp {
    /// None were demanded, or it is too long ago.
    #[default]
    None,
    /// The token in use has these scopes besides the registration's.
    Granted { scopes: Vec<String> },
    /// These are not to be had. What was granted before is kept to.
    Refused { scopes: Vec<String>, why: StepUpError },
}

/// Why scopes that were demanded are not to be had.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StepUpError {
    #[error("the authorization server issued a token without them")]
    NotGranted,
    #[error("the token has them, and the MCP server demands them all the same")]
    StillDemanded,
    #[error("{0}")]
    Failed(Error),
    #[error("other scopes were asked for {MAX_STEP_UPS} times within the hour")]
    TooOften,
    #[error(
        "the MCP server's challenge names scopes that are none by RFC 6749, longer than {MAX_SCOPE_LEN} \
         bytes or more than {MAX_SCOPES}"
    )]
    Malformed,
}

impl StepUpError {
    /// Closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotGranted => "NotGranted",
            Self::StillDemanded => "StillDemanded",
            Self::Failed(error) => error.reason(),
            Self::TooOften => "TooOften",
            Self::Malformed => "Malformed",
        }
    }
}

type Scopes = BTreeSet<String>;

/// Scopes granted, scopes still to be asked for, and those asked for of late.
#[derive(Debug, Default)]
pub(crate) struct StepUpTracker {
    granted: Scopes,
    pending: Option<PendingScopes>,
    attempts: Vec<StepUpAttempt>,
}

#[derive(Debug)]
struct PendingScopes {
    /// With what is granted already.
    scopes: Scopes,
    tries: u32,
}

#[derive(Debug)]
struct StepUpAttempt {
    at: Timestamp,
    scopes: Scopes,
    refused: bool,
}

/// What a demand leads to.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum DemandOutcome {
    /// A request.
    RequestToken,
    /// Nothing: they are asked for already, or were refused of late.
    Ignore,
    Refuse(StepUp),
}

/// What a token brought of the scopes that were asked for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum GrantOutcome {
    /// Nothing was asked for.
    None,
    /// All of them.
    Up(StepUp),
    /// Some that the token before did not have.
    Half(StepUp),
    /// None that the token before did not have.
    Short(StepUp),
}

/// What a failed request means for the scopes that it asked for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum FailureOutcome {
    /// They are refused.
    Refused(StepUp),
    /// It failed for another reason, once too often to ask for them again.
    GivenUp(StepUp),
    /// It failed for another reason.
    Other,
}

impl StepUpTracker {
    /// An MCP server demands these scopes of the token in use, which has `token_scopes` if the server said
    /// so.
    pub fn demand(
        &mut self,
        demanded: &[String],
        token_scopes: Option<&str>,
        now: Timestamp,
    ) -> DemandOutcome {
        if demanded.is_empty() {
            return DemandOutcome::Ignore;
        }
        if demanded.len() > MAX_SCOPES || !demanded.iter().all(|scope| is_scope_token(scope)) {
            return refuse([], StepUpError::Malformed);
        }
        self.forget(now);
        let demanded: Scopes = demanded.iter().cloned().collect();
        let covered = self
            .pending
            .as_ref()
            .map_or(&self.granted, |pending| &pending.scopes);
        let token_scopes: BTreeSet<&str> = token_scopes.unwrap_or_default().split(' ').collect();
        if self.pending.is_some() && demanded.is_subset(covered) {
            return DemandOutcome::Ignore;
        }
        if demanded.is_subset(covered) || demanded.iter().all(|scope| token_scopes.contains(scope.as_str())) {
            return refuse(demanded, StepUpError::StillDemanded);
        }
        let scopes: Scopes = covered.union(&demanded).cloned().collect();
        if scopes.len() > MAX_SCOPES {
            return refuse(demanded, StepUpError::Malformed);
        }
        if self
            .attempts
            .iter()
            .any(|attempt| attempt.refused && attempt.scopes == scopes)
        {
            return DemandOutcome::Ignore;
        }
        if self.attempts.len() >= MAX_STEP_UPS {
            return refuse(demanded, StepUpError::TooOften);
        }
        self.attempts.push(StepUpAttempt {
            at: now,
            scopes: scopes.clone(),
            refused: false,
        });
        self.pending = Some(PendingScopes { scopes, tries: 0 });
        DemandOutcome::RequestToken
    }

    /// Whether there are scopes still to be asked for.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The scopes that the next request asks for besides the registration's.
    pub fn scopes_to_request(&self) -> Vec<String> {
        let scopes = self
            .pending
            .as_ref()
            .map_or(&self.granted, |pending| &pending.scopes);
        scopes.iter().cloned().collect()
    }

    /// What a token brings that was issued for these scopes. The server names the scope where it is not the
    /// one that was asked for (RFC 6749 section 5.1).
    pub fn compare(&self, requested: &[String], scope: Option<&str>) -> GrantOutcome {
        if requested.is_empty() {
            return GrantOutcome::None;
        }
        let granted = granted_scopes(requested, scope);
        if granted.len() == requested.len() {
            let scopes = requested.to_vec();
            return GrantOutcome::Up(StepUp::Granted { scopes });
        }
        let missing = requested
            .iter()
            .filter(|scope| !granted.contains(*scope))
            .cloned();
        let refused = StepUp::Refused {
            scopes: missing.collect(),
            why: StepUpError::NotGranted,
        };
        match granted.is_subset(&self.granted) {
            true => GrantOutcome::Short(refused),
            false => GrantOutcome::Half(refused),
        }
    }

    /// A request for these scopes was answered, with a token of this scope that takes over if `accepted`.
    pub fn record_grant(&mut self, requested: &[String], scope: Option<&str>, accepted: bool) {
        let granted = granted_scopes(requested, scope);
        let requested: Scopes = requested.iter().cloned().collect();
        self.finish(&requested, granted != requested);
        if accepted {
            self.granted = granted;
        }
    }

    /// A request for these scopes failed.
    pub fn failed(&mut self, requested: &[String], error: &Error) -> FailureOutcome {
        let scopes: Scopes = requested.iter().cloned().collect();
        let additional: Vec<_> = scopes.difference(&self.granted).cloned().collect();
        let refused = |scopes: &[String]| StepUp::Refused {
            scopes: scopes.to_vec(),
            why: StepUpError::Failed(error.clone()),
        };
        if concerns_scopes(error) && !additional.is_empty() {
            self.finish(&scopes, true);
            return FailureOutcome::Refused(refused(&additional));
        }
        if concerns_scopes(error) && !scopes.is_empty() {
            // What was granted once is not any more: back to the registration's own.
            self.granted.clear();
            return FailureOutcome::Refused(refused(requested));
        }
        match &mut self.pending {
            Some(pending) if !additional.is_empty() => {
                pending.tries += 1;
                if pending.tries < MAX_TRIES {
                    return FailureOutcome::Other;
                }
                self.pending = None;
                FailureOutcome::GivenUp(refused(&additional))
            }
            _ => FailureOutcome::Other,
        }
    }

    /// What is left to tell once refusals are too long ago to count.
    pub fn last_outcome(&mut self, last: &StepUp, now: Timestamp) -> StepUp {
        self.forget(now);
        match last {
            StepUp::Refused { .. } if !self.attempts.is_empty() => last.clone(),
            _ if self.granted.is_empty() => StepUp::None,
            _ => StepUp::Granted {
                scopes: self.granted.iter().cloned().collect(),
            },
        }
    }

    /// Leaves none but these of the scopes granted and still to be asked for. Whether that changes anything.
    pub fn retain(&mut self, allowed: &[String]) -> bool {
        let granted = self.granted.len();
        self.granted.retain(|scope| allowed.contains(scope));
        let was_pending = self.pending.is_some();
        // Both were demanded together: half of it is of no use, and the next demand says what still is.
        self.pending
            .take_if(|pending| !pending.scopes.iter().all(|scope| allowed.contains(scope)));
        self.granted.len() != granted || self.pending.is_some() != was_pending
    }

    /// Somebody else is asked from now on, or in another way: refusals so far do not count.
    pub fn start_over(&mut self) {
        self.attempts.clear();
        if let Some(pending) = &mut self.pending {
            pending.tries = 0;
        }
    }

    /// What was wanted beyond the granted is no longer, unless more was demanded while it was asked for.
    fn finish(&mut self, requested: &Scopes, refused: bool) {
        for attempt in self
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.scopes == *requested)
        {
            attempt.refused |= refused;
        }
        if let Some(pending) = &mut self.pending {
            if refused {
                let granted = &self.granted;
                pending
                    .scopes
                    .retain(|scope| granted.contains(scope) || !requested.contains(scope));
            }
            if pending.scopes.is_subset(requested) || pending.scopes.is_subset(&self.granted) {
                self.pending = None;
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        // A time that seems to be yet to come was written before the clock was set back.
        self.attempts
            .retain(|attempt| attempt.at <= now && now < time_after(attempt.at, ATTEMPT_MEMORY));
    }
}

fn granted_scopes(requested: &[String], scope: Option<&str>) -> Scopes {
    let granted: Option<BTreeSet<&str>> = scope.map(|scope| scope.split(' ').collect());
    requested
        .iter()
        .filter(|scope| {
            granted
                .as_ref()
                .is_none_or(|granted| granted.contains(scope.as_str()))
        })
        .cloned()
        .collect()
}

fn refuse(scopes: impl IntoIterator<Item = String>, why: StepUpError) -> DemandOutcome {
    let scopes = scopes.into_iter().collect();
    DemandOutcome::Refuse(StepUp::Refused { scopes, why })
}

/// `scope-token` of RFC 6749 section 3.3, of a length that is bounded.
pub fn is_scope_token(scope: &str) -> bool {
    let allowed = |byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=MAX_SCOPE_LEN).contains(&scope.len()) && scope.bytes().all(allowed)
}

/// Whether an error may be about the scopes that were asked for. Servers answer what they do not grant with
/// codes of many kinds; these few say for certain that it is something else.
fn concerns_scopes(error: &Error) -> bool {
    match error {
        Error::Rejected(rejection) => {
            rejection.retry_after.is_none()
                && !matches!(
                    rejection.code,
                    ErrorCode::Basic(BasicErrorResponseType::InvalidClient)
                        | ErrorCode::Basic(BasicErrorResponseType::InvalidGrant)
                        | ErrorCode::Basic(BasicErrorResponseType::UnsupportedGrantType)
                        | ErrorCode::ServerError
                        | ErrorCode::TemporarilyUnavailable
                )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
