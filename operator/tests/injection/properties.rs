//! What holds for every pod that is injected.

use std::collections::BTreeSet;

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::api_server::{API_TOKEN_FOLDER, admitted};
use crate::input::{Input, SECRET, SIDECAR, injecting, list, route, sidecar};

/// The API server may cut a warning after this.
const MAX_WARNING_BYTES: usize = 256;

#[test]
fn an_injected_pod_has_nothing_left_to_inject() {
    let mut seen = 0;
    for (input, _, injected) in injecting() {
        for again in [injected.clone(), admitted(&injected)] {
            let Decision::Inject { patch, .. } = input.decide(&again) else {
                panic!("{}: refused what it injected", input.name);
            };
            assert!(patch.is_empty(), "{}: {patch}", input.name);
        }
        seen += 1;
    }
    assert!(seen > 50, "only {seen} pods were injected");
}

#[test]
fn what_other_webhooks_change_afterwards_is_left_alone() {
    for (input, _, injected) in injecting() {
        let mut pod = admitted(&injected);
        let spec = &mut pod["spec"];
        let extra = json!({
            "name": "extra", "image": "extra", "restartPolicy": "Always", "ports": [{"containerPort": 16480}],
        });
        spec["initContainers"]
            .as_array_mut()
            .unwrap()
            .insert(0, extra.clone());
        spec["containers"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "more", "image": "more", "args": ["--v=1"]}));
        spec["volumes"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"name": "v", "emptyDir": {}}));
        for container in spec["initContainers"].as_array_mut().unwrap() {
            if container["name"] == SIDECAR {
                container["image"] = json!("mirror.example.com/sidecar");
                container["env"]
                    .as_array_mut()
                    .unwrap()
                    .insert(0, json!({"name": "ADDED", "value": "1"}));
            }
        }
        pod["metadata"]["annotations"]["other"] = json!("x");
        let decision = input.decide(&pod);
        let Decision::Inject { patch, .. } = &decision else {
            panic!("{}: {decision:?}", input.name);
        };
        assert!(patch.is_empty(), "{}: {patch}", input.name);
    }
}

#[test]
fn what_gets_lost_is_injected_anew_and_nothing_else() {
    for (input, _, injected) in injecting() {
        for pointer in [
            "/spec/volumes",
            "/metadata/annotations",
            "/spec/initContainers/S/env",
            "/spec/initContainers/S/volumeMounts",
        ] {
            let at = list(&injected["spec"], "initContainers")
                .iter()
                .position(|container| container["name"] == SIDECAR)
                .unwrap();
            let pointer = pointer.replace('S', &at.to_string());
            let whole = admitted(&injected);
            let mut pod = whole.clone();
            let lost = pod.pointer_mut(&pointer).unwrap();
            match lost {
                Value::Array(items) => items.retain(|item| {
                    let name = item["name"].as_str().unwrap();
                    ![
                        "mcpauth-none",
                        "mcpauth-folder",
                        "MCPAUTH_OPERATOR",
                        "MCPAUTH_POD_UID",
                    ]
                    .contains(&name)
                }),
                Value::Object(items) => drop(items.remove("mcpauth.dev/wrapper")),
                _ => unreachable!(),
            }
            let Decision::Inject { patch, .. } = input.decide(&pod) else {
                panic!("{}: refused", input.name);
            };
            assert!((1..=2).contains(&patch.len()), "{}: {patch}", input.name);
            json_patch::patch(&mut pod, &patch).unwrap();
            assert_eq!(sorted(&admitted(&pod)), sorted(&whole), "{}", input.name);
        }
    }
}

#[test]
fn what_others_drop_of_the_sidecar_is_put_back() {
    for (input, _, injected) in injecting() {
        let whole = admitted(&injected);
        for field in ["restartPolicy", "startupProbe", "readinessProbe"] {
            let mut pod = whole.clone();
            for container in pod["spec"]["initContainers"].as_array_mut().unwrap() {
                if container["name"] == SIDECAR {
                    container.as_object_mut().unwrap().remove(field);
                }
            }
            let again = input
                .injected(&pod)
                .unwrap_or_else(|| panic!("{}: refused", input.name));
            assert_eq!(
                sorted(&admitted(&again)),
                sorted(&whole),
                "{}: {field}",
                input.name
            );
        }
    }
}

#[test]
fn a_wrapper_that_another_webhook_puts_in_front_stays() {
    for (input, pod, injected) in injecting() {
        let at = list(&pod["spec"], "containers")
            .iter()
            .zip(list(&injected["spec"], "containers"))
            .position(|(before, after)| before != after)
            .unwrap();
        for wrapper in [json!(["/vault/vault-env"]), json!(["/new/wrapper", "--flag"])] {
            let mut wrapped = admitted(&injected);
            let container = &mut wrapped["spec"]["containers"][at];
            let own = container.get("command").cloned().unwrap_or_else(|| json!([]));
            let arguments = list(container, "args").to_vec();
            let words = [list(&json!({"own": own}), "own"), &arguments].concat();
            container["command"] = wrapper;
            container["args"] = json!(words);
            let Decision::Inject { patch, .. } = input.decide(&wrapped) else {
                panic!("{}: {:?}", input.name, input.decide(&wrapped));
            };
            assert!(patch.is_empty(), "{}: {patch}", input.name);
        }
    }
}

#[test]
fn a_namespaces_label_never_keeps_a_pod_from_starting() {
    let mut left_alone = 0;
    for input in Input::all() {
        let asks = |key: &str| {
            let label = input.pod.pointer("/metadata/labels/mcpauth.dev~1inject");
            let annotation = input.pod.pointer("/metadata/annotations/mcpauth.dev~1on-refusal");
            label == Some(&json!(key)) || annotation == Some(&json!("Deny"))
        };
        match input.decide(&input.pod) {
            Decision::Deny(error) => assert!(asks("true"), "{}: {error}", input.name),
            Decision::AllowWithoutSidecar { error, patch } => {
                left_alone += 1;
                let mut pod = input.pod.clone();
                json_patch::patch(&mut pod, &patch).unwrap();
                let told = pod["metadata"]["annotations"]["mcpauth.dev/not-injected"].as_str();
                let expected = format!("{}: {error}", error.reason());
                assert!(told == Some(&expected) || input.pod["spec"].to_string().contains(SIDECAR));
                assert_eq!(pod["spec"], input.pod["spec"], "{}", input.name);
            }
            _ => {}
        }
    }
    assert!(left_alone > 20, "only {left_alone} pods were left alone");
}

#[test]
fn routes_that_changed_since_are_brought_up_to_date() {
    for (mut input, _, injected) in injecting() {
        input.routes = vec![route("other")];
        let again = input.injected(&admitted(&injected)).unwrap();
        let routes: Vec<&Value> = list(sidecar(&again), "env")
            .iter()
            .filter(|entry| entry["name"] == "MCPAUTH_ROUTES")
            .collect();
        assert_eq!(routes.len(), 1);
        assert!(
            routes[0]["value"]
                .as_str()
                .unwrap()
                .contains("\"server\":\"other\""),
            "{}",
            input.name
        );
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
        assert_eq!(
            context.get("seccompProfile").is_some(),
            of_container && !of_pod,
            "{}",
            input.name
        );
        let pod_user = pod.pointer("/spec/securityContext/runAsUser");
        let user = context.get("runAsUser").or(pod_user);
        assert_ne!(user, Some(&json!(0)), "{}: root", input.name);
        assert!(
            context.get("privileged").is_none()
                && ours.get("ports").is_none()
                && ours.get("livenessProbe").is_none()
        );
        assert!(
            ours["resources"]["requests"]["cpu"].is_string()
                && ours["resources"]["requests"]["memory"].is_string()
        );

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
        for volume in list(&injected["spec"], "volumes") {
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
fn all_that_users_wrote_is_still_there_in_their_order() {
    for (input, pod, injected) in injecting() {
        let (before, after) = (&pod["spec"], &injected["spec"]);
        let of_user = |items: &[Value]| -> Vec<Value> {
            let is_ours = |item: &Value| item["name"].as_str().unwrap().starts_with("mcpauth-");
            items.iter().filter(|item| !is_ours(item)).cloned().collect()
        };
        assert_eq!(
            of_user(list(after, "initContainers")),
            list(before, "initContainers"),
            "{}",
            input.name
        );
        assert_eq!(
            of_user(list(after, "volumes")),
            list(before, "volumes"),
            "{}",
            input.name
        );
        assert!(
            list(after, "imagePullSecrets").starts_with(list(before, "imagePullSecrets")),
            "{}",
            input.name
        );
        for (key, value) in before.as_object().unwrap() {
            if ![
                "initContainers",
                "volumes",
                "imagePullSecrets",
                "containers",
                "terminationGracePeriodSeconds",
            ]
            .contains(&key.as_str())
            {
                assert_eq!(&after[key], value, "{}: {key}", input.name);
            }
        }
        assert!(
            after["terminationGracePeriodSeconds"].as_i64()
                >= before["terminationGracePeriodSeconds"].as_i64()
        );

        let pairs = list(before, "containers").iter().zip(list(after, "containers"));
        let changed: Vec<_> = pairs.filter(|(before, after)| before != after).collect();
        assert_eq!(
            changed.len(),
            1,
            "{}: other containers than LiteLLM's changed",
            input.name
        );
        let (before, after) = changed[0];
        for (key, value) in before.as_object().unwrap() {
            match key.as_str() {
                // Into a shell script arguments are put where they reach LiteLLM.
                "args" | "command" => {
                    let words = list(before, key).iter().zip(list(after, key));
                    for (before, after) in words.filter(|(before, after)| before != after) {
                        let added = ["--host 127.0.0.1 --port 16480", "--config /"];
                        let (before, after) = (before.as_str().unwrap(), after.as_str().unwrap());
                        assert!(
                            before.contains("litellm") && added.iter().any(|added| after.contains(added)),
                            "{}: {after}",
                            input.name
                        );
                    }
                    assert!(
                        list(after, key).len() >= list(before, key).len(),
                        "{}",
                        input.name
                    );
                }
                "env" => {
                    let names = |container: &Value| -> Vec<Value> {
                        list(container, "env")
                            .iter()
                            .map(|entry| entry["name"].clone())
                            .collect()
                    };
                    assert!(names(after).starts_with(&names(before)), "{}", input.name);
                    let ours = [
                        "HOST",
                        "PORT",
                        "CONFIG_FILE_PATH",
                        "NO_PROXY",
                        "no_proxy",
                        "PYTHONPATH",
                    ];
                    for (before, after) in list(before, "env").iter().zip(list(after, "env")) {
                        assert!(
                            before == after || ours.contains(&before["name"].as_str().unwrap()),
                            "{}",
                            input.name
                        );
                    }
                }
                "volumeMounts" => {
                    for (before, after) in list(before, key).iter().zip(list(after, key)) {
                        assert!(
                            before == after || after["name"] == "mcpauth-folder",
                            "{}",
                            input.name
                        );
                        assert_eq!(before["mountPath"], after["mountPath"], "{}", input.name);
                    }
                }
                "lifecycle" => {
                    let hooks = value.as_object().unwrap();
                    assert!(
                        hooks.iter().all(|(name, hook)| &after["lifecycle"][name] == hook),
                        "{}",
                        input.name
                    );
                }
                _ => assert_eq!(&after[key], value, "{}: {key}", input.name),
            }
        }
    }
}

#[test]
fn nothing_secret_is_in_a_patch_or_a_message() {
    let (mut inputs, mut patches) = (0, 0);
    for input in Input::all() {
        let decision = input.decide(&input.pod);
        inputs += usize::from(input.pod.to_string().contains(SECRET));
        let text = match &decision {
            Decision::Skip { patch, .. } => patch.to_string(),
            Decision::Inject { patch, warnings } => {
                patches += 1;
                format!("{patch} {warnings:?}")
            }
            Decision::AllowWithoutSidecar { error, patch } => format!("{error} {patch}"),
            Decision::Deny(error) => error.to_string(),
        };
        assert!(!text.contains(SECRET), "{}: {text}", input.name);
    }
    assert!(
        inputs > 2 && patches > 20,
        "{inputs} inputs hold a secret, {patches} patches were made"
    );
}

#[test]
fn refusals_and_warnings_are_sentences_that_fit() {
    for input in Input::all() {
        let messages = match input.decide(&input.pod) {
            Decision::Deny(error) | Decision::AllowWithoutSidecar { error, .. } => vec![error.to_string()],
            Decision::Inject { warnings, .. } => {
                warnings.into_iter().map(|warning| warning.message).collect()
            }
            Decision::Skip { .. } => vec![],
        };
        for message in messages {
            assert!(
                message.len() <= MAX_WARNING_BYTES,
                "{}: {} bytes",
                input.name,
                message.len()
            );
            assert!(!message.ends_with('.') && !message.contains("  "), "{message}");
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

/// With lists of named things in the order of their names, and volume mounts by path.
fn sorted(pod: &Value) -> Value {
    match pod {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(sorted).collect();
            if items.iter().all(|item| item.get("name").is_some()) {
                items.sort_by_key(|item| format!("{}{}", item["name"], item["mountPath"]));
            }
            Value::Array(items)
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), sorted(value)))
            .collect(),
        other => other.clone(),
    }
}
