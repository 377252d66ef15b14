//! `explain`: why a pod has the sidecar or has none. The webhook's own rules decide: the selectors of its
//! configuration, and `inject::decide` on the pod as it is now.

mod injected;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, ResourceExt};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::route;
use mcp_auth_operator::inject::{Decision, Settings, SkipReason, annotations, decide};
use mcp_auth_operator::{entitled, is_injected};
use serde::Serialize;

pub use injected::{Ports, SidecarContainer, container, ports};
pub use text::render;

use crate::args::ExplainArgs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::error::CliError;
use crate::exit_code::ExitStatus;
use crate::inventory::{Inventory, Scope, pod_meta};
use crate::output;
use crate::status::{PodState, condition};
use crate::webhook_scope::{INJECTION_LABEL, WebhookScope, webhook_configurations, webhook_scope};

/// What is known besides the pod.
pub struct Surroundings<'a> {
    pub resources: &'a [Arc<McpServerAuth>],
    /// None where it may not be read.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    pub webhook: Webhook<'a>,
}

/// The webhook configuration, as far as it may be read.
#[derive(Clone, Copy)]
pub enum Webhook<'a> {
    Found(&'a MutatingWebhookConfiguration),
    Missing,
    Unknown,
}

impl<'a> Webhook<'a> {
    /// `found`: none where they may not be listed.
    pub fn new(found: Option<&'a [MutatingWebhookConfiguration]>) -> Self {
        match found {
            None => Self::Unknown,
            Some(found) => found.first().map_or(Self::Missing, Self::Found),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub namespace: String,
    pub pod: String,
    pub sidecar: PodState,
    /// The webhook's decision about the pod as it is now: a closed set, as in its audit annotation.
    pub decision: &'static str,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<SidecarContainer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    pub servers: Vec<ExplainedServer>,
    /// What works, but perhaps not as the pod's owner expects.
    pub warnings: Vec<String>,
}

/// A server whose credentials the pod is entitled to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedServer {
    pub server: String,
    pub resource: String,
    pub url: String,
    pub ready: String,
    /// Whether it was known when the pod was created. LiteLLM reads its servers only when it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_at_admission: Option<bool>,
    pub cookies: Vec<String>,
    pub headers: Vec<String>,
}

pub async fn run(options: &ClusterOptions, args: &ExplainArgs) -> Result<ExitStatus, CliError> {
    let cluster = Cluster::with_mcp_auth(options).await?;
    let namespace = args.namespace.as_ref().unwrap_or(&cluster.default_namespace);
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let action = format!("read pods in the namespace {namespace}");
    let pod = cluster.answer(&action, pods.get_opt(&args.pod)).await?;
    let pod = pod.ok_or_else(|| CliError::NotFound {
        kind: "pod",
        name: args.pod.clone(),
        namespace: namespace.clone(),
        remedy: "kubectl get pods lists those that are there; name their namespace with --namespace",
    })?;
    let inventory = Inventory::load(&cluster, &Scope::Namespace(namespace.clone())).await?;
    let labels = namespace_labels(&cluster, namespace).await?;
    let webhooks = webhook_configurations(&cluster).await?;
    let explanation = explain(
        &pod,
        &Surroundings {
            resources: &inventory.resources,
            namespace_labels: labels.as_ref(),
            webhook: Webhook::new(webhooks.as_deref()),
        },
    );
    output::print(&match args.output {
        Some(format) => output::structured(&explanation, format),
        None => render(&explanation),
    })?;
    Ok(match explanation.sidecar {
        PodState::Injected | PodState::NotNeeded => ExitStatus::Success,
        PodState::Missing => ExitStatus::FaultFound,
    })
}

/// Labels of a namespace; none where it may not be read.
pub async fn namespace_labels(
    cluster: &Cluster,
    namespace: &str,
) -> Result<Option<BTreeMap<String, String>>, CliError> {
    let api = Api::<Namespace>::all(cluster.client.clone());
    match cluster.answer("read the namespace", api.get(namespace)).await {
        Ok(namespace) => Ok(Some(namespace.metadata.labels.unwrap_or_default())),
        Err(CliError::Forbidden { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Explains a pod. Pure.
pub fn explain(pod: &Pod, surroundings: &Surroundings<'_>) -> Explanation {
    let namespace = pod.namespace().unwrap_or_default();
    let entitled = entitled(surroundings.resources, pod.labels());
    let routes: Vec<_> = entitled.iter().map(|resource| route(resource)).collect();
    let container = injected::container(pod);
    let at_admission = injected::servers_at_admission(pod);
    let servers = entitled
        .iter()
        .zip(&routes)
        .map(|(resource, route)| ExplainedServer {
            server: route.server.clone(),
            resource: route.resource.clone(),
            url: route.url.clone(),
            ready: condition(resource, mcp_auth_crds::conditions::READY)
                .map_or("Unknown", |ready| &ready.status)
                .to_owned(),
            known_at_admission: at_admission.as_ref().map(|names| names.contains(&route.server)),
            cookies: route.cookies.clone(),
            headers: route.headers.clone(),
        })
        .collect();
    let decision = decide(pod, &namespace, &routes, &settings());
    let (sidecar, reason, way_out) = match is_injected(&pod_meta(pod)) {
        true => (
            PodState::Injected,
            "the webhook injected it when the pod was created".to_owned(),
            None,
        ),
        false => without_sidecar(pod, &namespace, &decision, surroundings),
    };
    Explanation {
        namespace,
        pod: pod.name_any(),
        sidecar,
        decision: decision.reason(),
        reason,
        way_out,
        container,
        ports: injected::ports(pod),
        servers,
        warnings: injected::warnings(pod),
    }
}

/// State, reason and way out of a pod without a sidecar.
fn without_sidecar(
    pod: &Pod,
    namespace: &str,
    decision: &Decision,
    surroundings: &Surroundings<'_>,
) -> (PodState, String, Option<String>) {
    let missing = |reason: String, way_out: String| (PodState::Missing, reason, Some(way_out));
    if let Decision::Skip { reason, .. } = decision {
        let (reason, way_out) = skipped(*reason);
        return (PodState::NotNeeded, reason.to_owned(), way_out.map(str::to_owned));
    }
    let restart = restart_command(pod, namespace);
    if let Some(left_out) = left_out(surroundings, pod.labels()) {
        let way_out = format!("{}, then {restart}", left_out.way_out(namespace));
        return missing(left_out.reason(namespace), way_out);
    }
    match decision {
        Decision::Deny { error, .. } | Decision::AllowWithoutSidecar { error, .. } => missing(
            format!("it cannot be injected: {error}"),
            format!("change the pod's template as said, then {restart}"),
        ),
        _ => {
            let said = annotations::mark(annotations::NOT_INJECTED, pod.annotations(), pod.labels());
            let why = match said {
                Some(said) => format!("; when it was created, the webhook said: {said}"),
                None => ": it is older than its resource or than the namespace's label, or the webhook did not answer \
                         when it was created"
                    .to_owned(),
            };
            missing(
                format!("it would be injected if it were created now{why}"),
                restart,
            )
        }
    }
}

/// Why the API server does not ask the webhook about a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeftOut {
    NoWebhook,
    /// By the chart's values.
    Excluded,
    NotOptedIn,
}

impl LeftOut {
    pub fn reason(self, namespace: &str) -> String {
        match self {
            Self::NoWebhook => "the cluster has no webhook configuration of mcp-auth".to_owned(),
            Self::Excluded => format!("the webhook configuration leaves the namespace {namespace} out"),
            Self::NotOptedIn => format!("the namespace {namespace} has not opted in to injection"),
        }
    }

    pub fn way_out(self, namespace: &str) -> String {
        match self {
            Self::NoWebhook => "install the chart".to_owned(),
            Self::Excluded => {
                "take it out of webhook.excludedNamespaces of the chart, or into watchNamespaces".to_owned()
            }
            Self::NotOptedIn => format!("kubectl label namespace {namespace} {INJECTION_LABEL}=enabled"),
        }
    }
}

/// By the selectors of the webhook configuration, or by the labels alone where it may not be read. None where the webhook is
/// asked, or where that cannot be known.
pub fn left_out(surroundings: &Surroundings<'_>, pod: &BTreeMap<String, String>) -> Option<LeftOut> {
    let has = |labels: &BTreeMap<String, String>, key: &str, value: &str| {
        labels.get(key).is_some_and(|found| found == value)
    };
    let labels = surroundings.namespace_labels;
    let opted_in = labels.is_some_and(|labels| has(labels, INJECTION_LABEL, "enabled"));
    let scope = match (surroundings.webhook, labels) {
        (Webhook::Missing, _) => return Some(LeftOut::NoWebhook),
        (Webhook::Found(webhook), Some(labels)) => webhook_scope(webhook, labels, pod),
        (Webhook::Unknown, Some(_)) if !opted_in && !has(pod, "mcpauth.dev/inject", "true") => {
            WebhookScope::NotSelected
        }
        (Webhook::Unknown, Some(_)) | (_, None) => WebhookScope::Selected,
    };
    match scope {
        WebhookScope::Selected => None,
        WebhookScope::NotSelected if opted_in => Some(LeftOut::Excluded),
        WebhookScope::NotSelected => Some(LeftOut::NotOptedIn),
    }
}

/// Why a pod needs no sidecar, and what to do if it does.
fn skipped(reason: SkipReason) -> (&'static str, Option<&'static str>) {
    match reason {
        SkipReason::OptedOut => (
            "its label mcpauth.dev/inject says false",
            Some("take the label out of the pod's template to have it injected"),
        ),
        SkipReason::Job => ("it belongs to a Job, which never serves LiteLLM's API", None),
        SkipReason::RunsToCompletion => ("its restartPolicy is not Always, so it is meant to end", None),
        SkipReason::HelmHook => ("it is a hook of Helm", None),
        SkipReason::StaticPod => (
            "it is a static pod of the kubelet, which has no ServiceAccount",
            None,
        ),
        SkipReason::NotSelected => (
            "no McpServerAuth of the namespace selects it",
            Some(
                "compare spec.podSelector of the resources with the pod's labels, or label the pod's template \
                 mcpauth.dev/inject=true",
            ),
        ),
        SkipReason::NotLiteLlm => (
            "none of its containers serves LiteLLM's API",
            Some("if one does, name it in the annotation mcpauth.dev/container of the pod's template"),
        ),
    }
}

/// How the workload that the pod belongs to is restarted.
fn restart_command(pod: &Pod, namespace: &str) -> String {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true));
    let hash = pod.labels().get("pod-template-hash");
    match owner.map(|owner| (owner.kind.as_str(), owner.name.as_str())) {
        Some(("ReplicaSet", name)) => {
            let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
            let deployment = deployment.unwrap_or("NAME");
            format!("kubectl rollout restart deployment/{deployment} -n {namespace}")
        }
        Some((kind @ ("StatefulSet" | "DaemonSet"), name)) => {
            format!(
                "kubectl rollout restart {}/{name} -n {namespace}",
                kind.to_lowercase()
            )
        }
        _ => format!("create the pod {} anew", pod.name_any()),
    }
}

/// What is injected is not looked at here, only whether.
fn settings() -> Settings {
    serde_json::from_value(serde_json::json!({"image": "sidecar"})).expect("an image is all that must be set")
}

#[cfg(test)]
mod tests;
