//! The workloads that LiteLLM's pods belong to: which one, whether it is at rest, what it was restarted for, and the
//! restart itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::causes::Cause;
use crate::api_server::with_deadline;
use crate::entitlement::selects;
use crate::inject::annotations::RESTARTED_FOR;
use crate::pod_owners::controller;
use crate::pods::WatchedPod;

/// By `kubectl rollout restart`, and by GitOps tools' own restart.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// How long after a restart a pod without a sidecar is no more one of those that the restart made.
const LATER_OUTAGE: SignedDuration = SignedDuration::from_hours(1);
/// The kinds that are restarted.
const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];
/// Owners of pods that are remembered.
const MAX_OWNERS: usize = 4096;
/// Field manager of the restart.
const MANAGER: &str = "mcp-auth-operator";

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkloadName {
    pub kind: String,
    pub name: String,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

impl From<&OwnerReference> for WorkloadName {
    fn from(owner: &OwnerReference) -> Self {
        Self {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        }
    }
}

/// A workload as the API server has it.
#[derive(Debug)]
pub struct Workload {
    kind: String,
    object: Value,
}

impl Workload {
    pub fn new(kind: &str, object: Value) -> Self {
        Self {
            kind: kind.to_owned(),
            object,
        }
    }

    fn number(&self, path: &str) -> i64 {
        self.object
            .pointer(path)
            .and_then(Value::as_i64)
            .unwrap_or_default()
    }

    fn text(&self, path: &str) -> &str {
        self.object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether its pods are being replaced, or not all of them serve.
    pub fn is_rolling(&self) -> bool {
        if self.number("/status/observedGeneration") < self.number("/metadata/generation") {
            return true;
        }
        let wanted = self
            .object
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        let counts: &[&str] = match self.kind.as_str() {
            "Deployment" => &[
                "/status/replicas",
                "/status/updatedReplicas",
                "/status/availableReplicas",
            ],
            "StatefulSet" => &["/status/replicas", "/status/readyReplicas"],
            _ => {
                let wanted = self.number("/status/desiredNumberScheduled");
                let counts = ["/status/updatedNumberScheduled", "/status/numberAvailable"];
                return counts.iter().any(|count| self.number(count) != wanted);
            }
        };
        let is_replaced = self.text("/status/currentRevision") == self.text("/status/updateRevision");
        counts.iter().any(|count| self.number(count) != wanted) || !is_replaced
    }

    /// Why a changed pod template would replace no pod.
    pub fn is_not_restartable(&self) -> Option<&'static str> {
        if self.object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
            return Some("it is paused (spec.paused)");
        }
        if self.text("/spec/updateStrategy/type") == "OnDelete" {
            return Some("its pods are replaced only when they are deleted (updateStrategy OnDelete)");
        }
        (self.number("/spec/updateStrategy/rollingUpdate/partition") > 0)
            .then_some("not all of its pods are replaced (updateStrategy.rollingUpdate.partition)")
    }

    /// Whether no other workload may be restarted meanwhile. One that no restart would replace stays as it is for ever, and one
    /// that crashes after its rollout (`needs_restart` is false) would not get better by a wait.
    pub fn holds_up_others(&self, needs_restart: bool, now: Timestamp) -> bool {
        self.is_not_restartable().is_none()
            && self.is_rolling()
            && (needs_restart || !self.is_rollout_complete(now))
    }

    /// Whether its pods are those of its present template and were available once, as its controller says, whether they are now
    /// or not. Of a DaemonSet no status says so: its last restart has to be [`LATER_OUTAGE`] ago.
    fn is_rollout_complete(&self, now: Timestamp) -> bool {
        if self.number("/status/observedGeneration") < self.number("/metadata/generation") {
            return false;
        }
        match self.kind.as_str() {
            "Deployment" => {
                let conditions = self
                    .object
                    .pointer("/status/conditions")
                    .and_then(Value::as_array);
                conditions.into_iter().flatten().any(|condition| {
                    condition["type"] == "Progressing" && condition["reason"] == "NewReplicaSetAvailable"
                })
            }
            // They are the same again once all pods are replaced and ready.
            "StatefulSet" => self.text("/status/currentRevision") == self.text("/status/updateRevision"),
            _ => {
                let is_replaced = self.number("/status/updatedNumberScheduled")
                    == self.number("/status/desiredNumberScheduled");
                let restarted_at: Option<Timestamp> = self.template_annotation(RESTARTED_AT).parse().ok();
                is_replaced && restarted_at.is_none_or(|at| now.duration_since(at) > LATER_OUTAGE)
            }
        }
    }

    /// Those of these causes that it was not restarted for. `newest_missed` is when the youngest of its pods without a sidecar
    /// was made.
    pub fn unrecorded(&self, causes: &BTreeSet<Cause>, newest_missed: Option<Timestamp>) -> BTreeSet<Cause> {
        let recorded: BTreeSet<&str> = self.template_annotation(RESTARTED_FOR).split(',').collect();
        let restarted_at: Option<Timestamp> = self.template_annotation(RESTARTED_AT).parse().ok();
        // The pods of that restart are long made: this one missed the webhook by another outage.
        let is_of_later_outage = restarted_at
            .zip(newest_missed)
            .is_some_and(|(restarted, made)| made.duration_since(restarted) > LATER_OUTAGE);
        let is_new = |cause: &&Cause| {
            let is_spent = is_of_later_outage && matches!(cause, Cause::NotInjected { .. });
            is_spent || !recorded.contains(&*cause.digest())
        };
        causes.iter().filter(is_new).cloned().collect()
    }

    fn template_annotation(&self, name: &str) -> &str {
        self.text(&format!(
            "/spec/template/metadata/annotations/{}",
            name.replace('/', "~1")
        ))
    }

    fn template_labels(&self) -> BTreeMap<String, String> {
        let labels = self.object.pointer("/spec/template/metadata/labels");
        labels
            .and_then(|labels| serde_json::from_value(labels.clone()).ok())
            .unwrap_or_default()
    }
}

pub struct Workloads {
    client: Client,
    /// What there is of that name and UID.
    owners: Mutex<HashMap<OwnerKey, Option<Owner>>>,
}

/// Namespace, kind, name and UID, as a pod states them.
type OwnerKey = (String, String, String, String);

/// What looks after pods, and what made it.
#[derive(Clone)]
struct Owner {
    selector: LabelSelector,
    workload: WorkloadName,
}

impl Workloads {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            owners: Mutex::default(),
        }
    }

    /// What made the pod: a Deployment rather than its ReplicaSet. Nothing of a pod that was made by hand, whatever it states as its
    /// owner: that is none of its pods unless it selects it.
    pub async fn owner(&self, namespace: &str, pod: &WatchedPod) -> Option<WorkloadName> {
        let owner = pod.owner()?;
        let is_replica_set = owner.kind == "ReplicaSet";
        if !is_replica_set && !KINDS.contains(&&*owner.kind) {
            return Some(owner.into());
        }
        let key = (
            namespace.to_owned(),
            owner.kind.clone(),
            owner.name.clone(),
            owner.uid.clone(),
        );
        let known = self.owners.lock().get(&key).cloned();
        let found = match known {
            Some(known) => known,
            None => match self.find(namespace, owner).await {
                Ok(found) => {
                    let mut owners = self.owners.lock();
                    if owners.len() >= MAX_OWNERS {
                        owners.clear();
                    }
                    owners.insert(key, found.clone());
                    found
                }
                // What could not be asked is asked again; why it cannot is told where the workload is.
                Err(_) => return (!is_replica_set).then(|| owner.into()),
            },
        };
        let found = found.filter(|found| selects(&found.selector, pod.labels()))?;
        Some(found.workload)
    }

    async fn find(&self, namespace: &str, owner: &OwnerReference) -> kube::Result<Option<Owner>> {
        let found = with_deadline(self.api(namespace, &owner.kind).get_opt(&owner.name)).await?;
        let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&owner.uid));
        let to_owner = |found: DynamicObject| {
            let selector = found.data.pointer("/spec/selector")?;
            let made_by = match owner.kind == "ReplicaSet" {
                true => controller(found.owner_references()),
                false => None,
            };
            Some(Owner {
                selector: serde_json::from_value(selector.clone()).ok()?,
                workload: made_by.map_or_else(|| owner.into(), WorkloadName::from),
            })
        };
        Ok(found.and_then(to_owner))
    }

    fn api(&self, namespace: &str, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// The workload, or why it cannot be restarted, for people.
    pub async fn get(&self, namespace: &str, name: &WorkloadName) -> Result<Workload, String> {
        if !KINDS.contains(&&*name.kind) {
            return Err(format!(
                "the operator restarts Deployments, StatefulSets and DaemonSets, and the pods are of {name}: restart it \
                 yourself"
            ));
        }
        let found = with_deadline(self.api(namespace, &name.kind).get(&name.name)).await;
        let found = found.map_err(|error| failed("read", name, &error))?;
        let object = serde_json::to_value(&found).map_err(|_| format!("{name} cannot be read"))?;
        Ok(Workload::new(&name.kind, object))
    }

    /// A PodDisruptionBudget of the workload's pods that allows no disruption now. Rollouts do not ask budgets by
    /// themselves.
    pub async fn blocking_budget(
        &self,
        namespace: &str,
        workload: &Workload,
    ) -> Result<Option<String>, String> {
        let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), namespace);
        let budgets = with_deadline(api.list(&ListParams::default())).await;
        let budgets =
            budgets.map_err(|error| format!("PodDisruptionBudgets could not be listed: {error}"))?;
        let labels = workload.template_labels();
        let blocking = budgets.items.iter().find(|budget| blocks(budget, &labels));
        Ok(blocking.map(ResourceExt::name_any))
    }

    /// Replaces the pods, by a pod template that differs in two annotations. Nothing is written where somebody else has
    /// changed the workload meanwhile.
    pub async fn restart(
        &self,
        namespace: &str,
        name: &WorkloadName,
        workload: &Workload,
        causes: &BTreeSet<Cause>,
    ) -> Result<(), String> {
        let digests: Vec<String> = causes.iter().map(Cause::digest).collect();
        let annotations = json!({
            RESTARTED_AT: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            RESTARTED_FOR: digests.join(","),
        });
        let patch = json!({
            "metadata": {"resourceVersion": workload.text("/metadata/resourceVersion")},
            "spec": {"template": {"metadata": {"annotations": annotations}}},
        });
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(namespace, &name.kind);
        let patched = with_deadline(api.patch(&name.name, &params, &Patch::Merge(&patch))).await;
        patched
            .map(|_| ())
            .map_err(|error| failed("restart", name, &error))
    }
}

/// Whether the budget is of pods with these labels and allows no disruption. One that no controller has looked at yet, as it is
/// now, allows none: so it is with evictions.
fn blocks(budget: &PodDisruptionBudget, labels: &BTreeMap<String, String>) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let status = budget.status.as_ref();
    let allowed = status.map_or(0, |status| status.disruptions_allowed);
    let observed = status.and_then(|status| status.observed_generation);
    let is_observed = observed.unwrap_or_default() >= budget.metadata.generation.unwrap_or_default();
    selector.is_some_and(|selector| selects(selector, labels)) && (allowed <= 0 || !is_observed)
}

fn failed(what: &str, name: &WorkloadName, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the operator may not {what} {name}: it needs get and patch of it, as restart.mode of the chart grants"
        ),
        kube::Error::Api(status) if status.code == 409 => {
            format!("the operator could not {what} {name}, which has just changed, and tries again")
        }
        error => format!("the operator could not {what} {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes() -> BTreeSet<Cause> {
        let resource = "uid-tools".to_owned();
        [
            Cause::NotInjected { resource },
            Cause::ServerRemoved { server: "old".into() },
        ]
        .into()
    }

    fn restarted(annotations: Value) -> Workload {
        let spec = json!({"template": {"metadata": {"annotations": annotations}}});
        Workload::new(
            "Deployment",
            json!({"metadata": {"name": "litellm"}, "spec": spec}),
        )
    }

    #[test]
    fn a_pod_that_misses_the_webhook_long_after_the_restart_is_a_cause_again_and_nothing_else_is() {
        let digests: Vec<String> = causes().iter().map(Cause::digest).collect();
        let workload = restarted(json!({
            RESTARTED_AT: "2026-01-01T00:00:00Z",
            RESTARTED_FOR: digests.join(","),
        }));
        let unrecorded = |made: Option<&str>| -> Vec<String> {
            let made = made.map(|made| made.parse().unwrap());
            let unrecorded = workload.unrecorded(&causes(), made);
            unrecorded.iter().map(ToString::to_string).collect()
        };
        for of_that_restart in [
            None,
            Some("2025-12-31T00:00:00Z"),
            Some("2026-01-01T00:05:00Z"),
            Some("2026-01-01T01:00:00Z"),
        ] {
            assert!(unrecorded(of_that_restart).is_empty(), "{of_that_restart:?}");
        }
        assert_eq!(unrecorded(Some("2026-04-01T00:00:00Z")), ["uninjected:uid-tools"]);
    }

    #[test]
    fn a_budget_blocks_where_it_allows_nothing_or_where_nobody_has_counted_yet() {
        let labels = BTreeMap::from([("app".to_owned(), "litellm".to_owned())]);
        let budget = |app: &str, status: Value| -> PodDisruptionBudget {
            serde_json::from_value(json!({
                "metadata": {"name": "guard", "generation": 2},
                "spec": {"selector": {"matchLabels": {"app": app}}},
                "status": status,
            }))
            .unwrap()
        };
        let counted = |allowed: i32, generation: i64| {
            json!({"disruptionsAllowed": allowed, "observedGeneration": generation,
                   "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1})
        };
        assert!(!blocks(&budget("litellm", counted(1, 2)), &labels));
        for status in [counted(0, 2), counted(1, 1), Value::Null] {
            assert!(blocks(&budget("litellm", status.clone()), &labels), "{status}");
            assert!(!blocks(&budget("other", status), &labels), "of other pods");
        }
    }

    #[test]
    fn a_restart_is_recorded_by_its_digests_where_its_time_is_missing_or_of_no_form() {
        let digests: Vec<String> = causes().iter().map(Cause::digest).collect();
        let made = Some("2026-04-01T00:00:00Z".parse().unwrap());
        for annotations in [
            json!({RESTARTED_FOR: digests.join(",")}),
            json!({RESTARTED_AT: "yesterday", RESTARTED_FOR: digests.join(",")}),
        ] {
            assert!(restarted(annotations).unrecorded(&causes(), made).is_empty());
        }
        assert_eq!(restarted(json!({})).unrecorded(&causes(), made), causes());
    }
}
