//! Whether the workload that a reviewed pod names exists: what tells a review that the API server sends from one that
//! anybody made up. The webhook's port is open to every pod of the cluster, and an API server shows a client certificate
//! only where its own configuration says so. But who names the UID of a ReplicaSet has read it in that namespace, or is
//! its controller: it is random, and nothing outside of the namespace's own objects has it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Longest wait for the answer. The pod's creation waits for it, within the webhook's own timeout.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Look-ups at once, so that reviews that somebody makes up are no flood of requests to the API server.
const MAX_LOOKUPS: usize = 16;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct PodOwners {
    client: Client,
    lookups: Arc<Semaphore>,
}

/// Of an object's owners the one that made it and looks after it.
pub fn controller(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

impl PodOwners {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    /// Whether the controller among these owners is a workload of this namespace. False where it cannot be known in
    /// time.
    pub async fn exist(&self, namespace: &str, owners: &[OwnerReference]) -> bool {
        let Some(owner) = controller(owners) else {
            return false;
        };
        let lookup = async {
            let _turn = self.lookups.acquire().await.expect("it is never closed");
            match (&*owner.api_version, &*owner.kind) {
                ("apps/v1", "ReplicaSet") => self.uid::<ReplicaSet>(namespace, &owner.name).await,
                ("apps/v1", "StatefulSet") => self.uid::<StatefulSet>(namespace, &owner.name).await,
                ("apps/v1", "DaemonSet") => self.uid::<DaemonSet>(namespace, &owner.name).await,
                // Whatever else makes pods itself, such as a custom kind that the operator has no right to read.
                _ => Ok(None),
            }
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(uid)) => uid.is_some_and(|uid| uid == owner.uid),
            Ok(Err(error)) => {
                warn!(%error, namespace, kind = owner.kind, "the owner of a pod could not be looked up");
                false
            }
            Err(_) => {
                debug!(
                    namespace,
                    kind = owner.kind,
                    "the owner of a pod was not known in time"
                );
                false
            }
        }
    }

    async fn uid<K>(&self, namespace: &str, name: &str) -> kube::Result<Option<String>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let found = api.get_metadata_opt(name).await?;
        Ok(found.and_then(|found| found.metadata.uid))
    }
}
