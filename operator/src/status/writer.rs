//! The status step: reads what was published for a resource and its pods, writes the status, and tells of
//! what changed by events.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus, conditions};
use mcp_auth_credentials::credential_expiry::{CredentialExpiry, FoundReference, expiries};
use mcp_auth_credentials::references::needed;
use mcp_auth_credentials::{AdministratorPolicy, Credentials, Issuance, ResourceRef, ServerConnection};
use mcp_auth_oauth::Clock;
use mcp_auth_protocol::sync::{Problem, notices};
use mcp_auth_resilience::exponential;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{instrument, warn};

use super::events::events;
use super::namespace_pods::{NamespacePods, NamespaceViews, Selected};
use super::pod_classes::PodClass;
use super::pods_refused::{refusals_by_reason, standing_refusals};
use super::sidecars_synced::concerns;
use super::write_records::WriteRecords;
use super::{InjectionFacts, StatusInputs, fleet, status};
use crate::api_server::{STATUS_MANAGER, with_deadline};
use crate::certificates::certificate_expiry;
use crate::entitlement::selects;
use crate::event_recorder::EventRecorder;
use crate::liveness::{BEAT_INTERVAL, Liveness, Pulse};
use crate::managed_keys::ManagedKeys;
use crate::metrics::{Metrics, ResourceState};
use crate::namespaces::{NamespaceInjection, Namespaces};
use crate::pod_owners::{Ownership, PodOwners};
use crate::pods::Pods;
use crate::references::References;
use crate::refused_pods::{LOOK_INTERVAL, RefusedPod, RefusedPods};
use crate::resources::{Resources, object_ref};
use crate::restarts::RestartOutcomes;
use crate::sidecars::{GRACE, Sidecars};
use crate::sync::ServerLengths;
use crate::webhook_calls::WebhookCalls;
use crate::workload_events::{NoticeKind, WorkloadEvents};

/// Statuses that are written at once.
const CONCURRENCY: u16 = 16;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// How often a status is compared with what the watch shows although nothing happened: somebody else may have
/// written it.
const RESYNC: Duration = Duration::from_secs(10 * 60);
/// Longest wait for the API server to say whether a workload is still there.
const OWNER_LOOKUP_TIME: Duration = Duration::from_secs(2);

/// What is known of the secrets that resources refer to, and of those that the operator keeps for them.
pub struct KeptSecrets {
    pub references: References,
    pub managed_keys: ManagedKeys,
}

/// What is seen of LiteLLM's pods.
pub struct ObservedPods {
    pub pods: Pods,
    pub refused: RefusedPods,
    /// Whether what was refused has gone since.
    pub owners: PodOwners,
    pub sidecars: Sidecars,
    pub namespaces: Arc<Namespaces>,
    pub webhook: WebhookCalls,
    pub restarts: RestartOutcomes,
    /// Which servers there are for pods.
    pub resources: Resources,
}

/// Where what has changed is told of.
pub struct EventSinks {
    pub resources: EventRecorder,
    pub workloads: WorkloadEvents,
}

/// What the status is made of and written with.
pub struct StatusWriter {
    client: Client,
    clock: Clock,
    credentials: Credentials,
    secrets: KeptSecrets,
    observed: ObservedPods,
    metrics: Metrics,
    events: EventSinks,
    records: WriteRecords,
    views: NamespaceViews,
    lengths: ServerLengths,
    liveness: Liveness,
}

#[derive(Debug, Error)]
enum StatusError {
    #[error("the status could not be written: {0}")]
    Write(#[source] kube::Error),
}

impl StatusError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Write(_) => "Status",
        }
    }
}

/// Writes the status of each resource that is due, for as long as it is polled. A resource that was deleted is
/// due too, and forgotten.
pub async fn run(
    writer: Arc<StatusWriter>,
    resources: Store<McpServerAuth>,
    mut due: mpsc::UnboundedReceiver<ResourceRef>,
) {
    // Since this replica led before, another may have written statuses: the watch shows them.
    writer.records.forget_all();
    writer.lengths.forget_all();
    let due = stream::poll_fn(move |context| due.poll_recv(context));
    // The items that are looked at have a pulse each.
    let pulse = writer.liveness.pulse("the writer of statuses".to_owned());
    let mut ticks = tokio::time::interval(BEAT_INTERVAL);
    let results = applier(
        |resource: Arc<McpServerAuth>, writer: Arc<StatusWriter>| {
            async move { writer.write_status(&resource).await }.boxed()
        },
        |resource, error, writer| writer.retry(&resource, error),
        Arc::clone(&writer),
        resources,
        due.map(|resource| Ok::<_, Infallible>(object_ref(&resource))),
        controller::Config::default().concurrency(CONCURRENCY),
    );
    let mut results = pin!(results);
    loop {
        let result = tokio::select! {
            result = results.next() => result,
            _ = ticks.tick() => {
                pulse.beat();
                continue;
            }
        };
        match result {
            None => return,
            Some(Err(controller::Error::ObjectNotFound(deleted))) => {
                let (namespace, name) = (deleted.namespace.unwrap_or_default(), deleted.name);
                let resource = ResourceRef { namespace, name };
                writer.records.forget(&resource);
                writer.lengths.forget(&resource);
                // It may have been the last one of its namespace.
                let pods = &writer.observed.pods;
                writer.views.retain(|namespace| pods.is_watched(namespace));
            }
            // All other errors have been dealt with by `retry`.
            Some(_) => {}
        }
    }
}

impl StatusWriter {
    pub fn new(
        client: Client,
        events: EventSinks,
        clock: Clock,
        (credentials, policy): (Credentials, AdministratorPolicy),
        secrets: KeptSecrets,
        observed: ObservedPods,
        (metrics, liveness): (Metrics, Liveness),
    ) -> Self {
        let lengths = ServerLengths::new(observed.resources.clone(), credentials.clone(), policy);
        Self {
            lengths,
            events,
            client,
            clock,
            credentials,
            secrets,
            observed,
            metrics,
            records: WriteRecords::default(),
            views: NamespaceViews::default(),
            liveness,
        }
    }

    #[instrument(skip_all, fields(namespace = watched.namespace(), name = watched.name_any()))]
    async fn write_status(&self, watched: &McpServerAuth) -> Result<Action, StatusError> {
        let resource = &*self.with_last_status(watched);
        let resource_ref = ResourceRef::from(resource);
        let ResourceRef { namespace, name } = &resource_ref;
        let pulse = self.liveness.pulse(format!("the status of {namespace}/{name}"));
        let state = self.credentials.published(resource);
        // The resource has changed: once that is reconciled, its status is due again.
        let Some(state) = state.filter(|state| state.generation == resource.metadata.generation) else {
            return Ok(Action::await_change());
        };
        if self.records.last_written(resource).is_none() && is_said_already(resource, &state.issuance) {
            return Ok(Action::await_change());
        }
        // One for all, so that nothing of a status is of another time than the rest: the API server may be asked in between.
        let now = self.clock.now();
        // Sidecars that may still be applying the newest snapshot are checked once more: those that were when the status was
        // made, too, since it says of none that it is late.
        let is_any_taking_over = || {
            let sidecars = self.observed.sidecars.revision_in(&resource_ref.namespace);
            sidecars.is_any_taking_over()
        };
        let was_any_taking_over = is_any_taking_over();
        let pods = self.pods(&resource_ref.namespace, now);
        let neighbours = || self.observed.resources.in_namespace(&resource_ref.namespace);
        let selected = pods.as_ref().map(|pods| Selected {
            stale_servers: pods.stale_servers(resource, || neighbours().unwrap_or_default()),
            ..pods.selected_by(resource)
        });
        let lacks_sidecar = |class: &&PodClass| !class.is_injected();
        let is_any_without = selected.iter().flat_map(|it| &it.classes).any(lacks_sidecar);
        let namespace = match is_any_without {
            true => self.observed.namespaces.injection(&resource_ref.namespace).await,
            false => NamespaceInjection::Unknown,
        };
        self.forget_refusals_of_no_workload(&resource_ref.namespace, now)
            .await;
        let refused = self.observed.refused.in_namespace(&resource_ref.namespace, now);
        let started = self.observed.webhook.started;
        let may_miss_refusals = self
            .observed
            .refused
            .may_be_unknown(&resource_ref.namespace, started, now);
        let selector = &resource.spec.pod_selector;
        let is_selected = |refused: &Arc<RefusedPod>| selects(selector, &refused.labels);
        let classes = selected.iter().flat_map(|selected| &selected.classes);
        let left_out = self
            .lengths
            .left_out(resource, classes.map(|class| class.pod.labels()));
        let inputs = StatusInputs {
            resource,
            issuance: &state.issuance,
            left_out,
            pods: selected,
            refused: refused.into_iter().filter(is_selected).collect(),
            may_miss_refusals,
            injection: InjectionFacts {
                namespace,
                scope: self.observed.namespaces.scope().clone(),
                webhook_called: self.observed.webhook.is_called(),
                operator_started: started,
                webhook_port: self.observed.webhook.port,
            },
            expiries: self.expiries(resource, &resource_ref),
            managed_key: self.secrets.managed_keys.in_status(resource),
            restart: self.observed.restarts.get(&resource_ref),
        };
        let new_status = status(&inputs, now);
        self.set_metrics(&resource_ref, &inputs, &state.connection, (&new_status, now));
        self.tell_workloads(&inputs);
        let is_written = resource.status.as_ref() == Some(&new_status);
        // Where the watch shows another one, somebody else has written it, unless it has not come that far yet.
        let is_shown = watched.status.as_ref() == Some(&new_status) || self.records.is_unseen(watched);
        if !(is_written && is_shown) {
            self.write(resource, &resource_ref, new_status, &pulse).await?;
        }
        self.records.succeeded(resource);
        let needs_requeue = was_any_taking_over || is_any_taking_over();
        let again = if needs_requeue { GRACE } else { RESYNC };
        let refused_until = inputs.refused.iter().map(|refused| refused.until()).min();
        let refusal_ends = refused_until.and_then(|until| Duration::try_from(until - now).ok());
        Ok(Action::requeue(refusal_ends.map_or(again, |ends| {
            ends.min(again).min(LOOK_INTERVAL.unsigned_abs())
        })))
    }

    /// A workload that was deleted is refused no more. Each is looked up now and then alone.
    async fn forget_refusals_of_no_workload(&self, namespace: &str, now: Timestamp) {
        let ObservedPods { refused, owners, .. } = &self.observed;
        for refusal in refused.due_for_a_look(namespace, now) {
            let owner = std::slice::from_ref(&refusal.owner);
            let deadline = Instant::now() + OWNER_LOOKUP_TIME;
            if owners.look_up(namespace, owner, deadline).await == Ownership::MadeUp {
                refused.forget(&refusal);
            }
        }
    }

    /// The resource with the status that was last written, which the watch may not show yet.
    fn with_last_status<'a>(&self, watched: &'a McpServerAuth) -> Cow<'a, McpServerAuth> {
        match self.records.last_written(watched) {
            Some(status) if watched.status.as_ref() != Some(&status) => Cow::Owned(McpServerAuth {
                status: Some(status),
                ..watched.clone()
            }),
            _ => Cow::Borrowed(watched),
        }
    }

    /// The pods of a namespace, once they have been listed.
    fn pods(&self, namespace: &str, now: Timestamp) -> Option<Arc<NamespacePods>> {
        let ObservedPods { pods, sidecars, .. } = &self.observed;
        // Read before the pods, so that a change meanwhile is looked at again.
        let revision = pods.revision(namespace)?;
        let listed = || pods.in_namespace(namespace).unwrap_or_default();
        Some(self.views.view(namespace, revision, listed, sidecars, now))
    }

    /// What the spec refers to, as it was last read, and when it ends.
    fn expiries(&self, resource: &McpServerAuth, resource_ref: &ResourceRef) -> Vec<CredentialExpiry> {
        let namespace = &resource_ref.namespace;
        let references = &self.secrets.references;
        let found = needed(&resource.spec)
            .into_iter()
            .map(|reference| FoundReference {
                lookup: references.get(namespace, &reference),
                stated_end: references.stated_end(namespace, &reference),
                reference,
            });
        expiries(&found.collect::<Vec<_>>())
    }

    /// Tells the workloads of the pods what their sidecars warn of and what is refused; of the latter the resource too. Of the same
    /// there is an event again only after a while. That LiteLLM's configuration says something else may be meant, and the
    /// resource's own condition has it.
    fn tell_workloads(&self, inputs: &StatusInputs<'_>) {
        let spec = &inputs.resource.spec;
        let namespace = inputs.resource.namespace().unwrap_or_default();
        let events = &self.events.workloads;
        for refused in standing_refusals(inputs) {
            let kind = NoticeKind::Refused;
            events.tell_owner(&namespace, Some(&refused.owner), kind, &refused.text);
            events.tell(&inputs.resource.object_ref(&()), kind, &refused.text);
        }
        let is_warning = |notice: &&Problem| {
            let reason = notice.reason.as_str();
            reason != notices::CONFIGURATION_DIFFERS && notices::WARNINGS.contains(&reason)
        };
        let classes = inputs.pods.iter().flat_map(|pods| &pods.classes);
        for (class, sidecar) in classes.filter_map(|class| Some((class, class.sidecar()?))) {
            let notices = sidecar.notices.iter().filter(is_warning);
            let notices = notices.map(|notice| (NoticeKind::Sidecar, notice));
            let problems = sidecar.problems.iter();
            let problems = problems.map(|problem| (NoticeKind::SidecarProblem, problem));
            let all = problems.chain(notices);
            for (kind, told) in all.filter(|(_, told)| concerns(told, &spec.server.name)) {
                let text = format!("{}: {}", told.reason, told.message);
                events.tell_owner(&namespace, class.pod.owner(), kind, &text);
            }
        }
    }

    fn set_metrics(
        &self,
        resource_ref: &ResourceRef,
        inputs: &StatusInputs<'_>,
        connection: &ServerConnection,
        (new_status, now): (&McpServerAuthStatus, Timestamp),
    ) {
        let is_ready =
            |condition: &Condition| condition.type_ == conditions::READY && condition.status == "True";
        let ready = new_status.conditions.iter().any(is_ready);
        let token = new_status.token.as_ref();
        let seconds = |time: &Time| time.0.as_second();
        let shown = connection.client_certificate.as_ref();
        let shown_until = shown.and_then(|shown| certificate_expiry(&shown.chain));
        let pods = inputs.pods.as_ref();
        let [selected, passed_over] = [
            pods.map(|pods| &pods.classes[..]).unwrap_or_default(),
            pods.map(|pods| &pods.passed_over[..]).unwrap_or_default(),
        ];
        let server = &inputs.resource.spec.server.name;
        let fleet = fleet::count(selected, passed_over, server);
        let ends = inputs.expiries.iter().filter_map(|expiry| {
            let end = expiry.end?.as_second();
            Some((expiry.credential, (end, expiry.nearness(now) as i64)))
        });
        let state = ResourceState {
            ready,
            credentials: ends.collect(),
            token_issued_at: token.and_then(|token| token.issued_at.as_ref().map(seconds)),
            token_expires_at: token.and_then(|token| token.expires_at.as_ref().map(seconds)),
            client_certificate_expires_at: shown_until.map(|end| end.as_second()),
            pods_not_injected: fleet.not_injected,
            pods_with_warnings: fleet.warnings,
            pods_skipped: fleet.skipped,
            workloads_refused: refusals_by_reason(inputs),
            sidecars_behind: fleet.behind,
            sidecars_outdated: fleet.outdated,
            sidecars_too_old: fleet.too_old,
        };
        self.metrics.set_resource(resource_ref, &state);
    }

    async fn write(
        &self,
        resource: &McpServerAuth,
        resource_ref: &ResourceRef,
        new_status: McpServerAuthStatus,
        pulse: &Pulse,
    ) -> Result<(), StatusError> {
        let api = Api::<McpServerAuth>::namespaced(self.client.clone(), &resource_ref.namespace);
        let patch = serde_json::json!({
            "apiVersion": McpServerAuth::api_version(&()),
            "kind": McpServerAuth::kind(&()),
            "status": new_status,
        });
        let params = PatchParams::apply(STATUS_MANAGER).force();
        match with_deadline(api.patch_status(&resource_ref.name, &params, &Patch::Apply(&patch))).await {
            Ok(_) => {}
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(StatusError::Write(error)),
        }
        let events = events(resource.status.as_ref(), &new_status);
        self.records.written(resource, new_status);
        for event in events {
            pulse.beat();
            let object = resource.object_ref(&());
            self.events.resources.publish(&event, &object).await;
        }
        Ok(())
    }

    fn retry(&self, resource: &McpServerAuth, error: &StatusError) -> Action {
        self.metrics.reconcile_failed(error.reason());
        let wait = exponential(FIRST_RETRY, self.records.failed(resource), MAX_RETRY);
        let ResourceRef { namespace, name } = ResourceRef::from(resource);
        warn!(namespace, name, reason = error.reason(), %error, "trying again");
        Action::requeue(wait)
    }
}

/// While a new leader reads what the resource refers to, or requests its first token, what its predecessor said of
/// it holds.
fn is_said_already(resource: &McpServerAuth, issuance: &Issuance) -> bool {
    let is_pending = match &issuance.problem {
        Some(problem) => problem.is_pending(),
        None => issuance.token.in_use.is_none() && issuance.token.last_error.is_none(),
    };
    let status = resource.status.as_ref().filter(|status| !status.is_not_watched());
    is_pending && status.is_some_and(|status| status.observed_generation == resource.metadata.generation)
}

#[cfg(test)]
mod tests;
