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

/// The reasons of lasting warnings, to parse the annotation of a pod by.
pub const WARNING_REASONS: [&str; 18] = [
    "UnknownAnnotation",
    "RoutesWithheld",
    "RoutesOmitted",
    "CopiedSidecar",
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
];

pub(super) fn lasting(reason: &'static str, message: impl Into<String>) -> Warning {
    Warning {
        reason,
        message: message.into(),
        is_lasting: true,
    }
}
