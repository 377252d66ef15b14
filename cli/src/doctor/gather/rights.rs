//! Whether the operator has the rights that it needs: the API server is asked about each, by
//! SubjectAccessReview.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use mcp_auth_credentials::references::{Kind, needed};
use mcp_auth_operator::SecretsGrant;

use super::{OperatorLocation, argument};
use crate::cluster::Cluster;
use crate::doctor::facts::Right;
use crate::error::CliError;
use crate::inventory::Inventory;
use crate::lookup::{Lookup, known};

/// Verb, group, resource and subresource.
type Rule = (&'static str, &'static str, &'static str, &'static str);

const CLUSTER_RULES: &[Rule] = &[("create", "authentication.k8s.io", "tokenreviews", "")];
/// In each namespace; besides these the right to the Secrets and ConfigMaps that resources name.
const NAMESPACE_RULES: &[Rule] = &[
    ("list", "mcpauth.dev", "mcpserverauths", ""),
    ("watch", "mcpauth.dev", "mcpserverauths", ""),
    ("patch", "mcpauth.dev", "mcpserverauths", "status"),
    ("list", "", "pods", ""),
    ("watch", "", "pods", ""),
    ("create", "events.k8s.io", "events", ""),
];

pub async fn rights(
    cluster: &Cluster,
    operator: &OperatorLocation,
    webhook: Option<&MutatingWebhookConfiguration>,
    deployment: &Lookup<Deployment>,
    (namespaces, inventory): (&[String], &Inventory),
) -> Result<Vec<Right>, CliError> {
    let Some(operator_namespace) = &operator.namespace else {
        return Ok(Vec::new());
    };
    let account = match service_account(cluster, operator, deployment).await? {
        Lookup::Found(account) => account,
        Lookup::Missing => return Ok(Vec::new()),
        Lookup::Unknown(why) => {
            return Ok(vec![Right {
                action: "do what it needs to".to_owned(),
                allowed: Lookup::Unknown(why),
                grant: None,
            }]);
        }
    };
    let user = format!("system:serviceaccount:{operator_namespace}:{account}");
    let webhook = webhook
        .filter(|_| argument(deployment, "--certificate-folder=").is_none())
        .map(ResourceExt::name_any);
    let secrets_grant = argument(deployment, "--secrets-cluster-role=").map(|cluster_role| SecretsGrant {
        cluster_role: cluster_role.to_owned(),
        account: (operator_namespace.clone(), account.clone()),
    });
    let wanted = wanted(webhook, namespaces, &referenced(inventory));
    let mut rights = Vec::new();
    for attributes in wanted {
        let grant = match attributes.resource.as_deref() {
            Some("secrets") => secrets_grant.as_ref().zip(attributes.namespace.as_deref()),
            _ => None,
        };
        let grant = grant.map(|(grant, namespace)| grant.command(namespace).to_string());
        let right = Right {
            grant,
            ..review(cluster, &user, attributes).await?
        };
        let is_unknown = matches!(right.allowed, Lookup::Unknown(_));
        rights.push(right);
        // The others would be answered the same.
        if is_unknown {
            break;
        }
    }
    Ok(rights)
}

/// Namespace, resource and name of each object that resources refer to.
fn referenced(inventory: &Inventory) -> BTreeSet<(String, &'static str, String)> {
    let resources = inventory.resources.iter();
    let references = resources.flat_map(|resource| {
        let namespace = resource.namespace().unwrap_or_default();
        needed(&resource.spec).into_iter().map(move |reference| {
            let resource = match reference.kind {
                Kind::Secret => "secrets",
                Kind::ConfigMap => "configmaps",
            };
            (namespace.clone(), resource, reference.name)
        })
    });
    references.collect()
}

/// `webhook` is the configuration that the operator writes; none where cert-manager does.
fn wanted(
    webhook: Option<String>,
    namespaces: &[String],
    referenced: &BTreeSet<(String, &'static str, String)>,
) -> Vec<ResourceAttributes> {
    let mut wanted: Vec<ResourceAttributes> =
        CLUSTER_RULES.iter().map(|rule| attributes(rule, None)).collect();
    if let Some(webhook) = webhook {
        wanted.push(ResourceAttributes {
            name: Some(webhook),
            ..attributes(
                &(
                    "patch",
                    "admissionregistration.k8s.io",
                    "mutatingwebhookconfigurations",
                    "",
                ),
                None,
            )
        });
    }
    for namespace in namespaces {
        let rules = NAMESPACE_RULES.iter();
        wanted.extend(rules.map(|rule| attributes(rule, Some(namespace))));
    }
    for (namespace, resource, name) in referenced {
        wanted.extend(["get", "list", "watch"].map(|verb| ResourceAttributes {
            name: Some(name.clone()),
            ..attributes(&(verb, "", resource, ""), Some(namespace))
        }));
    }
    wanted
}

async fn service_account(
    cluster: &Cluster,
    operator: &OperatorLocation,
    deployment: &Lookup<Deployment>,
) -> Result<Lookup<String>, CliError> {
    if let Lookup::Found(deployment) = deployment {
        let pod = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        if let Some(name) = pod.and_then(|pod| pod.service_account_name.clone()) {
            return Ok(Lookup::Found(name));
        }
    }
    let found = operator
        .find::<ServiceAccount>(cluster, "ServiceAccounts")
        .await?;
    Ok(found.map(|account| account.name_any()))
}

fn attributes(&(verb, group, resource, subresource): &Rule, namespace: Option<&str>) -> ResourceAttributes {
    ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: Some(subresource.to_owned()).filter(|subresource| !subresource.is_empty()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    }
}

async fn review(cluster: &Cluster, user: &str, attributes: ResourceAttributes) -> Result<Right, CliError> {
    let action = describe(&attributes);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            // As the API server adds them to a ServiceAccount's requests.
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api = Api::<SubjectAccessReview>::all(cluster.client.clone());
    let params = PostParams::default();
    let answer = api.create(&params, &review);
    let answer = known(cluster.answer("ask for the operator's rights", answer).await)?;
    Ok(Right {
        action,
        allowed: answer.map(|review| review.status.is_some_and(|status| status.allowed)),
        grant: None,
    })
}

/// "list secrets in the namespace llm"
fn describe(attributes: &ResourceAttributes) -> String {
    let verb = attributes.verb.as_deref().unwrap_or_default();
    let resource = attributes.resource.as_deref().unwrap_or_default();
    let subresource = attributes.subresource.as_ref();
    let subresource = subresource
        .map(|subresource| format!("/{subresource}"))
        .unwrap_or_default();
    let name = attributes
        .name
        .as_ref()
        .map(|name| format!(" {name}"))
        .unwrap_or_default();
    let place = attributes.namespace.as_ref();
    let place = place
        .map(|namespace| format!(" in the namespace {namespace}"))
        .unwrap_or_default();
    format!("{verb} {resource}{subresource}{name}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(webhook: Option<&str>, referenced: &[(&str, &'static str, &str)]) -> Vec<String> {
        let referenced = referenced.iter();
        let referenced = referenced
            .map(|(namespace, resource, name)| ((*namespace).to_owned(), *resource, (*name).to_owned()));
        let wanted = wanted(
            webhook.map(str::to_owned),
            &["llm".to_owned()],
            &referenced.collect(),
        );
        wanted.iter().map(describe).collect()
    }

    #[test]
    fn the_right_to_secrets_is_asked_for_by_the_names_that_resources_have() {
        let asked = actions(Some("mcp-auth"), &[("llm", "secrets", "tools-oauth")]);
        assert!(asked.contains(&"list secrets tools-oauth in the namespace llm".to_owned()));
        assert!(asked.contains(&"patch mutatingwebhookconfigurations mcp-auth".to_owned()));
        let asked = actions(None, &[]);
        assert!(
            !asked
                .iter()
                .any(|action| action.contains("secrets") || action.contains("webhook"))
        );
    }
}
