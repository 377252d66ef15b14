//! `mcp-auth-operator mark-not-watched`: writes into the statuses of a namespace that no operator serves it any more. With the
//! namespace the operator loses its rights there, so that the last thing it said would stand for ever. The chart runs this
//! after an upgrade that takes namespaces out of `watchNamespaces`.
//!
//! Each status is written once, and not where it changes meanwhile: another operator may serve the namespace. That one
//! corrects what was written here at once ([`McpServerAuthStatus::is_not_watched`]).

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions, reasons};
use mcp_auth_credentials::conditions::seconds;

use crate::api_server::{STATUS_MANAGER, with_deadline};
use crate::kubeconfig::{self, FindError};

/// Longest time for all of it: an upgrade waits for it.
const TIMEOUT: Duration = Duration::from_secs(45);
const MESSAGE: &str = "no operator of mcp-auth serves this namespace: it was taken out of watchNamespaces of the chart. List it \
                       there again, or delete this resource; sidecars use their tokens until these expire";

/// Writes into the statuses of these namespaces that no operator serves them.
///
/// For a namespace that has left `watchNamespaces` of the chart. Ends with 1 where a status could not be written.
#[derive(Debug, clap::Args)]
pub struct NotWatchedArgs {
    /// Namespace that is served no more; repeatable.
    #[arg(long = "namespace", required = true)]
    pub namespaces: Vec<String>,

    /// Ends with 0 also where a status could not be written.
    #[arg(long)]
    pub ignore_failures: bool,
}

/// What was done, line by line.
#[derive(Debug, Default)]
pub struct NotWatchedReport {
    pub text: String,
    pub failed: bool,
}

/// Nothing could be begun.
#[derive(Debug, thiserror::Error)]
pub enum NotWatchedError {
    #[error(transparent)]
    Unknown(#[from] FindError),
    #[error("the Kubernetes client cannot be configured: {0}")]
    Client(#[from] kube::Error),
}

/// Marks the resources of the namespaces, by the rights of the environment: those of a pod, or of a kubeconfig.
pub async fn mark_not_watched(args: &NotWatchedArgs) -> Result<NotWatchedReport, NotWatchedError> {
    let client = Client::try_from(kubeconfig::find()?)?;
    let mut report = NotWatchedReport::default();
    let marking = async {
        for namespace in &args.namespaces {
            mark_namespace(&client, namespace, &mut report).await;
        }
    };
    if tokio::time::timeout(TIMEOUT, marking).await.is_err() {
        report.fail(&format!("not all was done within {} s", TIMEOUT.as_secs()));
    }
    Ok(report)
}

async fn mark_namespace(client: &Client, namespace: &str, report: &mut NotWatchedReport) {
    let api = Api::<McpServerAuth>::namespaced(client.clone(), namespace);
    let resources = match with_deadline(api.list(&ListParams::default())).await {
        Ok(resources) => resources,
        Err(error) => return report.fail(&format!("{namespace}: its resources cannot be listed: {error}")),
    };
    for resource in resources {
        let id = format!("{namespace}/{}", resource.name_any());
        let Some(status) = marked_status(&resource, Timestamp::now()) else {
            report.say(&format!(
                "{id}: its status says nothing that has to be taken back"
            ));
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
            Ok(_) => report.say(&format!("{id}: Ready is Unknown ({})", reasons::NOT_WATCHED)),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                report.say(&format!("{id}: deleted meanwhile"))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                report.say(&format!(
                    "{id}: left alone, since somebody has changed it meanwhile"
                ));
            }
            Err(error) => report.fail(&format!("{id}: its status cannot be written: {error}")),
        }
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

impl NotWatchedReport {
    fn say(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("a text takes all");
    }

    fn fail(&mut self, line: &str) {
        self.failed = true;
        self.say(line);
    }
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
