//! Keys of the pod's labels and annotations: what users set, and what the operator writes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::error::{ANNOTATIONS_TOO_LARGE, InjectionError};

/// Label: `true` injects the pod wherever it is, `false` never.
pub const INJECT_LABEL: &str = "mcpauth.dev/inject";
/// Names the container that LiteLLM runs in.
pub const CONTAINER: &str = "mcpauth.dev/container";
/// Path of LiteLLM's configuration file, where the pod does not show it; `none` if it has none.
pub const CONFIG_PATH: &str = "mcpauth.dev/config-path";
/// Port of LiteLLM, where the pod does not show it.
pub const PORT: &str = "mcpauth.dev/port";
/// `disabled`: LiteLLM keeps its port, and only its way to MCP servers goes through the sidecar.
pub const INBOUND: &str = "mcpauth.dev/inbound";
/// `hidden`: LiteLLM may take every client for the sidecar, where its server knows no forwarded address.
pub const CLIENT_ADDRESSES: &str = "mcpauth.dev/client-addresses";
/// `Allow`: a pod that cannot be injected starts without the sidecar. `Deny`: it does not start.
pub const ON_REFUSAL: &str = "mcpauth.dev/on-refusal";
/// Longest wait of LiteLLM's start for routes and first tokens, in seconds.
pub const START_TIMEOUT: &str = "mcpauth.dev/start-timeout-seconds";
/// Resources of this pod's sidecar, over those of the settings. JSON.
pub const RESOURCES: &str = "mcpauth.dev/resources";
/// Security context of this pod's sidecar, over what is fixed. JSON.
pub const SECURITY_CONTEXT: &str = "mcpauth.dev/security-context";
/// How long the sidecar keeps users' connections without a request, in seconds.
pub const KEEPALIVE: &str = "mcpauth.dev/keepalive-seconds";
/// Where audit lines go: `stdout`, `file` or `otlp`.
pub const AUDIT_OUTPUT: &str = "mcpauth.dev/audit-output";
/// Name of the pod's volume that the file of audit lines is in.
pub const AUDIT_VOLUME: &str = "mcpauth.dev/audit-volume";
/// Where the OpenTelemetry collector takes OTLP over HTTP.
pub const OTLP_ENDPOINT: &str = "mcpauth.dev/otlp-endpoint";
/// `NAME/KEY` of the Secret with the headers by which the collector knows the sender.
pub const OTLP_HEADERS_SECRET: &str = "mcpauth.dev/otlp-headers-secret";
/// `enabled`: each call is a span that goes to the collector.
pub const TRACING: &str = "mcpauth.dev/tracing";
/// `true`: the overlay is in the memory that the pod's containers share, and in no volume of injection's. `false`: in a volume.
pub const SHARED_MEMORY: &str = "mcpauth.dev/shared-memory";

/// All annotations that users set.
pub const STATED: [&str; 16] = [
    CONTAINER,
    CONFIG_PATH,
    PORT,
    INBOUND,
    CLIENT_ADDRESSES,
    ON_REFUSAL,
    START_TIMEOUT,
    RESOURCES,
    SECURITY_CONTEXT,
    KEEPALIVE,
    AUDIT_OUTPUT,
    AUDIT_VOLUME,
    OTLP_ENDPOINT,
    OTLP_HEADERS_SECRET,
    TRACING,
    SHARED_MEMORY,
];

/// Written by injection: the version that injected the pod.
pub const INJECTED: &str = "mcpauth.dev/injected";
/// Written by injection: why a selected pod needs no sidecar.
pub const SKIPPED: &str = "mcpauth.dev/skipped";
/// Written by injection: reason and message of why a selected pod runs without the sidecar that it should have.
pub const NOT_INJECTED: &str = "mcpauth.dev/not-injected";
/// Written by injection: what works in an injected pod, but perhaps not as its owner expects. A line each.
pub const WARNINGS: &str = "mcpauth.dev/warnings";
/// Written by injection: content of the file that makes LiteLLM read its own configuration and the overlay.
pub const WRAPPER: &str = "mcpauth.dev/wrapper";

/// Written into the pod template by a restart of the operator's own: what for, as digests.
pub const RESTARTED_FOR: &str = "mcpauth.dev/restarted-for";

/// Those that may be a label with the reason alone, where the annotations of the pod leave no room for more.
pub const MARKS: [&str; 2] = [SKIPPED, NOT_INJECTED];

/// All annotations that the operator writes.
pub const WRITTEN: [&str; 6] = [INJECTED, SKIPPED, NOT_INJECTED, WARNINGS, WRAPPER, RESTARTED_FOR];

/// What the webhook has marked a pod with by one of [`MARKS`]: the annotation, or what the label stands for.
pub fn mark<'a>(
    key: &str,
    annotations: &'a BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> Option<Cow<'a, str>> {
    if let Some(text) = annotations.get(key) {
        return Some(text.into());
    }
    let reason = labels.get(key).filter(|_| MARKS.contains(&key))?;
    Some(match (key, reason.as_str()) {
        (NOT_INJECTED, ANNOTATIONS_TOO_LARGE) => {
            format!("{reason}: {}", InjectionError::AnnotationsTooLarge).into()
        }
        (NOT_INJECTED, _) => format!(
            "{reason}: the annotations of the pod leave no room to say more; docs/injection.md has the reason and the way \
             out under Refusals"
        )
        .into(),
        _ => reason.clone().into(),
    })
}

/// Value of an annotation of the pod.
pub(super) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
