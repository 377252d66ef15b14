//! Policies of platforms, held against injected pods: the rules of OpenShift's security context constraints and of the
//! policies that Gatekeeper and Kyverno publish, as far as they concern a container that is added.

use serde_json::{Value, json};

use crate::api_server::admitted;
use crate::input::{Input, injecting, list, sidecar};

/// The range that OpenShift gives a namespace.
const RANGE: std::ops::RangeInclusive<i64> = 1_000_700_000..=1_000_709_999;
/// Kinds of volume that `restricted-v2` and `anyuid` allow.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// A pod of LiteLLM with these annotations, and this in the spec and in LiteLLM's container.
fn injected(annotations: &Value, of_pod: &Value, of_container: &Value) -> Value {
    let mut container = json!({
        "name": "litellm", "image": "ghcr.io/berriai/litellm:v1.85.1", "args": ["--port", "4000"],
        "ports": [{"containerPort": 4000}],
    });
    container
        .as_object_mut()
        .unwrap()
        .extend(of_container.as_object().unwrap().clone());
    let mut spec = json!({"containers": [container]});
    spec.as_object_mut()
        .unwrap()
        .extend(of_pod.as_object().unwrap().clone());
    let pod = json!({
        "metadata": {
            "generateName": "litellm-", "labels": {"app.kubernetes.io/name": "litellm"}, "annotations": annotations,
        },
        "spec": spec,
    });
    let input = Input::of_pod("", pod);
    let patched = input.injected(&admitted(&input.pod));
    admitted(&patched.unwrap_or_else(|| panic!("{:?}", input.decide(&input.pod))))
}

fn security_context(annotation: &str) -> Value {
    json!({"mcpauth.dev/security-context": annotation})
}

fn volumes_are_allowed(pod: &Value) -> bool {
    let is_allowed = |volume: &Value| VOLUMES.iter().any(|kind| volume.get(kind).is_some());
    let ours = |volume: &&Value| volume["name"].as_str().unwrap().starts_with("mcpauth-");
    list(&pod["spec"], "volumes").iter().filter(ours).all(is_allowed)
}

/// What OpenShift checks of a container under `restricted-v2`: MustRunAsRange, no escalation, all capabilities dropped,
/// `runtime/default` or no seccomp profile, SELinux of the namespace.
fn restricted_v2_allows(pod: &Value) -> bool {
    let context = &sidecar(pod)["securityContext"];
    let in_range = context["runAsUser"]
        .as_i64()
        .is_none_or(|user| RANGE.contains(&user));
    let profile = context.pointer("/seccompProfile/type").and_then(Value::as_str);
    in_range
        && context["allowPrivilegeEscalation"] == false
        && context["capabilities"] == json!({"drop": ["ALL"]})
        && profile.is_none_or(|profile| profile == "RuntimeDefault")
        && context
            .get("privileged")
            .is_none_or(|privileged| privileged == false)
        && volumes_are_allowed(pod)
}

/// Under `anyuid`, which lists no seccomp profile, none may be stated; capabilities may only be dropped.
fn anyuid_allows(pod: &Value) -> bool {
    let context = &sidecar(pod)["securityContext"];
    let of_pod = pod.pointer("/spec/securityContext/seccompProfile");
    context.get("seccompProfile").is_none()
        && of_pod.is_none()
        && context["capabilities"].get("add").is_none()
        && volumes_are_allowed(pod)
}

#[test]
fn openshift_takes_the_sidecar_under_restricted_v2_and_gives_it_a_user_of_the_namespaces_range() {
    // As OpenShift admits LiteLLM's pod, which states nothing, before it asks a webhook.
    let of_pod = json!({"securityContext": {
        "fsGroup": RANGE.start(), "seLinuxOptions": {"level": "s0:c26,c25"}, "seccompProfile": {"type": "RuntimeDefault"},
    }});
    let of_container = json!({"securityContext": {
        "runAsUser": RANGE.start(), "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
    }});
    let pod = injected(&json!({}), &of_pod, &of_container);
    assert!(restricted_v2_allows(&pod), "{pod:#}");
    // Without a user of its own, so that the constraint can set one.
    assert_eq!(sidecar(&pod)["securityContext"].get("runAsUser"), None);

    let stated = injected(
        &security_context(r#"{"runAsUser": 1000700001}"#),
        &of_pod,
        &of_container,
    );
    assert!(restricted_v2_allows(&stated), "{stated:#}");
    assert_eq!(sidecar(&stated)["securityContext"]["runAsUser"], 1_000_700_001);
}

#[test]
fn openshift_takes_the_sidecar_under_anyuid_beside_a_litellm_that_runs_as_root() {
    let as_root = json!({"securityContext": {"runAsUser": 0}});
    for (of_pod, of_container) in [
        (json!({}), json!({})),
        (as_root.clone(), json!({})),
        (json!({}), as_root),
    ] {
        let pod = injected(&json!({}), &of_pod, &of_container);
        assert!(anyuid_allows(&pod), "{pod:#}");
        assert_ne!(sidecar(&pod)["securityContext"].get("runAsUser"), Some(&json!(0)));
    }
    // Where another container states a profile, the pod takes ours back.
    let beside = json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}});
    assert!(!anyuid_allows(&injected(&json!({}), &json!({}), &beside)));
    let without = security_context(r#"{"seccompProfile": null}"#);
    assert!(anyuid_allows(&injected(&without, &json!({}), &beside)));
}

/// A policy, and what a pod states for it: a rule over the sidecar's container.
struct Rule {
    policy: &'static str,
    annotations: fn() -> Value,
    holds: fn(&Value) -> bool,
}

const RULES: [Rule; 13] = [
    Rule {
        policy: "Gatekeeper K8sPSPPrivilegedContainer, Kyverno disallow-privileged-containers",
        annotations: || json!({}),
        holds: |container| {
            container["securityContext"]
                .get("privileged")
                .is_none_or(|it| it == false)
        },
    },
    Rule {
        policy: "Gatekeeper K8sPSPAllowPrivilegeEscalationContainer, Kyverno disallow-privilege-escalation",
        annotations: || json!({}),
        holds: |container| container["securityContext"]["allowPrivilegeEscalation"] == false,
    },
    Rule {
        policy: "Gatekeeper K8sPSPReadOnlyRootFilesystem, Kyverno require-ro-rootfs",
        annotations: || json!({}),
        holds: |container| container["securityContext"]["readOnlyRootFilesystem"] == true,
    },
    Rule {
        policy: "Gatekeeper K8sPSPCapabilities, Kyverno disallow-capabilities-strict",
        annotations: || json!({}),
        holds: |container| container["securityContext"]["capabilities"] == json!({"drop": ["ALL"]}),
    },
    Rule {
        policy: "Kyverno require-run-as-nonroot, require-run-as-non-root-user",
        annotations: || json!({}),
        holds: |container| {
            let context = &container["securityContext"];
            context["runAsNonRoot"] == true
                && context
                    .get("runAsUser")
                    .is_none_or(|user| user.as_i64() > Some(0))
        },
    },
    Rule {
        policy: "Kyverno require-pod-probes",
        annotations: || json!({}),
        holds: |container| container["readinessProbe"].is_object(),
    },
    Rule {
        policy: "Gatekeeper K8sPSPAllowedUsers, MustRunAs in each container",
        annotations: || security_context(r#"{"runAsUser": 1001}"#),
        holds: |container| container["securityContext"]["runAsUser"] == 1001,
    },
    Rule {
        policy: "Kyverno require-non-root-groups",
        annotations: || security_context(r#"{"runAsGroup": 1001}"#),
        holds: |container| container["securityContext"]["runAsGroup"].as_i64() > Some(0),
    },
    Rule {
        policy: "Gatekeeper K8sPSPSeccomp, Kyverno restrict-seccomp-strict, in each container",
        annotations: || security_context(r#"{"seccompProfile": {"type": "RuntimeDefault"}}"#),
        holds: |container| container["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
    },
    Rule {
        policy: "Gatekeeper K8sPSPSELinuxV2",
        annotations: || {
            security_context(r#"{"seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"}}"#)
        },
        holds: |container| container["securityContext"]["seLinuxOptions"]["level"] == "s0:c1,c2",
    },
    Rule {
        policy: "Gatekeeper K8sPSPAppArmor",
        annotations: || security_context(r#"{"appArmorProfile": {"type": "RuntimeDefault"}}"#),
        holds: |container| container["securityContext"]["appArmorProfile"]["type"] == "RuntimeDefault",
    },
    Rule {
        policy: "Gatekeeper K8sContainerLimits, K8sRequiredResources",
        annotations: || json!({"mcpauth.dev/resources": r#"{"limits": {"cpu": "100m"}}"#}),
        holds: |container| {
            let limits = &container["resources"]["limits"];
            limits["cpu"] == "100m" && limits["memory"].is_string()
        },
    },
    Rule {
        policy: "Kyverno require-requests-limits",
        annotations: || json!({}),
        holds: |container| {
            let resources = &container["resources"];
            let requests = &resources["requests"];
            requests["cpu"].is_string()
                && requests["memory"].is_string()
                && resources["limits"]["memory"].is_string()
        },
    },
];

#[test]
fn the_sidecar_meets_each_policy_by_itself_or_by_what_the_pod_states() {
    for rule in RULES {
        let annotations = (rule.annotations)();
        let pod = injected(&annotations, &json!({}), &json!({}));
        assert!(
            (rule.holds)(sidecar(&pod)),
            "{}: {:#}",
            rule.policy,
            sidecar(&pod)
        );
        // A pod that states nothing meets only what needs no statement: else the rule could not fail.
        if annotations != json!({}) {
            let pod = injected(&json!({}), &json!({}), &json!({}));
            assert!(
                !(rule.holds)(sidecar(&pod)),
                "{} needs no annotation",
                rule.policy
            );
        }
    }
}

#[test]
fn no_injected_pod_has_a_volume_of_ours_that_openshift_refuses() {
    for (input, _, injected) in injecting() {
        assert!(volumes_are_allowed(&injected), "{}", input.name);
    }
}
