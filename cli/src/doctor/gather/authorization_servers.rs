//! Asks authorization servers for their metadata, and token endpoints whether they answer: from the machine
//! that this program runs on, with no credentials.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};
use mcp_auth_crds::{CaBundle, McpServerAuth, OAuth2};
use mcp_auth_credentials::EffectiveSettings;
use mcp_auth_oauth::{
    ClientAuthentication, Clock, Discovery, DiscoveryError, Error, Limits, Registration, ServerLocation,
};

use crate::cluster::{Cluster, innermost};
use crate::doctor::facts::{AuthorizationServerFacts, AuthorizationServerOutcome};
use crate::error::CliError;
use crate::inventory::Inventory;
use crate::lookup::{Lookup, get};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for one answer, and for the several of one discovery.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Servers that are asked at the same time.
const MAX_CONCURRENT: usize = 8;

/// One resource's server, and the authorities that it is trusted by.
struct Question {
    namespace: String,
    resource: String,
    location: ServerLocation,
    ca_bundle: Option<String>,
    allow_insecure_http: bool,
    allow_private_addresses: bool,
}

pub async fn authorization_servers(
    cluster: &Cluster,
    inventory: &Inventory,
) -> Result<Vec<AuthorizationServerFacts>, CliError> {
    let mut questions = Vec::new();
    for resource in &inventory.resources {
        if let Some(oauth2) = &resource.spec.oauth2 {
            questions.push(question(cluster, resource, oauth2).await?);
        }
    }
    let facts = futures::stream::iter(questions).map(ask).buffered(MAX_CONCURRENT);
    Ok(facts.collect().await)
}

async fn question(
    cluster: &Cluster,
    resource: &McpServerAuth,
    oauth2: &OAuth2,
) -> Result<Question, CliError> {
    let namespace = resource.namespace().unwrap_or_default();
    let effective = EffectiveSettings::new(&resource.spec, oauth2, oauth2.client_id.as_deref());
    let location = match (effective.token_url, &oauth2.issuer) {
        (Some(token_url), _) => ServerLocation::Endpoints {
            token_url,
            revocation_url: None,
        },
        (None, Some(issuer)) => ServerLocation::Issuer(issuer.clone()),
        (None, None) => {
            let tls = resource.spec.server.tls.as_ref();
            let bundle = tls.and_then(|tls| tls.ca_bundle.as_ref());
            ServerLocation::ProtectedResource {
                url: resource.spec.server.url.clone(),
                ca_bundle: ca_bundle(cluster, &namespace, bundle).await?,
                known_issuer: None,
            }
        }
    };
    Ok(Question {
        resource: resource.name_any(),
        location,
        ca_bundle: ca_bundle(cluster, &namespace, oauth2.ca_bundle.as_ref()).await?,
        allow_insecure_http: oauth2.allow_insecure_http,
        allow_private_addresses: oauth2.allow_private_addresses,
        namespace,
    })
}

/// The PEM certificates that a resource refers to, where they can be read.
async fn ca_bundle(
    cluster: &Cluster,
    namespace: &str,
    bundle: Option<&CaBundle>,
) -> Result<Option<String>, CliError> {
    let Some(bundle) = bundle else { return Ok(None) };
    if let Some(reference) = &bundle.secret_key_ref {
        let api = Api::<Secret>::namespaced(cluster.client.clone(), namespace);
        let Lookup::Found(secret) = get(cluster, &api, &reference.name).await? else {
            return Ok(None);
        };
        let value = secret.data.unwrap_or_default().remove(&reference.key);
        return Ok(value.and_then(|value| String::from_utf8(value.0).ok()));
    }
    let Some(reference) = &bundle.config_map_key_ref else {
        return Ok(None);
    };
    let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    let Lookup::Found(object) = get(cluster, &api, &reference.name).await? else {
        return Ok(None);
    };
    Ok(object.data.unwrap_or_default().remove(&reference.key))
}

async fn ask(question: Question) -> AuthorizationServerFacts {
    let url = match &question.location {
        ServerLocation::Endpoints { token_url, .. } => token_url.clone(),
        ServerLocation::Issuer(issuer) => issuer.clone(),
        ServerLocation::ProtectedResource { url, .. } => url.clone(),
    };
    let outcome = match &question.location {
        ServerLocation::Endpoints { token_url, .. } => {
            token_endpoint(token_url, question.ca_bundle.as_deref()).await
        }
        ServerLocation::Issuer(_) | ServerLocation::ProtectedResource { .. } => metadata(&question).await,
    };
    AuthorizationServerFacts {
        namespace: question.namespace,
        resource: question.resource,
        url,
        outcome,
    }
}

/// A GET, which a token endpoint refuses (RFC 6749 section 3.2 demands POST), and by that it answers.
async fn token_endpoint(url: &str, ca_bundle: Option<&str>) -> AuthorizationServerOutcome {
    let unreachable = |error: reqwest::Error| AuthorizationServerOutcome::Unreachable(innermost(&error));
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = ca_bundle {
        match reqwest::Certificate::from_pem_bundle(pem.as_bytes()) {
            Ok(authorities) => {
                for authority in authorities {
                    builder = builder.add_root_certificate(authority);
                }
            }
            Err(error) => return unreachable(error),
        }
    }
    let answer = async { builder.build()?.get(url).send().await };
    match answer.await {
        Ok(answer) if answer.status().is_server_error() => {
            AuthorizationServerOutcome::Unreachable(format!("HTTP status {}", answer.status().as_u16()))
        }
        Ok(_) => AuthorizationServerOutcome::Answers,
        Err(error) => unreachable(error),
    }
}

/// The operator's own discovery.
async fn metadata(question: &Question) -> AuthorizationServerOutcome {
    let limits = Limits {
        connect: CONNECT_TIMEOUT,
        deadline: ANSWER_TIMEOUT,
        ..Limits::default()
    };
    let discovery = match Discovery::with_limits(&registration(question), limits, Clock::system()) {
        Ok(Some(discovery)) => discovery,
        Ok(None) => return AuthorizationServerOutcome::Answers,
        Err(error) => return AuthorizationServerOutcome::Contradiction(error.to_string()),
    };
    match tokio::time::timeout(DISCOVERY_TIMEOUT, discovery.server()).await {
        Ok(Ok(server)) => AuthorizationServerOutcome::Metadata {
            issuer: server.issuer.clone(),
            token_endpoint: server.token_endpoint.to_string(),
        },
        Ok(Err(Error::Discovery(
            error @ (DiscoveryError::IssuerMismatch { .. } | DiscoveryError::ResourceMismatch { .. }),
        ))) => AuthorizationServerOutcome::Contradiction(error.to_string()),
        Ok(Err(error)) => AuthorizationServerOutcome::Unreachable(error.to_string()),
        Err(_) => AuthorizationServerOutcome::Unreachable(format!(
            "no answer within {} s",
            DISCOVERY_TIMEOUT.as_secs()
        )),
    }
}

/// A registration for discovery alone: it holds no credentials.
fn registration(question: &Question) -> Registration {
    Registration {
        server: question.location.clone(),
        client_id: None,
        ca_bundle: question.ca_bundle.clone(),
        allow_insecure_http: question.allow_insecure_http,
        allow_private_addresses: question.allow_private_addresses,
        ..Registration::new("", "", ClientAuthentication::None)
    }
}
