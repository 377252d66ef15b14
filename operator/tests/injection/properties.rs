//! What holds of the pod's own for every pod, injected or not.

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::input::{Input, SIDECAR, injecting, list};

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
            Decision::Deny { error, .. } => assert!(asks("true"), "{}: {error}", input.name),
            Decision::AllowWithoutSidecar { error, patch, .. } => {
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
fn a_pod_whose_annotations_leave_no_room_starts_as_it_is() {
    let pod_with = |bytes: usize, labels: Value| {
        let annotations = json!({"example.com/x": "x".repeat(bytes - "example.com/x".len())});
        json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": [{"name": "litellm", "image": "berriai/litellm", "args": ["--port", "4000"]}]},
        })
    };
    let with = |bytes: usize, labels: Value| {
        let pod = pod_with(bytes, labels);
        Input::of_pod("annotations", pod.clone()).decide(&pod)
    };
    let patched = |bytes: usize, labels: Value, decision: &Decision| {
        let mut pod = pod_with(bytes, labels);
        json_patch::patch(&mut pod, decision.patch().unwrap()).unwrap();
        pod
    };
    let most = 256 * 1024;
    assert_eq!(with(most - 1024, json!({})).reason(), "Injected");
    for bytes in [most - 40, most] {
        let left_alone = with(bytes, json!({}));
        assert_eq!(
            (left_alone.outcome(), left_alone.reason()),
            ("left alone", "AnnotationsTooLarge")
        );
        let marked = patched(bytes, json!({}), &left_alone);
        assert_eq!(
            marked["metadata"]["labels"]["mcpauth.dev/not-injected"], "AnnotationsTooLarge",
            "there is no room for its mark as an annotation"
        );
        assert_eq!(marked["metadata"]["annotations"].as_object().unwrap().len(), 1);
        let asking = with(bytes, json!({"mcpauth.dev/inject": "true"}));
        assert_eq!(
            (asking.outcome(), asking.reason()),
            ("refused", "AnnotationsTooLarge")
        );
    }
}

/// Whatever the reason is: a label's size is not bounded by the annotations.
#[test]
fn the_mark_of_a_pod_without_room_for_an_annotation_is_a_label_that_a_later_look_takes_out() {
    let annotations = json!({"example.com/x": "x".repeat(256 * 1024 - "example.com/x".len())});
    let litellm = json!({"name": "litellm", "image": "berriai/litellm", "args": ["--port", "4000"]});
    for (key, reason, spec) in [
        (
            "mcpauth.dev/not-injected",
            "HostNetwork",
            json!({"hostNetwork": true, "containers": [litellm]}),
        ),
        (
            "mcpauth.dev/skipped",
            "NotLiteLlm",
            json!({"containers": [{"name": "db", "image": "postgres"}]}),
        ),
    ] {
        let mut pod = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let input = Input::of_pod("no room", pod.clone());
        let decision = input.decide(&pod);
        assert_eq!(decision.reason(), reason);
        json_patch::patch(&mut pod, decision.patch().unwrap()).unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({key: reason}));
        let again = input.decide(&pod);
        assert!(
            again.patch().unwrap().is_empty() && again.warnings().is_empty(),
            "{again:?}"
        );

        // The template was copied with the label, and is as it should be now.
        pod["metadata"]["annotations"] = json!({});
        pod["spec"] = json!({"containers": [litellm]});
        let injected = input.injected(&pod).unwrap();
        assert_eq!(injected["metadata"]["labels"], json!({}));
    }
}

#[test]
fn a_sidecar_that_stays_in_a_pod_that_cannot_be_injected_is_told_in_the_pods_warnings() {
    let input = Input::all()
        .into_iter()
        .find(|input| input.name == "copied-sidecar-on-host-network")
        .unwrap();
    let mut pod = input.pod.clone();
    for _ in 0..2 {
        let decision = input.decide(&pod);
        assert_eq!(decision.reason(), "HostNetwork");
        json_patch::patch(&mut pod, decision.patch().unwrap()).unwrap();
        let told = pod["metadata"]["annotations"]["mcpauth.dev/warnings"]
            .as_str()
            .unwrap();
        assert!(
            told.starts_with("SidecarKept: ") && told.contains("HostNetwork: ") && told.lines().count() == 1,
            "{told}"
        );
    }
    assert_eq!(pod["spec"], input.pod["spec"]);
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
        let after_container = after;
        for (key, value) in before.as_object().unwrap() {
            match key.as_str() {
                // Into a shell script arguments are put where they reach LiteLLM.
                "args" | "command" => {
                    let words = list(before, key).iter().zip(list(after, key));
                    for (before, after) in words.filter(|(before, after)| before != after) {
                        let added = ["--host 127.0.0.1 --port 16480", "--config /"];
                        let (before, after) = (before.as_str().unwrap(), after.as_str().unwrap());
                        // Behind it LiteLLM takes no options.
                        if before == "--" && list(after_container, key).last() == Some(&json!("--")) {
                            continue;
                        }
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
                        "FORWARDED_ALLOW_IPS",
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
