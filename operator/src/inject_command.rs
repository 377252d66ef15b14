//! `mcp-auth-operator inject`: what the webhook would make of the pods in a file, without a cluster. It
//! decides by the very code of the webhook; only what comes from the running operator (its address and
//! certificates) is a placeholder.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::routes::route;
use serde_json::{Value, json};

use crate::entitlement::entitled;
use crate::inject::{OperatorEndpoint, Settings, decide};

/// Workloads whose pod template stands for their pods, and where it is.
const WORKLOADS: [(&str, &str); 6] = [
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];
/// Far more than any pod; a device that never ends is not read for ever.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Prints what injection would make of pods: decision, reason and the patched pod. Needs no cluster.
///
/// Ends with 1 where a pod would be refused, and with 2 where the input cannot be used.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// YAML or JSON with pods, or with workloads whose pod template is taken; `-` is standard input.
    /// McpServerAuth resources in it count too.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,

    /// YAML or JSON with McpServerAuth resources; repeatable, `-` is standard input. Other kinds are passed
    /// over.
    #[arg(long, value_name = "FILE")]
    pub resources: Vec<PathBuf>,

    /// Namespace of what states none.
    #[arg(long, default_value = "default")]
    pub namespace: String,

    /// JSON file with the settings of injected sidecars, as the operator gets it.
    #[arg(long, value_name = "FILE")]
    pub sidecar_settings: Option<PathBuf>,
}

/// What is printed, and whether a pod would be refused.
#[derive(Debug)]
pub struct Report {
    pub text: String,
    pub refused: bool,
}

/// What injection would make of one pod.
#[derive(Debug)]
pub struct Preview {
    /// `NAMESPACE/NAME`
    pub pod: String,
    /// As in [`Decision::outcome`].
    pub outcome: &'static str,
    /// As in [`Decision::reason`].
    pub reason: &'static str,
    /// Why it cannot be injected, and the way out.
    pub message: Option<String>,
    /// Reason and message of each.
    pub warnings: Vec<(&'static str, String)>,
    /// As its controller would make it.
    pub before: Value,
    /// As the webhook would return it; none where it would be refused.
    pub after: Option<Value>,
}

/// Decision, reason and the patched pod, for each pod in the file.
pub fn inject(args: &InjectArgs) -> anyhow::Result<Report> {
    let mut report = Report {
        text: String::new(),
        refused: false,
    };
    for preview in previews(args)? {
        add_pod(&mut report, &preview)?;
    }
    Ok(report)
}

/// What injection would make of each pod in the file.
pub fn previews(args: &InjectArgs) -> anyhow::Result<Vec<Preview>> {
    let from_stdin = |path: &&PathBuf| path.as_os_str() == "-";
    if args
        .resources
        .iter()
        .chain([&args.file])
        .filter(from_stdin)
        .count()
        > 1
    {
        bail!("only one of --file and --resources can be standard input");
    }
    let settings = settings(args.sidecar_settings.as_deref())?;
    let objects = objects(&args.file)?;
    let mut resources = resources_among(&objects, &args.file, &args.namespace)?;
    for path in &args.resources {
        resources.extend(read_resources(path, &args.namespace)?);
    }
    let pods: Vec<Value> = objects
        .into_iter()
        .filter_map(|object| pod_of(object, &args.namespace))
        .collect();
    if pods.is_empty() {
        bail!(
            "{} holds neither a Pod nor a workload with a pod template",
            args.file.display()
        );
    }
    pods.into_iter()
        .map(|pod| preview(pod, &resources, &settings))
        .collect()
}

fn preview(pod: Value, resources: &[Arc<McpServerAuth>], settings: &Settings) -> anyhow::Result<Preview> {
    let name = pod_name(&pod);
    let typed: Pod = serde_json::from_value(pod.clone()).with_context(|| format!("the pod {name}"))?;
    let namespace = typed.metadata.namespace.clone().unwrap_or_default();
    let of_namespace: Vec<_> = resources
        .iter()
        .filter(|resource| resource.metadata.namespace.as_deref() == Some(&namespace))
        .cloned()
        .collect();
    let labels = typed.metadata.labels.clone().unwrap_or_default();
    let routes: Vec<_> = entitled(&of_namespace, &labels)
        .iter()
        .map(|resource| route(resource))
        .collect();
    let decision = decide(&typed, &namespace, &routes, settings);
    let (outcome, reason) = (decision.outcome(), decision.reason());
    let message = decision.error().map(ToString::to_string);
    let after = decision
        .patch()
        .map(|patch| {
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, patch).with_context(|| format!("the patch of the pod {name}"))?;
            anyhow::Ok(patched)
        })
        .transpose()?;
    Ok(Preview {
        pod: name,
        outcome,
        reason,
        message,
        warnings: decision
            .warnings()
            .iter()
            .map(|warning| (warning.reason, warning.message.clone()))
            .collect(),
        before: pod,
        after,
    })
}

fn add_pod(report: &mut Report, preview: &Preview) -> anyhow::Result<()> {
    let text = &mut report.text;
    // The annotations are comments, so that the whole is YAML that kubectl takes.
    for line in preview.annotations() {
        writeln!(text, "# {}", line.replace('\n', "\n# "))?;
    }
    match &preview.after {
        None => report.refused = true,
        Some(patched) => {
            writeln!(text, "---")?;
            *text += &serde_saphyr::to_string(patched).context("writing YAML")?;
        }
    }
    Ok(())
}

impl Preview {
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

fn settings(path: Option<&Path>) -> anyhow::Result<Settings> {
    let text = match path {
        Some(path) => read(path)?,
        None => json!({"image": "mcp-auth-sidecar"}).to_string(),
    };
    let mut settings = Settings::from_json(&text).context("the sidecar's settings")?;
    settings.operator = OperatorEndpoint {
        url: "https://mcp-auth-operator.mcp-auth-system.svc:443".to_owned(),
        ca: "the operator's certificates".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(settings)
}

fn read_resources(path: &Path, namespace: &str) -> anyhow::Result<Vec<Arc<McpServerAuth>>> {
    let resources = resources_among(&objects(path)?, path, namespace)?;
    if resources.is_empty() {
        bail!("{} holds no McpServerAuth", path.display());
    }
    Ok(resources)
}

fn resources_among(
    objects: &[Value],
    path: &Path,
    namespace: &str,
) -> anyhow::Result<Vec<Arc<McpServerAuth>>> {
    let is_resource = |object: &&Value| object["kind"] == "McpServerAuth";
    let read = objects.iter().filter(is_resource).map(|object| {
        let mut object = object.clone();
        set_namespace(&mut object, namespace);
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or("without a name")
            .to_owned();
        let resource: McpServerAuth = serde_json::from_value(object)
            .with_context(|| format!("the McpServerAuth {name} in {}", path.display()))?;
        Ok(Arc::new(resource))
    });
    read.collect()
}

/// The pod of an object, as its controller would make it.
fn pod_of(object: Value, namespace: &str) -> Option<Value> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let mut pod = match WORKLOADS.iter().find(|(workload, _)| *workload == kind) {
        _ if kind == "Pod" => object,
        None => return None,
        Some((_, pointer)) => {
            let mut pod = object.pointer(pointer)?.clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            pod["metadata"]["generateName"] = json!(format!("{name}-"));
            if let Some(namespace) = object["metadata"].get("namespace") {
                pod["metadata"]["namespace"] = namespace.clone();
            }
            if kind == "Job" || kind == "CronJob" {
                pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
            }
            pod
        }
    };
    set_namespace(&mut pod, namespace);
    Some(pod)
}

fn set_namespace(object: &mut Value, namespace: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("namespace").or_insert_with(|| json!(namespace));
    }
}

fn pod_name(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    let name = metadata["name"]
        .as_str()
        .or_else(|| metadata["generateName"].as_str());
    format!(
        "{}/{}",
        metadata["namespace"].as_str().unwrap_or_default(),
        name.unwrap_or("without a name")
    )
}

/// The objects of a file: of all its documents, and the items of lists.
fn objects(path: &Path) -> anyhow::Result<Vec<Value>> {
    // As kubectl reads it: a mode such as 0444 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&read(path)?, options)
        .map_err(|error| anyhow::anyhow!("{} is not YAML: {error}", path.display()))?;
    let mut objects = Vec::new();
    for mut document in documents {
        let is_list = document["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"));
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if is_list => objects.extend(items),
            _ if document.is_object() => objects.push(document),
            _ => {}
        }
    }
    Ok(objects)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let result = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
    };
    result.with_context(|| format!("reading {}", path.display()))?;
    Ok(text)
}
