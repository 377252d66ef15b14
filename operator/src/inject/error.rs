//! Injection errors: why a pod that should be injected cannot be. Each message says what to change.

use thiserror::Error;

use super::annotations::{CLIENT_ADDRESSES, CONFIG_PATH, CONTAINER, INBOUND, PORT, RESOURCES};

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InjectionError {
    #[error("the {what} {key} {shape}; it must be {allowed}")]
    InvalidMetadata {
        what: &'static str,
        key: &'static str,
        shape: String,
        allowed: &'static str,
    },

    #[error(
        "the pod asks for the sidecar, but none of its containers ({names}) is started as LiteLLM; name \
         LiteLLM's in the annotation {CONTAINER}, or take the label off"
    )]
    NoTarget { names: String },
    #[error(
        "the containers {names} may all be LiteLLM's; name the one in the annotation {CONTAINER}, and run \
         others in pods of their own"
    )]
    SeveralTargets { names: String },
    #[error("the annotation {CONTAINER} names no container of the pod; it has {names}")]
    UnknownContainer { names: String },
    #[error(
        "the container `{container}` starts LiteLLM by a shell script that cannot be read; start it by \
         `command: [litellm]` with `args`, or keep its port by the annotation {INBOUND}: disabled"
    )]
    ShellCommand { container: String },
    #[error(
        "the container `{container}` runs a program that is not known to be LiteLLM; if it passes its \
         arguments on to LiteLLM, name the container in the annotation {CONTAINER}"
    )]
    UnknownCommand { container: String },
    #[error(
        "the container `{container}` starts LiteLLM by {program}, which takes its address by other options; \
         start it by `litellm --run_gunicorn`, or keep its port by the annotation {INBOUND}: disabled"
    )]
    ServerArguments { container: String, program: String },
    #[error(
        "the container `{container}` has LiteLLM listen on a socket of its own by {option}, which cannot be moved; \
         use --host and --port, or keep it by the annotation {INBOUND}: disabled"
    )]
    OwnSocket { container: String, option: &'static str },
    #[error(
        "with {what} LiteLLM would take clients for 127.0.0.1 or a proxy (allowed_ips, hidden MCP servers): {advice}, or annotate \
         {INBOUND}: disabled, or {CLIENT_ADDRESSES}: hidden to accept it"
    )]
    ClientAddressesLost {
        what: &'static str,
        advice: &'static str,
    },
    #[error(
        "LiteLLM is the native sidecar `{container}`, which starts before the containers of the pod; run it \
         as one of `containers`"
    )]
    NativeSidecar { container: String },
    #[error("the pod is for Windows, and the sidecar for Linux; run LiteLLM on Linux")]
    Windows,

    #[error(
        "the container `{container}` declares no port; declare LiteLLM's in `ports`, or state it in the \
         annotation {PORT}"
    )]
    NoPort { container: String },
    #[error(
        "the container `{container}` declares several ports ({ports}) and none is named `http`; state \
         LiteLLM's in the annotation {PORT}"
    )]
    SeveralPorts { container: String, ports: String },
    #[error(
        "port {port}, LiteLLM's, is declared by the container `{container}` too; give that one another port"
    )]
    PortTaken { port: u16, container: String },
    #[error("the pod declares so many ports that none is left for the sidecar; declare fewer")]
    NoPortLeft,

    #[error(
        "{source_of_path} of the container `{container}` may name LiteLLM's configuration, unseen; state its \
         path, or `none`, in the annotation {CONFIG_PATH}"
    )]
    HiddenConfigPath {
        container: String,
        source_of_path: String,
    },
    #[error(
        "the path of LiteLLM's configuration in the container `{container}` is relative or holds `..`; make \
         it absolute, or state it in the annotation {CONFIG_PATH}"
    )]
    RelativeConfigPath { container: String },
    #[error(
        "the ResourceQuota `{quota}` has room for the pod, and not for the sidecar besides ({resource}); raise it, or state less \
         for the sidecar in the annotation {RESOURCES}"
    )]
    ExceedsQuota { quota: String, resource: String },
    /// The same to one who may not read the quotas of the namespace.
    #[error(
        "a ResourceQuota of the namespace has room for the pod, and not for the sidecar besides; raise it, or state less for the \
         sidecar in the annotation {RESOURCES}"
    )]
    ExceedsSomeQuota,
    #[error(
        "by the LimitRange `{range}` {what}; change it, or state the sidecar's resources in the annotation {RESOURCES}"
    )]
    OutsideLimitRange { range: String, what: String },
    /// The same to one who may not read the limit ranges of the namespace.
    #[error(
        "a LimitRange of the namespace does not allow the sidecar's resources; change it, or state others in the annotation \
         {RESOURCES}"
    )]
    OutsideSomeLimitRange,
    #[error(
        "LiteLLM ignores the configuration `{path}`, whose name ends neither in .yaml nor in .yml; rename it"
    )]
    ConfigNotYaml { path: String },
    #[error(
        "the start command of the container `{container}` sets or unsets {name}, which hides what injection sets; \
         take that out of it, and set {name} in `env` where it is needed"
    )]
    ScriptSetsConfig { container: String, name: &'static str },
    #[error(
        "the option {option} of the container `{container}` is configuration that would be lost, since \
         arguments do not reach LiteLLM here; put it into a configuration file"
    )]
    ConfigInArguments { container: String, option: String },
    #[error(
        "LITELLM_CONFIG_BUCKET_NAME makes LiteLLM read its configuration from a bucket and ignore every \
         file; mount the configuration from a ConfigMap or Secret instead"
    )]
    ConfigInBucket,
    #[error(
        "the configuration `{path}` lies in LiteLLM's image, where the sidecar cannot read it; mount it from \
         a ConfigMap or Secret"
    )]
    ConfigInImage { path: String },
    #[error(
        "the configuration `{path}` is written by LiteLLM's own container, after the sidecar has read it: {evidence}; \
         write it in an init container"
    )]
    ConfigWrittenAtStart { path: String, evidence: String },
    #[error(
        "the configuration is mounted from the volume `{volume}` by subPathExpr, which means something else \
         in the sidecar; use subPath"
    )]
    ConfigSubPathExpression { volume: String },
    #[error(
        "the files of the volume `{volume}` can be read by root only; set its defaultMode to 0444, or \
         fsGroup in the pod's securityContext"
    )]
    ConfigNotReadable { volume: String },
    #[error(
        "the volume `{volume}` has a kind of source that this version does not know; mount the configuration \
         by subPath as a single file"
    )]
    UnknownVolumeSource { volume: String },

    #[error(
        "{what} makes LiteLLM serve TLS, which the sidecar does not speak to it; take TLS off before \
         LiteLLM, or keep its port by the annotation {INBOUND}: disabled"
    )]
    LiteLlmTls { what: String },
    #[error(
        "hostNetwork shares 127.0.0.1 with the whole node, and every token with it; take hostNetwork off"
    )]
    HostNetwork,
    #[error("the operator's certificates are too large for the sidecar's environment; ask who runs mcp-auth")]
    CaTooLarge,
    #[error(
        "the annotations of the pod leave no room for those of mcp-auth below the 256 KiB that Kubernetes takes; take \
         some out"
    )]
    AnnotationsTooLarge,
    #[error("{what} has a name or path that injection needs for itself; rename it")]
    Reserved { what: String },
}

/// Reason of a pod that has no room for an annotation that says it.
pub const ANNOTATIONS_TOO_LARGE: &str = "AnnotationsTooLarge";

/// What [`InjectionError::reason`] may be, for whoever reads one back from a pod.
pub const NOT_INJECTED_REASONS: [&str; 33] = [
    "InvalidMetadata",
    "NoTarget",
    "SeveralTargets",
    "UnknownContainer",
    "ShellCommand",
    "UnknownCommand",
    "ServerArguments",
    "OwnSocket",
    "ClientAddressesLost",
    "NativeSidecar",
    "Windows",
    "NoPort",
    "SeveralPorts",
    "PortTaken",
    "NoPortLeft",
    "HiddenConfigPath",
    "RelativeConfigPath",
    "ConfigNotYaml",
    "ScriptSetsConfig",
    "ConfigInArguments",
    "ConfigInBucket",
    "ConfigInImage",
    "ConfigWrittenAtStart",
    "ConfigSubPathExpression",
    "ConfigNotReadable",
    "UnknownVolumeSource",
    "LiteLlmTls",
    "HostNetwork",
    "CaTooLarge",
    ANNOTATIONS_TOO_LARGE,
    "Reserved",
    "ExceedsQuota",
    "OutsideLimitRange",
];

impl InjectionError {
    /// Closed set, for metrics and audit.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidMetadata { .. } => "InvalidMetadata",
            Self::NoTarget { .. } => "NoTarget",
            Self::SeveralTargets { .. } => "SeveralTargets",
            Self::UnknownContainer { .. } => "UnknownContainer",
            Self::ShellCommand { .. } => "ShellCommand",
            Self::UnknownCommand { .. } => "UnknownCommand",
            Self::ServerArguments { .. } => "ServerArguments",
            Self::OwnSocket { .. } => "OwnSocket",
            Self::ClientAddressesLost { .. } => "ClientAddressesLost",
            Self::NativeSidecar { .. } => "NativeSidecar",
            Self::Windows => "Windows",
            Self::NoPort { .. } => "NoPort",
            Self::SeveralPorts { .. } => "SeveralPorts",
            Self::PortTaken { .. } => "PortTaken",
            Self::NoPortLeft => "NoPortLeft",
            Self::HiddenConfigPath { .. } => "HiddenConfigPath",
            Self::RelativeConfigPath { .. } => "RelativeConfigPath",
            Self::ConfigNotYaml { .. } => "ConfigNotYaml",
            Self::ScriptSetsConfig { .. } => "ScriptSetsConfig",
            Self::ConfigInArguments { .. } => "ConfigInArguments",
            Self::ConfigInBucket => "ConfigInBucket",
            Self::ConfigInImage { .. } => "ConfigInImage",
            Self::ConfigWrittenAtStart { .. } => "ConfigWrittenAtStart",
            Self::ConfigSubPathExpression { .. } => "ConfigSubPathExpression",
            Self::ConfigNotReadable { .. } => "ConfigNotReadable",
            Self::UnknownVolumeSource { .. } => "UnknownVolumeSource",
            Self::LiteLlmTls { .. } => "LiteLlmTls",
            Self::HostNetwork => "HostNetwork",
            Self::CaTooLarge => "CaTooLarge",
            Self::AnnotationsTooLarge => ANNOTATIONS_TOO_LARGE,
            Self::Reserved { .. } => "Reserved",
            Self::ExceedsQuota { .. } | Self::ExceedsSomeQuota => "ExceedsQuota",
            Self::OutsideLimitRange { .. } | Self::OutsideSomeLimitRange => "OutsideLimitRange",
        }
    }
}
