//! The contract between the injection webhook, which writes the sidecar's container, and the sidecar, which
//! runs in it: environment variables, ports, paths and HTTP endpoints.

/// Environment variables of the sidecar's container. Each is also a flag of `mcp-auth-sidecar serve`.
pub mod env {
    /// `ADDRESS:PORT` that LiteLLM used to own; absent where only the outbound half is wanted.
    pub const INBOUND: &str = "MCPAUTH_INBOUND";
    /// Loopback `ADDRESS:PORT` that LiteLLM's MCP client calls.
    pub const OUTBOUND: &str = "MCPAUTH_OUTBOUND";
    /// `ADDRESS:PORT` of the probes, the drain hook and the metrics.
    pub const HEALTH: &str = "MCPAUTH_HEALTH";
    /// Loopback `ADDRESS:PORT` that LiteLLM was moved to.
    pub const LITELLM: &str = "MCPAUTH_LITELLM";
    /// How long LiteLLM's server keeps connections without a request, in whole seconds.
    pub const LITELLM_KEEPALIVE_SECONDS: &str = "MCPAUTH_LITELLM_KEEPALIVE_SECONDS";
    /// How long the sidecar keeps those of users, in whole seconds; absent where it is up to LiteLLM's setting.
    pub const KEEPALIVE_SECONDS: &str = "MCPAUTH_KEEPALIVE_SECONDS";
    /// LiteLLM's own `FORWARDED_ALLOW_IPS`: the addresses and networks, separated by commas, whose `X-Forwarded-`
    /// headers it trusts.
    pub const FORWARDED_ALLOW_IPS: &str = "MCPAUTH_FORWARDED_ALLOW_IPS";
    /// LiteLLM's own `MCP_TOOL_PREFIX_SEPARATOR`: what stands between a server's name and that of its tool.
    pub const TOOL_PREFIX_SEPARATOR: &str = "MCPAUTH_TOOL_PREFIX_SEPARATOR";
    /// The routes known at admission, a JSON array of [`Route`](crate::sync::Route). They hold no secret.
    pub const ROUTES: &str = "MCPAUTH_ROUTES";
    /// Path of LiteLLM's own configuration file; absent where it has none (configuration in its database).
    pub const ORIGINAL_CONFIG: &str = "MCPAUTH_ORIGINAL_CONFIG";
    /// Folder in which the sidecar makes LiteLLM find a wrapper at the path of [`ORIGINAL_CONFIG`], and links to what lies
    /// beside that; absent where the wrapper lies beside it.
    pub const CONFIG_MIRROR: &str = "MCPAUTH_CONFIG_MIRROR";
    /// Names in the folder of [`ORIGINAL_CONFIG`] at which LiteLLM's container has mounts that the sidecar has not,
    /// separated by `:`, which no mount path holds.
    pub const CONFIG_MOUNT_POINTS: &str = "MCPAUTH_CONFIG_MOUNT_POINTS";
    /// Path of the overlay that the sidecar writes.
    pub const OVERLAY: &str = "MCPAUTH_OVERLAY";
    /// Folder of the overlay in the pod's shared memory, which the sidecar makes; absent where a volume is mounted there.
    pub const SHARED_FOLDER: &str = "MCPAUTH_SHARED_FOLDER";
    /// `https://HOST:PORT` of the operator.
    pub const OPERATOR: &str = "MCPAUTH_OPERATOR";
    /// PEM certificates that the operator's certificate is verified against.
    pub const OPERATOR_CA: &str = "MCPAUTH_OPERATOR_CA";
    /// Path of the projected ServiceAccount token, bound to the pod and to [`AUDIENCE`](super::AUDIENCE).
    pub const TOKEN_FILE: &str = "MCPAUTH_TOKEN_FILE";
    /// The pod's own namespace, name and uid, by downward API.
    pub const POD_NAMESPACE: &str = "MCPAUTH_POD_NAMESPACE";
    pub const POD_NAME: &str = "MCPAUTH_POD_NAME";
    pub const POD_UID: &str = "MCPAUTH_POD_UID";
    /// Longest time in whole seconds that LiteLLM's start waits for routes and first tokens.
    pub const START_TIMEOUT_SECONDS: &str = "MCPAUTH_START_TIMEOUT_SECONDS";
    /// Where the sidecar's audit log goes: `stdout`, which is the default, `otlp`, or the path of a file.
    pub const AUDIT_LOG: &str = "MCPAUTH_AUDIT_LOG";
    /// [`OtlpEndpoint`](crate::otlp::OtlpEndpoint) of the OpenTelemetry collector.
    pub const OTLP_ENDPOINT: &str = "MCPAUTH_OTLP_ENDPOINT";
    /// Headers of each request to it, `NAME=VALUE` separated by commas, as in OpenTelemetry's own variables. Secret.
    pub const OTLP_HEADERS: &str = "MCPAUTH_OTLP_HEADERS";
    /// `enabled`: each call is a span that goes there.
    pub const TRACING: &str = "MCPAUTH_TRACING";
    /// PEM certificates to verify it by, besides the platform's.
    pub const OTLP_CA: &str = "MCPAUTH_OTLP_CA";
    /// Time in whole seconds that the drain hook takes.
    pub const DRAIN_SECONDS: &str = "MCPAUTH_DRAIN_SECONDS";
}

/// What uvicorn trusts where `FORWARDED_ALLOW_IPS` is not set.
pub const DEFAULT_FORWARDED_ALLOW_IPS: &str = "127.0.0.1,::1";

/// Variable of LiteLLM by which its users choose what stands between a server's name and that of its tool.
pub const TOOL_PREFIX_SEPARATOR: &str = "MCP_TOOL_PREFIX_SEPARATOR";
/// What LiteLLM takes where it is not set.
pub const DEFAULT_TOOL_PREFIX_SEPARATOR: &str = "-";

/// Audience of the token a sidecar presents to the operator.
pub const AUDIENCE: &str = "mcp-auth-operator";

/// Ports preferred in the pod. Where the pod already declares one, the webhook takes the next free one above.
/// They stay clear of the ports of LiteLLM (4000, 4001, 8081, 10000) and of Istio, Linkerd and Dapr.
pub const LITELLM_PORT: u16 = 16480;
pub const OUTBOUND_PORT: u16 = 16481;
pub const HEALTH_PORT: u16 = 16482;

/// Name of the health port in the pod, which a PodMonitor selects the metrics by. At most 15 characters (RFC 6335 section 5.1).
pub const METRICS_PORT_NAME: &str = "mcpauth-metrics";

/// Folder of the overlay: an emptyDir that the sidecar writes and LiteLLM mounts read-only.
pub const CONFIG_FOLDER: &str = "/var/run/mcpauth/config";
/// Where container runtimes mount one and the same tmpfs into all containers of a pod.
pub const SHARED_MEMORY: &str = "/dev/shm";
/// Folder in [`SHARED_MEMORY`] that the sidecar makes so that others cannot list it. In it is the folder of the overlay where that is
/// not [`CONFIG_FOLDER`], by a name that nobody can guess.
pub const SHARED_FOLDERS: &str = "/dev/shm/mcpauth";
/// File in the folder of the overlay with the complete `mcp_servers` that LiteLLM is to read.
pub const OVERLAY_FILE: &str = "overlay.yaml";
/// Name, in the folder of the overlay, of the mirror of LiteLLM's own configuration and its folder; see
/// [`CONFIG_MIRROR`](env::CONFIG_MIRROR).
pub const MIRROR: &str = "mirror";
/// File in the folder of the overlay with the value of [`OUTBOUND_SECRET_HEADER`], which only the sidecar can read: it outlives a
/// restart of the sidecar, as LiteLLM does.
pub const OUTBOUND_SECRET_FILE: &str = "outbound-secret";
/// Folder of the projected volume with the sidecar's identity; mounted into the sidecar only.
pub const IDENTITY_FOLDER: &str = "/var/run/mcpauth/identity";
/// File in [`IDENTITY_FOLDER`]: the ServiceAccount token.
pub const TOKEN_FILE: &str = "token";

/// Path of the sidecar's program in its image.
pub const PROGRAM: &str = "/mcp-auth-sidecar";

/// HTTP endpoints on the health port.
pub mod health {
    /// 200 once LiteLLM may start: the overlay is written. Never waits for LiteLLM.
    pub const STARTUP: &str = "/startup";
    /// 200 while routes are loaded and LiteLLM listens on its loopback port.
    pub const READY: &str = "/ready";
    /// Answers after the drain time; from its beginning on connections are closed after their answer. Only to
    /// whoever is in the pod and knows its uid, which is the preStop hook of the sidecar's own container.
    pub const DRAIN: &str = "/drain";
    /// [`SentRequests`](crate::context_check::SentRequests) with the value in [`CHECK_VALUE_HEADER`]. The first request for
    /// a value begins the check. Only to whoever is in the pod, as by a forwarded port, and knows its uid.
    pub const CONTEXT_CHECK: &str = "/context-check";
    /// Header of a request to [`CONTEXT_CHECK`]: the [`CheckValue`](crate::context_check::CheckValue).
    pub const CHECK_VALUE_HEADER: &str = "mcpauth-check-value";
    /// Header of a request to [`DRAIN`] or [`CONTEXT_CHECK`]: the uid of the pod.
    pub const POD_UID_HEADER: &str = "mcpauth-pod-uid";
    /// Prometheus text format.
    pub const METRICS: &str = "/metrics";
}

/// Request header that carries the sealed user context from the sidecar's inbound half through LiteLLM to its
/// outbound half. No `x-` name: LiteLLM forwards those to LLM providers.
pub const CONTEXT_HEADER: &str = "mcpauth-context";

/// Request header by which LiteLLM shows the outbound half that it is LiteLLM that calls. The overlay has LiteLLM set it,
/// and no MCP server gets it.
pub const OUTBOUND_SECRET_HEADER: &str = "mcpauth-outbound-secret";

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet starts it by this path: hooks and probes would fail, and nothing else would tell.
    #[test]
    fn the_image_of_the_sidecar_starts_the_program_that_hooks_and_probes_start() {
        let stages = include_str!("../../Dockerfile");
        let (_, sidecar) = stages.split_once(" AS sidecar\n").expect("the stage is there");
        let stage = sidecar.split("\nFROM ").next().unwrap_or_default();
        assert!(stage.contains(&format!("ENTRYPOINT [\"{PROGRAM}\"]")), "{stage}");
    }
}
