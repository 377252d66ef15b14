//! Checks of what `helm install` brings: the definition, the webhook configuration, the operator and its
//! rights.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResourceExt, ResourceExt};
use mcp_auth_crds::McpServerAuth;

use crate::cluster::ApiGroup;
use crate::doctor::facts::{Facts, Right};
use crate::doctor::finding::Finding;
use crate::lookup::Lookup;
use crate::operator_version::numbers;

const DEFINITION: &str = "mcpserverauths.mcpauth.dev";
/// How many fields a message names before it only counts them.
const MAX_NAMED: usize = 5;

pub fn definition(facts: &Facts) -> Vec<Finding> {
    let check = "CustomResourceDefinition";
    let fault = |message: String, way_out: &str| vec![Finding::fault(check, DEFINITION, message, way_out)];
    match &facts.api_group {
        ApiGroup::Missing => {
            return fault(
                "the cluster serves no McpServerAuth resources: mcp-auth is not installed".to_owned(),
                "install the chart (helm install mcp-auth charts/mcp-auth ..., with crds.install: true)",
            );
        }
        ApiGroup::OtherVersions(versions) => {
            return fault(
                format!("the cluster serves mcpauth.dev/{versions}, and this program knows v1alpha1 only"),
                "use the kubectl-mcp_auth of the version that is installed",
            );
        }
        ApiGroup::Served => {}
    }
    let Lookup::Found(definition) = &facts.definition else {
        let message = "v1alpha1 is served; the definition itself may not be read";
        return vec![Finding::passed(check, DEFINITION, message)];
    };
    if let Some(message) = not_established(definition) {
        return fault(
            format!("it is not established: {message}"),
            "kubectl describe crd mcpserverauths.mcpauth.dev says which names are taken",
        );
    }
    let missing = missing_fields(definition);
    if missing.is_empty() {
        let message = "v1alpha1 is served, with every field that this program knows";
        return vec![Finding::passed(check, DEFINITION, message)];
    }
    vec![Finding::warning(
        check,
        DEFINITION,
        format!(
            "it is older than this program: it lacks {}, which resources then cannot use",
            enumerate(&missing)
        ),
        "upgrade the chart, which brings the definition along, or apply the newer one \
         (kubectl apply -f crds/)",
    )]
}

fn not_established(definition: &CustomResourceDefinition) -> Option<String> {
    let conditions = definition.status.as_ref()?.conditions.as_ref()?;
    let established = conditions
        .iter()
        .find(|condition| condition.type_ == "Established")?;
    (established.status != "True").then(|| established.message.clone().unwrap_or_default())
}

/// Paths of fields that this program knows and the definition does not.
fn missing_fields(definition: &CustomResourceDefinition) -> Vec<String> {
    let there = fields(definition);
    let known = fields(&McpServerAuth::crd());
    let missing = known.difference(&there);
    // The first level that is missing says it all.
    missing
        .filter(|field| {
            let parent = field
                .rsplit_once('.')
                .map(|(parent, _)| parent.trim_end_matches("[]"));
            parent.is_none_or(|parent| there.contains(parent) || !known.contains(parent))
        })
        .cloned()
        .collect()
}

fn fields(definition: &CustomResourceDefinition) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let version = definition
        .spec
        .versions
        .iter()
        .find(|version| version.name == "v1alpha1");
    let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    if let Some(schema) = schema {
        collect_fields(schema, "", &mut fields);
    }
    fields
}

fn collect_fields(schema: &JSONSchemaProps, path: &str, fields: &mut BTreeSet<String>) {
    for (name, property) in schema.properties.iter().flatten() {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        collect_fields(property, &path, fields);
        fields.insert(path);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect_fields(items, &format!("{path}[]"), fields);
    }
}

fn enumerate(names: &[String]) -> String {
    let (named, rest) = names.split_at(names.len().min(MAX_NAMED));
    match rest.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

pub fn webhook_configuration(facts: &Facts) -> Vec<Finding> {
    let check = "webhook configuration";
    let configurations = match &facts.webhooks {
        Lookup::Unknown(why) => return vec![Finding::not_checked(check, "mcp-auth", why)],
        Lookup::Missing => {
            return vec![Finding::fault(
                check,
                "mcp-auth",
                "no MutatingWebhookConfiguration of mcp-auth is there: no pod gets a sidecar",
                "install the chart, or `helm upgrade` it if somebody deleted the configuration",
            )];
        }
        Lookup::Found(configurations) => configurations,
    };
    let mut findings: Vec<Finding> = configurations
        .iter()
        .map(|configuration| {
            let name = configuration.name_any();
            let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
            let is_untrusted = webhooks.iter().any(|webhook| {
                let bundle = webhook.client_config.ca_bundle.as_ref();
                bundle.is_none_or(|bundle| bundle.0.is_empty())
            });
            if is_untrusted {
                return Finding::fault(
                    check,
                    name,
                    "it has no caBundle, so the API server does not trust the webhook",
                    "the operator writes it when it starts: see whether it runs and may patch this object",
                );
            }
            let policy = webhooks.iter().find_map(|webhook| webhook.failure_policy.clone());
            let message = match policy.as_deref() {
                Some("Ignore") => {
                    "the API server trusts it; while it does not answer, pods start without the sidecar \
                     (failurePolicy Ignore)"
                }
                _ => {
                    "the API server trusts it; while it does not answer, pods do not start (failurePolicy Fail)"
                }
            };
            Finding::passed(check, name, message)
        })
        .collect();
    if configurations.len() > 1 {
        findings.push(Finding::warning(
            check,
            "mcp-auth",
            format!("{} installations of mcp-auth look at pods", configurations.len()),
            "keep one, or set watchNamespaces so that no namespace is looked at twice",
        ));
    }
    findings
}

pub fn operator(facts: &Facts) -> Vec<Finding> {
    let check = "operator";
    let Some(namespace) = &facts.operator_namespace else {
        let message = "the webhook configuration does not lead to a Service: name the operator's namespace \
                       with --operator-namespace";
        return vec![Finding::not_checked(check, "Deployment", message)];
    };
    let deployment = match &facts.deployment {
        Lookup::Unknown(why) => return vec![Finding::not_checked(check, namespace, why)],
        Lookup::Missing => {
            let leads_to_service = facts.webhook_service().is_some();
            let message = format!("the namespace {namespace} has no Deployment of the operator");
            return vec![match leads_to_service {
                true => Finding::fault(
                    check,
                    namespace,
                    message,
                    "install the chart there, or name the operator's namespace with --operator-namespace",
                ),
                false => Finding::not_checked(check, namespace, format!("{message}; it runs elsewhere")),
            }];
        }
        Lookup::Found(deployment) => deployment,
    };
    let subject = format!("{namespace}/{}", deployment.name_any());
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = deployment.status.as_ref();
    let available = status
        .and_then(|status| status.available_replicas)
        .unwrap_or_default();
    if available >= 1 {
        let message = format!("{available} of {wanted} replicas are available");
        return vec![match available >= wanted {
            true => Finding::passed(check, subject, message),
            false => Finding::warning(
                check,
                &subject,
                message,
                format!("kubectl describe pods -n {namespace} says why the others are not"),
            ),
        }];
    }
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let messages = conditions.iter().filter(|condition| condition.status != "True");
    let messages: Vec<String> = messages
        .filter_map(|condition| condition.message.clone())
        .collect();
    let message = match messages.is_empty() {
        true => "no replica is available".to_owned(),
        false => format!("no replica is available: {}", messages.join(" ")),
    };
    vec![Finding::fault(
        check,
        &subject,
        message,
        format!(
            "kubectl describe pods -n {namespace} and kubectl logs -n {namespace} deployment/{} say why",
            deployment.name_any()
        ),
    )]
}

pub fn versions(facts: &Facts) -> Vec<Finding> {
    let check = "version";
    let Some(installed) = facts.installed_version() else {
        return Vec::new();
    };
    let ours = facts.version;
    if installed == ours {
        let message = format!("operator and this program are {ours}");
        return vec![Finding::passed(check, "operator", message)];
    }
    let relation = match (numbers(&installed), numbers(ours)) {
        (Some(installed), Some(ours)) if installed < ours => "older than",
        (Some(installed), Some(ours)) if installed > ours => "newer than",
        _ => "not",
    };
    vec![Finding::warning(
        check,
        "operator",
        format!(
            "the operator is {installed}, {relation} this program ({ours}): it may lack what is told here"
        ),
        "use the kubectl-mcp_auth of the same version, or upgrade the chart",
    )]
}

pub fn rights(facts: &Facts) -> Vec<Finding> {
    let check = "operator's rights";
    let mut findings = Vec::new();
    let refused = |is_granted_by_namespace: bool| -> Vec<&Right> {
        let rights = facts.rights.iter();
        let refused = rights.filter(|right| right.allowed == Lookup::Found(false));
        refused
            .filter(|right| right.grant.is_some() == is_granted_by_namespace)
            .collect()
    };
    let actions = |rights: &[&Right]| {
        let actions: Vec<&str> = rights.iter().map(|right| right.action.as_str()).collect();
        format!("the operator may not {}", actions.join("; "))
    };
    let (granted_by_nobody, refused) = (refused(true), refused(false));
    let unknown = facts.rights.iter().find_map(|right| match &right.allowed {
        Lookup::Unknown(why) => Some(why),
        _ => None,
    });
    if !granted_by_nobody.is_empty() {
        let commands = granted_by_nobody
            .iter()
            .filter_map(|right| right.grant.as_deref());
        let commands: BTreeSet<&str> = commands.collect();
        let way_out = Vec::from_iter(commands).join("; ");
        findings.push(Finding::fault(
            check,
            "RBAC",
            actions(&granted_by_nobody),
            way_out,
        ));
    }
    if !refused.is_empty() {
        findings.push(Finding::fault(
            check,
            "RBAC",
            actions(&refused),
            "upgrade the chart, which brings the roles; with watchNamespaces, list the namespace there",
        ));
    } else if let Some(why) = unknown {
        findings.push(Finding::not_checked(check, "RBAC", why));
    } else if granted_by_nobody.is_empty() && !facts.rights.is_empty() {
        let message = format!(
            "it has what it needs ({} rights were asked for)",
            facts.rights.len()
        );
        findings.push(Finding::passed(check, "RBAC", message));
    }
    findings
}
