//! Namespaces: whether pods of one are injected, asked for only when a status has to advise on it or a workload may be restarted
//! for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::api_server::with_deadline;
use crate::entitlement::{Labels, selects};

/// Label of a namespace whose LiteLLM pods are injected.
const INJECTION_LABEL: &str = "mcpauth.dev/injection";
/// Namespaces that the webhook never looks at.
const NEVER_LOOKED_AT: [&str; 2] = ["kube-system", "kube-node-lease"];
/// How long an answer is used for. Many resources of a namespace are due together.
const FRESH_FOR: Duration = Duration::from_secs(20);

/// Whether a pod that is made in a namespace now is injected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NamespaceInjection {
    /// By the namespace's label.
    OptedIn,
    /// Where its own label asks for it.
    NotOptedIn,
    /// Never, whatever labels say: the webhook is not asked about it.
    Excluded {
        /// Why, and the way out.
        why: String,
    },
    /// The namespace cannot be read.
    Unknown,
}

/// What the chart has the webhook leave out, whatever labels of `mcpauth.dev/` say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebhookScope {
    /// `webhook.excludedNamespaces`
    pub excluded_namespaces: Vec<String>,
    /// `webhook.namespaceSelector`; an empty one is every namespace.
    pub namespace_selector: LabelSelector,
    /// `webhook.objectSelector`; an empty one is every pod.
    pub object_selector: LabelSelector,
}

impl WebhookScope {
    /// Why the webhook is not asked about pods of a namespace of this name, and the way out.
    pub fn why_not_namespace(&self, namespace: &str) -> Option<String> {
        if NEVER_LOOKED_AT.contains(&namespace) {
            return Some(format!(
                "the webhook never looks at the namespace {namespace}: run LiteLLM in another one"
            ));
        }
        let mut excluded = self.excluded_namespaces.iter();
        excluded.any(|name| name == namespace).then(|| {
            format!("webhook.excludedNamespaces of the chart has the namespace {namespace}: take it out")
        })
    }

    /// Why it is not asked about pods of a namespace with these labels, and the way out.
    pub fn why_not_namespace_labels(&self, namespace: &str, labels: &Labels) -> Option<String> {
        let selector = &self.namespace_selector;
        (!selects(selector, labels)).then(|| {
            format!(
                "webhook.namespaceSelector of the chart is {}, which the labels of the namespace {namespace} do not match: \
                 label it so, or have the selector changed",
                as_json(selector)
            )
        })
    }

    /// Why it is not asked about a pod with these labels, and the way out.
    pub fn why_not_pod(&self, labels: &Labels) -> Option<String> {
        let selector = &self.object_selector;
        (!selects(selector, labels)).then(|| {
            format!(
                "webhook.objectSelector of the chart is {}, which the pod's labels do not match: set such labels in the pod \
                 template, or have the selector changed",
                as_json(selector)
            )
        })
    }
}

fn as_json(selector: &LabelSelector) -> String {
    serde_json::to_string(selector).expect("a selector is plain values")
}

pub struct Namespaces {
    client: Client,
    scope: Arc<WebhookScope>,
    known: Mutex<HashMap<String, (Instant, NamespaceInjection)>>,
}

impl Namespaces {
    pub fn new(client: Client, scope: WebhookScope) -> Self {
        Self {
            client,
            scope: Arc::new(scope),
            known: Mutex::default(),
        }
    }

    pub fn scope(&self) -> &Arc<WebhookScope> {
        &self.scope
    }

    pub async fn injection(&self, namespace: &str) -> NamespaceInjection {
        if let Some(why) = self.scope.why_not_namespace(namespace) {
            return NamespaceInjection::Excluded { why };
        }
        let now = Instant::now();
        {
            let mut known = self.known.lock();
            known.retain(|_, (at, _)| now.duration_since(*at) < FRESH_FOR);
            if let Some((_, injection)) = known.get(namespace) {
                return injection.clone();
            }
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let injection = match with_deadline(api.get_metadata(namespace)).await {
            Ok(found) => by_labels(&self.scope, namespace, found.labels()),
            Err(error) => {
                debug!(%error, namespace, "the namespace's labels cannot be read");
                NamespaceInjection::Unknown
            }
        };
        self.known
            .lock()
            .insert(namespace.to_owned(), (now, injection.clone()));
        injection
    }
}

fn by_labels(scope: &WebhookScope, namespace: &str, labels: &Labels) -> NamespaceInjection {
    if let Some(why) = scope.why_not_namespace_labels(namespace, labels) {
        return NamespaceInjection::Excluded { why };
    }
    match labels.get(INJECTION_LABEL).map(String::as_str) {
        Some("enabled") => NamespaceInjection::OptedIn,
        _ => NamespaceInjection::NotOptedIn,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(labels: &[(&str, &str)]) -> Labels {
        let labels = labels.iter();
        labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_namespace_that_the_chart_s_selector_does_not_match_is_left_out_whatever_its_own_label_says() {
        let selector = json!({"matchExpressions": [{"key": "stage", "operator": "In", "values": ["test", "production"]}]});
        let scope = WebhookScope {
            namespace_selector: serde_json::from_value(selector).unwrap(),
            ..WebhookScope::default()
        };
        let opted_in = (INJECTION_LABEL, "enabled");
        assert_eq!(
            by_labels(&scope, "llm", &labels(&[opted_in, ("stage", "test")])),
            NamespaceInjection::OptedIn
        );
        assert_eq!(
            by_labels(&scope, "llm", &labels(&[("stage", "test")])),
            NamespaceInjection::NotOptedIn
        );
        for stage in [None, Some(("stage", "sandbox"))] {
            let given: Vec<_> = stage.into_iter().chain([opted_in]).collect();
            let NamespaceInjection::Excluded { why } = by_labels(&scope, "llm", &labels(&given)) else {
                panic!("{given:?}");
            };
            assert!(
                why.contains("webhook.namespaceSelector")
                    && why.contains("\"production\"")
                    && why.contains("namespace llm"),
                "{why}"
            );
        }
        assert_eq!(
            by_labels(&WebhookScope::default(), "llm", &labels(&[opted_in])),
            NamespaceInjection::OptedIn
        );
    }
}
