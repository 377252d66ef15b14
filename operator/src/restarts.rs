//! Restarts: rolls the workloads whose LiteLLM has to start again, where resources ask for it (`spec.restart`): once for
//! each change, one workload of a namespace at a time, and never into a rollout. [`causes`] says which pods need it and
//! why, [`workload`] reads and patches what they belong to, [`decision`] says what becomes of it; all pure but for the
//! requests in between.
//!
//! What is written is the pod template's annotation `kubectl.kubernetes.io/restartedAt`, as by `kubectl rollout restart`,
//! and beside it what it was for. GitOps tools compare the fields that they manage, and these are none of them.

mod causes;
mod decision;
mod workload;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use mcp_auth_crds::McpServerAuth;
use mcp_auth_credentials::ResourceRef;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::args::RestartMode;
use crate::entitlement::{Labels, selects};
use crate::namespaces::{NamespaceInjection, Namespaces};
use crate::pods::{Pods, WatchedPod, is_starting, ought_to_be_injected};
use crate::resources::Resources;
use crate::sidecars::Sidecars;
use causes::{Cause, Facts, causes, restarts};
use decision::{Decision, decide};
use workload::{Workload, WorkloadName, Workloads};

/// How often it is looked what needs a restart. What does not is decided without a request.
const INTERVAL: Duration = Duration::from_secs(5);
/// A workload that was restarted for all there is to restart it for is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
/// A workload is restarted for servers that went once in this time: it is sidecars that report them.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Workloads of a namespace that are looked at; LiteLLM has a few.
const MAX_WORKLOADS: usize = 32;

/// What became of the restart that a resource waits for, as the end of a condition's message. Cheap to clone; all clones
/// are the same.
#[derive(Clone, Default)]
pub struct RestartOutcomes(Arc<Mutex<HashMap<ResourceRef, String>>>);

impl RestartOutcomes {
    pub fn get(&self, resource: &ResourceRef) -> Option<String> {
        self.0.lock().get(resource).cloned()
    }

    /// Makes these the outcomes of a namespace. Those that changed.
    fn replace(&self, namespace: &str, outcomes: BTreeMap<ResourceRef, String>) -> Vec<ResourceRef> {
        let mut known = self.0.lock();
        let of_namespace = |resource: &&ResourceRef| resource.namespace == namespace;
        let mut changed: BTreeSet<ResourceRef> = known.keys().filter(of_namespace).cloned().collect();
        changed.extend(outcomes.keys().cloned());
        changed.retain(|resource| known.get(resource) != outcomes.get(resource));
        known.retain(|resource, _| resource.namespace != namespace);
        known.extend(outcomes);
        changed.into_iter().collect()
    }
}

pub struct Restarts {
    pub mode: RestartMode,
    pub resources: Resources,
    pub pods: Pods,
    pub sidecars: Sidecars,
    pub outcomes: RestartOutcomes,
    /// For the status: resources whose outcome changed.
    pub status_due: mpsc::UnboundedSender<ResourceRef>,
    workloads: Workloads,
    namespaces: Arc<Namespaces>,
    settled: Mutex<HashMap<(String, WorkloadName), Settled>>,
    /// When this replica restarted a workload for a server that went, of the last [`REMOVAL_INTERVAL`].
    removals: Mutex<HashMap<(String, WorkloadName), tokio::time::Instant>>,
}

/// All that there was to restart a workload for, with its youngest pod without a sidecar, and since when it is known that this
/// was done.
type Settled = (BTreeSet<Cause>, Option<Timestamp>, tokio::time::Instant);

/// The pods of one workload, and what they need.
#[derive(Default)]
struct Needs {
    causes: BTreeSet<Cause>,
    /// Resources that wait for it.
    waiting: BTreeSet<ResourceRef>,
    /// A pod of it is starting, or nothing is known of its sidecar yet.
    is_unknown: bool,
    /// When the youngest pod that it needs replaced for want of a sidecar was made.
    newest_missed: Option<Timestamp>,
}

impl Restarts {
    pub fn new(
        client: Client,
        namespaces: Arc<Namespaces>,
        mode: RestartMode,
        (resources, pods, sidecars): (Resources, Pods, Sidecars),
        outcomes: RestartOutcomes,
        status_due: mpsc::UnboundedSender<ResourceRef>,
    ) -> Self {
        Self {
            mode,
            resources,
            pods,
            sidecars,
            outcomes,
            status_due,
            workloads: Workloads::new(client),
            namespaces,
            settled: Mutex::default(),
            removals: Mutex::default(),
        }
    }

    /// Restarts for as long as it is polled.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for namespace in self.resources.namespaces() {
                let outcomes = self.restart_in(&namespace).await;
                for changed in self.outcomes.replace(&namespace, outcomes) {
                    // Without a receiver the operator is stopping.
                    let _ = self.status_due.send(changed);
                }
            }
        }
    }

    async fn restart_in(&self, namespace: &str) -> BTreeMap<ResourceRef, String> {
        let resources = self.resources.in_namespace(namespace).unwrap_or_default();
        if self.mode == RestartMode::Never {
            let asking = resources
                .iter()
                .filter(|resource| restarts(resource, RestartMode::OnRequest));
            let text = "spec.restart is Automatic, and the operator may not restart workloads: ask who runs mcp-auth to set \
                        restart.mode of the chart";
            return asking
                .map(|resource| (ResourceRef::from(&**resource), text.to_owned()))
                .collect();
        }
        let automatic: Vec<_> = resources
            .iter()
            .filter(|resource| restarts(resource, self.mode))
            .cloned()
            .collect();
        let pods = self.pods.in_namespace(namespace).unwrap_or_default();
        let had_server =
            |server: &str, pod: &WatchedPod| self.resources.had_server(namespace, server, pod.created);
        let facts = Facts {
            namespace: &NamespaceInjection::OptedIn,
            scope: self.namespaces.scope(),
            now: Timestamp::now(),
            had_server: &had_server,
        };
        if automatic.is_empty() || !self.is_any_in_need(&automatic, &resources, &pods, facts).await {
            return BTreeMap::new();
        }
        let facts = Facts {
            namespace: &self.namespaces.injection(namespace).await,
            ..facts
        };
        let needs = self.needs(namespace, &automatic, &resources, &pods, facts).await;
        self.restart_one(namespace, needs).await
    }

    /// Asks nobody: most of the time no pod needs anything.
    async fn is_any_in_need(
        &self,
        automatic: &[Arc<McpServerAuth>],
        resources: &[Arc<McpServerAuth>],
        pods: &[Arc<WatchedPod>],
        facts: Facts<'_>,
    ) -> bool {
        let mut by_labels: HashMap<&Labels, Vec<&Arc<McpServerAuth>>> = HashMap::new();
        for pod in pods.iter().filter(|pod| is_candidate(pod)) {
            if !by_labels.contains_key(pod.labels()) {
                // Other work of the task, such as reconciling, has its turn.
                tokio::task::yield_now().await;
            }
            let selecting = by_labels
                .entry(pod.labels())
                .or_insert_with(|| automatic.iter().filter(|it| is_selected(it, pod)).collect());
            let sidecar = self.sidecars.get(&pod.uid);
            let is_needed = |resource: &&Arc<McpServerAuth>| {
                !causes(resource, resources, pod, sidecar.as_deref(), facts).is_empty()
            };
            if selecting.iter().any(is_needed) {
                return true;
            }
        }
        false
    }

    /// By workload, all of LiteLLM's in the namespace.
    async fn needs(
        &self,
        namespace: &str,
        automatic: &[Arc<McpServerAuth>],
        resources: &[Arc<McpServerAuth>],
        pods: &[Arc<WatchedPod>],
        facts: Facts<'_>,
    ) -> BTreeMap<WorkloadName, Needs> {
        let mut needs: BTreeMap<WorkloadName, Needs> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| is_candidate(pod)) {
            if !resources.iter().any(|resource| is_selected(resource, pod)) {
                continue;
            }
            let Some(owner) = self.workloads.owner(namespace, pod).await else {
                continue;
            };
            if needs.len() >= MAX_WORKLOADS && !needs.contains_key(&owner) {
                continue;
            }
            let sidecar = self.sidecars.get(&pod.uid);
            let entry = needs.entry(owner).or_default();
            entry.is_unknown |= match &sidecar {
                Some(sidecar) => sidecar.is_awaited,
                None => is_starting(pod, facts.now),
            };
            for resource in automatic.iter().filter(|resource| is_selected(resource, pod)) {
                let found = causes(resource, resources, pod, sidecar.as_deref(), facts);
                if found
                    .iter()
                    .any(|cause| matches!(cause, Cause::NotInjected { .. }))
                {
                    entry.newest_missed = entry.newest_missed.max(pod.created);
                }
                if !found.is_empty() {
                    entry.waiting.insert(ResourceRef::from(&**resource));
                    entry.causes.extend(found);
                }
            }
        }
        needs
    }

    /// Restarts one workload at the most, and says of each resource what becomes of the restart that it waits for.
    async fn restart_one(
        &self,
        namespace: &str,
        needs: BTreeMap<WorkloadName, Needs>,
    ) -> BTreeMap<ResourceRef, String> {
        let mut outcomes = BTreeMap::new();
        let is_settled = |name: &WorkloadName, need: &Needs| {
            need.causes.is_empty() || self.is_settled(namespace, name, need)
        };
        let in_need = || needs.iter().filter(|(_, need)| !need.causes.is_empty());
        // Where all was done that there is to do, nobody is asked.
        if needs.iter().all(|(name, need)| is_settled(name, need)) {
            for (name, need) in in_need() {
                let done = need.waiting.iter().map(|resource| (resource.clone(), done(name)));
                outcomes.extend(done);
            }
            return outcomes;
        }
        let mut objects = BTreeMap::new();
        for (name, need) in &needs {
            let object = match (is_settled(name, need), self.workloads.get(namespace, name).await) {
                (_, Ok(object)) => Ok(object),
                // One that needs nothing and cannot be read, such as of a custom kind, is in nobody's way.
                (true, Err(_)) => continue,
                (false, Err(problem)) => Err(problem),
            };
            objects.insert(name.clone(), object);
        }
        // While any is being replaced, no other one is.
        let now = Timestamp::now();
        let busy = objects.iter().find_map(|(name, object)| {
            let (object, need) = (object.as_ref().ok()?, needs.get(name)?);
            let needs_restart = !object.unrecorded(&need.causes, need.newest_missed).is_empty();
            object.holds_up_others(needs_restart, now).then(|| name.clone())
        });
        let mut is_begun = false;
        for (name, need) in needs.iter().filter(|(_, need)| !need.causes.is_empty()) {
            let Some(object) = objects.get(name) else { continue };
            let text = match object {
                Err(problem) => problem.clone(),
                Ok(object) => {
                    self.decide(namespace, name, need, object, busy.as_ref(), &mut is_begun)
                        .await
                }
            };
            for resource in &need.waiting {
                outcomes.insert(resource.clone(), text.clone());
            }
        }
        outcomes
    }

    async fn decide(
        &self,
        namespace: &str,
        name: &WorkloadName,
        need: &Needs,
        object: &Workload,
        busy: Option<&WorkloadName>,
        is_begun: &mut bool,
    ) -> String {
        let new = object.unrecorded(&need.causes, need.newest_missed);
        let decision = decide(object, &new, need.is_unknown, busy.filter(|_| !*is_begun));
        let is_removal = |cause: &Cause| matches!(cause, Cause::ServerRemoved { .. });
        let decision = match decision {
            Decision::Restart if new.iter().all(is_removal) && self.was_removal(namespace, name) => {
                Decision::Wait("for servers that went it is restarted once an hour at most".into())
            }
            Decision::Restart if *is_begun => {
                Decision::Wait("another workload of the namespace is restarted first".into())
            }
            Decision::Restart => match self.workloads.blocking_budget(namespace, object).await {
                Ok(None) => Decision::Restart,
                Ok(Some(budget)) => Decision::Wait(format!(
                    "the PodDisruptionBudget {budget} allows no disruption now"
                )),
                Err(problem) => Decision::Wait(problem),
            },
            decision => decision,
        };
        match decision {
            Decision::Restart => {
                *is_begun = true;
                match self
                    .workloads
                    .restart(namespace, name, object, &need.causes)
                    .await
                {
                    Ok(()) => {
                        if new.iter().any(is_removal) {
                            let key = (namespace.to_owned(), name.clone());
                            self.removals.lock().insert(key, tokio::time::Instant::now());
                        }
                        let why: Vec<String> = new.iter().map(ToString::to_string).collect();
                        info!(namespace, workload = %name, ?why, "a workload is restarted");
                        format!("the operator restarts {name} (spec.restart)")
                    }
                    Err(problem) => {
                        warn!(namespace, workload = %name, problem, "a workload could not be restarted");
                        problem
                    }
                }
            }
            Decision::Wait(why) => format!("the operator restarts {name} (spec.restart) once it can: {why}"),
            Decision::Done => {
                let key = (namespace.to_owned(), name.clone());
                let now = tokio::time::Instant::now();
                let mut settled = self.settled.lock();
                settled.retain(|_, (_, _, since)| now.duration_since(*since) < LOOK_AGAIN);
                settled.insert(key, (need.causes.clone(), need.newest_missed, now));
                done(name)
            }
            Decision::Impossible(why) => format!("the operator cannot restart {name}: {why}"),
        }
    }

    /// Whether it was restarted for a server that went a while ago.
    fn was_removal(&self, namespace: &str, name: &WorkloadName) -> bool {
        let mut removals = self.removals.lock();
        removals.retain(|_, at| at.elapsed() < REMOVAL_INTERVAL);
        removals.contains_key(&(namespace.to_owned(), name.clone()))
    }

    fn is_settled(&self, namespace: &str, name: &WorkloadName, need: &Needs) -> bool {
        let settled = self.settled.lock();
        let known = settled.get(&(namespace.to_owned(), name.clone()));
        known.is_some_and(|(causes, made, _)| *causes == need.causes && *made == need.newest_missed)
    }
}

/// What is said of a workload that was restarted for all that there is to restart it for.
fn done(name: &WorkloadName) -> String {
    format!(
        "{name} was restarted for this once (spec.restart), and is not again: look at its pods, or restart it yourself"
    )
}

fn is_candidate(pod: &WatchedPod) -> bool {
    ought_to_be_injected(pod)
}

fn is_selected(resource: &McpServerAuth, pod: &WatchedPod) -> bool {
    selects(&resource.spec.pod_selector, pod.labels())
}

#[cfg(test)]
mod tests;
