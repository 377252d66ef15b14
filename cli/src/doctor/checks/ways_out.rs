//! The way out of each reason that a condition has: what to do, or which command shows more. The message of the condition has
//! what is wrong.

use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, reasons};
use mcp_auth_operator::reachability_advice;
use mcp_auth_protocol::reachability::Reachability;

/// A reason of a newer operator.
const UNKNOWN: &str = "this program does not know the reason, which a newer operator has: use the kubectl-mcp_auth of its version";

pub fn way_out(reason: &str, resource: &McpServerAuth) -> String {
    let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
    let edit = format!("kubectl edit mcpserverauth {name} -n {namespace}");
    let text = match reason {
        reasons::SECRET_NOT_FOUND | reasons::CONFIG_MAP_NOT_FOUND => {
            "create it, or name another in that field; it is taken the moment it appears"
        }
        reasons::SECRET_KEY_NOT_FOUND | reasons::CONFIG_MAP_KEY_NOT_FOUND => {
            "put the value under that key, or name one of the keys that are there"
        }
        reasons::SECRET_INVALID | reasons::CONFIG_MAP_INVALID => {
            "write the value anew; it is taken the moment it changes"
        }
        reasons::FORBIDDEN => {
            "give the operator the right that the message names; `doctor` has the rights below \"operator's rights\""
        }
        reasons::NOT_ALLOWED => {
            return format!(
                "keep to the administrator's rule that the message names: {edit}; or have policy.* of the chart changed"
            );
        }
        reasons::LIMIT_EXCEEDED => {
            return format!(
                "keep to the limit that the message names: delete an McpServerAuth of the namespace {namespace} that is not \
                 needed, or shorten podSelector or extraParameters by {edit}; or have the value of limits.* of the chart raised"
            );
        }
        reasons::INVALID_SPEC => return format!("change the field that the message names: {edit}"),
        reasons::CONFLICT => {
            return format!(
                "delete one of the two, give this one another spec.server.name, or a spec.podSelector for other pods: {edit}"
            );
        }
        reasons::REQUEST_FAILED | reasons::RENEWAL_FAILED => {
            "change what the message says to check, at the authorization server or in the resource; it is tried again by itself, \
             and at once where the resource or its Secret changes. What the server's metadata say is in docs/broken-set-ups.md"
        }
        reasons::DISCOVERY_FAILED => {
            return format!(
                "see that the URL which the message names answers from the operator's pod, or state spec.oauth2.tokenUrl: {edit}"
            );
        }
        reasons::ISSUER_CHANGED => {
            return format!(
                "if the new authorization server is right, write it into spec.oauth2.issuer: {edit}"
            );
        }
        reasons::TOKEN_MISMATCH => {
            return format!(
                "change what the token is requested for (audience, resource, scopes), or spec.tokenCheck: {edit}"
            );
        }
        reasons::TOKEN_REFUSED => {
            return format!(
                "compare the token's claims with what the MCP server takes: kubectl mcp-auth token {name} -n {namespace}"
            );
        }
        reasons::CLOCK_SKEW => {
            "set the clock that is wrong by NTP: that of the operator's node, or that of the authorization server"
        }
        reasons::QUOTA_EXCEEDED | reasons::QUOTA_FORECAST => {
            return format!(
                "see what makes the tokens so many, or raise spec.oauth2.quota.tokensPerDay with what the provider grants: {edit}; \
                 docs/token-requests.md has how many a set-up takes"
            );
        }
        reasons::INSUFFICIENT_SCOPE => {
            "allow the client the scopes at the authorization server, and list them in spec.oauth2.stepUpAllowedScopes"
        }
        reasons::EXPIRED => {
            "put a token that is valid into the Secret that spec.bearerToken names; it is taken the moment it changes"
        }
        reasons::ALTERNATE_SECRET_IN_USE => {
            "write the newer secret into the Secret that clientSecretRef names"
        }
        reasons::AUDIT_KEYS_UNAVAILABLE => {
            return format!("see that spec.audit.user.jwks names keys that the operator reaches: {edit}");
        }
        reasons::EXPIRES_WITHIN_30_DAYS
        | reasons::EXPIRES_WITHIN_14_DAYS
        | reasons::EXPIRES_WITHIN_3_DAYS => {
            "renew it where it was issued, and write it into its Secret before it ends"
        }
        reasons::CREDENTIAL_EXPIRED => "renew it where it was issued, and write it into its Secret",
        reasons::EXPIRY_INVALID => {
            "write the annotation mcpauth.dev/expires-at of the Secret as a time, such as 2027-05-31T00:00:00Z"
        }
        reasons::NOT_WATCHED => {
            "name its namespace in the chart's watchNamespaces again, or move the resource to a namespace that an operator serves"
        }
        reasons::NO_PODS_SELECTED => {
            return format!(
                "kubectl get pods -n {namespace} --show-labels shows LiteLLM's labels: write them into spec.podSelector by {edit}"
            );
        }
        reasons::PODS_SKIPPED | reasons::PODS_NOT_INJECTED => {
            return format!(
                "kubectl mcp-auth explain POD -n {namespace} has the reason for each of these pods and the way out"
            );
        }
        reasons::PODS_REFUSED => {
            "change in the pod template what the message names, or take the label mcpauth.dev/inject off it to start LiteLLM without \
             the sidecar"
        }
        reasons::WEBHOOK_NOT_REACHED => {
            "open the way from the API server to the operator's port (webhook.port of the chart), or set operator.hostNetwork"
        }
        reasons::SIDECARS_BEHIND => {
            return format!(
                "see why in the sidecar's log, kubectl logs POD -c mcpauth-sidecar -n {namespace}: is the operator's Service \
                 reached from these pods?"
            );
        }
        reasons::RESTART_NEEDED => {
            return format!("restart LiteLLM: kubectl rollout restart deployment/NAME -n {namespace}");
        }
        reasons::SIDECAR_PROBLEM | reasons::SIDECAR_NOTICE => {
            return format!(
                "change what the message says; kubectl logs POD -c mcpauth-sidecar -n {namespace} has the rest, docs/status.md \
                 the word that it begins with"
            );
        }
        reasons::LITELLM_CONFIGURATION_DIFFERS => {
            "say the same in both, or leave the server out of LiteLLM's configuration; docs/litellm-entry.md says which counts"
        }
        other => reachability(other).unwrap_or(UNKNOWN),
    };
    text.to_owned()
}

/// Of a reason of `ServerReachable` that is a fault.
fn reachability(reason: &str) -> Option<&'static str> {
    let mut all = Reachability::ALL.into_iter();
    let state = all.find(|state| state.reason() == reason)?;
    Some(reachability_advice(state)).filter(|advice| !advice.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The good states, those that only wait, and those of which nothing follows.
    const NO_FAULTS: [&str; 9] = [
        "Resolved",
        "Issued",
        "Pending",
        "UserTokensOnly",
        "Synced",
        "Answered",
        "Connected",
        "NotContacted",
        "Ready",
    ];

    #[test]
    fn every_reason_that_the_page_lists_has_a_way_out_of_its_own() {
        let resource: McpServerAuth = serde_json::from_value(serde_json::json!({
            "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "llm"},
            "spec": {"server": {"name": "tools", "url": "https://tools.example.com/mcp"}},
        }))
        .unwrap();
        let page = include_str!("../../../../docs/status.md");
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let reasons = rows
            .filter_map(|row| row.split('|').nth(2))
            .flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let is_reason =
            |word: &&str| word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric);
        let reasons: Vec<&str> = reasons.filter(is_reason).collect();
        assert!(reasons.len() > 40, "{reasons:?}");
        for reason in reasons.into_iter().filter(|reason| !NO_FAULTS.contains(reason)) {
            assert_ne!(way_out(reason, &resource), UNKNOWN, "{reason}");
        }
        assert_eq!(way_out("OfTomorrow", &resource), UNKNOWN);
        assert!(way_out("NoPodsSelected", &resource).contains("kubectl get pods -n llm --show-labels"));
    }
}
