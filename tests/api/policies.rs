//! Policies of the API server's own, which judge the pod that the webhook has changed: PodSecurity, ResourceQuota and
//! LimitRange.

use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota};
use kube::api::{Api, Patch, PatchParams, PostParams};
use mcp_auth_tests::resource::owned;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::{Value, json};

use crate::injection::{container, has_sidecar, litellm, world};

/// A pod that PodSecurity `restricted` takes as it is.
fn restricted(name: &str, profile_of_pod: bool) -> Value {
    let profile = json!({"type": "RuntimeDefault"});
    let mut pod = litellm(name, container());
    let context =
        json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}});
    pod["spec"]["containers"][0]["securityContext"] = context;
    match profile_of_pod {
        true => pod["spec"]["securityContext"] = json!({"seccompProfile": profile}),
        false => pod["spec"]["containers"][0]["securityContext"]["seccompProfile"] = profile,
    }
    pod
}

async fn enforce(world: &World, namespace: &str, level: &str) {
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let patch = Patch::Merge(labels);
    namespaces
        .patch(namespace, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// What becomes of the pod, without its being stored.
async fn tried(world: &World, pod: &Value) -> Result<Pod, String> {
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    let pods: Api<Pod> = world.api();
    pods.create(&trial, &pod).await.map_err(|error| error.to_string())
}

/// Why the pod starts as it was.
fn not_injected(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.as_ref().unwrap();
    annotations["mcpauth.dev/not-injected"].clone()
}

#[tokio::test]
async fn an_injected_pod_passes_pod_security_restricted_as_it_did_before() {
    let namespace = "policies-restricted";
    let world = world(namespace).await;
    enforce(&world, namespace, "restricted").await;
    // Without this the rest would show nothing.
    let plain = until(
        "the namespace's level is known",
        async || tried(&world, &litellm("plain", container())).await,
        Result::is_err,
    )
    .await;
    assert!(plain.unwrap_err().contains("PodSecurity"));
    for profile_of_pod in [true, false] {
        let pod = tried(&world, &restricted("restricted", profile_of_pod))
            .await
            .unwrap();
        assert!(has_sidecar(&pod), "{pod:?}");
    }
}

#[tokio::test]
async fn a_quota_that_demands_limits_and_a_limit_range_are_met_by_an_annotation_of_the_pod() {
    let world = world("policies-quota").await;
    let quotas: Api<ResourceQuota> = world.api();
    let hard = json!({"limits.cpu": "4", "limits.memory": "4Gi"});
    let quota = json!({"metadata": {"name": "quota"}, "spec": {"hard": hard}});
    let quota: ResourceQuota = serde_json::from_value(quota).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    // No controller runs here that would count what is used.
    let status =
        Patch::Merge(json!({"status": {"hard": hard, "used": {"limits.cpu": "0", "limits.memory": "0"}}}));
    quotas
        .patch_status("quota", &PatchParams::default(), &status)
        .await
        .unwrap();

    let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let mut pod = litellm("quota", container());
    // Without this the rest would show nothing.
    let refused = until(
        "the quota is known",
        async || tried(&world, &pod).await,
        Result::is_err,
    )
    .await;
    assert!(refused.unwrap_err().contains("limits.cpu for: litellm"));
    pod["spec"]["containers"][0]["resources"] = limits;
    let cpu_limit = |pod: &Pod| {
        let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.clone());
        serde_json::to_value(&containers.unwrap_or_default()[0].resources).unwrap()["limits"]["cpu"].clone()
    };
    // No workload makes the pod, so that nothing tells of the quota's amounts; what it demands is stated all the same.
    assert_eq!(cpu_limit(&tried(&world, &pod).await.unwrap()), "250m");
    pod["metadata"]["annotations"] =
        json!({"mcpauth.dev/resources": r#"{"limits": {"cpu": "200m", "memory": "256Mi"}}"#});
    assert_eq!(cpu_limit(&tried(&world, &pod).await.unwrap()), "200m");

    let ranges: Api<LimitRange> = world.api();
    let range = json!({"metadata": {"name": "range"}, "spec": {"limits": [
        {"type": "Container", "min": {"cpu": "150m", "memory": "200Mi"}},
    ]}});
    let range: LimitRange = serde_json::from_value(range).unwrap();
    ranges.create(&PostParams::default(), &range).await.unwrap();
    let left_alone = until(
        "the range is known",
        async || tried(&world, &pod).await,
        |tried| tried.as_ref().is_ok_and(|pod| !has_sidecar(pod)),
    )
    .await;
    let why = not_injected(&left_alone.unwrap());
    assert!(
        why.starts_with("OutsideLimitRange: ") && !why.contains("`range`") && !why.contains("150"),
        "{why}"
    );
    let stated =
        r#"{"requests": {"cpu": "150m", "memory": "200Mi"}, "limits": {"cpu": "200m", "memory": "256Mi"}}"#;
    pod["metadata"]["annotations"] = json!({"mcpauth.dev/resources": stated});
    let taken = tried(&world, &pod).await.unwrap();
    assert!(has_sidecar(&taken), "{taken:?}");
}

#[tokio::test]
async fn quotas_and_limit_ranges_are_met_without_an_annotation_or_the_pod_starts_as_it_was() {
    let world = world("policies-limits").await;
    let quotas: Api<ResourceQuota> = world.api();
    let quota =
        json!({"metadata": {"name": "team"}, "spec": {"hard": {"limits.cpu": "4", "limits.memory": "2Gi"}}});
    let quota: ResourceQuota = serde_json::from_value(quota).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    // No controller runs here that would count what is used.
    let count = async |used_memory: &str| {
        let hard = json!({"limits.cpu": "4", "limits.memory": "2Gi"});
        let used = json!({"limits.cpu": "0", "limits.memory": used_memory});
        let status = Patch::Merge(json!({"status": {"hard": hard, "used": used}}));
        quotas
            .patch_status("team", &PatchParams::default(), &status)
            .await
            .unwrap();
    };
    count("0").await;
    let mut pod = litellm("limits", container());
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    // Without this the rest would show nothing.
    let mut stateless = litellm("stateless", container());
    stateless["metadata"]["labels"] = json!({});
    let refused = until(
        "the quota is known",
        async || tried(&world, &stateless).await,
        Result::is_err,
    )
    .await;
    assert!(
        refused
            .unwrap_err()
            .contains("must specify limits.cpu for: litellm")
    );
    // A pod that no workload makes starts as well, and is told neither name nor amount.
    let bare = pod.clone();
    assert!(has_sidecar(&tried(&world, &bare).await.unwrap()));
    count("1Gi").await;
    let left_alone = until(
        "what is used is known",
        async || tried(&world, &bare).await,
        |tried| tried.as_ref().is_ok_and(|pod| !has_sidecar(pod)),
    )
    .await
    .unwrap();
    let why = not_injected(&left_alone);
    assert!(
        why.starts_with("ExceedsQuota: ") && !why.contains("team") && !why.contains("limits.memory"),
        "{why}"
    );
    count("0").await;
    until(
        "the room is known",
        async || tried(&world, &bare).await,
        |tried| tried.as_ref().is_ok_and(has_sidecar),
    )
    .await
    .unwrap();
    let pod = owned(&world, pod).await;
    let sidecar = |pod: &Pod| {
        let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.clone());
        serde_json::to_value(&containers.unwrap_or_default()[0].resources).unwrap()
    };
    let taken = tried(&world, &pod).await.unwrap();
    assert_eq!(sidecar(&taken)["limits"]["cpu"], "250m");

    let ranges: Api<LimitRange> = world.api();
    let range = json!({"metadata": {"name": "range"}, "spec": {"limits": [
        {"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1", "memory": "1Gi"},
         "maxLimitRequestRatio": {"memory": "2"}},
    ]}});
    let range: LimitRange = serde_json::from_value(range).unwrap();
    ranges.create(&PostParams::default(), &range).await.unwrap();
    until(
        "the range is known",
        async || sidecar(&tried(&world, &pod).await.unwrap())["requests"].clone(),
        |requests| requests["cpu"] == "50m",
    )
    .await;

    // Its own resources are not within the range, and are not changed: they would tell of it.
    let left_alone = until(
        "the range is known to the webhook",
        async || tried(&world, &bare).await,
        |tried| tried.as_ref().is_ok_and(|pod| !has_sidecar(pod)),
    )
    .await
    .unwrap();
    let why = not_injected(&left_alone);
    assert!(why.starts_with("OutsideLimitRange: "), "{why}");

    count("1Gi").await;
    let left_alone = until(
        "what is used is known",
        async || tried(&world, &pod).await,
        |tried| tried.as_ref().is_ok_and(|pod| !has_sidecar(pod)),
    )
    .await
    .unwrap();
    let why = not_injected(&left_alone);
    assert!(
        why.starts_with("ExceedsQuota: ") && why.contains("`team`"),
        "{why}"
    );
}

#[tokio::test]
async fn a_security_context_that_the_pod_states_for_the_sidecar_passes_pod_security_restricted() {
    let namespace = "policies-stated";
    let world = world(namespace).await;
    enforce(&world, namespace, "restricted").await;
    until(
        "the namespace's level is known",
        async || tried(&world, &litellm("plain", container())).await,
        Result::is_err,
    )
    .await
    .unwrap_err();
    let mut pod = restricted("stated", false);
    let stated = json!({
        "runAsUser": 1_000_700_000, "runAsGroup": 0, "seLinuxOptions": {"level": "s0:c26,c5", "type": "container_t"},
        "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/sidecar.json"},
        "appArmorProfile": {"type": "RuntimeDefault"},
    });
    pod["metadata"]["annotations"] = json!({"mcpauth.dev/security-context": stated.to_string()});
    let taken = tried(&world, &pod).await.unwrap();
    let taken = serde_json::to_value(taken).unwrap();
    let containers = taken["spec"]["initContainers"].as_array().unwrap();
    let sidecar = containers
        .iter()
        .find(|container| container["name"] == "mcpauth-sidecar")
        .unwrap();
    for (field, value) in stated.as_object().unwrap() {
        assert_eq!(&sidecar["securityContext"][field], value, "{field}");
    }
}

#[tokio::test]
async fn a_pod_that_states_resources_for_all_its_containers_together_is_taken_with_the_sidecar() {
    let world = world("policies-pod-level").await;
    let all = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
    let mut pod = litellm("pod-level", container());
    pod["spec"]["resources"] = all.clone();
    pod["spec"]["containers"][0]["resources"] = all;
    let taken = tried(&world, &pod).await.unwrap();
    assert!(has_sidecar(&taken), "{taken:?}");
    // Any request of another container is more than the pod states: without this the rest would show nothing.
    pod["metadata"]["annotations"] = json!({"mcpauth.dev/resources": r#"{"requests": {"cpu": "20m"}}"#});
    let refused = tried(&world, &pod).await.unwrap_err();
    assert!(refused.contains("aggregate container requests"), "{refused}");
}
