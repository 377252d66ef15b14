//! `SecretsResolved`: whether everything that the spec refers to has been read.

use mcp_auth_crds::{conditions, reasons};

use super::token_issued::limit_exceeded_message;
use super::{Check, ConditionDraft};
use crate::store::Issuance;

pub(super) const CHECKS: &[Check<Issuance>] = &[limit_exceeded, reference_unresolved, resolved];

/// Nothing is read anew. While the token of before serves, what it was issued by was all there.
fn limit_exceeded(issuance: &Issuance) -> Option<ConditionDraft> {
    Some(ConditionDraft::new(
        conditions::SECRETS_RESOLVED,
        Some(issuance.token.in_use.is_some()),
        reasons::LIMIT_EXCEEDED,
        limit_exceeded_message(issuance)?,
    ))
}

fn reference_unresolved(issuance: &Issuance) -> Option<ConditionDraft> {
    // In a conflict the references are not looked at.
    let problem = issuance
        .problem
        .as_ref()
        .filter(|problem| !problem.is_conflict())?;
    let holds = (!problem.is_pending()).then_some(false);
    Some(ConditionDraft::new(
        conditions::SECRETS_RESOLVED,
        holds,
        problem.reason(),
        problem.message(),
    ))
}

fn resolved(_: &Issuance) -> Option<ConditionDraft> {
    Some(ConditionDraft::new(
        conditions::SECRETS_RESOLVED,
        Some(true),
        reasons::RESOLVED,
        "every referenced Secret and ConfigMap has been read",
    ))
}
