//! Which resources are taken up, whatever their references hold: those within the limits that no older one leaves without a pod.
//! What is decided of a server name holds for all that claim it, so it is decided once in a pass over many resources.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::{NotServedError, NotServedReason};

use super::Reconciler;
use crate::entitlement::conflicts;
use crate::pods::{Pods, WatchedPod, ought_to_be_injected};
use crate::resources::Resources;
use crate::tenant_limits::{CountLimits, TenantLimits};

/// One pass, over resources and pods as they were when each namespace was looked at first.
pub struct TakenUp<'a> {
    resources: &'a Resources,
    pods: &'a Pods,
    limits: TenantLimits,
    counts: CountLimits,
    namespaces: HashMap<String, Neighbours>,
}

/// What can be in conflict in a namespace.
struct Neighbours {
    by_server: HashMap<String, Vec<Arc<McpServerAuth>>>,
    /// One pod of each set of labels.
    label_sets: Option<Vec<Arc<WatchedPod>>>,
    /// By server name and name of the resource, the name of the older one that leaves it no pod.
    conflicts: HashMap<String, HashMap<String, String>>,
}

impl Reconciler {
    pub fn taken_up(&self) -> TakenUp<'_> {
        TakenUp {
            resources: &self.resources,
            pods: &self.pods,
            limits: self.limits,
            counts: self.limits.counts(&self.resources.index()),
            namespaces: HashMap::new(),
        }
    }
}

impl TakenUp<'_> {
    /// Why the resource is not served, whatever its references hold. What is beyond a limit is looked at no further.
    pub fn problem(&mut self, resource: &McpServerAuth) -> Option<NotServedError> {
        match self.limits.check(resource, &self.counts) {
            Err(beyond) => Some(beyond),
            Ok(()) => self.conflict(resource),
        }
    }

    fn conflict(&mut self, resource: &McpServerAuth) -> Option<NotServedError> {
        let namespace = resource.namespace().unwrap_or_default();
        let server = &resource.spec.server.name;
        let (resources, pods) = (self.resources, self.pods);
        let neighbours = self
            .namespaces
            .entry(namespace)
            .or_insert_with_key(|namespace| Neighbours::new(resources.within_limits(namespace)));
        let older = neighbours
            .conflicts(server, || {
                pods.in_namespace(&resource.namespace().unwrap_or_default())
            })?
            .get(&resource.name_any())?;
        let message = format!(
            "spec.server.name {server:?} is already served by the older McpServerAuth {older} for the same pods: \
             give this one another name or podSelector, or delete one of the two"
        );
        Some(NotServedError::new(NotServedReason::Conflict, message))
    }
}

impl Neighbours {
    fn new(resources: Option<Vec<Arc<McpServerAuth>>>) -> Self {
        let mut by_server: HashMap<String, Vec<_>> = HashMap::new();
        for resource in resources.unwrap_or_default() {
            let of_server = by_server.entry(resource.spec.server.name.clone()).or_default();
            of_server.push(resource);
        }
        Self {
            by_server,
            label_sets: None,
            conflicts: HashMap::new(),
        }
    }

    /// Nothing where no two claim the name: then there is no need to look at the pods.
    fn conflicts(
        &mut self,
        server: &str,
        pods: impl FnOnce() -> Option<Vec<Arc<WatchedPod>>>,
    ) -> Option<&HashMap<String, String>> {
        let rivals = self.by_server.get(server).filter(|rivals| rivals.len() > 1)?;
        if !self.conflicts.contains_key(server) {
            let pods = self
                .label_sets
                .get_or_insert_with(|| label_sets(pods().unwrap_or_default()));
            let labels: Vec<_> = pods.iter().map(|pod| pod.labels()).collect();
            let conflicts = conflicts(rivals, &labels).into_iter();
            let names = conflicts.map(|(name, older)| (name, older.name_any()));
            self.conflicts.insert(server.to_owned(), names.collect());
        }
        self.conflicts.get(server)
    }
}

/// Of the pods that may have a sidecar, one for each set of labels.
fn label_sets(pods: Vec<Arc<WatchedPod>>) -> Vec<Arc<WatchedPod>> {
    let mut known = HashSet::new();
    let pods_with_new_labels = pods.iter().filter(|pod| ought_to_be_injected(&***pod));
    pods_with_new_labels
        .filter(|pod| known.insert(pod.labels()))
        .cloned()
        .collect()
}
