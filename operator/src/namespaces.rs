//! Namespaces: whether one has opted in to injection, asked for only when a status has to advise on it.

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
/// How long an answer is used for. Many resources of a namespace are due together.
const FRESH_FOR: Duration = Duration::from_secs(20);

pub struct Namespaces {
    client: Client,
    known: Mutex<HashMap<String, (Instant, Option<bool>)>>,
}

impl Namespaces {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// Whether the namespace's label asks for injection; nothing where that cannot be read.
    pub async fn has_opted_in(&self, namespace: &str) -> Option<bool> {
        let now = Instant::now();
        {
            let mut known = self.known.lock();
            known.retain(|_, (at, _)| now.duration_since(*at) < FRESH_FOR);
            if let Some((_, opted_in)) = known.get(namespace) {
                return *opted_in;
            }
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let opted_in = match with_deadline(api.get_metadata(namespace)).await {
            Ok(found) => Some(
                found
                    .labels()
                    .get(INJECTION_LABEL)
                    .is_some_and(|value| value == "enabled"),
            ),
            Err(error) => {
                debug!(%error, namespace, "the namespace's labels cannot be read");
                None
            }
        };
        self.known.lock().insert(namespace.to_owned(), (now, opted_in));
        opted_in
    }
}
