//! Whether the workload that a reviewed pod names exists: what tells a review that the API server sends from one that
//! anybody made up. The webhook's port is open to every pod of the cluster, and an API server shows a client certificate
//! only where its own configuration says so. But who names the UID of a ReplicaSet has read it in that namespace, or is
//! its controller: it is random, and nothing outside of the namespace's own objects has it.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::object_names::is_dns_subdomain;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct PodOwners {
    client: Client,
}

/// What is known of the workload that a pod names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ownership {
    /// It is there.
    Exists,
    /// The API server was asked, and knows none of this UID; or its name is none that an object can have.
    MadeUp,
    /// It names none that can be looked up, or there was no answer in time.
    Unknown,
}

/// Of an object's owners the one that made it and looks after it.
pub fn controller(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

impl PodOwners {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// What is known of the controller among these owners without asking; otherwise the one to ask about.
    pub fn to_ask_about(owners: &[OwnerReference]) -> Result<&OwnerReference, Ownership> {
        let is_known_kind = |kind: &str| matches!(kind, "ReplicaSet" | "StatefulSet" | "DaemonSet");
        // Whatever else makes pods itself, such as a custom kind, the operator has no right to read.
        let can_be_read =
            |owner: &&OwnerReference| owner.api_version == "apps/v1" && is_known_kind(&owner.kind);
        let owner = controller(owners).filter(can_be_read).ok_or(Ownership::Unknown)?;
        match is_dns_subdomain(&owner.name) {
            true => Ok(owner),
            false => Err(Ownership::MadeUp),
        }
    }

    /// Whether the controller among these owners is a workload of this namespace. The pod's creation waits for the answer, until
    /// the deadline at the latest.
    pub async fn look_up(&self, namespace: &str, owners: &[OwnerReference], deadline: Instant) -> Ownership {
        let owner = match Self::to_ask_about(owners) {
            Ok(owner) => owner,
            Err(ownership) => return ownership,
        };
        let lookup = async {
            match &*owner.kind {
                "ReplicaSet" => self.uid::<ReplicaSet>(namespace, &owner.name).await,
                "StatefulSet" => self.uid::<StatefulSet>(namespace, &owner.name).await,
                _ => self.uid::<DaemonSet>(namespace, &owner.name).await,
            }
        };
        match timeout_at(deadline, lookup).await {
            Ok(Ok(Some(uid))) if uid == owner.uid => Ownership::Exists,
            Ok(Ok(_)) => Ownership::MadeUp,
            Ok(Err(error)) => {
                warn!(%error, namespace, kind = owner.kind, "the owner of a pod could not be looked up");
                Ownership::Unknown
            }
            Err(_) => {
                debug!(
                    namespace,
                    kind = owner.kind,
                    "the owner of a pod was not known in time"
                );
                Ownership::Unknown
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
