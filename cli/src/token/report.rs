//! The report of `token`: a pure function of a resource. Its fields are what `--output` prints.

use jiff::Timestamp;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, TokenStatus, conditions};
use serde::Serialize;

use crate::status::condition;
use crate::token_summary::TokenSummary;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenReport {
    pub namespace: String,
    pub resource: String,
    /// LiteLLM's name of the server.
    pub server: String,
    pub url: String,
    /// `True`, `False` or `Unknown`, of the condition TokenIssued.
    pub issued: String,
    pub reason: String,
    pub message: String,
    /// None while there is no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSummary>,
    /// Why less is told than there could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip)]
    pub is_of_older_operator: bool,
}

impl TokenReport {
    pub fn new(resource: &McpServerAuth, now: Timestamp) -> Self {
        let issued = condition(resource, conditions::TOKEN_ISSUED);
        let status = resource.status.as_ref().and_then(|status| status.token.as_ref());
        let token = status.filter(|token| is_in_use(token));
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            resource: resource.name_any(),
            server: resource.spec.server.name.clone(),
            url: resource.spec.server.url.clone(),
            issued: issued.map_or("Unknown", |issued| &issued.status).to_owned(),
            reason: issued.map_or("NotObserved", |issued| &issued.reason).to_owned(),
            message: issued.map_or_else(
                || {
                    "no operator has looked at it: either none is running, or it does not serve this namespace"
                        .to_owned()
                },
                |issued| issued.message.clone(),
            ),
            token: token.map(|token| TokenSummary::new(token, now)),
            note: None,
            is_of_older_operator: token.is_some_and(|token| token.format.is_none()),
        }
    }

    pub fn tell_of_older_operator(&mut self, installed: Option<&str>) {
        if self.is_of_older_operator {
            let ours = env!("CARGO_PKG_VERSION");
            let operator = match installed {
                Some(installed) => format!("the operator is version {installed}"),
                None => "the operator is of an older version".to_owned(),
            };
            self.note = Some(format!(
                "{operator} and does not tell the token's claims, which this program (version {ours}) would show: \
                 upgrade the chart"
            ));
        }
    }

    /// Whether there is a token, and not one that has expired.
    pub fn serves(&self) -> bool {
        let token = self.token.as_ref();
        token.is_some_and(|token| token.expires_in_seconds.is_none_or(|seconds| seconds > 0))
    }
}

/// A status may speak of a failed request alone.
fn is_in_use(token: &TokenStatus) -> bool {
    token.r#type.is_some() || token.issued_at.is_some() || token.expires_at.is_some()
}
