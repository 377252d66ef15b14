//! The report of `status`: a pure function of resources and pods. Its fields are what `--output` prints.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use mcp_auth_crds::{McpServerAuth, conditions, reasons};
use mcp_auth_operator::inject::annotations;
use mcp_auth_operator::{PodMeta, entitled, is_injected, ought_to_be_injected};
use serde::Serialize;

use crate::inventory::{Inventory, workload};
use crate::operator_version::numbers;
use crate::token_summary::TokenSummary;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Version of the operator. Where that may not be read: the newest that has injected a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed_version: Option<String>,
    pub servers: Vec<ServerStatus>,
    /// Pods that a resource selects or that have a sidecar; `null` where they may not be listed.
    pub pods: Option<Vec<PodStatus>>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    pub namespace: String,
    pub name: String,
    /// LiteLLM's name of the server.
    pub server: String,
    pub url: String,
    /// `True`, `False` or `Unknown`, of the condition Ready.
    pub ready: String,
    pub reason: String,
    /// What is to be said of it, where it is not ready or wants attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSummary>,
    /// `synced/total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub namespace: String,
    pub name: String,
    pub sidecar: PodState,
    /// Version of mcp-auth that injected the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The pod keeps the sidecar of another version than is installed, until it is restarted.
    pub outdated: bool,
    /// What made the pod, as kubectl names it, such as `deployment/litellm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Why the webhook left the pod without a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Reason and way out, where it could not be injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_injected: Option<String>,
    /// Names of the servers whose resources select the pod.
    pub servers: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum PodState {
    Injected,
    /// It ought to have a sidecar.
    Missing,
    /// It needs none.
    NotNeeded,
}

impl StatusReport {
    /// `operator_version` is none where it may not be read.
    pub fn new(inventory: &Inventory, operator_version: Option<String>, now: Timestamp) -> Self {
        let installed_version = operator_version.or_else(|| newest_sidecar(inventory));
        let readable = inventory
            .resources
            .iter()
            .map(|resource| ServerStatus::new(resource, now));
        let unreadable = inventory.unreadable.iter().map(|unreadable| ServerStatus {
            namespace: unreadable.namespace.clone(),
            name: unreadable.name.clone(),
            server: String::new(),
            url: String::new(),
            ready: "Unknown".to_owned(),
            reason: "Unreadable".to_owned(),
            message: Some(format!(
                "this program cannot read the resource, which another version of mcp-auth serves: {}",
                unreadable.problem
            )),
            token: None,
            sidecars: None,
        });
        let mut servers: Vec<_> = readable.chain(unreadable).collect();
        servers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let pods = inventory.pods.as_ref().map(|pods| {
            let mut pods: Vec<_> = pods
                .iter()
                .filter_map(|pod| PodStatus::new(pod, inventory, installed_version.as_deref()))
                .collect();
            pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            pods
        });
        Self {
            installed_version,
            servers,
            pods,
        }
    }

    /// Whether nothing has changed but the time.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let timeless = |report: &Self| {
            let mut report = report.clone();
            for token in report
                .servers
                .iter_mut()
                .filter_map(|server| server.token.as_mut())
            {
                token.expires_in_seconds = None;
            }
            report
        };
        timeless(self) == timeless(other)
    }
}

impl ServerStatus {
    fn new(resource: &McpServerAuth, now: Timestamp) -> Self {
        let status = resource.status.as_ref();
        let ready = condition(resource, conditions::READY);
        let needs_attention =
            |ready: &&Condition| ready.status != "True" || reasons::WARNINGS.contains(&ready.reason.as_str());
        let message = match ready {
            None => Some(
                "no operator has looked at it: either none is running, or it does not serve this namespace"
                    .to_owned(),
            ),
            Some(ready) => Some(ready)
                .filter(needs_attention)
                .map(|ready| ready.message.clone()),
        };
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            server: resource.spec.server.name.clone(),
            url: resource.spec.server.url.clone(),
            ready: ready.map_or("Unknown", |ready| &ready.status).to_owned(),
            reason: ready.map_or("NotObserved", |ready| &ready.reason).to_owned(),
            message,
            token: status
                .and_then(|status| status.token.as_ref())
                .map(|token| TokenSummary::new(token, now)),
            sidecars: status
                .and_then(|status| status.sidecars.as_ref())
                .map(|sidecars| sidecars.summary.clone()),
        }
    }
}

impl PodStatus {
    /// Nothing for a pod that mcp-auth has nothing to do with.
    fn new(pod: &PodMeta, inventory: &Inventory, installed: Option<&str>) -> Option<Self> {
        let namespace = pod.namespace().unwrap_or_default();
        let servers = entitled(&inventory.in_namespace(&namespace), pod.labels());
        if servers.is_empty() && !is_injected(pod) {
            return None;
        }
        let mark = |key| Some(annotations::mark(key, pod.annotations(), pod.labels())?.into_owned());
        let version = mark(annotations::INJECTED);
        Some(Self {
            outdated: version.is_some() && installed.is_some() && version.as_deref() != installed,
            workload: workload(pod),
            namespace,
            name: pod.name_any(),
            sidecar: match (is_injected(pod), ought_to_be_injected(pod)) {
                (true, _) => PodState::Injected,
                (false, true) => PodState::Missing,
                (false, false) => PodState::NotNeeded,
            },
            version,
            skipped: mark(annotations::SKIPPED),
            not_injected: mark(annotations::NOT_INJECTED),
            servers: servers
                .iter()
                .map(|resource| resource.spec.server.name.clone())
                .collect(),
        })
    }
}

fn newest_sidecar(inventory: &Inventory) -> Option<String> {
    let pods = inventory.pods.iter().flatten();
    let versions = pods.filter_map(|pod| pod.annotations().get(annotations::INJECTED));
    let comparable = versions.filter_map(|version| Some((numbers(version)?, version)));
    comparable.max().map(|(_, version)| version.clone())
}

/// A condition of a resource's status.
pub fn condition<'a>(resource: &'a McpServerAuth, type_: &str) -> Option<&'a Condition> {
    let conditions = &resource.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == type_)
}
