//! Marks the statuses of namespaces that this operator serves no more ([`reasons::NOT_WATCHED`]): without that the last thing it
//! said would stand there for ever. The chart names those that an upgrade takes out of `watchNamespaces`, and leaves the operator
//! the right to do this there until the next upgrade.
//!
//! A status is not written where it changes meanwhile: another operator may serve the namespace. That one corrects what was
//! written here at once ([`McpServerAuthStatus::is_not_watched`]).

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_credentials::conditions::seconds;
use mcp_auth_resilience::exponential;
use tracing::{debug, info, warn};

use crate::api_server::{STATUS_MANAGER, with_deadline};

/// First and longest wait between two attempts. Rights take a moment to count after they were given.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));
const MESSAGE: &str = "no operator of mcp-auth serves this namespace: it was taken out of watchNamespaces of the chart. List it \
                       there again, or delete this resource; sidecars use their tokens until these expire";

/// The namespaces whose resources are marked.
pub struct NotWatched {
    client: Client,
    namespaces: Vec<String>,
}

impl NotWatched {
    /// Those of `left` that are not `watched` all the same; none where all are watched.
    pub fn new(client: Client, left: &[String], watched: &[String]) -> Self {
        let is_left = |namespace: &&String| !watched.is_empty() && !watched.contains(namespace);
        Self {
            client,
            namespaces: left.iter().filter(is_left).cloned().collect(),
        }
    }

    /// Marks all of them, at the beginning of each lead: a replica of before the upgrade may have led in between. Tries again until
    /// it could be done, for as long as it is polled.
    pub async fn mark(&self) -> Infallible {
        let mut failures = 0;
        let mut remaining: Vec<&String> = self.namespaces.iter().collect();
        while !remaining.is_empty() {
            let mut failed = Vec::new();
            for namespace in remaining {
                if let Err(error) = self.mark_namespace(namespace).await {
                    match failures {
                        0 => {
                            warn!(%namespace, %error, "statuses of a namespace that is served no more could not be marked")
                        }
                        _ => {
                            debug!(%namespace, %error, "statuses of a namespace that is served no more could not be marked")
                        }
                    }
                    failed.push(namespace);
                }
            }
            remaining = failed;
            if !remaining.is_empty() {
                tokio::time::sleep(exponential(RETRY.0, failures, RETRY.1)).await;
                failures = failures.saturating_add(1);
            }
        }
        std::future::pending().await
    }

    async fn mark_namespace(&self, namespace: &str) -> kube::Result<()> {
        let api = Api::<McpServerAuth>::namespaced(self.client.clone(), namespace);
        let (mut marked, mut first_error) = (0, None);
        for resource in with_deadline(api.list(&ListParams::default())).await? {
            let Some(status) = marked_status(&resource, Timestamp::now()) else {
                continue;
            };
            let patch = serde_json::json!({
                "apiVersion": McpServerAuth::api_version(&()),
                "kind": McpServerAuth::kind(&()),
                "metadata": {"resourceVersion": resource.resource_version()},
                "status": status,
            });
            let (name, params) = (resource.name_any(), PatchParams::apply(STATUS_MANAGER).force());
            let patch = Patch::Apply(&patch);
            match with_deadline(api.patch_status(&name, &params, &patch)).await {
                Ok(_) => marked += 1,
                // Deleted meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                // Somebody has changed it meanwhile: it is looked at once more.
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if marked > 0 {
            info!(
                namespace,
                marked, "statuses say that the namespace is served no more"
            );
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// The status with every condition unknown, and without what only a running operator knows. Nothing where it says no more
/// than that already.
fn marked_status(resource: &McpServerAuth, now: Timestamp) -> Option<McpServerAuthStatus> {
    let status = resource.status.as_ref()?;
    if status.conditions.is_empty() || status.is_not_watched() {
        return None;
    }
    // There only while there is something to say.
    let lasting = |condition: &&Condition| condition.type_ != conditions::CREDENTIAL_EXPIRING;
    let unknown = |condition: &Condition| Condition {
        status: "Unknown".to_owned(),
        reason: reasons::NOT_WATCHED.to_owned(),
        message: MESSAGE.to_owned(),
        last_transition_time: match condition.status.as_str() {
            "Unknown" => condition.last_transition_time.clone(),
            _ => Time(seconds(now)),
        },
        ..condition.clone()
    };
    let mut marked = McpServerAuthStatus {
        conditions: status.conditions.iter().filter(lasting).map(unknown).collect(),
        sidecars: None,
        ..status.clone()
    };
    if let Some(token) = &mut marked.token {
        token.next_refresh_at = None;
    }
    Some(marked)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resource(status: Value) -> McpServerAuth {
        serde_json::from_value(json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": "tools", "namespace": "llm"},
            "spec": {
                "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
            },
            "status": status,
        }))
        .unwrap()
    }

    fn condition(type_: &str, status: &str) -> Value {
        json!({
            "type": type_, "status": status, "reason": "Ready", "message": "all is well", "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    #[test]
    fn every_condition_becomes_unknown_and_the_end_of_the_token_stays() {
        let mut resource = resource(json!({
            "observedGeneration": 3,
            "conditions": [
                condition("Ready", "True"), condition("ServerReachable", "Unknown"), condition("CredentialExpiring", "True"),
            ],
            "token": {"expiresAt": "2026-01-01T02:00:00Z", "nextRefreshAt": "2026-01-01T01:00:00Z"},
            "sidecars": {"synced": 1, "total": 1, "summary": "1/1", "notInjected": 0, "tooOld": 0},
        }));
        let now: Timestamp = "2026-01-01T00:30:00Z".parse().unwrap();
        let marked = marked_status(&resource, now).unwrap();
        let told: Vec<_> = marked
            .conditions
            .iter()
            .map(|condition| {
                let since = condition.last_transition_time.0.to_string();
                (
                    condition.type_.as_str(),
                    condition.status.as_str(),
                    condition.reason.as_str(),
                    since,
                )
            })
            .collect();
        let expected = |type_, since: &str| (type_, "Unknown", "NotWatched", since.to_owned());
        assert_eq!(
            told,
            [
                expected("Ready", "2026-01-01T00:30:00Z"),
                expected("ServerReachable", "2026-01-01T00:00:00Z")
            ]
        );
        assert!(marked.conditions[0].message.contains("watchNamespaces"));
        let token = marked.token.clone().unwrap();
        assert!(token.expires_at.is_some() && token.next_refresh_at.is_none());
        assert_eq!(
            (marked.sidecars.clone(), marked.observed_generation),
            (None, Some(3))
        );

        assert!(marked.is_not_watched() && !resource.status.as_ref().unwrap().is_not_watched());
        resource.status = Some(marked);
        assert_eq!(marked_status(&resource, now), None, "once is enough");
    }

    #[test]
    fn a_resource_that_nothing_was_said_of_is_left_alone() {
        let now = Timestamp::now();
        assert_eq!(marked_status(&resource(Value::Null), now), None);
        assert_eq!(marked_status(&resource(json!({"conditions": []})), now), None);
    }
}
