//! What a failed request is in the words of the status.

use mcp_auth_crds::reasons;
use mcp_auth_oauth::{self as oauth, DiscoveryError, Failure};

use crate::store::LastError;

pub(super) fn last_error(state: &oauth::TokenSourceState) -> Option<LastError> {
    state.last_error.as_ref().map(of_failure)
}

pub(super) fn of_failure(failure: &Failure) -> LastError {
    LastError {
        at: failure.at,
        reason: failure.error.code().to_owned(),
        condition: condition(&failure.error),
        message: failure.error.message(),
    }
}

/// The condition's reason for a failed request.
fn condition(error: &oauth::Error) -> &'static str {
    match error {
        error if error.is_not_allowed() => reasons::NOT_ALLOWED,
        oauth::Error::IdentityProvider(error) => condition(error),
        oauth::Error::Discovery(DiscoveryError::IssuerChanged { .. }) => reasons::ISSUER_CHANGED,
        oauth::Error::Discovery(_) => reasons::DISCOVERY_FAILED,
        oauth::Error::TokenMismatch(_) => reasons::TOKEN_MISMATCH,
        _ => reasons::REQUEST_FAILED,
    }
}
