//! The decision about a pod that is being created: inject it, skip it, or deny it.

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::sync::Route;

use super::error::InjectionError;
use super::options::{InjectionPolicy, injection_policy, may_start_without_sidecar, pod_options};
use super::previous::PreviousInjection;
use super::settings::Settings;
use super::warning::{SIDECAR_KEPT, Warning, lasting};
use super::warnings::warnings;
use super::{annotations, later_webhooks, marks, patch, plan, target, unknown_keys};

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// It needs no sidecar. The patch is empty, or marks the pod so that its status does not wait for one.
    Skip {
        reason: SkipReason,
        patch: Patch,
        warnings: Vec<Warning>,
    },
    /// It gets one. The patch is empty if it has one already.
    Inject { patch: Patch, warnings: Vec<Warning> },
    /// It cannot be injected, and must not start without the sidecar.
    Deny {
        error: InjectionError,
        warnings: Vec<Warning>,
    },
    /// It cannot be injected, and starts as it is. The patch marks it.
    AllowWithoutSidecar {
        error: InjectionError,
        patch: Patch,
        warnings: Vec<Warning>,
    },
}

/// Why a pod needs no sidecar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SkipReason {
    /// Its label says so.
    OptedOut,
    /// It belongs to a Job, such as the charts' migrations.
    Job,
    /// Its restart policy is not Always, so that it is meant to end.
    RunsToCompletion,
    /// It is a Helm hook, such as the charts' test.
    HelmHook,
    /// It is the kubelet's own, which can have no ServiceAccount token.
    StaticPod,
    /// No `McpServerAuth` selects it.
    NotSelected,
    /// None of its containers serves LiteLLM's API.
    NotLiteLlm,
}

impl Decision {
    /// What becomes of the pod, in one word. Closed set.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Skip { .. } => "skipped",
            Self::Inject { .. } => "injected",
            Self::AllowWithoutSidecar { .. } => "left alone",
            Self::Deny { .. } => "refused",
        }
    }

    /// Closed set, for metrics and audit.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Skip { reason, .. } => reason.as_str(),
            Self::Inject { patch, .. } if patch.is_empty() => "AlreadyInjected",
            Self::Inject { .. } => "Injected",
            Self::Deny { error, .. } | Self::AllowWithoutSidecar { error, .. } => error.reason(),
        }
    }

    /// Why the pod does not get the sidecar that it should have, and the way out.
    pub fn error(&self) -> Option<&InjectionError> {
        match self {
            Self::Deny { error, .. } | Self::AllowWithoutSidecar { error, .. } => Some(error),
            Self::Skip { .. } | Self::Inject { .. } => None,
        }
    }

    pub fn warnings(&self) -> &[Warning] {
        match self {
            Self::Skip { warnings, .. }
            | Self::Inject { warnings, .. }
            | Self::Deny { warnings, .. }
            | Self::AllowWithoutSidecar { warnings, .. } => warnings,
        }
    }

    /// What makes the pod what it becomes; nothing where it is refused.
    pub fn patch(&self) -> Option<&Patch> {
        match self {
            Self::Skip { patch, .. }
            | Self::Inject { patch, .. }
            | Self::AllowWithoutSidecar { patch, .. } => Some(patch),
            Self::Deny { .. } => None,
        }
    }
}

impl SkipReason {
    pub const ALL: [Self; 7] = [
        Self::OptedOut,
        Self::Job,
        Self::RunsToCompletion,
        Self::HelmHook,
        Self::StaticPod,
        Self::NotSelected,
        Self::NotLiteLlm,
    ];

    /// Closed set, for metrics and audit.
    pub const fn as_str(self) -> &'static str {
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

    /// Whether labels, owners or annotations of the pod show the reason, so that the pod needs no mark.
    fn is_visible_in_metadata(self) -> bool {
        matches!(self, Self::OptedOut | Self::Job | Self::StaticPod)
    }

    /// Whether what the pod states of injection may be the reason.
    fn may_be_a_mistake(self) -> bool {
        matches!(self, Self::OptedOut | Self::NotSelected | Self::NotLiteLlm)
    }
}

/// Decides about a pod that is being created, in a namespace that opted in or with the label that asks for
/// it. `routes` are those of all resources of the namespace that select the pod; certificates in them are
/// left out.
pub fn decide(pod: &Pod, namespace: &str, routes: &[Route], settings: &Settings) -> Decision {
    let error = match try_decide(pod, namespace, routes, settings) {
        Ok(decision) => return decision,
        Err(error) => error,
    };
    let is_requested = injection_policy(pod) == Ok(InjectionPolicy::Requested);
    // Where the annotation cannot be read, the label decides.
    let may_start = may_start_without_sidecar(pod).unwrap_or(!is_requested);
    let mut warnings = unknown_keys::warnings(pod);
    if may_start || later_webhooks::may_mend(pod, &error) {
        let has_sidecar = pod
            .spec
            .as_ref()
            .is_some_and(|spec| PreviousInjection::find(spec).is_some());
        let patch = if has_sidecar {
            let kept = sidecar_kept(&error);
            let patch = marks::warn_of_previous(pod, &kept);
            warnings.push(kept);
            patch
        } else {
            marks::mark_not_injected(pod, &error, &warnings)
        };
        Decision::AllowWithoutSidecar {
            error,
            patch,
            warnings,
        }
    } else {
        Decision::Deny { error, warnings }
    }
}

fn try_decide(
    pod: &Pod,
    namespace: &str,
    routes: &[Route],
    settings: &Settings,
) -> Result<Decision, InjectionError> {
    let skip = |reason: SkipReason| {
        let needs_mark = !routes.is_empty() && !reason.is_visible_in_metadata();
        let mark = needs_mark.then(|| reason.as_str());
        // Charts copy the annotations of LiteLLM's pods onto others, whose owner has nothing to correct.
        let warnings = match reason.may_be_a_mistake() {
            true => unknown_keys::warnings(pod),
            false => Vec::new(),
        };
        Ok(Decision::Skip {
            reason,
            patch: marks::mark_skipped(pod, mark, &warnings),
            warnings,
        })
    };
    let Some(spec) = &pod.spec else {
        return skip(SkipReason::NotLiteLlm);
    };
    // Comes before everything that may fail: charts copy the label and the annotations of LiteLLM's pods onto
    // their Jobs.
    if let Some(reason) = not_serving(pod) {
        return skip(reason);
    }
    let policy = injection_policy(pod);
    match policy {
        Ok(InjectionPolicy::Disabled) => return skip(SkipReason::OptedOut),
        Ok(InjectionPolicy::ByNamespace) | Err(_) if routes.is_empty() => {
            return skip(SkipReason::NotSelected);
        }
        _ => {}
    }
    let policy = policy?;
    let options = pod_options(pod)?;
    may_start_without_sidecar(pod)?;
    let previous = PreviousInjection::find(spec).and_then(|_| target::of_previous_injection(spec));
    let target = match previous.filter(|_| options.container.is_none()) {
        Some(target) => Some(target),
        None => target::find(pod, spec, options.container.as_deref(), policy)?,
    };
    let Some(target) = target else {
        return skip(SkipReason::NotLiteLlm);
    };
    let plan = plan::plan(pod, spec, target, &options, routes, settings)?;
    let warnings = warnings(pod, spec, &plan, namespace, settings);
    let patch = patch::patch(pod, spec, &plan, &warnings, settings);
    match marks::has_room_for_annotations(pod, &patch) {
        true => Ok(Decision::Inject { patch, warnings }),
        false => Err(InjectionError::AnnotationsTooLarge),
    }
}

/// Of a pod that has a sidecar, from a first look or from a copied template, and that cannot be injected as it is now.
fn sidecar_kept(error: &InjectionError) -> Warning {
    let message = format!(
        "the pod keeps the sidecar that it came with, and as the pod is now injection is not possible: {}: {error}",
        error.reason()
    );
    lasting(SIDECAR_KEPT, message)
}

/// Why a pod never serves LiteLLM's API, whatever its labels and annotations ask for.
fn not_serving(pod: &Pod) -> Option<SkipReason> {
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
        // Anyone may use a name without a domain: what is known to be another's is no Job's.
        || has_label("job-name") && owners.is_empty()
    {
        Some(SkipReason::Job)
    } else if restart_policy.is_some_and(|policy| policy != "Always") {
        Some(SkipReason::RunsToCompletion)
    } else if annotations::annotation(pod, "helm.sh/hook").is_some() {
        Some(SkipReason::HelmHook)
    } else if annotations::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        Some(SkipReason::StaticPod)
    } else {
        None
    }
}
