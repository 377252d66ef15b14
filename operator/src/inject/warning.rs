//! One warning of an injection.

/// One warning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// Closed set, for metrics.
    pub reason: &'static str,
    pub message: String,
    /// Whether it holds for as long as the pod lives.
    pub is_lasting: bool,
}

/// Of a pod that cannot be injected and has a sidecar all the same.
pub(super) const SIDECAR_KEPT: &str = "SidecarKept";

/// Of an overlay in the volume although shared memory was asked for.
pub(super) const SHARED_MEMORY_UNUSED: &str = "SharedMemoryUnused";

/// The reasons of lasting warnings, to parse the annotation of a pod by.
pub const WARNING_REASONS: [&str; 20] = [
    "UnknownAnnotation",
    "RoutesWithheld",
    "RoutesOmitted",
    "CopiedSidecar",
    SIDECAR_KEPT,
    "NoConfigSeen",
    "ConfigMayBeReplaced",
    "NoProxyMayBeReplaced",
    "ImageArguments",
    "ClientAddressesHidden",
    "TrustedProxiesHidden",
    "EgressProxy",
    "MetricsOnLoopback",
    "SeparateHealthApp",
    "OldLiteLlm",
    "MeshStartsLater",
    "SharedProcesses",
    "LowPort",
    "AuditOutputUnusable",
    SHARED_MEMORY_UNUSED,
];

pub(super) fn lasting(reason: &'static str, message: impl Into<String>) -> Warning {
    Warning {
        reason,
        message: message.into(),
        is_lasting: true,
    }
}
