//! Whether the operator has the rights that it needs: the API server is asked about each, by
//! SubjectAccessReview.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::OperatorLocation;
use crate::cluster::Cluster;
use crate::doctor::facts::Right;
use crate::error::CliError;
use crate::lookup::{Lookup, known};

/// Verb, group, resource and subresource.
type Rule = (&'static str, &'static str, &'static str, &'static str);

const CLUSTER_RULES: &[Rule] = &[("create", "authentication.k8s.io", "tokenreviews", "")];
const NAMESPACE_RULES: &[Rule] = &[
    ("list", "mcpauth.dev", "mcpserverauths", ""),
    ("watch", "mcpauth.dev", "mcpserverauths", ""),
    ("patch", "mcpauth.dev", "mcpserverauths", "status"),
    ("list", "", "secrets", ""),
    ("watch", "", "secrets", ""),
    ("list", "", "configmaps", ""),
    ("watch", "", "configmaps", ""),
    ("list", "", "pods", ""),
    ("watch", "", "pods", ""),
    ("create", "events.k8s.io", "events", ""),
];

pub async fn rights(
    cluster: &Cluster,
    operator: &OperatorLocation,
    webhook: Option<&MutatingWebhookConfiguration>,
    deployment: &Lookup<Deployment>,
    namespaces: &[String],
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
            }]);
        }
    };
    let user = format!("system:serviceaccount:{operator_namespace}:{account}");
    let mut wanted: Vec<ResourceAttributes> =
        CLUSTER_RULES.iter().map(|rule| attributes(rule, None)).collect();
    if let Some(webhook) = webhook {
        wanted.push(ResourceAttributes {
            name: Some(webhook.name_any()),
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
        wanted.extend(
            NAMESPACE_RULES
                .iter()
                .map(|rule| attributes(rule, Some(namespace))),
        );
    }
    let mut rights = Vec::new();
    for attributes in wanted {
        let right = review(cluster, &user, attributes).await?;
        let is_unknown = matches!(right.allowed, Lookup::Unknown(_));
        rights.push(right);
        // The others would be answered the same.
        if is_unknown {
            break;
        }
    }
    Ok(rights)
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
