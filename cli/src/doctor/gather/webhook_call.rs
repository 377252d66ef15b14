//! Has the API server call the webhook: creates a pod for show (dry run), which asks for the sidecar by its
//! label, and looks at what comes back. Nothing is stored, and nothing runs.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use mcp_auth_operator::inject::SIDECAR;
use serde_json::json;

use crate::cluster::Cluster;
use crate::doctor::facts::WebhookCall;
use crate::error::CliError;
use crate::lookup::Lookup;
use crate::webhook_scope::{WebhookScope, webhook_scope};

/// A LiteLLM that PodSecurity `restricted` takes.
fn pod() -> Pod {
    let pod = json!({
        "metadata": {
            "generateName": "mcp-auth-doctor-",
            "labels": {"mcpauth.dev/inject": "true"},
            "annotations": {"mcpauth.dev/config-path": "none"},
        },
        "spec": {
            "serviceAccountName": "default",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "litellm",
                "image": "litellm",
                "args": ["--port", "4000"],
                "ports": [{"containerPort": 4000}],
                "resources": {
                    "requests": {"cpu": "1m", "memory": "1Mi"},
                    "limits": {"cpu": "1m", "memory": "1Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "runAsUser": 65532,
                },
            }],
        },
    });
    serde_json::from_value(pod).expect("it is a pod")
}

pub async fn webhook_call(
    cluster: &Cluster,
    webhook: &MutatingWebhookConfiguration,
    namespace: &str,
    labels: &Lookup<BTreeMap<String, String>>,
) -> Result<WebhookCall, CliError> {
    let pod = pod();
    if let (Lookup::Found(labels), Some(of_pod)) = (labels, &pod.metadata.labels)
        && webhook_scope(webhook, labels, of_pod) == WebhookScope::NotSelected
    {
        return Ok(WebhookCall::NotMade(
            "the webhook configuration leaves this namespace out".to_owned(),
        ));
    }
    let api = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let action = format!("create pods in the namespace {namespace} (dry run)");
    Ok(match cluster.answer(&action, api.create(&dry_run, &pod)).await {
        Ok(created) => {
            let spec = created.spec.unwrap_or_default();
            let mut containers = spec.init_containers.iter().flatten();
            match containers.any(|container| container.name == SIDECAR) {
                true => WebhookCall::Injected,
                false => WebhookCall::NotInjected,
            }
        }
        // `failed calling webhook "pod.inject.mcpauth.dev": ...`, whatever the status code.
        Err(CliError::Api { cause, .. } | CliError::Forbidden { cause, .. })
            if cause.contains("inject.mcpauth.dev") =>
        {
            WebhookCall::Failed(cause)
        }
        Err(CliError::Forbidden { cause, .. }) => {
            WebhookCall::NotMade(format!("the pod for show may not be created: {cause}"))
        }
        Err(CliError::Api { cause, .. }) => {
            WebhookCall::NotMade(format!("the pod for show was refused: {cause}"))
        }
        Err(error) => return Err(error),
    })
}
