//! The facts that the checks judge: objects of the cluster, and what came of asking for them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use mcp_auth_credentials::references::Reference;

use crate::cluster::ApiGroup;
use crate::criteria::LiveFacts;
use crate::explain::Explanation;
use crate::inventory::Inventory;
use crate::lookup::Lookup;
use crate::operator_version::stated_version;

#[derive(Debug)]
pub struct Facts {
    pub now: Timestamp,
    /// Version of this program.
    pub version: &'static str,
    pub api_group: ApiGroup,
    pub definition: Lookup<CustomResourceDefinition>,
    /// The one whose webhooks inject; `Found` holds at least one.
    pub webhooks: Lookup<Vec<MutatingWebhookConfiguration>>,
    /// Where the operator runs; none where neither the webhook configuration nor the user says it.
    pub operator_namespace: Option<String>,
    pub deployment: Lookup<Deployment>,
    pub certificates: Lookup<OperatorCertificates>,
    pub rights: Vec<Right>,
    pub namespaces: Vec<NamespaceFacts>,
    pub inventory: Inventory,
    pub references: Vec<ReferenceFacts>,
    pub authorization_servers: Vec<AuthorizationServerFacts>,
    /// Pods that ought to have a sidecar and have none.
    pub uninjected: Vec<UninjectedPod>,
    /// What was found by looking at running pods and calling through them.
    pub live: LiveFacts,
}

/// The certificates in the operator's Secret, without their keys. PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorCertificates {
    pub secret: String,
    pub serving: Vec<u8>,
    /// Host that the API server calls the webhook by.
    pub host: String,
}

/// A right that the operator needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Right {
    /// Completes "may".
    pub action: String,
    pub allowed: Lookup<bool>,
    /// The command that gives it, where a namespace does that.
    pub grant: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceFacts {
    pub name: String,
    pub labels: Lookup<BTreeMap<String, String>>,
    pub webhook_call: WebhookCall,
}

/// What came of the pod that was created for show.
#[derive(Clone, Debug, PartialEq)]
pub enum WebhookCall {
    /// It came back with a sidecar.
    Injected,
    /// It came back as it was.
    NotInjected,
    /// The API server refused it because of the webhook.
    Failed(String),
    /// It could not be created for another reason.
    NotMade(String),
}

/// A reference of a resource, and the keys of the object that it names, with the length of each value.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceFacts {
    pub namespace: String,
    pub resource: String,
    pub reference: Reference,
    pub keys: Lookup<BTreeMap<String, usize>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationServerFacts {
    pub namespace: String,
    pub resource: String,
    pub url: String,
    pub outcome: AuthorizationServerOutcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AuthorizationServerOutcome {
    /// The token endpoint answered, whatever it said to a request that is none.
    Answers,
    /// The metadata were found and fit.
    Metadata { issuer: String, token_endpoint: String },
    /// What was found contradicts the resource.
    Contradiction(String),
    /// It could not be reached from here.
    Unreachable(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct UninjectedPod {
    pub namespace: String,
    pub name: String,
    /// None where the pod could not be read as a whole.
    pub explanation: Option<Explanation>,
}

impl Facts {
    /// The first configuration whose webhooks inject.
    pub fn webhook(&self) -> Option<&MutatingWebhookConfiguration> {
        match &self.webhooks {
            Lookup::Found(configurations) => configurations.first(),
            Lookup::Missing | Lookup::Unknown(_) => None,
        }
    }

    /// Namespace and name of the Service that the webhook configuration leads to.
    pub fn webhook_service(&self) -> Option<(&str, &str)> {
        let service = client_config(self.webhook()?)?.service.as_ref()?;
        Some((&service.namespace, &service.name))
    }

    /// Version of the operator, as the chart labels its objects.
    pub fn installed_version(&self) -> Option<String> {
        match &self.deployment {
            Lookup::Found(deployment) => stated_version(deployment),
            Lookup::Missing | Lookup::Unknown(_) => stated_version(self.webhook()?),
        }
    }
}

/// How the API server calls the webhooks of a configuration.
pub fn client_config(configuration: &MutatingWebhookConfiguration) -> Option<&WebhookClientConfig> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    webhooks.first().map(|webhook| &webhook.client_config)
}
