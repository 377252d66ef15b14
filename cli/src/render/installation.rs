//! What decides about the pods of `render`, beside the pods themselves: settings, resources and the webhook's selectors of the
//! cluster that kubectl would talk to, or what the chart makes of its values.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_operator::inject::{OperatorEndpoint, Settings};
use mcp_auth_operator::{ChartSettings, Manifests};
use url::Url;

use crate::args::RenderArgs;
use crate::cluster::{Cluster, ClusterOptions};
use crate::doctor::facts::client_config;
use crate::error::CliError;
use crate::explain::{Surroundings, Webhook, left_out};
use crate::inventory::{Inventory, Scope};
use crate::lookup::{Lookup, get};
use crate::operator_version::stated_version;
use crate::webhook_scope::webhook_configurations;

/// Key of the chart's ConfigMap, and the end of its name, which otherwise is that of the webhook configuration.
const SETTINGS_KEY: &str = "sidecar.json";
const SETTINGS_SUFFIX: &str = "-sidecar";

/// Where it is known from.
pub struct Source {
    pub settings: Settings,
    scope: ScopeSource,
    /// What is not of the cluster, or not known.
    pub notes: Vec<String>,
}

enum ScopeSource {
    Chart(Box<ChartSettings>),
    Cluster(ClusterScope),
}

/// Whom the cluster's webhook is asked about.
struct ClusterScope {
    /// None where it may not be read.
    webhooks: Option<Vec<MutatingWebhookConfiguration>>,
    /// Labels of the namespaces that could be read.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Source {
    /// Of the cluster where there is one, and nothing says otherwise. The cluster's resources are added to `manifests`.
    pub async fn load(
        options: &ClusterOptions,
        args: &RenderArgs,
        manifests: &mut Manifests,
    ) -> Result<Self, CliError> {
        let chart =
            ChartSettings::read(&args.chart).map_err(|error| CliError::Manifests(error.to_string()))?;
        let is_stated = !args.chart.values.is_empty() || args.chart.sidecar_settings.is_some();
        if args.offline || is_stated {
            return Ok(Self::of_chart(chart, Vec::new()));
        }
        let is_named = options.kubeconfig.is_some() || options.context.is_some();
        match Cluster::with_mcp_auth(options).await {
            Ok(cluster) => Self::of_cluster(&cluster, args, chart, manifests).await,
            Err(error) if is_named => Err(error),
            Err(error) => {
                let note = format!(
                    "no cluster is asked, and the chart's own values count (--values names yours, --offline asks for \
                     nothing else): {error}"
                );
                Ok(Self::of_chart(chart, vec![note]))
            }
        }
    }

    fn of_chart(chart: ChartSettings, mut notes: Vec<String>) -> Self {
        notes.extend(chart.notes.iter().cloned());
        Self {
            settings: chart.settings.clone(),
            scope: ScopeSource::Chart(Box::new(chart)),
            notes,
        }
    }

    async fn of_cluster(
        cluster: &Cluster,
        args: &RenderArgs,
        chart: ChartSettings,
        manifests: &mut Manifests,
    ) -> Result<Self, CliError> {
        let mut notes = Vec::new();
        let webhooks = webhook_configurations(cluster).await?;
        let webhook = webhooks.as_ref().and_then(|found| found.first());
        let settings = match settings(cluster, args, webhook).await? {
            Ok(settings) => settings,
            Err(why) => {
                notes.push(format!(
                    "{why}; the chart's own values count: --values names yours"
                ));
                notes.extend(chart.notes);
                chart.settings
            }
        };
        let settings = Settings {
            operator: endpoint(webhook, settings.operator),
            ..settings
        };
        let own = env!("CARGO_PKG_VERSION");
        if settings.operator.version != own {
            notes.push(format!(
                "the cluster's mcp-auth is {} and this program {own}, by whose rules it decides: they may differ",
                settings.operator.version
            ));
        }
        let mut namespaces = BTreeMap::new();
        for name in names(manifests) {
            match get(cluster, &Api::<Namespace>::all(cluster.client.clone()), &name).await? {
                Lookup::Found(namespace) => {
                    let labels = namespace.metadata.labels.unwrap_or_default();
                    namespaces.insert(name.clone(), labels);
                }
                Lookup::Missing => notes.push(format!(
                    "the cluster has no namespace {name}; it is taken to have opted in"
                )),
                Lookup::Unknown(why) => {
                    notes.push(format!("{why} {name}; it is taken to have opted in"));
                }
            }
            match Inventory::load_resources(cluster, &Scope::Namespace(name)).await {
                Ok(found) => {
                    notes.extend(found.unreadable.into_iter().map(|resource| {
                        let (namespace, name) = (resource.namespace, resource.name);
                        format!(
                            "the McpServerAuth {namespace}/{name} cannot be read: {}",
                            resource.problem
                        )
                    }));
                    add(&mut manifests.resources, found.resources);
                }
                Err(error @ CliError::Forbidden { .. }) => {
                    notes.push(format!("{error}; only those of the files count"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            settings,
            scope: ScopeSource::Cluster(ClusterScope { webhooks, namespaces }),
            notes,
        })
    }

    /// Why the API server does not ask the webhook about a pod, and the way out.
    pub fn not_asked(&self, pod: &Pod) -> Option<String> {
        let namespace = pod.namespace().unwrap_or_default();
        let scope = match &self.scope {
            ScopeSource::Chart(chart) => return chart.leaves_out(pod),
            ScopeSource::Cluster(scope) => scope,
        };
        let surroundings = Surroundings {
            resources: &[],
            namespace_labels: scope.namespaces.get(&namespace),
            webhook: Webhook::new(scope.webhooks.as_deref()),
        };
        let left_out = left_out(&surroundings, pod.labels())?;
        Some(format!(
            "{}: {}",
            left_out.reason(&namespace),
            left_out.way_out(&namespace)
        ))
    }
}

/// The namespaces of the pods.
fn names(manifests: &Manifests) -> Vec<String> {
    let mut names: Vec<String> = manifests
        .pods
        .iter()
        .map(|pod| pod.namespace().to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Settings of the chart's ConfigMap, as the operator has them; or why they are not known.
async fn settings(
    cluster: &Cluster,
    args: &RenderArgs,
    webhook: Option<&MutatingWebhookConfiguration>,
) -> Result<Result<Settings, String>, CliError> {
    let Some(webhook) = webhook else {
        let why = "the webhook configuration, by which the operator's settings are found, is not there or not for you to read";
        return Ok(Err(why.to_owned()));
    };
    let service = client_config(webhook).and_then(|config| config.service.as_ref());
    let stated = args.operator_namespace.clone();
    let Some(namespace) = stated.or_else(|| service.map(|service| service.namespace.clone())) else {
        return Ok(Err(
            "the operator's namespace is not known: name it with --operator-namespace".to_owned(),
        ));
    };
    let name = format!("{}{SETTINGS_SUFFIX}", webhook.name_any());
    let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), &namespace);
    let found = match get(cluster, &api, &name).await? {
        Lookup::Found(found) => found,
        Lookup::Missing => {
            return Ok(Err(format!(
                "the namespace {namespace} has no ConfigMap {name} with the settings of sidecars"
            )));
        }
        Lookup::Unknown(why) => return Ok(Err(format!("{why} of the namespace {namespace}"))),
    };
    let text = found
        .data
        .unwrap_or_default()
        .remove(SETTINGS_KEY)
        .unwrap_or_default();
    // The operator of another version may have settings that this program does not know.
    Ok(Settings::from_json(&text)
        .map_err(|error| format!("the ConfigMap {namespace}/{name} cannot be used: {SETTINGS_KEY}: {error}")))
}

/// How sidecars reach the operator, as the webhook configuration has it; the rest as `otherwise`.
fn endpoint(webhook: Option<&MutatingWebhookConfiguration>, otherwise: OperatorEndpoint) -> OperatorEndpoint {
    let config = webhook.and_then(client_config);
    let url = config.and_then(|config| match (&config.service, &config.url) {
        (Some(service), _) => Some(format!(
            "https://{}.{}.svc:{}",
            service.name,
            service.namespace,
            service.port.unwrap_or(443)
        )),
        (None, Some(url)) => Some(Url::parse(url).ok()?.origin().ascii_serialization()),
        (None, None) => None,
    });
    let ca = config.and_then(|config| String::from_utf8(config.ca_bundle.clone()?.0).ok());
    OperatorEndpoint {
        url: url.unwrap_or(otherwise.url),
        ca: ca.unwrap_or(otherwise.ca),
        version: webhook.and_then(stated_version).unwrap_or(otherwise.version),
    }
}

/// The cluster's resources beside those of files, which stand for their next version, or are the newest.
fn add(of_files: &mut Vec<Arc<McpServerAuth>>, of_cluster: Vec<Arc<McpServerAuth>>) {
    let is_same = |one: &McpServerAuth, other: &McpServerAuth| {
        one.metadata.name == other.metadata.name && one.metadata.namespace == other.metadata.namespace
    };
    for resource in of_files.iter_mut() {
        let existing = of_cluster.iter().find(|existing| is_same(resource, existing));
        let created = existing.map(|existing| existing.metadata.creation_timestamp.clone());
        let metadata = &mut Arc::make_mut(resource).metadata;
        metadata.creation_timestamp = match (created, metadata.creation_timestamp.take()) {
            (Some(created), _) => created,
            (None, stated @ Some(_)) => stated,
            (None, None) => Some(Time(Timestamp::now())),
        };
    }
    let is_new = |existing: &Arc<McpServerAuth>| !of_files.iter().any(|resource| is_same(resource, existing));
    let more: Vec<_> = of_cluster
        .iter()
        .filter(|existing| is_new(existing))
        .cloned()
        .collect();
    of_files.extend(more);
}

#[cfg(test)]
mod tests;
