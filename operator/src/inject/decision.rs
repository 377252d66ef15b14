//! The decision about a pod that is being created: inject it, leave it as it is, or deny it.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::sync::Route;

use super::error::Refusal;
use super::options::{Asked, allows_on_refusal, asked, wishes};
use super::settings::Settings;
use super::{annotations, patch, plan, target, warnings};

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// It needs no sidecar. The patch is empty, or marks the pod so that nobody waits for one.
    Leave { why: Why, patch: Patch },
    /// It gets one. The patch is empty if it has one already.
    Inject { patch: Patch, warnings: Vec<String> },
    /// It cannot get one, and must not start without.
    Refuse(Refusal),
    /// It cannot get one, and its owner prefers that it starts all the same.
    LeaveWithWarning(Refusal),
}

/// Why a pod needs no sidecar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Its label says so.
    OptedOut,
    /// It belongs to a Job, such as the charts' migrations.
    Job,
    /// It is meant to end: its restart policy is not Always.
    RunsToCompletion,
    /// A hook of Helm, such as the charts' test.
    HelmHook,
    /// The kubelet's own, which can have no token.
    StaticPod,
    /// No `McpServerAuth` selects it.
    NotSelected,
    /// None of its containers serves LiteLLM's API.
    NotLiteLlm,
}

impl Decision {
    /// Closed set, for metrics and audit.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Leave { why, .. } => why.reason(),
            Self::Inject { patch, .. } if patch.is_empty() => "AlreadyInjected",
            Self::Inject { .. } => "Injected",
            Self::Refuse(refusal) | Self::LeaveWithWarning(refusal) => refusal.reason(),
        }
    }
}

impl Why {
    /// Closed set, for metrics and audit.
    pub fn reason(self) -> &'static str {
        match self {
            Self::OptedOut => "OptedOut",
            Self::Job => "Job",
            Self::RunsToCompletion => "RunsToCompletion",
            Self::HelmHook => "HelmHook",
            Self::StaticPod => "StaticPod",
            Self::NotSelected => "NotSelected",
            Self::NotLiteLlm => "NotLiteLlm",
        }
    }

    /// Labels, owners and annotations tell it to whoever watches the pod, so that the pod needs no mark.
    fn is_told_by_metadata(self) -> bool {
        matches!(self, Self::OptedOut | Self::Job | Self::StaticPod)
    }
}

/// Decides about a pod that is being created, in a namespace that opted in or with the label that asks for it.
/// `routes` are those of all resources of the namespace that select the pod; certificates in them are left out.
pub fn decide(pod: &Pod, namespace: &str, routes: &[Route], settings: &Settings) -> Decision {
    match judge(pod, namespace, routes, settings) {
        Ok(decision) => decision,
        Err(refusal) if allows_on_refusal(pod) == Ok(true) => Decision::LeaveWithWarning(refusal),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn judge(pod: &Pod, namespace: &str, routes: &[Route], settings: &Settings) -> Result<Decision, Refusal> {
    let leave = |why: Why| {
        let is_waited_for = !routes.is_empty() && !why.is_told_by_metadata();
        let patch = if is_waited_for {
            patch::skip(pod, why.reason())
        } else {
            Patch::default()
        };
        Ok(Decision::Leave { why, patch })
    };
    let Some(spec) = &pod.spec else {
        return leave(Why::NotLiteLlm);
    };
    // Comes before every refusal: charts copy the label and the annotations of LiteLLM's pods onto their Jobs.
    if let Some(why) = serves_nothing(pod) {
        return leave(why);
    }
    let asked = asked(pod)?;
    match asked {
        Asked::Never => return leave(Why::OptedOut),
        Asked::ByNamespace if routes.is_empty() => return leave(Why::NotSelected),
        Asked::ByNamespace | Asked::Explicitly => {}
    }
    let wishes = wishes(pod)?;
    allows_on_refusal(pod)?;
    let Some(target) = target::find(pod, spec, wishes.container.as_deref(), asked)? else {
        return leave(Why::NotLiteLlm);
    };
    let plan = plan::plan(spec, target, &wishes, routes, settings)?;
    Ok(Decision::Inject {
        patch: patch::patch(pod, spec, &plan, settings),
        warnings: warnings::warnings(pod, &spec.containers[target.index], &plan, namespace, settings),
    })
}

/// Pods that never serve LiteLLM's API, whatever they ask for.
fn serves_nothing(pod: &Pod) -> Option<Why> {
    let has_label = |key| {
        pod.metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(key))
    };
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let restart_policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if owners.iter().any(|owner| owner.kind == "Job")
        || has_label("batch.kubernetes.io/job-name")
        || has_label("job-name")
    {
        Some(Why::Job)
    } else if restart_policy.is_some_and(|policy| policy != "Always") {
        Some(Why::RunsToCompletion)
    } else if annotations::annotation(pod, "helm.sh/hook").is_some() {
        Some(Why::HelmHook)
    } else if annotations::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        Some(Why::StaticPod)
    } else {
        None
    }
}
