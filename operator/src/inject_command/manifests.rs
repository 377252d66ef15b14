//! The files that a preview is made of: pods and `McpServerAuth` resources, among whatever else they hold.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;
use serde_json::{Value, json};
use thiserror::Error;

/// Workloads whose pod template stands for their pods, where it is, and whether a review finds them, or what they make of
/// it, as the pod's owner (`pod_owners`).
const WORKLOADS: [(&str, &str, bool); 10] = [
    ("Deployment", "/spec/template", true),
    ("StatefulSet", "/spec/template", true),
    ("DaemonSet", "/spec/template", true),
    ("ReplicaSet", "/spec/template", true),
    ("Job", "/spec/template", false),
    ("CronJob", "/spec/jobTemplate/spec/template", false),
    // Argo's, Knative's and KEDA's, and OpenShift's.
    ("Rollout", "/spec/template", true),
    ("Service", "/spec/template", true),
    ("ScaledJob", "/spec/jobTargetRef/template", false),
    ("DeploymentConfig", "/spec/template", false),
];
/// Far more than any pod; a device that never ends is not read for ever.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What the files hold.
#[derive(Debug)]
pub struct Manifests {
    pub pods: Vec<PodManifest>,
    pub resources: Vec<Arc<McpServerAuth>>,
}

/// A pod as its controller would make it.
#[derive(Clone, Debug)]
pub struct PodManifest {
    pub value: Value,
    /// Whether a workload makes it that the webhook finds.
    pub has_workload: bool,
}

#[derive(Debug, Error)]
pub enum ManifestError {
    #[error("only one of the files can be standard input")]
    StandardInputTwice,
    #[error("{}: there is no such file", .0.display())]
    NoSuchFile(PathBuf),
    #[error("{}: it is a folder; name a file in it", .0.display())]
    Folder(PathBuf),
    #[error("{}: cannot be read: {cause}", path.display())]
    Unreadable {
        path: PathBuf,
        cause: std::io::ErrorKind,
    },
    #[error("{} is not YAML{place}", path.display())]
    NotYaml { path: PathBuf, place: String },
    #[error("{} holds neither a Pod nor a workload with a pod template", .0.display())]
    NoPod(PathBuf),
    #[error("{} holds no McpServerAuth", .0.display())]
    NoResource(PathBuf),
    #[error("the McpServerAuth {name} in {}: {problem}", path.display())]
    Resource {
        name: String,
        path: PathBuf,
        problem: serde_json::Error,
    },
}

impl Manifests {
    /// Pods and resources of `file`, and the resources of the other files. `namespace` is that of what states none.
    pub fn read(file: &Path, resources: &[PathBuf], namespace: &str) -> Result<Self, ManifestError> {
        let all = resources.iter().map(PathBuf::as_path).chain([file]);
        if all.filter(|path| is_standard_input(path)).count() > 1 {
            return Err(ManifestError::StandardInputTwice);
        }
        let objects = objects(file)?;
        let mut found = resources_among(&objects, file, namespace)?;
        for path in resources {
            let more = resources_among(&self::objects(path)?, path, namespace)?;
            if more.is_empty() {
                return Err(ManifestError::NoResource(path.clone()));
            }
            found.extend(more);
        }
        let pods = objects.into_iter().filter_map(|object| pod_of(object, namespace));
        let pods: Vec<PodManifest> = pods.collect();
        match pods.is_empty() {
            true => Err(ManifestError::NoPod(file.to_owned())),
            false => Ok(Self {
                pods,
                resources: found,
            }),
        }
    }
}

impl PodManifest {
    /// `NAMESPACE/NAME`
    pub fn name(&self) -> String {
        let metadata = &self.value["metadata"];
        let name = metadata["name"]
            .as_str()
            .or_else(|| metadata["generateName"].as_str());
        format!("{}/{}", self.namespace(), name.unwrap_or("without a name"))
    }

    pub fn namespace(&self) -> &str {
        self.value["metadata"]["namespace"].as_str().unwrap_or_default()
    }
}

pub fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The text of a file, or of standard input.
pub fn read(path: &Path) -> Result<String, ManifestError> {
    let mut text = String::new();
    let result = match is_standard_input(path) {
        true => std::io::stdin()
            .lock()
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
        }
    };
    match result.map_err(|error| error.kind()) {
        Ok(_) => Ok(text),
        Err(std::io::ErrorKind::NotFound) => Err(ManifestError::NoSuchFile(path.to_owned())),
        Err(std::io::ErrorKind::IsADirectory) => Err(ManifestError::Folder(path.to_owned())),
        Err(cause) => Err(ManifestError::Unreadable {
            path: path.to_owned(),
            cause,
        }),
    }
}

/// Where a file is not YAML. The error's own words show the text around the place, which may be a secret.
pub fn not_yaml(path: &Path, error: &serde_saphyr::Error) -> ManifestError {
    let place = error.location().map_or_else(String::new, |location| {
        format!(": see line {}, column {}", location.line(), location.column())
    });
    ManifestError::NotYaml {
        path: path.to_owned(),
        place,
    }
}

fn resources_among(
    objects: &[Value],
    path: &Path,
    namespace: &str,
) -> Result<Vec<Arc<McpServerAuth>>, ManifestError> {
    let is_resource = |object: &&Value| object["kind"] == "McpServerAuth";
    let read = objects.iter().filter(is_resource).map(|object| {
        let mut object = object.clone();
        set_namespace(&mut object, namespace);
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or("without a name")
            .to_owned();
        let resource: McpServerAuth =
            serde_json::from_value(object).map_err(|problem| ManifestError::Resource {
                name,
                path: path.to_owned(),
                problem,
            })?;
        Ok(Arc::new(resource))
    });
    read.collect()
}

fn pod_of(object: Value, namespace: &str) -> Option<PodManifest> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let (mut pod, has_workload) = match WORKLOADS.iter().find(|(workload, ..)| *workload == kind) {
        _ if kind == "Pod" => {
            let has_workload = is_controlled(&object);
            (object, has_workload)
        }
        // Another controller's, such as a CloneSet: a review finds none of them.
        found => {
            let (pointer, is_found) = found.map_or(("/spec/template", false), |(_, pointer, is_found)| {
                (*pointer, *is_found)
            });
            let mut pod = object.pointer(pointer)?.clone();
            pod.pointer("/spec/containers")?.as_array()?;
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            pod["metadata"]["generateName"] = json!(format!("{name}-"));
            if let Some(namespace) = object["metadata"].get("namespace") {
                pod["metadata"]["namespace"] = namespace.clone();
            }
            if matches!(kind.as_str(), "Job" | "CronJob" | "ScaledJob") {
                pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = json!(name);
            }
            (pod, is_found)
        }
    };
    set_namespace(&mut pod, namespace);
    Some(PodManifest {
        value: pod,
        has_workload,
    })
}

/// Whether the pod, as one that was read from a cluster, names a controller that a review looks up.
fn is_controlled(pod: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let mut owners = owners.into_iter().flatten();
    owners.any(|owner| {
        let is_found = WORKLOADS
            .iter()
            .any(|(kind, _, is_found)| *is_found && owner["kind"] == *kind);
        owner["controller"] == true && is_found
    })
}

fn set_namespace(object: &mut Value, namespace: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("namespace").or_insert_with(|| json!(namespace));
    }
}

/// The objects of a file: of all its documents, and the items of lists.
fn objects(path: &Path) -> Result<Vec<Value>, ManifestError> {
    // As kubectl reads it: a mode such as 0444 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&read(path)?, options)
        .map_err(|error| not_yaml(path, &error))?;
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
