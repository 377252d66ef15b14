//! What other injectors make of a pod: the changes of their own webhooks, as their releases make them. `tests/meshes` has
//! pods that those of Istio, Linkerd and Kuma have written.

use serde_json::{Value, json};

/// An injector beside ours.
pub struct Neighbour {
    pub name: &'static str,
    /// Its proxy takes what the kubelet sends to the pod.
    pub takes_inbound: bool,
    /// Its native sidecars, which ours has to come after.
    pub native: &'static [&'static str],
    /// Leads connections to a proxy that runs only after all init containers, so that ours has to come before.
    pub redirector: Option<&'static str>,
    pub inject: fn(&mut Value),
}

pub const ALL: &[Neighbour] = &[
    Neighbour {
        name: "Istio, native sidecar",
        takes_inbound: true,
        native: &["istio-proxy"],
        redirector: None,
        inject: |pod| {
            let proxy = json!({
                "name": "istio-proxy", "image": "istio/proxyv2", "args": ["proxy", "sidecar"], "restartPolicy": "Always",
                "ports": [{"containerPort": 15090, "name": "http-envoy-prom"}],
            });
            first(pod, "initContainers", proxy);
            first(pod, "initContainers", istio_init());
            rewrite_probes(pod, 15020, "/app-health");
            annotate(pod, "sidecar.istio.io/status", "{}");
        },
    },
    Neighbour {
        name: "Istio, classic sidecar",
        takes_inbound: true,
        native: &[],
        redirector: Some("istio-init"),
        inject: |pod| {
            last(pod, "containers", istio_proxy());
            last(pod, "initContainers", istio_init());
            rewrite_probes(pod, 15020, "/app-health");
            annotate(pod, "sidecar.istio.io/status", "{}");
        },
    },
    Neighbour {
        name: "Istio, classic sidecar with its CNI plugin",
        takes_inbound: true,
        native: &[],
        redirector: None,
        inject: |pod| {
            first(pod, "containers", istio_proxy());
            let validation =
                json!({"name": "istio-validation", "image": "istio/proxyv2", "args": ["istio-iptables"]});
            first(pod, "initContainers", validation);
            rewrite_probes(pod, 15020, "/app-health");
            annotate(pod, "sidecar.istio.io/status", "{}");
        },
    },
    Neighbour {
        name: "Linkerd, native sidecar",
        takes_inbound: true,
        native: &["linkerd-proxy"],
        redirector: None,
        inject: |pod| {
            let mut proxy = linkerd_proxy();
            proxy["restartPolicy"] = json!("Always");
            first(pod, "initContainers", proxy);
            first(
                pod,
                "initContainers",
                json!({"name": "linkerd-init", "image": "linkerd/proxy-init"}),
            );
            annotate(pod, "linkerd.io/proxy-version", "edge");
        },
    },
    Neighbour {
        name: "Linkerd, classic sidecar",
        takes_inbound: true,
        native: &[],
        redirector: Some("linkerd-init"),
        inject: |pod| {
            first(pod, "containers", linkerd_proxy());
            last(
                pod,
                "initContainers",
                json!({"name": "linkerd-init", "image": "linkerd/proxy-init"}),
            );
            annotate(pod, "linkerd.io/proxy-version", "edge");
        },
    },
    Neighbour {
        name: "Kuma, native sidecar",
        takes_inbound: true,
        native: &["kuma-sidecar"],
        redirector: None,
        inject: |pod| {
            let proxy = json!({"name": "kuma-sidecar", "image": "kumahq/kuma-dp", "restartPolicy": "Always"});
            first(pod, "initContainers", proxy);
            first(
                pod,
                "initContainers",
                json!({"name": "kuma-init", "image": "kumahq/kuma-init"}),
            );
            rewrite_probes_as_kuma(pod);
            annotate(pod, "kuma.io/sidecar-injected", "true");
        },
    },
    Neighbour {
        name: "Kuma, classic sidecar",
        takes_inbound: true,
        native: &[],
        redirector: Some("kuma-init"),
        inject: |pod| {
            first(
                pod,
                "containers",
                json!({"name": "kuma-sidecar", "image": "kumahq/kuma-dp"}),
            );
            last(
                pod,
                "initContainers",
                json!({"name": "kuma-init", "image": "kumahq/kuma-init"}),
            );
            rewrite_probes_as_kuma(pod);
            annotate(pod, "kuma.io/sidecar-injected", "true");
        },
    },
    Neighbour {
        name: "Consul, native sidecar",
        takes_inbound: true,
        native: &["consul-dataplane"],
        redirector: None,
        inject: |pod| {
            let proxy =
                json!({"name": "consul-dataplane", "image": "consul-dataplane", "restartPolicy": "Always"});
            first(pod, "initContainers", proxy);
            first(
                pod,
                "initContainers",
                json!({"name": "consul-connect-inject-init", "image": "consul-k8s"}),
            );
            annotate(pod, "consul.hashicorp.com/connect-inject-status", "injected");
        },
    },
    Neighbour {
        name: "Consul, classic sidecar",
        takes_inbound: true,
        native: &[],
        redirector: Some("consul-connect-inject-init"),
        inject: |pod| {
            last(
                pod,
                "containers",
                json!({"name": "consul-dataplane", "image": "consul-dataplane"}),
            );
            last(
                pod,
                "initContainers",
                json!({"name": "consul-connect-inject-init", "image": "consul-k8s"}),
            );
            annotate(pod, "consul.hashicorp.com/connect-inject-status", "injected");
        },
    },
    Neighbour {
        name: "Dapr, native sidecar",
        takes_inbound: false,
        native: &["daprd"],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "initContainers",
                json!({"name": "daprd", "image": "daprd", "restartPolicy": "Always"}),
            );
            variable_in_all(pod, "containers", "DAPR_HTTP_PORT", "3500");
        },
    },
    Neighbour {
        name: "Dapr, classic sidecar",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "containers",
                json!({"name": "daprd", "image": "daprd", "ports": [{"containerPort": 3500}]}),
            );
            variable_in_all(pod, "containers", "DAPR_HTTP_PORT", "3500");
        },
    },
    Neighbour {
        name: "Cloud Storage FUSE of GKE, native sidecar",
        takes_inbound: false,
        native: &["gke-gcsfuse-sidecar"],
        redirector: None,
        inject: |pod| {
            last(pod, "volumes", json!({"name": "gke-gcsfuse-tmp", "emptyDir": {}}));
            // It serves the volumes of the pod and mounts none of them.
            let fuse = json!({
                "name": "gke-gcsfuse-sidecar", "image": "gcs-fuse-csi-driver-sidecar-mounter", "restartPolicy": "Always",
                "volumeMounts": [{"name": "gke-gcsfuse-tmp", "mountPath": "/gcsfuse-tmp"}],
            });
            first(pod, "initContainers", fuse);
        },
    },
    Neighbour {
        name: "Vault Agent",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "volumes",
                json!({"name": "vault-secrets", "emptyDir": {"medium": "Memory"}}),
            );
            let mount = json!({"name": "vault-secrets", "mountPath": "/vault/secrets"});
            mount_in_all(pod, &mount);
            let agent = |name: &str| json!({"name": name, "image": "vault", "command": ["/bin/sh", "-ec"], "args": ["vault agent"]});
            first(pod, "initContainers", agent("vault-agent-init"));
            last(pod, "containers", agent("vault-agent"));
            annotate(pod, "vault.hashicorp.com/agent-inject-status", "injected");
        },
    },
    Neighbour {
        name: "bank-vaults",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "volumes",
                json!({"name": "vault-env", "emptyDir": {"medium": "Memory"}}),
            );
            first(
                pod,
                "initContainers",
                json!({"name": "copy-vault-env", "image": "vault-env"}),
            );
            wrap(pod, &["/vault/vault-env"]);
            annotate(pod, "vault.security.banzaicloud.io/mutated", "true");
        },
    },
    Neighbour {
        name: "1Password",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "volumes",
                json!({"name": "op-bin", "emptyDir": {"medium": "Memory"}}),
            );
            first(
                pod,
                "initContainers",
                json!({"name": "copy-op-bin", "image": "1password/op"}),
            );
            wrap(pod, &["/op/bin/op", "run", "--"]);
            annotate(pod, "operator.1password.io/status", "injected");
        },
    },
    Neighbour {
        name: "Datadog",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "volumes",
                json!({"name": "datadog-auto-instrumentation", "emptyDir": {}}),
            );
            last(
                pod,
                "initContainers",
                json!({"name": "datadog-lib-python-init", "image": "dd-lib-python-init"}),
            );
            for list in ["initContainers", "containers"] {
                variable_in_all(pod, list, "DD_ENTITY_ID", "pod");
            }
            variable_in_all(
                pod,
                "containers",
                "LD_PRELOAD",
                "/opt/datadog/launcher.preload.so",
            );
            let mount = json!({"name": "datadog-auto-instrumentation", "mountPath": "/opt/datadog"});
            mount_in_all(pod, &mount);
        },
    },
    Neighbour {
        name: "OpenTelemetry",
        takes_inbound: false,
        native: &[],
        redirector: None,
        inject: |pod| {
            last(
                pod,
                "volumes",
                json!({"name": "opentelemetry-auto-instrumentation-python", "emptyDir": {}}),
            );
            let init = "opentelemetry-auto-instrumentation-python";
            last(
                pod,
                "initContainers",
                json!({"name": init, "image": "autoinstrumentation-python"}),
            );
            let folder = "/otel-auto-instrumentation-python";
            variable_in_all(pod, "containers", "PYTHONPATH", folder);
            variable_in_all(pod, "containers", "OTEL_SERVICE_NAME", "litellm");
        },
    },
];

fn istio_init() -> Value {
    json!({"name": "istio-init", "image": "istio/proxyv2", "args": ["istio-iptables"]})
}

fn istio_proxy() -> Value {
    json!({"name": "istio-proxy", "image": "istio/proxyv2", "args": ["proxy", "sidecar"]})
}

fn linkerd_proxy() -> Value {
    json!({"name": "linkerd-proxy", "image": "linkerd/proxy", "ports": [{"containerPort": 4143}]})
}

fn items<'a>(pod: &'a mut Value, list: &str) -> &'a mut Vec<Value> {
    let spec = pod["spec"].as_object_mut().unwrap();
    spec.entry(list)
        .or_insert_with(|| json!([]))
        .as_array_mut()
        .unwrap()
}

fn first(pod: &mut Value, list: &str, item: Value) {
    items(pod, list).insert(0, item);
}

fn last(pod: &mut Value, list: &str, item: Value) {
    items(pod, list).push(item);
}

fn annotate(pod: &mut Value, key: &str, value: &str) {
    let metadata = pod["metadata"].as_object_mut().unwrap();
    metadata.entry("annotations").or_insert_with(|| json!({}))[key] = json!(value);
}

/// Has the kubelet ask the mesh's agent, which asks the container. Of all containers, as the worst case.
fn rewrite_probes(pod: &mut Value, port: u16, prefix: &str) {
    for list in ["initContainers", "containers"] {
        for container in items(pod, list) {
            let name = container["name"].as_str().unwrap().to_owned();
            for (field, path) in [
                ("startupProbe", "startupz"),
                ("readinessProbe", "readyz"),
                ("livenessProbe", "livez"),
            ] {
                if let Some(get) = container.pointer_mut(&format!("/{field}/httpGet")) {
                    *get = json!({"path": format!("{prefix}/{name}/{path}"), "port": port});
                }
            }
        }
    }
}

/// The kubelet asks Kuma's proxy of probes, by the port and the path of the container's own.
fn rewrite_probes_as_kuma(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in items(pod, list) {
            for field in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(get) = container.pointer_mut(&format!("/{field}/httpGet")) {
                    let port = get["port"].as_u64().unwrap_or(4000);
                    let path = get["path"].as_str().unwrap();
                    *get = json!({"path": format!("/{port}{path}"), "port": 9000});
                }
            }
        }
    }
}

fn variable_in_all(pod: &mut Value, list: &str, name: &str, value: &str) {
    for container in items(pod, list) {
        let container = container.as_object_mut().unwrap();
        let env = container.entry("env").or_insert_with(|| json!([]));
        env.as_array_mut()
            .unwrap()
            .insert(0, json!({"name": name, "value": value}));
    }
}

fn mount_in_all(pod: &mut Value, mount: &Value) {
    for container in items(pod, "containers") {
        let container = container.as_object_mut().unwrap();
        let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
        mounts.as_array_mut().unwrap().push(mount.clone());
    }
}

/// Puts words before those of LiteLLM's container.
fn wrap(pod: &mut Value, words: &[&str]) {
    for container in items(pod, "containers") {
        if container["name"] == "litellm" {
            let mut own = container["command"].as_array().cloned().unwrap_or_default();
            own.extend(container["args"].as_array().cloned().unwrap_or_default());
            container["command"] = json!(words);
            container["args"] = json!(own);
        }
    }
}
