//! `mcp-auth-operator inject`: what the webhook would make of the pods in a file, without a cluster. It
//! decides by the very code of the webhook, with the settings that the chart makes of its values (`chart_values`); only the
//! operator's certificates and the random name of a folder in shared memory are placeholders. `manifests` reads the files.

mod chart_values;
mod manifests;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::route;
use mcp_auth_protocol::sync::Route;
use serde_json::Value;
use thiserror::Error;

use crate::entitlement::entitled;
use crate::inject::{Decision, RoutesInPod, Settings, decide};

pub use chart_values::{ChartArgs, ChartSettings, ChartValuesError};
pub use manifests::{ManifestError, Manifests, PodManifest, is_standard_input};

/// Reason of a pod that the API server does not ask the webhook about. Beside those of the decisions.
const NOT_ASKED: &str = "NotAsked";

/// Stands for the name that nobody can guess, so that the same input has the same output.
const FOLDER_NAME: &str = "00000000000000000000000000000000";

/// Prints what injection would make of pods: decision, reason and the patched pod. Needs no cluster.
///
/// Ends with 1 where a pod would be refused, and with 2 where the input cannot be used.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// YAML or JSON with pods, or with workloads whose pod template is taken; `-` is standard input.
    /// It may hold McpServerAuth resources too.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,

    /// YAML or JSON with McpServerAuth resources; repeatable, `-` is standard input. Other kinds are passed
    /// over.
    #[arg(long, value_name = "FILE")]
    pub resources: Vec<PathBuf>,

    /// Namespace of objects that state none.
    #[arg(long, default_value = "default")]
    pub namespace: String,

    #[command(flatten)]
    pub chart: ChartArgs,
}

/// What is printed, and whether a pod would be refused.
#[derive(Debug)]
pub struct Report {
    pub text: String,
    /// What stands for something that is not known.
    pub notes: Vec<String>,
    pub refused: bool,
}

/// What injection would make of one pod.
#[derive(Debug)]
pub struct Preview {
    /// `NAMESPACE/NAME`
    pub pod: String,
    /// As in [`Decision::outcome`].
    pub outcome: &'static str,
    /// As in [`Decision::reason`], or `NotAsked`.
    pub reason: &'static str,
    /// Whether it needs none.
    pub is_skipped: bool,
    /// Why it gets no sidecar though it should have one, and the way out.
    pub message: Option<String>,
    /// Reason and message of each.
    pub warnings: Vec<(&'static str, String)>,
    /// As its controller would make it.
    pub before: Value,
    /// As the webhook would return it; none where it would be refused.
    pub after: Option<Value>,
}

#[derive(Debug, Error)]
pub enum InjectCommandError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    ChartValues(#[from] ChartValuesError),
    #[error("the pod {pod}: {problem}")]
    Pod { pod: String, problem: serde_json::Error },
    #[error("the patch of the pod {pod}: {problem}")]
    Patch {
        pod: String,
        problem: json_patch::PatchError,
    },
    #[error("more than one of --file, --resources and --values is standard input")]
    StandardInputTwice,
}

/// What decides about a pod, beside the resources.
pub struct Installation<'a> {
    pub settings: &'a Settings,
    /// Why the API server does not ask the webhook about a pod, and the way out.
    pub not_asked: &'a dyn Fn(&Pod) -> Option<String>,
}

/// Decision, reason and the patched pod, for each pod in the file.
pub fn inject(args: &InjectArgs) -> Result<Report, InjectCommandError> {
    let files = args
        .resources
        .iter()
        .chain(&args.chart.values)
        .chain([&args.file]);
    if files.filter(|path| is_standard_input(path)).count() > 1 {
        return Err(InjectCommandError::StandardInputTwice);
    }
    let chart = ChartSettings::read(&args.chart)?;
    let manifests = Manifests::read(&args.file, &args.resources, &args.namespace)?;
    let installation = Installation {
        settings: &chart.settings,
        not_asked: &|pod| chart.leaves_out(pod),
    };
    let mut report = Report {
        text: String::new(),
        notes: chart.notes.clone(),
        refused: false,
    };
    for preview in previews(&manifests, &installation)? {
        report.text += &preview.text();
        report.refused |= preview.after.is_none();
    }
    Ok(report)
}

/// What injection would make of each pod.
pub fn previews(
    manifests: &Manifests,
    installation: &Installation<'_>,
) -> Result<Vec<Preview>, InjectCommandError> {
    let pods = manifests.pods.iter();
    pods.map(|pod| preview(pod, &manifests.resources, installation))
        .collect()
}

fn preview(
    pod: &PodManifest,
    resources: &[Arc<McpServerAuth>],
    installation: &Installation<'_>,
) -> Result<Preview, InjectCommandError> {
    let typed = typed(pod)?;
    let of_namespace: Vec<_> = resources
        .iter()
        .filter(|resource| resource.metadata.namespace.as_deref() == Some(pod.namespace()))
        .cloned()
        .collect();
    let labels = typed.metadata.labels.clone().unwrap_or_default();
    let routes: Vec<_> = entitled(&of_namespace, &labels)
        .iter()
        .map(|resource| route(resource))
        .collect();
    // As the webhook does: a pod that no workload makes hears of no route in its review.
    let mut settings = installation.settings.clone();
    settings.folder_name = FOLDER_NAME.to_owned();
    settings.routes_in_pod = match pod.has_workload {
        true => RoutesInPod::Told,
        false => RoutesInPod::Withheld,
    };
    let preview = preview_with_routes(pod, &routes, &settings)?;
    match (installation.not_asked)(&typed) {
        Some(why) if !preview.is_skipped => Ok(not_asked(pod, why)),
        _ => Ok(preview),
    }
}

/// What injection would make of a pod that these routes are for, with these settings as they are.
pub fn preview_with_routes(
    pod: &PodManifest,
    routes: &[Route],
    settings: &Settings,
) -> Result<Preview, InjectCommandError> {
    let name = pod.name();
    let decision = decide(&typed(pod)?, pod.namespace(), routes, settings);
    let message = decision.error().map(ToString::to_string);
    let after = decision
        .patch()
        .map(|patch| {
            let mut patched = pod.value.clone();
            let applied = json_patch::patch(&mut patched, patch);
            applied.map(|()| patched)
        })
        .transpose()
        .map_err(|problem| InjectCommandError::Patch {
            pod: name.clone(),
            problem,
        })?;
    Ok(Preview {
        pod: name,
        outcome: decision.outcome(),
        reason: decision.reason(),
        is_skipped: matches!(decision, Decision::Skip { .. }),
        message,
        warnings: decision
            .warnings()
            .iter()
            .map(|warning| (warning.reason, warning.message.clone()))
            .collect(),
        before: pod.value.clone(),
        after,
    })
}

fn not_asked(pod: &PodManifest, why: String) -> Preview {
    Preview {
        pod: pod.name(),
        outcome: "left alone",
        reason: NOT_ASKED,
        is_skipped: false,
        message: Some(why),
        warnings: Vec::new(),
        before: pod.value.clone(),
        after: Some(pod.value.clone()),
    }
}

fn typed(pod: &PodManifest) -> Result<Pod, InjectCommandError> {
    serde_json::from_value(pod.value.clone()).map_err(|problem| InjectCommandError::Pod {
        pod: pod.name(),
        problem,
    })
}

impl Preview {
    /// As the command prints it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // The annotations are comments, so that the whole is YAML that kubectl takes.
        for line in self.annotations() {
            let _ = writeln!(text, "# {}", line.replace('\n', "\n# "));
        }
        if let Some(patched) = &self.after {
            text.push_str("---\n");
            text += &serde_saphyr::to_string(patched).expect("plain values are YAML");
        }
        text
    }

    /// What became of the pod, in lines for people.
    pub fn annotations(&self) -> Vec<String> {
        let mut lines = vec![
            format!("pod: {}", self.pod),
            format!("decision: {}", self.outcome),
            format!("reason: {}", self.reason),
        ];
        let warnings = self.warnings.iter();
        lines.extend(warnings.map(|(reason, message)| format!("warning: {reason}: {message}")));
        lines.extend(self.message.iter().map(|message| format!("message: {message}")));
        lines
    }
}
