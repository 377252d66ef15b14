//! Reconciles: derives the desired token source of each resource and hands it to the token sources. All of it
//! is in memory; the status is a step of its own ([`crate::status`]).

mod desired;
mod references;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use mcp_auth_crds::McpServerAuth;
use tokio::sync::mpsc;
use tracing::debug_span;

use crate::entitlement::conflicts;
use crate::metrics::Metrics;
use crate::not_served::{NotServedError, NotServedReason};
use crate::pods::{Pods, ought_to_be_injected};
use crate::references::{References, needed};
use crate::resource_ref::ResourceRef;
use crate::resources::{ResourceEvent, ResourceWatch, Resources};
use crate::status::known_server;
use crate::token_refresh_requests::TokenRefreshRequest;
use crate::token_sources::{Desired, TokenSources};
use crate::workload::Workload;
use desired::{Inputs, desired};

/// What reconciling works with.
pub struct Reconciler {
    pub resources: Resources,
    pub references: References,
    pub workload: Workload,
    pub pods: Pods,
    pub token_sources: TokenSources,
    pub metrics: Metrics,
    /// For the status: each resource that it is to be looked at for.
    pub status_due: mpsc::UnboundedSender<ResourceRef>,
}

/// Changes outside the resources: of references by resource, of pods and sidecars by namespace.
pub struct Triggers {
    pub references: mpsc::UnboundedReceiver<ResourceRef>,
    pub pods: mpsc::UnboundedReceiver<String>,
    pub sidecars: mpsc::UnboundedReceiver<String>,
    pub token_refresh_requests: mpsc::UnboundedReceiver<TokenRefreshRequest>,
}

/// The work queue: gathered while events arrive, so that many events about one resource are one
/// reconciliation.
#[derive(Default)]
struct ReconcileQueue {
    resources: BTreeSet<ResourceRef>,
    namespaces: BTreeSet<String>,
}

impl ReconcileQueue {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.namespaces.is_empty()
    }
}

impl Reconciler {
    /// Reconciles for as long as it is polled: at first every resource, then each that something changed for.
    pub async fn run(self, mut resource_watch: ResourceWatch, triggers: Triggers) {
        let Triggers {
            mut references,
            mut pods,
            mut sidecars,
            mut token_refresh_requests,
        } = triggers;
        let mut queue = ReconcileQueue::default();
        queue.namespaces.extend(self.resources.namespaces());
        self.watch_pods();
        loop {
            tokio::select! {
                event = resource_watch.next() => match event {
                    // A new or changed resource can end or begin a conflict with any of its neighbours.
                    ResourceEvent::Changed(resource) => {
                        self.watch_pods();
                        queue.namespaces.insert(resource.namespace);
                    }
                    ResourceEvent::Deleted(resource) => {
                        self.forget(&resource);
                        self.watch_pods();
                        queue.namespaces.insert(resource.namespace);
                    }
                    ResourceEvent::Listed => {}
                },
                Some(resource) = references.recv() => drop(queue.resources.insert(resource)),
                Some(namespace) = pods.recv() => drop(queue.namespaces.insert(namespace)),
                Some(namespace) = sidecars.recv() => self.status_due_in(&namespace),
                Some(request) = token_refresh_requests.recv() => self.token_sources.request_refresh(&request),
                // Whatever is ready goes first.
                () = tokio::task::yield_now(), if !queue.is_empty() => {
                    self.reconcile_all(std::mem::take(&mut queue));
                }
            }
        }
    }

    fn reconcile_all(&self, queue: ReconcileQueue) {
        let of_namespaces = queue
            .namespaces
            .iter()
            .flat_map(|namespace| self.resources.in_namespace(namespace));
        let mut queued: HashMap<ResourceRef, Arc<McpServerAuth>> = of_namespaces
            .map(|resource| (ResourceRef::from(&*resource), resource))
            .collect();
        for resource in queue.resources {
            if let Some(stored) = self.resources.store().get(&ObjectRef::from(&resource)) {
                queued.insert(resource, stored);
            }
        }
        for (resource_ref, resource) in queued {
            self.reconcile(&resource_ref, &resource);
            self.status_due(resource_ref);
        }
    }

    fn reconcile(&self, resource_ref: &ResourceRef, resource: &McpServerAuth) {
        let _span = debug_span!(
            "reconcile",
            namespace = resource_ref.namespace,
            name = resource_ref.name
        )
        .entered();
        let desired = match self.conflict(resource) {
            Some(conflict) => {
                self.references.set(resource_ref, &[]);
                Err(conflict)
            }
            None => self.desired(resource_ref, resource),
        };
        self.token_sources.apply(resource, desired);
    }

    /// Looks the references up, each once, and derives what they and the spec desire.
    fn desired(
        &self,
        resource_ref: &ResourceRef,
        resource: &McpServerAuth,
    ) -> Result<Desired, NotServedError> {
        let references = needed(&resource.spec);
        self.references.set(resource_ref, &references);
        let references = references.into_iter().map(|reference| {
            let lookup = self.references.get(&resource_ref.namespace, &reference);
            (reference, lookup)
        });
        let inputs = Inputs {
            references: &references.collect::<Vec<_>>(),
            workload: |audience| self.workload.assertions(&resource_ref.namespace, audience),
            known_issuer: known_server(resource).map(|server| server.issuer.clone()),
        };
        desired(&resource.spec, &inputs)
    }

    /// The older resource that is served instead, whatever the references of this one hold.
    fn conflict(&self, resource: &McpServerAuth) -> Option<NotServedError> {
        let namespace = resource.namespace().unwrap_or_default();
        let pods = self.pods.in_namespace(&namespace).unwrap_or_default();
        let pods = pods.iter().filter(|pod| ought_to_be_injected(pod));
        let labels: Vec<_> = pods.map(|pod| pod.labels().clone()).collect();
        let neighbours = self.resources.in_namespace(&namespace);
        let conflict = *conflicts(resource, &neighbours, &labels).first()?;
        let message = format!(
            "spec.server.name {:?} is already served by the older McpServerAuth {} for the same pods: \
             give this one another name or podSelector, or delete one of the two",
            resource.spec.server.name,
            conflict.name_any()
        );
        Some(NotServedError::new(NotServedReason::Conflict, message))
    }

    fn forget(&self, resource: &ResourceRef) {
        self.token_sources.remove(resource);
        self.references.set(resource, &[]);
        self.metrics.forget(resource);
        // The status step finds that it is gone, and forgets it too.
        self.status_due(resource.clone());
    }

    fn watch_pods(&self) {
        self.pods.watch(&self.resources.namespaces());
    }

    fn status_due_in(&self, namespace: &str) {
        for resource in self.resources.in_namespace(namespace) {
            self.status_due(ResourceRef::from(&*resource));
        }
    }

    fn status_due(&self, resource: ResourceRef) {
        // Without a receiver the operator is stopping.
        let _ = self.status_due.send(resource);
    }
}
