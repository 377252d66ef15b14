//! Namespaces: whether pods of one are injected, asked for only when a status has to advise on it or a workload may be restarted
//! for it.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::api_server::with_deadline;

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

/// `webhook.excludedNamespaces` of the chart.
#[derive(Clone, Debug, Default)]
pub struct ExcludedNamespaces(Vec<String>);

impl ExcludedNamespaces {
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Why the webhook is not asked about pods of a namespace, and the way out.
    pub fn why(&self, namespace: &str) -> Option<String> {
        if NEVER_LOOKED_AT.contains(&namespace) {
            return Some(format!(
                "the webhook never looks at the namespace {namespace}: run LiteLLM in another one"
            ));
        }
        self.0.iter().any(|name| name == namespace).then(|| {
            format!("webhook.excludedNamespaces of the chart has the namespace {namespace}: take it out")
        })
    }
}

pub struct Namespaces {
    client: Client,
    excluded: ExcludedNamespaces,
    known: Mutex<HashMap<String, (Instant, NamespaceInjection)>>,
}

impl Namespaces {
    pub fn new(client: Client, excluded: ExcludedNamespaces) -> Self {
        Self {
            client,
            excluded,
            known: Mutex::default(),
        }
    }

    pub async fn injection(&self, namespace: &str) -> NamespaceInjection {
        if let Some(why) = self.excluded.why(namespace) {
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
            Ok(found) => match found.labels().get(INJECTION_LABEL).map(String::as_str) {
                Some("enabled") => NamespaceInjection::OptedIn,
                _ => NamespaceInjection::NotOptedIn,
            },
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
