//! Meshes and other injectors, whichever webhook comes first: the table of docs/tasks/service-mesh.md.

use mcp_auth_operator::inject::Decision;
use serde_json::{Value, json};

use crate::api_server::admitted;
use crate::input::{Input, SIDECAR, list, sidecar};
use crate::neighbours::{ALL, Neighbour};

fn pod() -> Input {
    let pod = json!({
        "metadata": {"generateName": "litellm-", "labels": {"app.kubernetes.io/name": "litellm"}},
        "spec": {
            "initContainers": [{"name": "wait-for-db", "image": "busybox"}],
            "containers": [{
                "name": "litellm", "image": "ghcr.io/berriai/litellm:v1.85.1", "command": ["litellm"],
                "args": ["--config", "/etc/litellm/config.yaml"], "ports": [{"name": "http", "containerPort": 4000}],
                "readinessProbe": {"httpGet": {"path": "/health/readiness", "port": "http"}},
                "livenessProbe": {"httpGet": {"path": "/health/liveliness", "port": "http"}},
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/litellm/config.yaml", "subPath": "config.yaml"},
                ],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "litellm"}}],
        },
    });
    Input::of_pod("", pod)
}

/// The pod after both webhooks and, where the other one comes later, our second look.
fn after_both(neighbour: &Neighbour, ours_first: bool) -> Value {
    let input = pod();
    let inject = |pod: &mut Value| {
        let decision = input.decide(pod);
        let Decision::Inject { patch, .. } = decision else {
            panic!("{}: {decision:?}", neighbour.name);
        };
        json_patch::patch(pod, &patch).unwrap();
    };
    let mut pod = admitted(&input.pod);
    if ours_first {
        inject(&mut pod);
        pod = admitted(&pod);
    }
    (neighbour.inject)(&mut pod);
    pod = admitted(&pod);
    inject(&mut pod);
    pod = admitted(&pod);
    let Decision::Inject { patch, .. } = input.decide(&pod) else {
        panic!("{}: refused in the end", neighbour.name);
    };
    assert!(patch.is_empty(), "{}: {patch}", neighbour.name);
    pod
}

fn each(check: impl Fn(&Neighbour, &str, &Value)) {
    for neighbour in ALL {
        for ours_first in [true, false] {
            let order = if ours_first { "ours first" } else { "ours last" };
            let context = format!("{}, {order}", neighbour.name);
            check(neighbour, &context, &after_both(neighbour, ours_first));
        }
    }
}

fn index(pod: &Value, name: &str) -> Option<usize> {
    list(&pod["spec"], "initContainers")
        .iter()
        .position(|container| container["name"] == name)
}

fn litellm(pod: &Value) -> &Value {
    list(&pod["spec"], "containers")
        .iter()
        .find(|container| container["name"] == "litellm")
        .unwrap()
}

#[test]
fn behind_the_proxy_of_a_mesh_the_kubelet_runs_the_sidecars_own_program_and_else_asks_by_http() {
    each(|neighbour, context, pod| {
        let ours = sidecar(pod);
        for probe in ["startupProbe", "readinessProbe"] {
            let is_exec = ours[probe]["exec"]["command"][0] == "/mcp-auth-sidecar";
            assert_eq!(is_exec, neighbour.takes_inbound, "{context}: {probe}");
            assert_eq!(
                ours[probe].get("httpGet").is_some(),
                !is_exec,
                "{context}: {probe}"
            );
        }
        assert_eq!(
            ours["lifecycle"]["preStop"]["exec"]["command"],
            json!(["/mcp-auth-sidecar", "drain"]),
            "{context}"
        );
        // Nothing that LiteLLM's hook does goes through the proxy either.
        assert_eq!(
            litellm(pod)["lifecycle"]["preStop"],
            json!({"sleep": {"seconds": 5}}),
            "{context}"
        );
    });
}

#[test]
fn the_sidecar_comes_after_native_proxies_and_before_what_leads_to_others() {
    each(|neighbour, context, pod| {
        let ours = index(pod, SIDECAR).unwrap();
        for native in neighbour.native {
            assert!(index(pod, native).unwrap() < ours, "{context}: {native}");
        }
        if let Some(redirector) = neighbour.redirector {
            assert!(ours < index(pod, redirector).unwrap(), "{context}: {redirector}");
        }
    });
}

#[test]
fn the_sidecar_has_what_it_needs_and_litellm_its_words_whichever_webhook_comes_first() {
    each(|_, context, pod| {
        let ours = sidecar(pod);
        assert_eq!(ours["restartPolicy"], "Always", "{context}");
        assert_eq!(ours["args"], json!(["serve"]), "{context}");
        assert!(
            ours.get("command").is_none(),
            "{context}: a wrapper before our program"
        );
        let value = |name: &str| {
            let mut entries = list(ours, "env").iter();
            entries
                .find(|entry| entry["name"] == name)
                .map(|entry| entry["value"].clone())
        };
        for (name, expected) in [
            ("MCPAUTH_INBOUND", "0.0.0.0:4000"),
            ("MCPAUTH_LITELLM", "127.0.0.1:16480"),
            ("MCPAUTH_ORIGINAL_CONFIG", "/etc/litellm/config.yaml"),
        ] {
            assert_eq!(value(name), Some(json!(expected)), "{context}");
        }
        let container = litellm(pod);
        let words: Vec<&str> = list(container, "command")
            .iter()
            .chain(list(container, "args"))
            .map(|word| word.as_str().unwrap())
            .collect();
        let own = ["litellm", "--config", "/etc/litellm/config.yaml"];
        assert!(
            words.windows(3).any(|window| window == own),
            "{context}: {words:?}"
        );
        assert!(
            words.ends_with(&["--host", "127.0.0.1", "--port", "16480"]),
            "{context}: {words:?}"
        );
        let wrapper = list(container, "env")
            .iter()
            .any(|entry| entry["value"] == "/etc/litellm/mcpauth-wrapper.yaml");
        assert!(wrapper, "{context}");
    });
}

/// Each row of the document is one of these neighbours.
#[test]
fn the_documentation_lists_every_neighbour() {
    let text = include_str!("../../../docs/tasks/service-mesh.md");
    let (_, table) = text.split_once("## Injectors and webhooks").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| ")?.split_once(" | ")?.0))
        .skip(1)
        .collect();
    let names: Vec<&str> = ALL.iter().map(|neighbour| neighbour.name).collect();
    assert_eq!(rows, names);
}
