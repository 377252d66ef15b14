//! What the chart makes of its values, as far as injection depends on them: the settings of sidecars, the operator's
//! address, and the namespaces that the webhook leaves out. `helm template` says the same; `make test-chart` compares.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::manifests::{ManifestError, not_yaml, read};
use crate::entitlement::Labels;
use crate::inject::{OperatorEndpoint, Settings, SettingsError};
use crate::namespaces::WebhookScope;

/// The chart's own values, which those of a user are merged into.
const DEFAULTS: &str = include_str!("../../../charts/mcp-auth/values.yaml");
/// Name of the chart.
const CHART: &str = "mcp-auth";
/// Longest name that the chart gives its objects, before their suffixes.
const MAX_NAME: usize = 52;
/// Stands for an image that no values name.
const UNNAMED_IMAGE: &str = "mcp-auth-sidecar";

/// What the chart is installed with.
#[derive(Clone, Debug, clap::Args)]
pub struct ChartArgs {
    /// Values that the chart is installed with, as for `helm install`; repeatable, `-` is standard input. What they do
    /// not state is the chart's default.
    #[arg(long, value_name = "FILE")]
    pub values: Vec<PathBuf>,

    /// Name of the Helm release, which the operator's address is made of.
    #[arg(long, value_name = "NAME", default_value = CHART)]
    pub release: String,

    /// Namespace of the Helm release.
    #[arg(long, value_name = "NAME", default_value = "mcp-auth-system")]
    pub release_namespace: String,

    /// JSON file with the settings of sidecars, as in the chart's ConfigMap, instead of `sidecar` in the values.
    #[arg(long, value_name = "FILE")]
    pub sidecar_settings: Option<PathBuf>,
}

/// What injection depends on of an installation.
#[derive(Clone, Debug)]
pub struct ChartSettings {
    pub settings: Settings,
    /// Only these are served; none: all.
    watched_namespaces: Vec<String>,
    scope: WebhookScope,
    /// What stands for something that is not known.
    pub notes: Vec<String>,
}

#[derive(Debug, Error)]
pub enum ChartValuesError {
    #[error(transparent)]
    File(#[from] ManifestError),
    #[error("{} holds no values of the chart: they are a map, such as `sidecar: {{image: ...}}`", .0.display())]
    NoMap(PathBuf),
    #[error("the chart's values: {field}: {problem}")]
    Value { field: String, problem: String },
    #[error("the chart's values: sidecar: {0}")]
    Sidecar(SettingsError),
    #[error("the sidecar's settings in {}: {problem}", path.display())]
    Settings { path: PathBuf, problem: SettingsError },
}

/// What is read of the values. All of it is in the chart's own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Values {
    name_override: String,
    fullname_override: String,
    watch_namespaces: Vec<String>,
    global: Global,
    sidecar: Sidecar,
    webhook: Webhook,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sidecar {
    image: Image,
    image_pull_secrets: Vec<Named>,
    /// As the ConfigMap has it.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    digest: String,
    pull_policy: Option<String>,
}

/// A chart that depends on this one has values of its own there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Global {
    image_registry: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    excluded_namespaces: Vec<String>,
    namespace_selector: LabelSelector,
    object_selector: LabelSelector,
}

impl ChartSettings {
    /// By the values, which may be none.
    pub fn read(args: &ChartArgs) -> Result<Self, ChartValuesError> {
        let values = values(&args.values)?;
        let mut notes = Vec::new();
        let image = image(&values.sidecar.image, &values.global.image_registry, &mut notes);
        let mut settings = match &args.sidecar_settings {
            Some(path) => {
                Settings::from_json(&read(path)?).map_err(|problem| ChartValuesError::Settings {
                    path: path.clone(),
                    problem,
                })?
            }
            None => {
                let text = settings_json(values.sidecar, &image).to_string();
                Settings::from_json(&text).map_err(ChartValuesError::Sidecar)?
            }
        };
        if args.sidecar_settings.is_some() {
            notes.clear();
        }
        let name = full_name(&args.release, &values.name_override, &values.fullname_override);
        settings.operator = OperatorEndpoint {
            url: format!("https://{name}-operator.{}.svc:443", args.release_namespace),
            ca: "the operator's certificates".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let scope = WebhookScope {
            excluded_namespaces: values.webhook.excluded_namespaces,
            namespace_selector: values.webhook.namespace_selector,
            object_selector: values.webhook.object_selector,
        };
        if scope.namespace_selector != LabelSelector::default() {
            notes.push(
                "the values have a webhook.namespaceSelector; the labels of namespaces are taken to match it"
                    .to_owned(),
            );
        }
        Ok(Self {
            settings,
            watched_namespaces: values.watch_namespaces,
            scope,
            notes,
        })
    }

    /// Why the API server does not ask the webhook about a pod, though its namespace opted in.
    pub fn leaves_out(&self, pod: &Pod) -> Option<String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let none = Labels::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        self.leaves_out_namespace(namespace)
            .or_else(|| self.scope.why_not_pod(labels))
    }

    fn leaves_out_namespace(&self, namespace: &str) -> Option<String> {
        let watched = &self.watched_namespaces;
        let is_watched = watched.is_empty() || watched.iter().any(|name| name == namespace);
        let not_watched =
            || format!("watchNamespaces of the chart does not have the namespace {namespace}: add it");
        let excluded = self.scope.why_not_namespace(namespace);
        excluded.or_else(|| (!is_watched).then(not_watched))
    }
}

/// The chart's own values with those of the files, the last of which wins. As with Helm maps are merged, lists replaced, and
/// null stands for nothing.
fn values(files: &[PathBuf]) -> Result<Values, ChartValuesError> {
    let mut merged: Value = serde_saphyr::from_str(DEFAULTS).expect("a test reads them");
    for path in files {
        let of_file: Option<Value> =
            serde_saphyr::from_str(&read(path)?).map_err(|error| not_yaml(path, &error))?;
        match of_file {
            Some(of_file) if of_file.is_object() => json_patch::merge(&mut merged, &of_file),
            None | Some(Value::Null) => {}
            Some(_) => return Err(ChartValuesError::NoMap(path.clone())),
        }
    }
    as_json_has_numbers(&mut merged);
    serde_path_to_error::deserialize(merged).map_err(|error| ChartValuesError::Value {
        field: error.path().to_string(),
        problem: error.inner().to_string(),
    })
}

/// A number such as 1e8 is whole, as Helm's `toPrettyJson` writes it.
fn as_json_has_numbers(value: &mut Value) {
    /// Up to it each whole number has a float of its own.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() <= MAX_EXACT {
                *value = json!(float as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(as_json_has_numbers),
        Value::Object(values) => values.values_mut().for_each(as_json_has_numbers),
        _ => {}
    }
}

/// As the chart's `mcp-auth.image`.
fn image(image: &Image, registry: &str, notes: &mut Vec<String>) -> String {
    let repository = match image.repository.as_str() {
        "" => {
            notes.push(format!(
                "the values state no sidecar.image.repository; {UNNAMED_IMAGE} stands for it"
            ));
            UNNAMED_IMAGE
        }
        repository => repository,
    };
    let repository = match registry {
        "" => repository.to_owned(),
        registry => format!(
            "{}/{}",
            registry.trim_end_matches('/'),
            without_registry(repository)
        ),
    };
    match (image.digest.as_str(), image.tag.as_str()) {
        ("", "") => format!("{repository}:{}", env!("CARGO_PKG_VERSION")),
        ("", tag) => format!("{repository}:{tag}"),
        (digest, _) => format!("{repository}@{digest}"),
    }
}

/// The repository without the registry's host, which has a dot or a port, or is localhost.
fn without_registry(repository: &str) -> &str {
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    match repository.split_once('/') {
        Some((first, rest)) if is_host(first) => rest,
        _ => repository,
    }
}

/// As the chart's ConfigMap.
fn settings_json(sidecar: Sidecar, image: &str) -> Value {
    let names = sidecar.image_pull_secrets.into_iter().map(|secret| secret.name);
    let mut settings = sidecar.rest;
    settings.insert("image".to_owned(), json!(image));
    settings.insert("imagePullPolicy".to_owned(), json!(sidecar.image.pull_policy));
    settings.insert("imagePullSecrets".to_owned(), json!(names.collect::<Vec<_>>()));
    Value::Object(settings)
}

/// As the chart's `mcp-auth.fullname`.
fn full_name(release: &str, name_override: &str, full_name_override: &str) -> String {
    let name = match name_override {
        "" => CHART,
        name => name,
    };
    let full = match full_name_override {
        "" if release.contains(name) => release.to_owned(),
        "" => format!("{release}-{name}"),
        full => full.to_owned(),
    };
    let cut: String = full.chars().take(MAX_NAME).collect();
    cut.strip_suffix('-').map_or(cut.clone(), str::to_owned)
}

#[cfg(test)]
mod tests;
