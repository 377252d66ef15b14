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

/// What is due: gathered while events arrive, so that many events about one resource are one reconciliation.
#[derive(Default)]
struct Due {
    resources: BTreeSet<ResourceRef>,
    namespaces: BTreeSet<String>,
}

impl Due {
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
        let mut due = Due::default();
        due.namespaces.extend(self.resources.namespaces());
        self.watch_pods();
        loop {
            tokio::select! {
                event = resource_watch.next() => match event {
                    // A new or changed resource can end or begin a conflict with any of its neighbours.
                    ResourceEvent::Changed(resource) => {
                        self.watch_pods();
                        due.namespaces.insert(resource.namespace);
                    }
                    ResourceEvent::Deleted(resource) => {
                        self.forget(&resource);
                        self.watch_pods();
                        due.namespaces.insert(resource.namespace);
                    }
                    ResourceEvent::Listed => {}
                },
                Some(resource) = references.recv() => drop(due.resources.insert(resource)),
                Some(namespace) = pods.recv() => drop(due.namespaces.insert(namespace)),
                Some(namespace) = sidecars.recv() => self.status_due_in(&namespace),
                Some(request) = token_refresh_requests.recv() => self.token_sources.request_refresh(&request),
                // Whatever is ready goes first.
                () = tokio::task::yield_now(), if !due.is_empty() => {
                    self.reconcile_all(std::mem::take(&mut due));
                }
            }
        }
    }

    fn reconcile_all(&self, due: Due) {
        let of_namespaces = due
            .namespaces
            .iter()
            .flat_map(|namespace| self.resources.in_namespace(namespace));
        let mut all: HashMap<ResourceRef, Arc<McpServerAuth>> = of_namespaces
            .map(|resource| (ResourceRef::from(&*resource), resource))
            .collect();
        for resource in due.resources {
            if let Some(found) = self.resources.store().get(&ObjectRef::from(&resource)) {
                all.insert(resource, found);
            }
        }
        for (key, resource) in all {
            self.reconcile(&key, &resource);
            self.status_due(key);
        }
    }

    fn reconcile(&self, key: &ResourceRef, resource: &McpServerAuth) {
        let _span = debug_span!("reconcile", namespace = key.namespace, name = key.name).entered();
        let desired = match self.conflict(resource) {
            Some(conflict) => {
                self.references.set(key, &[]);
                Err(conflict)
            }
            None => self.desired(key, resource),
        };
        self.token_sources.apply(resource, desired);
    }

    /// Looks the references up, each once, and derives what they and the spec desire.
    fn desired(&self, key: &ResourceRef, resource: &McpServerAuth) -> Result<Desired, NotServedError> {
        let references = needed(&resource.spec);
        self.references.set(key, &references);
        let references = references.into_iter().map(|reference| {
            let lookup = self.references.get(&key.namespace, &reference);
            (reference, lookup)
        });
        let inputs = Inputs {
            references: &references.collect::<Vec<_>>(),
            workload: |audience| self.workload.assertions(&key.namespace, audience),
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
