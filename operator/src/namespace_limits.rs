//! The ResourceQuotas and LimitRanges of a namespace, listed while a pod is reviewed: what is used of a quota changes with
//! every pod, and must not be older than the review.

use std::time::Duration;

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::warn;

use crate::inject::NamespaceLimits;

/// Longest wait for the answers. The pod's creation waits for them, within the webhook's own timeout.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct NamespaceLimitsLookup {
    client: Client,
}

impl NamespaceLimitsLookup {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// None where they cannot be known in time: the pod is then injected as if there were none.
    pub async fn list(&self, namespace: &str) -> NamespaceLimits {
        let lookup = async {
            let quotas = Api::<ResourceQuota>::namespaced(self.client.clone(), namespace);
            let ranges = Api::<LimitRange>::namespaced(self.client.clone(), namespace);
            let all = ListParams::default();
            let (quotas, ranges) = tokio::try_join!(quotas.list(&all), ranges.list(&all))?;
            Ok::<_, kube::Error>(NamespaceLimits {
                quotas: quotas.items,
                ranges: ranges.items,
            })
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(limits)) => limits,
            Ok(Err(error)) => {
                warn!(%error, namespace, "the quotas and limit ranges of a pod's namespace could not be looked up");
                NamespaceLimits::default()
            }
            Err(_) => {
                warn!(
                    namespace,
                    "the quotas and limit ranges of a pod's namespace were not known in time"
                );
                NamespaceLimits::default()
            }
        }
    }
}
