//! Service meshes, as far as they concern the sidecar: their proxies carry the pod's traffic, and what the
//! kubelet sends to the pod meets them first. Under strict mutual TLS a probe or hook over HTTP fails there.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::annotations::annotation;

/// Proxies that take the pod's connections in both directions.
const PROXIES: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
];
/// Init containers that lead the pod's connections to such a proxy.
const REDIRECTORS: [&str; 7] = [
    "istio-init",
    "istio-validation",
    "linkerd-init",
    "linkerd-network-validator",
    "kuma-init",
    "kuma-validation",
    "consul-connect-inject-init",
];
/// Those that only look whether something on the node leads there already.
const VALIDATORS: [&str; 3] = ["istio-validation", "linkerd-network-validator", "kuma-validation"];
/// Annotations and labels by which a pod asks for such a proxy, and their values.
const REQUESTS: [(&str, &str); 6] = [
    ("sidecar.istio.io/inject", "true"),
    ("linkerd.io/inject", "enabled"),
    ("linkerd.io/inject", "ingress"),
    ("kuma.io/sidecar-injection", "enabled"),
    ("kuma.io/sidecar-injection", "true"),
    ("consul.hashicorp.com/connect-inject", "true"),
];
/// The label by which a pod asks for Istio's proxy of one revision, whatever that is called.
const ISTIO_REVISION: &str = "istio.io/rev";
/// Native sidecars that others need and that take no connections of others: Dapr's, which they call, and that of Cloud Storage FUSE on
/// GKE, which serves their volumes without mounting them (GoogleCloudPlatform/gcs-fuse-csi-driver#20).
const NEEDED: [&str; 2] = ["daprd", "gke-gcsfuse-sidecar"];

/// Whether a proxy takes what is sent to the pod's ports.
pub(super) fn takes_inbound_connections(pod: &Pod, spec: &PodSpec) -> bool {
    let mut containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let is_part = |container: &Container| {
        let name = container.name.as_str();
        PROXIES.contains(&name) || REDIRECTORS.contains(&name)
    };
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let asks =
        |(key, value): &(&str, &str)| annotation(pod, key) == Some(*value) || label(key) == Some(*value);
    containers.any(is_part) || REQUESTS.iter().any(asks) || label(ISTIO_REVISION).is_some()
}

/// Whether connections are led to a proxy that is no native sidecar before any container starts, so that no init
/// container has a network.
pub(super) fn starts_without_network(spec: &PodSpec) -> bool {
    let has = |containers: &[Container], names: &[&str]| {
        containers
            .iter()
            .any(|container| names.contains(&container.name.as_str()))
    };
    let init_containers = spec.init_containers.as_deref().unwrap_or_default();
    has(init_containers, &VALIDATORS) && has(&spec.containers, &PROXIES)
}

/// Whether a container is a native sidecar that ours needs to reach the operator or to read the configuration, or that has to
/// end after ours.
pub(super) fn is_native_proxy(container: &Container) -> bool {
    let name = container.name.as_str();
    container.restart_policy.as_deref() == Some("Always")
        && (PROXIES.contains(&name) || NEEDED.contains(&name))
}
