//! Gathers the facts. What may not be read becomes an unknown; only a cluster that stops answering ends it.

mod authorization_servers;
mod rights;
mod webhook_call;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, CustomResourceExt, Resource, ResourceExt};
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::references::{Kind, needed};
use mcp_auth_operator::{entitled, is_injected, ought_to_be_injected};
use serde::de::DeserializeOwned;
use url::Url;

use super::facts::{
    Facts, NamespaceFacts, OperatorCertificates, ReferenceFacts, UninjectedPod, WebhookCall, client_config,
};
use crate::args::DoctorArgs;
use crate::cluster::{ApiGroup, Cluster};
use crate::criteria::live_facts;
use crate::error::CliError;
use crate::explain::{Surroundings, Webhook, explain};
use crate::inventory::{Inventory, Scope};
use crate::litellm_key::KeySource;
use crate::lookup::{Lookup, get, known};
use crate::status::PodState;
use crate::webhook_scope::webhook_configurations;

/// Pods without a sidecar that are explained one by one; more are only named.
const MAX_EXPLAINED: usize = 10;

pub async fn gather(
    cluster: &Cluster,
    scope: &Scope,
    args: &DoctorArgs,
    key: &KeySource,
) -> Result<Facts, CliError> {
    let api_group = cluster.api_group().await?;
    let inventory = match api_group {
        ApiGroup::Served => Inventory::load(cluster, scope).await?,
        ApiGroup::OtherVersions(_) | ApiGroup::Missing => Inventory {
            pods: Some(Vec::new()),
            ..Inventory::default()
        },
    };
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let definition = get(cluster, &definitions, McpServerAuth::crd_name()).await?;
    let webhooks = webhooks(cluster).await?;
    let webhook = match &webhooks {
        Lookup::Found(found) => found.first(),
        Lookup::Missing | Lookup::Unknown(_) => None,
    };
    let operator = OperatorLocation::new(webhook, args);
    let deployment = operator.deployment(cluster).await?;
    let certificates = operator.certificates(cluster, webhook, &deployment).await?;
    let names = namespaces(scope, &inventory);
    let rights = rights::rights(cluster, &operator, webhook, &deployment, (&names, &inventory)).await?;
    let mut facts = Facts {
        now: Timestamp::now(),
        version: env!("CARGO_PKG_VERSION"),
        api_group,
        definition,
        webhooks,
        operator_namespace: operator.namespace,
        deployment,
        certificates,
        rights,
        namespaces: Vec::new(),
        references: references(cluster, &inventory).await?,
        authorization_servers: match args.skip_authorization_servers {
            true => Vec::new(),
            false => authorization_servers::authorization_servers(cluster, &inventory).await?,
        },
        uninjected: Vec::new(),
        live: live_facts(cluster, &inventory, key, args.skip_calls).await?,
        inventory,
    };
    for name in names {
        facts
            .namespaces
            .push(namespace(cluster, &facts, name, args).await?);
    }
    facts.uninjected = uninjected(cluster, &facts).await?;
    Ok(facts)
}

/// Namespaces to look at: the one that was named, or those that have resources.
fn namespaces(scope: &Scope, inventory: &Inventory) -> Vec<String> {
    match scope {
        Scope::Namespace(namespace) => vec![namespace.clone()],
        Scope::All => {
            let resources = inventory.resources.iter();
            let names: BTreeSet<String> = resources.filter_map(|resource| resource.namespace()).collect();
            names.into_iter().collect()
        }
    }
}

async fn webhooks(cluster: &Cluster) -> Result<Lookup<Vec<MutatingWebhookConfiguration>>, CliError> {
    Ok(match webhook_configurations(cluster).await? {
        None => Lookup::Unknown("you may not list webhook configurations".to_owned()),
        Some(found) if found.is_empty() => Lookup::Missing,
        Some(found) => Lookup::Found(found),
    })
}

/// Where the operator runs, and by which labels its objects are found.
pub struct OperatorLocation {
    pub namespace: Option<String>,
    /// Label selector of the chart's objects of the operator.
    labels: String,
}

impl OperatorLocation {
    fn new(webhook: Option<&MutatingWebhookConfiguration>, args: &DoctorArgs) -> Self {
        let service = webhook.and_then(|webhook| client_config(webhook)?.service.as_ref());
        let stated = args.operator_namespace.clone();
        let label = |key: &str| webhook.and_then(|webhook| webhook.labels().get(key).cloned());
        let mut labels = vec!["app.kubernetes.io/component=operator".to_owned()];
        for key in ["app.kubernetes.io/name", "app.kubernetes.io/instance"] {
            labels.extend(label(key).map(|value| format!("{key}={value}")));
        }
        Self {
            namespace: stated.or_else(|| service.map(|service| service.namespace.clone())),
            labels: labels.join(","),
        }
    }

    /// The first object of a kind that has the operator's labels.
    pub async fn find<K>(&self, cluster: &Cluster, what: &str) -> Result<Lookup<K>, CliError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let Some(namespace) = &self.namespace else {
            return Ok(Lookup::Unknown(
                "the operator's namespace is not known".to_owned(),
            ));
        };
        let api = Api::<K>::namespaced(cluster.client.clone(), namespace);
        let action = format!("list {what} in the namespace {namespace}");
        let params = ListParams::default().labels(&self.labels);
        Ok(match known(cluster.answer(&action, api.list(&params)).await)? {
            Lookup::Found(found) => found
                .items
                .into_iter()
                .next()
                .map_or(Lookup::Missing, Lookup::Found),
            Lookup::Missing => Lookup::Missing,
            Lookup::Unknown(why) => Lookup::Unknown(why),
        })
    }

    async fn deployment(&self, cluster: &Cluster) -> Result<Lookup<Deployment>, CliError> {
        self.find(cluster, "Deployments").await
    }

    /// The serving certificate; the keys beside it are dropped at once.
    async fn certificates(
        &self,
        cluster: &Cluster,
        webhook: Option<&MutatingWebhookConfiguration>,
        deployment: &Lookup<Deployment>,
    ) -> Result<Lookup<OperatorCertificates>, CliError> {
        let Some(namespace) = &self.namespace else {
            return Ok(Lookup::Unknown(
                "the operator's namespace is not known: name it with --operator-namespace".to_owned(),
            ));
        };
        let Some(host) = webhook.and_then(host) else {
            return Ok(Lookup::Unknown(
                "the webhook configuration leads nowhere".to_owned(),
            ));
        };
        let name = certificate_secret(deployment);
        let api = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
        Ok(match get(cluster, &api, &name).await? {
            Lookup::Found(secret) => {
                let mut data = secret.data.unwrap_or_default();
                Lookup::Found(OperatorCertificates {
                    secret: format!("{namespace}/{name}"),
                    serving: data.remove("tls.crt").map(|value| value.0).unwrap_or_default(),
                    host,
                })
            }
            Lookup::Missing => Lookup::Missing,
            Lookup::Unknown(why) => Lookup::Unknown(why),
        })
    }
}

/// Name of the operator's Secret, as the chart tells the operator.
fn certificate_secret(deployment: &Lookup<Deployment>) -> String {
    let stated = argument(deployment, "--certificate-secret=");
    stated.unwrap_or("mcp-auth-operator-tls").to_owned()
}

/// The value of an argument that the chart gives the operator, by the argument's beginning.
fn argument<'a>(deployment: &'a Lookup<Deployment>, beginning: &str) -> Option<&'a str> {
    let Lookup::Found(deployment) = deployment else {
        return None;
    };
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mut arguments = pod
        .containers
        .iter()
        .flat_map(|container| container.args.iter().flatten());
    arguments.find_map(|argument| argument.strip_prefix(beginning))
}

/// Host that the API server calls the webhooks by.
fn host(webhook: &MutatingWebhookConfiguration) -> Option<String> {
    let config = client_config(webhook)?;
    match (&config.service, &config.url) {
        (Some(service), _) => Some(format!("{}.{}.svc", service.name, service.namespace)),
        (None, Some(url)) => {
            let url = Url::parse(url).ok()?;
            // An IPv6 address is no name in brackets to a certificate.
            Some(url.host_str()?.trim_matches(['[', ']']).to_owned())
        }
        (None, None) => None,
    }
}

async fn namespace(
    cluster: &Cluster,
    facts: &Facts,
    name: String,
    args: &DoctorArgs,
) -> Result<NamespaceFacts, CliError> {
    let api = Api::<Namespace>::all(cluster.client.clone());
    let labels = match get(cluster, &api, &name).await? {
        Lookup::Found(namespace) => Lookup::Found(namespace.metadata.labels.unwrap_or_default()),
        Lookup::Missing => Lookup::Missing,
        Lookup::Unknown(why) => Lookup::Unknown(why),
    };
    let webhook_call = match (args.skip_webhook_call, facts.webhook(), &labels) {
        (true, _, _) => WebhookCall::NotMade("--skip-webhook-call".to_owned()),
        (false, None, _) => WebhookCall::NotMade("there is no webhook configuration to call by".to_owned()),
        (false, Some(_), Lookup::Missing) => WebhookCall::NotMade("there is no such namespace".to_owned()),
        (false, Some(webhook), labels) => webhook_call::webhook_call(cluster, webhook, &name, labels).await?,
    };
    Ok(NamespaceFacts {
        name,
        labels,
        webhook_call,
    })
}

/// Namespace, kind and name.
type ObjectName = (String, &'static str, String);

/// Every reference of every resource, with what it leads to. Each object is read once.
async fn references(cluster: &Cluster, inventory: &Inventory) -> Result<Vec<ReferenceFacts>, CliError> {
    let mut read: BTreeMap<ObjectName, Lookup<BTreeMap<String, usize>>> = BTreeMap::new();
    let mut found = Vec::new();
    for resource in &inventory.resources {
        let namespace = resource.namespace().unwrap_or_default();
        for reference in needed(&resource.spec) {
            let object = (namespace.clone(), reference.kind.as_str(), reference.name.clone());
            let keys = match read.get(&object) {
                Some(keys) => keys.clone(),
                None => {
                    let keys = object_keys(cluster, &namespace, reference.kind, &reference.name).await?;
                    read.insert(object, keys.clone());
                    keys
                }
            };
            found.push(ReferenceFacts {
                namespace: namespace.clone(),
                resource: resource.name_any(),
                reference,
                keys,
            });
        }
    }
    Ok(found)
}

/// The keys of an object and the lengths of their values, which are dropped at once.
async fn object_keys(
    cluster: &Cluster,
    namespace: &str,
    kind: Kind,
    name: &str,
) -> Result<Lookup<BTreeMap<String, usize>>, CliError> {
    Ok(match kind {
        Kind::Secret => {
            let api = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
            get(cluster, &api, name).await?.map(|secret| {
                let data = secret.data.unwrap_or_default().into_iter();
                data.map(|(key, value)| (key, value.0.len())).collect()
            })
        }
        Kind::ConfigMap => {
            let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
            get(cluster, &api, name).await?.map(|object| {
                let text = object.data.unwrap_or_default().into_iter();
                let binary = object.binary_data.unwrap_or_default().into_iter();
                text.map(|(key, value)| (key, value.len()))
                    .chain(binary.map(|(key, value)| (key, value.0.len())))
                    .collect()
            })
        }
    })
}

/// The selected pods that have no sidecar and ought to, the first of them explained.
async fn uninjected(cluster: &Cluster, facts: &Facts) -> Result<Vec<UninjectedPod>, CliError> {
    let mut found = Vec::new();
    for meta in facts.inventory.pods.iter().flatten() {
        let namespace = meta.namespace().unwrap_or_default();
        let resources = facts.inventory.in_namespace(&namespace);
        let is_missing = !is_injected(meta) && ought_to_be_injected(meta);
        if !is_missing || entitled(&resources, meta.labels()).is_empty() {
            continue;
        }
        let mut pod = None;
        if found.len() < MAX_EXPLAINED {
            let api = Api::<Pod>::namespaced(cluster.client.clone(), &namespace);
            if let Lookup::Found(whole) = get(cluster, &api, &meta.name_any()).await? {
                pod = Some(whole);
            }
        }
        let labels = facts.namespaces.iter().find_map(|facts| match &facts.labels {
            Lookup::Found(labels) if facts.name == namespace => Some(labels),
            _ => None,
        });
        let surroundings = Surroundings {
            resources: &resources,
            namespace_labels: labels,
            webhook: match &facts.webhooks {
                Lookup::Found(found) => found.first().map_or(Webhook::Missing, Webhook::Found),
                Lookup::Missing => Webhook::Missing,
                Lookup::Unknown(_) => Webhook::Unknown,
            },
        };
        let explanation = pod.map(|pod| explain(&pod, &surroundings));
        // Seen as a whole, some turn out to need none.
        if explanation
            .as_ref()
            .is_some_and(|explanation| explanation.sidecar == PodState::NotNeeded)
        {
            continue;
        }
        found.push(UninjectedPod {
            namespace,
            name: meta.name_any(),
            explanation,
        });
    }
    Ok(found)
}
