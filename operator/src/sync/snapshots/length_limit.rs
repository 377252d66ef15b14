//! The longest snapshot that a sidecar reads: which servers fit into one, the oldest resources first. The snapshots
//! and the status decide by the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{AdministratorPolicy, Credentials, ResourceRef};
use mcp_auth_protocol::bounds::MAX_SNAPSHOT_BYTES;
use parking_lot::Mutex;

use super::serialised_server;
use crate::entitlement::{Labels, seniority};
use crate::resources::Resources;

/// Of the line all that are not servers: the operator's authorities, and in a change the names of servers that are gone.
const OTHER_BYTES: usize = 256 * 1024;
/// Bytes of JSON that the servers of one snapshot may have.
pub const MAX_SERVERS_BYTES: usize = MAX_SNAPSHOT_BYTES - OTHER_BYTES;

/// A server that its sidecars are not given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeftOut {
    /// Its own, as JSON.
    pub bytes: usize,
    /// Of all servers that the pods would be given, with this one.
    pub total_bytes: usize,
    pub servers: usize,
}

/// How long servers are as JSON, remembered while nothing of them changes.
pub struct ServerLengths {
    resources: Resources,
    credentials: Credentials,
    policy: AdministratorPolicy,
    known: Mutex<HashMap<ResourceRef, KnownLength>>,
}

struct KnownLength {
    made_of: MadeOf,
    bytes: usize,
}

#[derive(Eq, PartialEq)]
struct MadeOf {
    uid: Option<String>,
    generation: Option<i64>,
    /// Of what is published for it.
    revision: Option<u64>,
}

impl ServerLengths {
    pub fn new(resources: Resources, credentials: Credentials, policy: AdministratorPolicy) -> Self {
        Self {
            resources,
            credentials,
            policy,
            known: Mutex::default(),
        }
    }

    /// Whether the sidecars of pods with any of these labels are not given the resource's server, since there is no room for it beside
    /// those of older resources.
    pub fn left_out<'a>(
        &self,
        resource: &McpServerAuth,
        label_sets: impl Iterator<Item = &'a Labels>,
    ) -> Option<LeftOut> {
        let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
        let all = self.resources.in_namespace(namespace)?;
        let total: usize = all.iter().map(|resource| self.bytes(resource)).sum();
        // So it is but for rare ones, and then there is no need to look at the pods.
        if total <= MAX_SERVERS_BYTES {
            return None;
        }
        let label_sets: HashSet<&Labels> = label_sets.collect();
        label_sets.into_iter().find_map(|labels| {
            let entitled = self.resources.entitled(namespace, labels)?;
            let bytes: Vec<_> = entitled.iter().map(|resource| self.bytes(resource)).collect();
            let servers = entitled.iter().map(|resource| &**resource);
            let beyond = beyond(servers.zip(bytes.iter().copied()));
            let index = entitled
                .iter()
                .position(|entitled| entitled.metadata.name == resource.metadata.name)?;
            beyond.contains(&index).then(|| LeftOut {
                bytes: bytes[index],
                total_bytes: bytes.iter().sum(),
                servers: bytes.len(),
            })
        })
    }

    pub fn forget(&self, resource: &ResourceRef) {
        self.known.lock().remove(resource);
    }

    /// Of resources too that were deleted while another replica led.
    pub fn forget_all(&self) {
        self.known.lock().clear();
    }

    fn bytes(&self, resource: &Arc<McpServerAuth>) -> usize {
        let resource_ref = ResourceRef::from(&**resource);
        let made_of = MadeOf {
            uid: resource.metadata.uid.clone(),
            generation: resource.metadata.generation,
            // Read before what it is of, so that a change meanwhile is looked at again.
            revision: self.credentials.revision(&resource_ref),
        };
        let known = self.known.lock();
        if let Some(known) = known.get(&resource_ref).filter(|known| known.made_of == made_of) {
            return known.bytes;
        }
        drop(known);
        let bytes = serialised_server(resource, &self.credentials, &self.policy).bytes();
        let known = KnownLength { made_of, bytes };
        self.known.lock().insert(resource_ref, known);
        bytes
    }
}

/// Of servers with their bytes, the indexes of those that are left out: each that does not fit beside the older ones that do.
pub fn beyond<'a>(servers: impl Iterator<Item = (&'a McpServerAuth, usize)>) -> HashSet<usize> {
    let mut by_age: Vec<_> = servers.enumerate().collect();
    by_age.sort_by(|(_, (a, _)), (_, (b, _))| seniority(a).cmp(&seniority(b)));
    let mut left = MAX_SERVERS_BYTES;
    let mut beyond = HashSet::new();
    for (index, (_, bytes)) in by_age {
        // With the comma before the next.
        match left.checked_sub(bytes + 1) {
            Some(rest) => left = rest,
            None => drop(beyond.insert(index)),
        }
    }
    beyond
}
