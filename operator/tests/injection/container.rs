//! What holds of the sidecar's container, its volumes and ports in every pod that is injected.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api_server::{API_TOKEN_FOLDER, admitted};
use crate::input::{injecting, list, sidecar};

#[test]
fn a_pod_monitor_finds_the_metrics_by_a_port_that_has_no_other_name_or_number_in_the_pod() {
    for (input, _, injected) in injecting() {
        let injected = admitted(&injected);
        let ours = sidecar(&injected);
        let variables = list(ours, "env");
        let health = variables
            .iter()
            .find(|variable| variable["name"] == "MCPAUTH_HEALTH")
            .expect("the sidecar is told where it answers");
        let (_, health) = health["value"].as_str().unwrap().rsplit_once(':').unwrap();
        let number: u16 = health.parse().unwrap();
        let expected = json!([{"name": "mcpauth-metrics", "containerPort": number, "protocol": "TCP"}]);
        assert_eq!(ours["ports"], expected, "{}", input.name);

        let spec = &injected["spec"];
        let others = list(spec, "containers")
            .iter()
            .chain(list(spec, "initContainers"));
        for port in others
            .filter(|other| other["name"] != ours["name"])
            .flat_map(|other| list(other, "ports"))
        {
            assert_ne!(port["name"], "mcpauth-metrics", "{}", input.name);
            let is_tcp = port.get("protocol").is_none_or(|protocol| protocol == "TCP");
            assert!(
                !is_tcp || port["containerPort"] != number,
                "{}: {port}",
                input.name
            );
        }
    }
}

#[test]
fn the_sidecar_passes_pod_security_restricted_and_has_no_api_token() {
    for (input, pod, injected) in injecting() {
        let injected = admitted(&injected);
        let ours = sidecar(&injected);
        let context = &ours["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        // As the pod's other containers: a policy that demands a profile has it from all of them.
        let states = |container: &&Value| container.pointer("/securityContext/seccompProfile").is_some();
        let of_pod = pod.pointer("/spec/securityContext/seccompProfile").is_some();
        let of_container = list(&pod["spec"], "containers").iter().find(states).is_some();
        if stated(&pod).get("seccompProfile").is_none() {
            assert_eq!(
                context.get("seccompProfile").is_some(),
                of_container && !of_pod,
                "{}",
                input.name
            );
        }
        let pod_user = pod.pointer("/spec/securityContext/runAsUser");
        let user = context.get("runAsUser").or(pod_user);
        assert_ne!(user, Some(&json!(0)), "{}: root", input.name);
        assert!(context.get("privileged").is_none() && ours.get("livenessProbe").is_none());
        for name in ["cpu", "memory"] {
            let of_pod = pod.pointer(&format!("/spec/resources/requests/{name}"));
            let requested = ours["resources"].pointer(&format!("/requests/{name}"));
            assert_ne!(requested.is_some(), of_pod.is_some(), "{}: {name}", input.name);
        }

        let at_token: Vec<&Value> = list(ours, "volumeMounts")
            .iter()
            .filter(|mount| mount["mountPath"] == API_TOKEN_FOLDER)
            .collect();
        assert_eq!(at_token.len(), 1);
        assert_eq!(at_token[0]["name"], "mcpauth-none", "{}", input.name);
        let kinds = [
            "emptyDir",
            "projected",
            "configMap",
            "secret",
            "downwardAPI",
            "csi",
            "persistentVolumeClaim",
            "ephemeral",
        ];
        // Those of the pod's own are what its policy has taken before.
        let own = list(&pod["spec"], "volumes");
        let volumes = list(&injected["spec"], "volumes").iter();
        for volume in volumes.filter(|volume| !own.contains(volume)) {
            assert!(
                kinds.iter().any(|kind| volume.get(kind).is_some()),
                "{}: {volume}",
                input.name
            );
        }
        for container in list(&injected["spec"], "containers") {
            let token_mounts = list(container, "volumeMounts")
                .iter()
                .filter(|mount| mount["name"] == "mcpauth-identity");
            for mount in token_mounts {
                assert_eq!(
                    mount["subPath"], "wrapper.yaml",
                    "{}: LiteLLM could read the sidecar's token",
                    input.name
                );
            }
        }
    }
}

/// What the pod states of the sidecar's security context.
fn stated(pod: &Value) -> Value {
    let text = pod.pointer("/metadata/annotations/mcpauth.dev~1security-context");
    text.and_then(|text| serde_json::from_str(text.as_str()?).ok())
        .unwrap_or_default()
}

#[test]
fn nothing_of_ours_keeps_the_cluster_autoscaler_from_removing_a_node() {
    for (input, _, injected) in injecting() {
        for volume in list(&injected["spec"], "volumes") {
            let is_ours = volume["name"].as_str().unwrap().starts_with("mcpauth-");
            if is_ours && volume.get("emptyDir").is_some() {
                assert_eq!(volume["emptyDir"]["medium"], "Memory", "{}: {volume}", input.name);
            }
        }
    }
}

#[test]
fn ports_of_a_pod_are_all_different() {
    for (input, _, injected) in injecting() {
        let ours = list(sidecar(&injected), "env").iter().filter_map(|entry| {
            let name = entry["name"].as_str()?;
            [
                "MCPAUTH_INBOUND",
                "MCPAUTH_LITELLM",
                "MCPAUTH_OUTBOUND",
                "MCPAUTH_HEALTH",
            ]
            .contains(&name)
            .then(|| {
                entry["value"]
                    .as_str()
                    .unwrap()
                    .rsplit_once(':')
                    .unwrap()
                    .1
                    .parse::<u64>()
                    .unwrap()
            })
        });
        let ours: Vec<u64> = ours.collect();
        let unique: BTreeSet<u64> = ours.iter().copied().collect();
        assert_eq!(unique.len(), ours.len(), "{}", input.name);
        let containers = list(&injected["spec"], "containers")
            .iter()
            .chain(list(&injected["spec"], "initContainers"));
        let declared: Vec<u64> = containers
            .filter(|container| container["name"] != "mcpauth-sidecar")
            .flat_map(|c| list(c, "ports"))
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        let public = list(sidecar(&injected), "env")
            .iter()
            .any(|entry| entry["name"] == "MCPAUTH_INBOUND");
        let own = if public { &ours[1..] } else { &ours[..] };
        assert!(
            own.iter().all(|port| !declared.contains(port)),
            "{}: {ours:?} {declared:?}",
            input.name
        );
    }
}
