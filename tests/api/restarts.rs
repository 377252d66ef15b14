//! Workloads whose LiteLLM has to start again. No controller runs: the tests play the Deployment's, and the sidecar.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use mcp_auth_crds::{McpServerAuth, conditions, reasons};
use mcp_auth_protocol::sync::Report;
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::sidecar::Sidecar;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// A Deployment of one pod, which has a sidecar that is connected, unless it went past the webhook.
struct LiteLlm {
    world: World,
    name: String,
    /// Of its pods.
    labels: Value,
    owners: Value,
    /// As git would have it.
    manifest: Value,
    sidecar: Option<Sidecar>,
}

impl LiteLlm {
    async fn start(namespace: &str, name: &str) -> Self {
        let mut litellm = Self::without_pods(namespace, name).await;
        litellm.gets_injected_pod().await;
        litellm
    }

    async fn without_pods(namespace: &str, name: &str) -> Self {
        let world = World::in_namespace(namespace).await;
        let labels = json!({"app.kubernetes.io/name": "litellm", "instance": name});
        let template = json!({
            "metadata": {"labels": labels, "annotations": {"of-the-chart": "stays"}},
            "spec": {"containers": [{"name": "litellm", "image": "litellm"}]},
        });
        let spec = json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template});
        let deployment: Deployment = world
            .create(json!({"metadata": {"name": name}, "spec": spec}))
            .await
            .unwrap();
        let owner = |kind: &str, name: String, uid: Option<String>| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let owners = owner("Deployment", deployment.name_any(), deployment.uid());
        let metadata = json!({"name": format!("{name}-1"), "ownerReferences": owners});
        let replica_set: ReplicaSet = world
            .create(json!({"metadata": metadata, "spec": spec}))
            .await
            .unwrap();
        let owners = owner("ReplicaSet", replica_set.name_any(), replica_set.uid());
        Self {
            world,
            name: name.to_owned(),
            owners,
            labels,
            manifest: json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}),
            sidecar: None,
        }
    }

    /// As Argo CD does it when it heals, and Flux each time: whatever the manifest has is as the manifest has it.
    async fn is_applied_from_git(&self) -> Deployment {
        let params = PatchParams::apply("argocd-controller").force();
        let api: Api<Deployment> = self.world.api();
        api.patch(&self.name, &params, &Patch::Apply(&self.manifest))
            .await
            .unwrap()
    }

    /// As the ReplicaSet's controller makes it.
    async fn pod(&self, annotations: Value) -> Pod {
        let metadata = json!({
            "name": format!("{}-1-a", self.name),
            "labels": self.labels,
            "annotations": annotations,
            "ownerReferences": self.owners,
        });
        let containers = json!([{"name": "litellm", "image": "litellm"}]);
        let spec = json!({"serviceAccountName": "default", "containers": containers});
        self.world
            .create(json!({"metadata": metadata, "spec": spec}))
            .await
            .unwrap()
    }

    /// A pod that has the sidecar, which is connected and has taken over what it was sent.
    async fn gets_injected_pod(&mut self) {
        let pod = self.pod(json!({"mcpauth.dev/injected": "by the test"})).await;
        self.sidecar = Some(Sidecar::in_pod(&self.world, &pod).await);
        self.takes_over_until(|_| true).await;
    }

    /// The sidecar takes over what it is sent, until that is so of the servers' names.
    async fn takes_over_until(&mut self, is_enough: impl Fn(&[&str]) -> bool) {
        let sidecar = self.sidecar.as_mut().expect("it has one");
        loop {
            let snapshot = sidecar.next().await.expect("a snapshot");
            let servers: Vec<_> = snapshot.servers.iter().map(|it| &*it.route.server).collect();
            let is_last = is_enough(&servers);
            sidecar.say(|report| report.applied = Some(snapshot.revision));
            if is_last {
                return;
            }
        }
    }

    fn say(&mut self, change: impl FnOnce(&mut Report)) {
        self.sidecar.as_mut().expect("it has one").say(change);
    }

    async fn found(&self) -> Deployment {
        self.world.api().get(&self.name).await.unwrap()
    }

    /// How often the pod template was changed, beginning with 1.
    async fn generation(&self) -> i64 {
        self.found().await.metadata.generation.unwrap()
    }

    /// The Deployment's controller has seen the newest template, and so many of its one pod are replaced.
    async fn has_replaced(&self, pods: i32) {
        let status = json!({"status": {
            "observedGeneration": self.generation().await,
            "replicas": 1, "updatedReplicas": pods, "availableReplicas": 1, "readyReplicas": 1,
        }});
        let api: Api<Deployment> = self.world.api();
        api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    fn needs(&mut self, servers: &[&str]) {
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        self.say(|report| report.restart_needed_for = servers);
    }

    async fn until_restarted(&self, generation: i64) -> Deployment {
        let what = format!("{} to be restarted", self.name);
        until(
            &what,
            async || self.found().await,
            |found| found.metadata.generation == Some(generation),
        )
        .await
    }
}

fn annotation(deployment: &Deployment, key: &str) -> Option<String> {
    let template = &deployment.spec.as_ref()?.template;
    template
        .metadata
        .as_ref()?
        .annotations
        .as_ref()?
        .get(key)
        .cloned()
}

/// A namespace with a resource whose token is given.
async fn world(namespace: &str, restart: Value) -> World {
    let world = World::new(namespace, false).await;
    world.secret("token", "token", "a-given-t0ken-of-restarts").await;
    apply(&world, "tools", restart, "300s").await;
    world
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    world
}

async fn apply(world: &World, name: &str, restart: Value, timeout: &str) {
    let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
    let mut object = resource(name, &name.replace('-', "_"), given);
    if !restart.is_null() {
        object["spec"]["restart"] = restart;
    }
    object["spec"]["server"]["answerTimeout"] = json!(timeout);
    world.apply(&object).await.unwrap();
}

/// Until the resource says this of the restart that it waits for.
async fn until_said(world: &World, resource: &str, text: &str) {
    let said = async || message(&world.status(resource).await, conditions::SIDECARS_SYNCED);
    until(&format!("{resource} to say {text:?}"), said, |said| {
        said.contains(text)
    })
    .await;
}

#[tokio::test]
async fn a_workload_is_restarted_once_for_each_change() {
    let world = world("restarts-once", json!("Automatic")).await;
    let mut litellm = LiteLlm::start(&world.namespace, "litellm").await;
    litellm.has_replaced(1).await;
    litellm.needs(&["tools"]);
    let restarted = litellm.until_restarted(2).await;
    assert!(
        annotation(&restarted, RESTARTED_AT).is_some(),
        "as `kubectl rollout restart` does it"
    );
    assert_eq!(annotation(&restarted, "of-the-chart").as_deref(), Some("stays"));

    // It is being replaced, and then was, and the pod that is there now says the same.
    until_said(&world, "tools", "its pods are being replaced").await;
    litellm.has_replaced(1).await;
    until_said(&world, "tools", "was restarted for this once").await;
    assert_eq!(
        litellm.generation().await,
        2,
        "it did not help, and is not tried again"
    );

    // A changed resource is another change.
    apply(&world, "tools", json!("Automatic"), "200s").await;
    litellm.until_restarted(3).await;

    // So is a server that went, which LiteLLM still offers.
    litellm.has_replaced(1).await;
    apply(&world, "gone", Value::Null, "300s").await;
    world
        .condition("gone", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    litellm
        .takes_over_until(|servers| servers.contains(&"gone"))
        .await;
    world.delete::<McpServerAuth>("gone").await;
    litellm
        .takes_over_until(|servers| !servers.contains(&"gone"))
        .await;
    litellm.needs(&["gone", "made_up"]);
    litellm.until_restarted(4).await;
    until_said(&world, "tools", "still offers gone").await;
    litellm.has_replaced(1).await;
    until_said(&world, "tools", "was restarted for this once").await;
    // A name that no server ever had is another matter, and not restarted for.
    litellm.needs(&["another_made_up"]);
    until_said(&world, "tools", "still offers another_made_up").await;
    assert_eq!(litellm.generation().await, 4);
    litellm.needs(&[]);
    world
        .condition("tools", conditions::SIDECARS_SYNCED, "True", reasons::SYNCED)
        .await;
}

#[tokio::test]
async fn a_stateful_set_and_a_daemon_set_are_restarted_as_a_deployment_is() {
    let world = world("restarts-kinds", json!("Automatic")).await;
    let of_stateful_set = json!({"replicas": 1, "readyReplicas": 1});
    is_restarted::<StatefulSet>(&world, json!({"serviceName": "litellm"}), of_stateful_set).await;
    let of_daemon_set = json!({
        "currentNumberScheduled": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1,
        "numberAvailable": 1, "numberMisscheduled": 0,
    });
    is_restarted::<DaemonSet>(&world, json!({}), of_daemon_set).await;
}

/// A workload of this kind, with one pod, by the status that its controller writes.
async fn is_restarted<K>(world: &World, mut spec: Value, mut status: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let kind = K::kind(&());
    let name = kind.to_lowercase();
    let labels = json!({"app.kubernetes.io/name": "litellm", "instance": name});
    let containers = json!([{"name": "litellm", "image": "litellm"}]);
    spec["selector"] = json!({"matchLabels": labels});
    spec["template"] = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    let made: K = world
        .create(json!({"metadata": {"name": name}, "spec": spec}))
        .await
        .unwrap();
    let has_replaced = async |generation: i64, status: &mut Value| {
        status["observedGeneration"] = json!(generation);
        let patch = Patch::Merge(json!({"status": status}));
        let api = world.api::<K>();
        api.patch_status(&name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    has_replaced(1, &mut status).await;
    let owners = json!([
        {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": made.uid(), "controller": true},
    ]);
    let metadata = json!({
        "name": format!("{name}-0"), "labels": labels, "ownerReferences": owners,
        "annotations": {"mcpauth.dev/injected": "by the test"},
    });
    let pod =
        json!({"metadata": metadata, "spec": {"serviceAccountName": "default", "containers": containers}});
    let pod: Pod = world.create(pod).await.unwrap();
    let mut sidecar = Sidecar::in_pod(world, &pod).await;
    let revision = sidecar.next().await.expect("a snapshot").revision;
    sidecar.say(|report| {
        report.applied = Some(revision);
        report.restart_needed_for = vec!["tools".to_owned()];
    });
    let restarted = until(
        &format!("the {kind} to be restarted"),
        async || world.api::<K>().get(&name).await.unwrap(),
        |found| found.meta().generation == Some(2),
    )
    .await;
    let restarted = serde_json::to_value(restarted).unwrap();
    let at = restarted.pointer("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt");
    assert!(at.is_some(), "{restarted}");
    // Another is restarted once this one is well.
    sidecar.say(|report| report.restart_needed_for = Vec::new());
    has_replaced(2, &mut status).await;
}

#[tokio::test]
async fn what_git_has_is_applied_again_without_taking_a_restart_back_or_causing_another() {
    let world = world("restarts-git", json!("Automatic")).await;
    let mut litellm = LiteLlm::start(&world.namespace, "litellm").await;
    assert_eq!(litellm.is_applied_from_git().await.metadata.generation, Some(1));
    litellm.has_replaced(1).await;
    litellm.needs(&["tools"]);
    let restarted = litellm.until_restarted(2).await;
    let healed = litellm.is_applied_from_git().await;
    assert_eq!(
        healed.metadata.generation,
        Some(2),
        "nothing of it differs from git"
    );
    assert_eq!(healed.spec, restarted.spec);
    // Whoever heals a field that git has changes nothing of that either.
    let scaled = json!({"spec": {"replicas": 3}});
    let api: Api<Deployment> = world.api();
    api.patch("litellm", &PatchParams::default(), &Patch::Merge(scaled))
        .await
        .unwrap();
    let healed = litellm.is_applied_from_git().await;
    assert_eq!(healed.spec, restarted.spec);
    litellm.has_replaced(1).await;
    until_said(&world, "tools", "was restarted for this once").await;
    assert_eq!(litellm.found().await.spec, restarted.spec);
}

#[tokio::test]
async fn nothing_is_restarted_into_a_rollout_or_past_a_budget() {
    let world = world("restarts-wait", json!("Automatic")).await;
    let mut litellm = LiteLlm::start(&world.namespace, "litellm").await;
    litellm.has_replaced(0).await;
    litellm.needs(&["tools"]);
    until_said(&world, "tools", "its pods are being replaced").await;
    assert_eq!(litellm.generation().await, 1);

    let selector = json!({"matchLabels": {"instance": "litellm"}});
    world
        .create::<PodDisruptionBudget>(json!({
            "metadata": {"name": "guard"},
            "spec": {"maxUnavailable": 1, "selector": selector},
        }))
        .await
        .unwrap();
    let budgets: Api<PodDisruptionBudget> = world.api();
    let allow = async |disruptions: i32| {
        let status = json!({"status": {
            "disruptionsAllowed": disruptions, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
            "observedGeneration": 1,
        }});
        budgets
            .patch_status("guard", &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    };
    // Nobody has counted its pods yet.
    litellm.has_replaced(1).await;
    until_said(
        &world,
        "tools",
        "the PodDisruptionBudget guard allows no disruption",
    )
    .await;
    allow(0).await;
    assert_eq!(litellm.generation().await, 1);
    allow(1).await;
    litellm.until_restarted(2).await;
}

#[tokio::test]
async fn one_workload_of_a_namespace_is_restarted_at_a_time_and_only_where_it_is_asked_for() {
    let world = world("restarts-turns", json!("Automatic")).await;
    let mut first = LiteLlm::start(&world.namespace, "a").await;
    let mut second = LiteLlm::start(&world.namespace, "b").await;
    // What another resource waits for is its own matter, and this one says nothing of it.
    apply(&world, "by-hand", Value::Null, "300s").await;
    let mut third = LiteLlm::start(&world.namespace, "c").await;
    for litellm in [&first, &second, &third] {
        litellm.has_replaced(1).await;
    }
    third.needs(&["by_hand"]);
    first.needs(&["tools"]);
    first.until_restarted(2).await;
    second.needs(&["tools"]);
    until_said(&world, "tools", "the pods of Deployment a are being replaced").await;
    assert_eq!(second.generation().await, 1);
    first.needs(&[]);
    first.has_replaced(1).await;
    second.until_restarted(2).await;
    second.needs(&[]);
    second.has_replaced(1).await;
    world
        .condition("tools", conditions::SIDECARS_SYNCED, "True", reasons::SYNCED)
        .await;
    let status = world
        .condition(
            "by-hand",
            conditions::SIDECARS_SYNCED,
            "False",
            reasons::RESTART_NEEDED,
        )
        .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(
        said.contains("kubectl rollout restart") && said.contains("c-1-a"),
        "{said}"
    );
    assert_eq!(third.generation().await, 1, "nobody asked for it");
}

#[tokio::test]
async fn sidecars_that_are_too_old_are_counted_and_restarted() {
    let world = world("restarts-too-old", json!("Automatic")).await;
    let mut litellm = LiteLlm::start(&world.namespace, "litellm").await;
    litellm.has_replaced(1).await;
    litellm.say(|report| report.version = "0.0.0".into());
    let too_old = mcp_auth_protocol::sync::Problem::new("SidecarTooOld", "it knows too little");
    litellm.say(|report| report.problems = vec![too_old]);
    litellm.until_restarted(2).await;
    let status = async || world.status("tools").await;
    let status = until("the sidecar to be counted", status, |status| {
        status.sidecars.as_ref().is_some_and(|counts| counts.too_old == 1)
    })
    .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(said.contains("SidecarTooOld"), "{said}");
}

/// A pod counts as starting for a minute, so this takes a little longer.
#[tokio::test]
async fn a_workload_whose_pods_went_past_the_webhook_is_restarted_once_its_namespace_has_opted_in() {
    let world = world("restarts-uninjected", json!("Automatic")).await;
    let litellm = LiteLlm::without_pods(&world.namespace, "litellm").await;
    litellm.pod(json!({})).await;
    litellm.has_replaced(1).await;
    // A restart would change nothing while the namespace has no label: its pods would go past the webhook again.
    let status = world
        .condition(
            "tools",
            conditions::SIDECARS_SYNCED,
            "False",
            reasons::PODS_NOT_INJECTED,
        )
        .await;
    let said = message(&status, conditions::SIDECARS_SYNCED);
    assert!(said.contains("mcpauth.dev/injection"), "{said}");
    assert_eq!(litellm.generation().await, 1);

    let label = json!({"metadata": {"labels": {"mcpauth.dev/injection": "enabled"}}});
    Api::<Namespace>::all(world.client.clone())
        .patch(&world.namespace, &PatchParams::default(), &Patch::Merge(label))
        .await
        .unwrap();
    let restarted = litellm.until_restarted(2).await;
    assert!(annotation(&restarted, RESTARTED_AT).is_some());

    // Where the new pod went past the webhook too, it is said, and nothing is restarted again.
    litellm.has_replaced(1).await;
    until_said(&world, "tools", "was restarted for this once").await;
    assert_eq!(litellm.generation().await, 2);
    let status = world.status("tools").await;
    assert_eq!(status.sidecars.unwrap().not_injected, 1);
}
