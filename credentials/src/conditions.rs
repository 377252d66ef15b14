//! Conditions: what the state of a credential says, in the words of the resource's status. Each condition is
//! judged by a list of pure checks: the first that has something to say decides.

mod secrets_resolved;
mod token_issued;

use jiff::Timestamp;

use crate::store::Issuance;

pub use token_issued::{USERS_ONLY, unavailable};

/// What a check says of one condition: the whole of it, but since when it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionDraft {
    pub type_: &'static str,
    /// Unknown where nothing.
    pub holds: Option<bool>,
    pub reason: String,
    pub message: String,
}

impl ConditionDraft {
    pub fn new(type_: &'static str, holds: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self {
            type_,
            holds,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// A pure check: what it says of its condition, or nothing where the next check is to decide.
pub type Check<I> = fn(&I) -> Option<ConditionDraft>;

/// The draft of the first check that says something. The last one of each list always does.
pub fn first_draft<I>(checks: &[Check<I>], inputs: &I) -> ConditionDraft {
    let mut drafts = checks.iter().filter_map(|check| check(inputs));
    drafts.next().expect("the last check of a list always decides")
}

/// Whether everything that the spec refers to has been read.
pub fn secrets_resolved(issuance: &Issuance) -> ConditionDraft {
    first_draft(secrets_resolved::CHECKS, issuance)
}

/// Whether there is a token to use, and what is to be said of it.
pub fn token_issued(issuance: &Issuance) -> ConditionDraft {
    first_draft(token_issued::CHECKS, issuance)
}

/// Kubernetes' times have whole seconds; more would differ from what comes back, again and again.
pub fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
