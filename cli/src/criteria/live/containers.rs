//! LiteLLM's containers as they run, beside the pod template of the workload that made them: whether injection changed
//! anything but configuration.

use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use kube::{Api, ResourceExt};
use mcp_auth_operator::is_injected;

use crate::cluster::Cluster;
use crate::error::CliError;
use crate::inventory::Inventory;
use crate::lookup::{Lookup, get};

/// Most pods that are looked at.
const MAX_PODS: usize = 20;
/// Folders of programs: a file mounted there could replace code.
const CODE_FOLDERS: [&str; 4] = ["site-packages", "dist-packages", "/app/litellm", "/usr/bin"];

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct LiteLlmPod {
    pub namespace: String,
    pub name: String,
    /// Images of its containers, with the digests that run.
    pub images: Vec<String>,
    /// What differs from the workload's template beyond configuration; unknown without a template.
    pub modifications: Lookup<Vec<String>>,
}

/// The facts, and the pods themselves.
pub async fn pods(cluster: &Cluster, inventory: &Inventory) -> Result<Vec<(LiteLlmPod, Pod)>, CliError> {
    let mut found = Vec::new();
    let injected = inventory.pods.iter().flatten().filter(is_injected);
    for meta in injected.take(MAX_PODS) {
        let namespace = meta.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(cluster.client.clone(), &namespace);
        let Lookup::Found(pod) = get(cluster, &api, &meta.name_any()).await? else {
            continue;
        };
        let template = template(cluster, &namespace, &pod).await?;
        found.push((LiteLlmPod::new(&pod, template), pod));
    }
    Ok(found)
}

impl LiteLlmPod {
    fn new(pod: &Pod, template: Lookup<PodSpec>) -> Self {
        let containers = pod
            .spec
            .as_ref()
            .map(|spec| &spec.containers[..])
            .unwrap_or_default();
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            images: containers
                .iter()
                .map(|container| running_image(pod, container))
                .collect(),
            modifications: template.map(|template| {
                containers
                    .iter()
                    .flat_map(|container| modifications(container, &template))
                    .collect()
            }),
        }
    }
}

/// The image by its digest where the kubelet tells it.
fn running_image(pod: &Pod, container: &Container) -> String {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let status = statuses
        .into_iter()
        .flatten()
        .find(|status| status.name == container.name);
    let digest = status.and_then(|status| {
        status
            .image_id
            .split_once('@')
            .map(|(_, digest)| digest.to_owned())
    });
    let image = container.image.clone().unwrap_or_default();
    match digest {
        Some(digest) if !image.contains('@') => format!("{image}@{digest}"),
        _ => image,
    }
}

/// Another image, or something mounted over code. Other webhooks may have added whole containers.
fn modifications(container: &Container, template: &PodSpec) -> Vec<String> {
    let name = &container.name;
    let Some(written) = template.containers.iter().find(|written| written.name == *name) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if container.image != written.image {
        let (running, stated) = (image(container), image(written));
        found.push(format!(
            "the container {name} runs {running}, and its workload names {stated}"
        ));
    }
    let mounts = |container: &Container| container.volume_mounts.clone().unwrap_or_default();
    let before = mounts(written);
    let added = mounts(container);
    let added = added.iter().filter(|mount| {
        !before
            .iter()
            .any(|written| written.mount_path == mount.mount_path)
    });
    found.extend(
        added
            .filter(|mount| {
                CODE_FOLDERS
                    .iter()
                    .any(|folder| mount.mount_path.contains(folder))
            })
            .map(|mount| {
                format!(
                    "the container {name} has something mounted over {}",
                    mount.mount_path
                )
            }),
    );
    found
}

fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or("no image")
}

/// The pod template of what made the pod.
async fn template(cluster: &Cluster, namespace: &str, pod: &Pod) -> Result<Lookup<PodSpec>, CliError> {
    let owners = pod.owner_references();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        let why = "no workload made it that it could be compared with";
        return Ok(Lookup::Unknown(why.to_owned()));
    };
    let client = cluster.client.clone();
    let template: Lookup<Option<PodTemplateSpec>> = match owner.kind.as_str() {
        "ReplicaSet" => {
            let api = Api::<ReplicaSet>::namespaced(client, namespace);
            get(cluster, &api, &owner.name)
                .await?
                .map(|found| found.spec.and_then(|spec| spec.template))
        }
        "StatefulSet" => {
            let api = Api::<StatefulSet>::namespaced(client, namespace);
            get(cluster, &api, &owner.name)
                .await?
                .map(|found| found.spec.map(|spec| spec.template))
        }
        "DaemonSet" => {
            let api = Api::<DaemonSet>::namespaced(client, namespace);
            get(cluster, &api, &owner.name)
                .await?
                .map(|found| found.spec.map(|spec| spec.template))
        }
        kind => Lookup::Unknown(format!(
            "it comes from a {kind}, whose template is not known here"
        )),
    };
    Ok(match template {
        Lookup::Found(template) => match template.and_then(|template| template.spec) {
            Some(spec) => Lookup::Found(spec),
            None => Lookup::Unknown("its workload has no pod template".to_owned()),
        },
        Lookup::Missing => Lookup::Unknown("the workload that made it is gone".to_owned()),
        Lookup::Unknown(why) => Lookup::Unknown(why),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "litellm-0", "namespace": "llm"},
            "spec": {"containers": [container]},
            "status": {"containerStatuses": [{
                "name": "litellm", "image": "i", "imageID": "registry/litellm@sha256:ab", "ready": true,
                "restartCount": 0,
            }]},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn template() -> PodSpec {
        let container = json!({"name": "litellm", "image": "litellm:1", "volumeMounts": [
            {"name": "config", "mountPath": "/etc/litellm"},
        ]});
        serde_json::from_value(json!({"containers": [container]})).unwrap()
    }

    #[test]
    fn configuration_that_injection_adds_is_no_modification() {
        let container = json!({"name": "litellm", "image": "litellm:1", "args": ["--port", "16480"], "volumeMounts": [
            {"name": "config", "mountPath": "/etc/litellm"},
            {"name": "mcpauth-config", "mountPath": "/mcpauth"},
        ]});
        let facts = LiteLlmPod::new(&pod(container), Lookup::Found(template()));
        assert_eq!(facts.modifications, Lookup::Found(Vec::new()));
        assert_eq!(facts.images, ["litellm:1@sha256:ab"]);
    }

    #[test]
    fn another_image_and_a_file_over_its_code_are_modifications() {
        let container = json!({"name": "litellm", "image": "litellm:2", "volumeMounts": [
            {"name": "patch", "mountPath": "/usr/lib/python3.13/site-packages/litellm/main.py"},
        ]});
        let facts = LiteLlmPod::new(&pod(container), Lookup::Found(template()));
        let Lookup::Found(found) = facts.modifications else {
            panic!("there is a template");
        };
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("runs litellm:2, and its workload names litellm:1"),
            "{found:?}"
        );
        assert!(found[1].contains("site-packages/litellm/main.py"), "{found:?}");
    }
}
