//! What holds when the API server asks again, after other webhooks or with a template that is injected already.

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::api_server::admitted;
use crate::input::{Input, LiteLlm, SIDECAR, injecting, list, route, sidecar};
use crate::runs::{Original, StandIns};

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
            // The sidecar writes the wrapper where that does not lie beside the configuration.
            if lost.is_object() && lost.get("mcpauth.dev/wrapper").is_none() {
                continue;
            }
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

/// Pods whose LiteLLM reads the overlay in the runtime's shared memory, with what is true of LiteLLM.
fn in_shared_memory() -> impl Iterator<Item = (Input, LiteLlm, Value)> {
    Input::all().into_iter().filter_map(|input| {
        let litellm = input.litellm.clone()?;
        let injected = input.injected(&input.pod)?;
        let is_shared = sidecar(&injected).to_string().contains("MCPAUTH_SHARED_FOLDER");
        let mut volumes = list(&input.pod["spec"], "volumes").iter();
        (is_shared && !volumes.any(|volume| volume["name"] == "memory")).then_some((input, litellm, injected))
    })
}

/// What another webhook does to the pod.
type Change = Box<dyn Fn(&mut Value)>;

/// Another webhook mounts the volume into every container, after the first look.
fn mount_later(pod: &mut Value, volume: &Value, mount: &Value) {
    let spec = pod["spec"].as_object_mut().unwrap();
    let volumes = spec.entry("volumes").or_insert(json!([]));
    volumes.as_array_mut().unwrap().push(volume.clone());
    for container in spec["containers"].as_array_mut().unwrap() {
        let container = container.as_object_mut().unwrap();
        let mounts = container.entry("volumeMounts").or_insert(json!([]));
        mounts.as_array_mut().unwrap().push(mount.clone());
    }
}

#[test]
fn a_volume_that_comes_over_the_shared_memory_afterwards_is_mounted_into_the_sidecar_too() {
    let stand_ins = StandIns::new();
    let mut seen = 0;
    for (input, litellm, injected) in in_shared_memory() {
        for medium in ["", "Memory"] {
            let mut pod = admitted(&injected);
            let volume = json!({"name": "later", "emptyDir": {"medium": medium}});
            mount_later(
                &mut pod,
                &volume,
                &json!({"name": "later", "mountPath": "/dev/shm"}),
            );
            let again = input.injected(&pod).unwrap();
            stand_ins.assert_behind_the_sidecar(&input.name, &original(&input.pod, &litellm), &again);
            assert_nothing_left(&input, &again);
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} pods were looked at");
}

#[test]
fn where_the_shared_memory_cannot_serve_any_more_litellm_reads_its_configuration_in_the_volume_and_is_warned()
{
    let stand_ins = StandIns::new();
    let at = |volume: Value, mount: Value| move |pod: &mut Value| mount_later(pod, &volume, &mount);
    let of_node = json!({"name": "later", "hostPath": {"path": "/dev/shm"}});
    let in_memory = json!({"name": "later", "emptyDir": {"medium": "Memory"}});
    let set = |field: &'static str| move |pod: &mut Value| pod["spec"][field] = json!(true);
    let changes: [(&str, Change); 7] = [
        (
            "hostPath",
            Box::new(at(of_node, json!({"name": "later", "mountPath": "/dev/shm"}))),
        ),
        (
            "readOnly",
            Box::new(at(
                in_memory.clone(),
                json!({"name": "later", "mountPath": "/dev/shm", "readOnly": true}),
            )),
        ),
        (
            "subPathExpr",
            Box::new(at(
                in_memory.clone(),
                json!({"name": "later", "mountPath": "/dev/shm", "subPathExpr": "$(POD)"}),
            )),
        ),
        (
            "deeper",
            Box::new(at(
                in_memory,
                json!({"name": "later", "mountPath": "/dev/shm/mcpauth"}),
            )),
        ),
        ("hostIPC", Box::new(set("hostIPC"))),
        ("hostPID", Box::new(set("hostPID"))),
        ("shareProcessNamespace", Box::new(set("shareProcessNamespace"))),
    ];
    let (mut seen, mut in_mirror) = (0, 0);
    for (input, litellm, injected) in in_shared_memory() {
        for (name, change) in &changes {
            let context = format!("{}: {name}", input.name);
            let mut pod = admitted(&injected);
            change(&mut pod);
            let again = input
                .injected(&pod)
                .unwrap_or_else(|| panic!("{context}: refused"));
            stand_ins.assert_behind_the_sidecar(&context, &original(&input.pod, &litellm), &again);
            assert!(
                !again["spec"].to_string().contains("/dev/shm/mcpauth/"),
                "{context}"
            );
            assert!(!again.to_string().contains("MCPAUTH_SHARED_FOLDER"), "{context}");
            let warnings = again["metadata"]["annotations"]["mcpauth.dev/warnings"].as_str();
            let of_memory = |line: &&str| line.starts_with("SharedMemoryUnused: ");
            let lines = warnings.unwrap_or_default().lines().filter(of_memory).count();
            assert_eq!(lines, 1, "{context}: {warnings:?}");
            assert_nothing_left(&input, &again);
            in_mirror += usize::from(
                again["spec"]
                    .to_string()
                    .contains("/var/run/mcpauth/config/mirror/"),
            );
            seen += 1;
        }
    }
    assert!(
        seen >= 21 && in_mirror >= 7,
        "only {seen} pods, {in_mirror} with a mirror"
    );
}

#[test]
fn a_path_in_shared_memory_that_cannot_work_is_moved_behind_a_wrapper_that_came_later_too() {
    let mut seen = 0;
    for (input, _, injected) in in_shared_memory() {
        let mut pod = admitted(&injected);
        pod["spec"]["hostIPC"] = json!(true);
        for container in pod["spec"]["containers"].as_array_mut().unwrap() {
            let words = [list(container, "command"), list(container, "args")].concat();
            let words: Vec<Value> = [json!("docker/prod_entrypoint.sh")]
                .into_iter()
                .chain(words)
                .collect();
            container["command"] = json!(["/new/wrapper", "--flag"]);
            container["args"] = json!(words);
        }
        if !pod["spec"]["containers"]
            .to_string()
            .contains("/dev/shm/mcpauth/")
        {
            continue;
        }
        let again = input
            .injected(&pod)
            .unwrap_or_else(|| panic!("{}: refused", input.name));
        let containers = again["spec"]["containers"].to_string();
        assert!(!containers.contains("/dev/shm/mcpauth/"), "{containers}");
        assert!(
            containers.contains("/var/run/mcpauth/config/mirror/"),
            "{containers}"
        );
        seen += 1;
    }
    assert!(seen >= 1, "no pod has the path in its command line");
}

fn original<'a>(pod: &'a Value, litellm: &'a LiteLlm) -> Original<'a> {
    Original {
        pod,
        port: litellm.port,
        config: litellm.config.as_deref(),
    }
}

fn assert_nothing_left(input: &Input, pod: &Value) {
    let Decision::Inject { patch, .. } = input.decide(pod) else {
        panic!("{}: refused", input.name);
    };
    assert!(patch.is_empty(), "{}: {patch}", input.name);
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
