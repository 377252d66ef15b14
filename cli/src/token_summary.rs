//! What a resource's status tells of its token, as `status` and `token` print it.

use jiff::Timestamp;
use mcp_auth_crds::{TokenClaims, TokenStatus};
use serde::Serialize;

use crate::cluster::seconds_until;

/// The token in use, without the token; or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSummary {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// `JWT` or `Opaque`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// As the authorization server granted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Negative once it has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh_at: Option<String>,
    /// Code of the last failed request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<TokenClaims>,
}

impl TokenSummary {
    pub fn new(token: &TokenStatus, now: Timestamp) -> Self {
        Self {
            r#type: token.r#type.clone(),
            format: token.format.clone(),
            scope: token.scope.clone(),
            issued_at: token.issued_at.as_ref().map(|at| at.0.to_string()),
            expires_at: token.expires_at.as_ref().map(|at| at.0.to_string()),
            expires_in_seconds: token.expires_at.as_ref().map(|at| seconds_until(at.0, now)),
            next_refresh_at: token.next_refresh_at.as_ref().map(|at| at.0.to_string()),
            last_error: token.last_error.as_ref().map(|error| error.reason.clone()),
            claims: token.claims.clone(),
        }
    }
}
