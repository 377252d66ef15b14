//! The ResourceQuotas and LimitRanges of a namespace, listed while a pod is reviewed: what is used of a quota changes with
//! every pod, and must not be older than the review.

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::inject::NamespaceLimits;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct NamespaceLimitsLookup {
    client: Client,
}

impl NamespaceLimitsLookup {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// None where they cannot be known until the deadline, for which the pod's creation waits: the pod is then injected as if there
    /// were none.
    pub async fn list(&self, namespace: &str, deadline: Instant) -> NamespaceLimits {
        let lookup = async {
            let quotas = Api::<ResourceQuota>::namespaced(self.client.clone(), namespace);
            let ranges = Api::<LimitRange>::namespaced(self.client.clone(), namespace);
            let all = ListParams::default();
            let (quotas, ranges) = tokio::try_join!(quotas.list(&all), ranges.list(&all))?;
            Ok::<_, kube::Error>(NamespaceLimits {
                quotas: quotas.items,
                ranges: ranges.items,
                are_withheld: false,
            })
        };
        match timeout_at(deadline, lookup).await {
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
