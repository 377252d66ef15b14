//! What the API server makes of a pod around the webhook.

use serde_json::{Value, json};

/// Where it mounts the API token.
pub const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the API server makes of a pod before it asks a webhook, and after each: defaults, and the API token.
pub fn admitted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let spec = &mut pod["spec"];
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    default(spec, "serviceAccountName", json!("default"));
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "volumes", json!([]));
    let volumes = spec["volumes"].as_array_mut().unwrap();
    if !volumes.iter().any(|volume| volume["name"] == "kube-api-access-x") {
        volumes.push(json!({"name": "kube-api-access-x", "projected": {"sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}));
    }
    for volume in volumes {
        for kind in ["configMap", "secret", "projected"] {
            if let Some(source) = volume.get_mut(kind) {
                default(source, "defaultMode", json!(420));
            }
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            default(container, "imagePullPolicy", json!("IfNotPresent"));
            default(container, "terminationMessagePath", json!("/dev/termination-log"));
            default(container, "terminationMessagePolicy", json!("File"));
            default(container, "resources", json!({}));
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(probe) = container.get_mut(probe) {
                    default(probe, "timeoutSeconds", json!(1));
                    default(probe, "periodSeconds", json!(10));
                    default(probe, "successThreshold", json!(1));
                    if let Some(get) = probe.get_mut("httpGet") {
                        default(get, "scheme", json!("HTTP"));
                    }
                }
            }
            for variable in container
                .get_mut("env")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                    default(field, "apiVersion", json!("v1"));
                }
            }
            default(container, "volumeMounts", json!([]));
            let mounts = container["volumeMounts"].as_array_mut().unwrap();
            if !mounts.iter().any(|mount| mount["mountPath"] == API_TOKEN_FOLDER) {
                mounts.push(
                    json!({"name": "kube-api-access-x", "mountPath": API_TOKEN_FOLDER, "readOnly": true}),
                );
            }
        }
    }
    pod
}

fn default(value: &mut Value, key: &str, default: Value) {
    value.as_object_mut().unwrap().entry(key).or_insert(default);
}
