//! Reconciles: derives the desired token source of each resource and hands it to the token sources. All of it
//! is in memory; the status is a step of its own ([`crate::status`]).

mod taken_up;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use mcp_auth_crds::{McpServerAuth, WorkloadIdentity};
use mcp_auth_credentials::references::needed;
use mcp_auth_credentials::{
    AdministratorPolicy, Desired, Inputs, NotServedError, ResourceRef, TokenRefreshQueue,
    TokenRefreshRequest, TokenSources, desired, known_server,
};
use mcp_auth_oauth::EgressProxy;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, sleep_until};
use tracing::{debug_span, warn};

use crate::liveness::{BEAT_INTERVAL, Liveness};
use crate::managed_keys::ManagedKeys;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::references::References;
use crate::resources::{ResourceEvent, ResourceWatch, Resources, object_ref};
use crate::sidecars::Sidecars;
use crate::tenant_limits::TenantLimits;
use crate::workload::Workload;

/// Name of this task in [`Liveness`].
pub const TASK: &str = "reconcile";
/// Events that are taken before the reconciliation that they ask for.
const MAX_EVENTS_AT_ONCE: usize = 1000;
/// Resources that are reconciled before other work of the same task has its turn.
const MAX_RECONCILED_AT_ONCE: usize = 50;

/// Sidecars that take the same snapshot over report it one by one; the status counts them once.
const SIDECARS_DEBOUNCE: Duration = Duration::from_secs(1);
/// The pods of a rollout come, and are a minute old, one after another, and each change of one is a look at every resource of
/// the namespace with all its pods.
const PODS_DEBOUNCE: Duration = Duration::from_millis(500);

/// What reconciling works with.
pub struct Reconciler {
    pub resources: Resources,
    pub references: References,
    pub workload: Workload,
    pub managed_keys: ManagedKeys,
    pub pods: Pods,
    pub sidecars: Sidecars,
    pub token_sources: TokenSources,
    /// What the administrator allows.
    pub policy: AdministratorPolicy,
    pub limits: TenantLimits,
    /// The operator's own, for resources that name none.
    pub egress_proxy: Option<EgressProxy>,
    pub metrics: Metrics,
    pub liveness: Liveness,
    /// For the status: each resource that it is to be looked at for.
    pub status_due: mpsc::UnboundedSender<ResourceRef>,
}

/// Changes outside the resources: of references and of the operator's own keys by resource, of pods and sidecars by namespace.
pub struct Triggers {
    pub references: mpsc::UnboundedReceiver<ResourceRef>,
    pub managed_keys: mpsc::UnboundedReceiver<ResourceRef>,
    pub pods: mpsc::UnboundedReceiver<String>,
    pub sidecars: mpsc::UnboundedReceiver<String>,
    pub token_refresh_requests: TokenRefreshQueue,
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

/// One change.
enum ReconcileEvent {
    Resource(ResourceEvent),
    Reference(ResourceRef),
    /// Of these namespaces.
    Pods(BTreeSet<String>),
    /// Of these namespaces.
    Sidecars(BTreeSet<String>),
    /// Those that have not come to this new leader are missing.
    SidecarsMissing,
    TokenRefresh(TokenRefreshRequest),
    /// Nothing changed for a while.
    Tick,
}

/// All changes in one place.
struct Events<'a> {
    resource_watch: &'a mut ResourceWatch,
    triggers: &'a mut Triggers,
    ticks: Interval,
    /// Namespaces whose sidecars changed, and when that is passed on.
    sidecars_changed: BTreeSet<String>,
    sidecars_due: Option<Instant>,
    /// The same of pods.
    pods_changed: BTreeSet<String>,
    pods_due: Option<Instant>,
    /// When sidecars that have not come to this new leader are missing.
    sidecars_missing_at: Option<Instant>,
}

impl Events<'_> {
    /// The next change. Dropping the future loses none.
    async fn next(&mut self) -> ReconcileEvent {
        loop {
            let triggers = &mut *self.triggers;
            let (sidecars_due, missing_at) = (self.sidecars_due, self.sidecars_missing_at);
            let pods_due = self.pods_due;
            tokio::select! {
                event = self.resource_watch.next() => return ReconcileEvent::Resource(event),
                Some(resource) = triggers.references.recv() => return ReconcileEvent::Reference(resource),
                Some(resource) = triggers.managed_keys.recv() => return ReconcileEvent::Reference(resource),
                Some(namespace) = triggers.pods.recv() => {
                    self.pods_changed.insert(namespace);
                    self.pods_due.get_or_insert(Instant::now() + PODS_DEBOUNCE);
                }
                () = sleep_until(pods_due.unwrap_or_else(Instant::now)), if pods_due.is_some() => {
                    self.pods_due = None;
                    return ReconcileEvent::Pods(std::mem::take(&mut self.pods_changed));
                }
                Some(namespace) = triggers.sidecars.recv() => {
                    self.sidecars_changed.insert(namespace);
                    self.sidecars_due.get_or_insert(Instant::now() + SIDECARS_DEBOUNCE);
                }
                () = sleep_until(sidecars_due.unwrap_or_else(Instant::now)), if sidecars_due.is_some() => {
                    self.sidecars_due = None;
                    return ReconcileEvent::Sidecars(std::mem::take(&mut self.sidecars_changed));
                }
                () = sleep_until(missing_at.unwrap_or_else(Instant::now)), if missing_at.is_some() => {
                    self.sidecars_missing_at = None;
                    return ReconcileEvent::SidecarsMissing;
                }
                request = triggers.token_refresh_requests.recv() => {
                    return ReconcileEvent::TokenRefresh(request);
                }
                _ = self.ticks.tick() => return ReconcileEvent::Tick,
            }
        }
    }
}

impl Reconciler {
    /// Reconciles for as long as it is polled: at first every resource, then each that something changed for.
    pub async fn run(&self, resource_watch: &mut ResourceWatch, triggers: &mut Triggers) {
        let mut events = Events {
            resource_watch,
            triggers,
            ticks: tokio::time::interval(BEAT_INTERVAL),
            sidecars_changed: BTreeSet::new(),
            sidecars_due: None,
            pods_changed: BTreeSet::new(),
            pods_due: None,
            sidecars_missing_at: Some(self.sidecars.await_all()),
        };
        let mut queue = ReconcileQueue::default();
        queue.namespaces.extend(self.resources.namespaces());
        let known = self.resources.store().state();
        self.token_sources
            .resume_counts(known.iter().map(|resource| &**resource));
        self.watch_pods();
        self.forget_gone();
        loop {
            // What is ready goes first, so that many events are one reconciliation; up to a bound, so that
            // endless events put none off for ever.
            for _ in 0..MAX_EVENTS_AT_ONCE {
                match events.next().now_or_never() {
                    Some(event) => self.note(event, &mut queue),
                    None => break,
                }
            }
            if queue.is_empty() {
                let event = events.next().await;
                self.note(event, &mut queue);
            } else {
                self.reconcile_all(std::mem::take(&mut queue)).await;
            }
            self.liveness.beat(TASK);
            tokio::task::yield_now().await;
        }
    }

    fn note(&self, event: ReconcileEvent, queue: &mut ReconcileQueue) {
        match event {
            // A new or changed resource can end or begin a conflict with any of its neighbours.
            ReconcileEvent::Resource(ResourceEvent::Changed(resource)) => {
                self.watch_pods_of(&resource.namespace);
                queue.namespaces.insert(resource.namespace);
            }
            ReconcileEvent::Resource(ResourceEvent::Deleted(resource)) => {
                self.forget(&resource);
                self.watch_pods_of(&resource.namespace);
                if self.limits.is_total_reached(&self.resources.index()) {
                    queue.namespaces.extend(self.resources.namespaces());
                }
                queue.namespaces.insert(resource.namespace);
            }
            ReconcileEvent::Resource(ResourceEvent::Listed) | ReconcileEvent::Tick => {}
            ReconcileEvent::Reference(resource) => drop(queue.resources.insert(resource)),
            ReconcileEvent::Pods(namespaces) => queue.namespaces.extend(namespaces),
            ReconcileEvent::Sidecars(namespaces) => {
                for namespace in namespaces {
                    self.status_due_in(&namespace);
                }
            }
            ReconcileEvent::SidecarsMissing => {
                for namespace in self.resources.namespaces() {
                    self.status_due_in(&namespace);
                }
            }
            ReconcileEvent::TokenRefresh(request) => self.token_sources.request_refresh(&request),
        }
    }

    async fn reconcile_all(&self, queue: ReconcileQueue) {
        let of_namespaces = queue
            .namespaces
            .iter()
            .filter_map(|namespace| self.resources.in_namespace(namespace))
            .flatten();
        let mut queued: HashMap<ResourceRef, Arc<McpServerAuth>> = of_namespaces
            .map(|resource| (ResourceRef::from(&*resource), resource))
            .collect();
        for resource in queue.resources {
            if let Some(stored) = self.resources.store().get(&object_ref(&resource)) {
                queued.insert(resource, stored);
            }
        }
        let mut taken_up = self.taken_up();
        for (number, (resource_ref, resource)) in queued.into_iter().enumerate() {
            // Statuses, restarts and the other namespaces' Secrets are looked at in between.
            if number % MAX_RECONCILED_AT_ONCE == MAX_RECONCILED_AT_ONCE - 1 {
                self.liveness.beat(TASK);
                tokio::task::yield_now().await;
            }
            let problem = taken_up.problem(&resource);
            self.reconcile(&resource_ref, &resource, problem);
            self.status_due(resource_ref);
        }
    }

    fn reconcile(
        &self,
        resource_ref: &ResourceRef,
        resource: &McpServerAuth,
        problem: Option<NotServedError>,
    ) {
        let _span = debug_span!(
            "reconcile",
            namespace = resource_ref.namespace,
            name = resource_ref.name
        )
        .entered();
        let desired = match problem {
            Some(error) => {
                self.references.set(resource_ref, &[]);
                Err(error)
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
            workload: |wanted: &WorkloadIdentity| {
                Some(self.workload.assertions(&resource_ref.namespace, wanted))
            },
            managed_key: self.managed_keys.find(resource),
            known_issuer: known_server(resource).map(|server| server.issuer.clone()),
            policy: &self.policy,
            egress_proxy: self.egress_proxy.clone(),
        };
        desired(&resource.spec, &inputs)
    }

    /// Ends what only a leader does: the token sources and the watches of references.
    pub fn stop(&self) {
        self.token_sources.stop();
        self.references.clear();
        for resource in self.resources.store().state() {
            self.metrics.forget(&ResourceRef::from(&*resource));
        }
    }

    /// What was deleted while no replica led. Nothing is left of it that could revoke its token.
    fn forget_gone(&self) {
        let credentials = self.token_sources.credentials();
        let known = credentials.resources().into_iter();
        for resource in self.resources.gone(known, credentials) {
            warn!(
                namespace = resource.namespace,
                name = resource.name,
                "the resource was deleted while no replica led: its token is forgotten, and was not revoked (revokeOnDeletion)"
            );
            self.forget(&resource);
        }
    }

    fn forget(&self, resource: &ResourceRef) {
        self.token_sources.remove(resource);
        self.managed_keys.forget(resource);
        self.references.set(resource, &[]);
        self.metrics.forget(resource);
        // The status step finds that it is gone, and forgets it too.
        self.status_due(resource.clone());
    }

    /// Every replica watches the pods of the namespaces that have resources: their labels entitle.
    fn watch_pods(&self) {
        for namespace in self.resources.namespaces() {
            self.watch_pods_of(&namespace);
        }
    }

    pub fn watch_pods_of(&self, namespace: &str) {
        let is_watched = self.resources.index().contains_key(namespace);
        self.pods.watch(namespace, is_watched);
    }

    fn status_due_in(&self, namespace: &str) {
        for resource in self.resources.in_namespace(namespace).into_iter().flatten() {
            self.status_due(ResourceRef::from(&*resource));
        }
    }

    fn status_due(&self, resource: ResourceRef) {
        // Without a receiver the operator is stopping.
        let _ = self.status_due.send(resource);
    }
}

#[cfg(test)]
mod tests;
