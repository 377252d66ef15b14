//! Injection options: the pod's label and annotations, parsed. An invalid value is an error that does not
//! repeat it.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use mcp_auth_protocol::otlp::OtlpEndpoint;

use super::annotations::{
    AUDIT_OUTPUT, AUDIT_VOLUME, CLIENT_ADDRESSES, CONFIG_PATH, CONTAINER, INBOUND, INJECT_LABEL, KEEPALIVE,
    ON_REFUSAL, OTLP_ENDPOINT, OTLP_HEADERS_SECRET, PORT, RESOURCES, SECURITY_CONTEXT, SHARED_MEMORY,
    START_TIMEOUT, TRACING, annotation,
};
use super::error::InjectionError;
use super::path::{is_yaml, normalize};
use super::resources::{self, SidecarResources};
use super::security_context::StatedSecurityContext;
use super::settings::{AuditOutput, SecretKey, Settings};
use crate::object_names::is_dns_subdomain;

/// What says whether the pod is to be injected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum InjectionPolicy {
    /// The pod's label asks for it.
    Requested,
    /// The pod's namespace opted in, which may also hold pods of other applications.
    ByNamespace,
    /// The pod's label forbids it.
    Disabled,
}

/// The pod's annotations for injection.
#[derive(Debug, Default, PartialEq)]
pub(super) struct PodOptions {
    pub container: Option<String>,
    pub config_path: Option<StatedConfig>,
    pub port: Option<u16>,
    pub outbound_only: bool,
    /// Whether LiteLLM may take every client for the sidecar.
    pub hides_client_addresses: bool,
    pub start_timeout_seconds: Option<u32>,
    pub keepalive_seconds: Option<u32>,
    pub audit_output: Option<AuditOutput>,
    pub audit_volume: Option<String>,
    pub otlp_endpoint: Option<String>,
    pub otlp_headers_secret: Option<SecretKey>,
    pub tracing: Option<bool>,
    pub security_context: StatedSecurityContext,
    pub shared_memory: Option<bool>,
}

/// What the pod's owner says of LiteLLM's configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum StatedConfig {
    File(String),
    /// It has its database only.
    None,
}

const MAX_START_TIMEOUT_SECONDS: u32 = 600;
const MAX_KEEPALIVE_SECONDS: u32 = 3_600;

pub(super) fn injection_policy(pod: &Pod) -> Result<InjectionPolicy, InjectionError> {
    match pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(INJECT_LABEL))
        .map(String::as_str)
    {
        None => Ok(InjectionPolicy::ByNamespace),
        Some("true") => Ok(InjectionPolicy::Requested),
        Some("false") => Ok(InjectionPolicy::Disabled),
        Some(other) => Err(invalid("label", INJECT_LABEL, other, "`true` or `false`")),
    }
}

/// Whether a pod that cannot be injected is to start without the sidecar. A namespace's label never keeps one
/// from starting: only who asked for this very pod can be meant to prefer none to one without. The annotation
/// turns either round; a value of it that cannot be is an error besides.
pub(super) fn may_start_without_sidecar(pod: &Pod) -> Result<bool, InjectionError> {
    match annotation(pod, ON_REFUSAL) {
        None => Ok(injection_policy(pod) != Ok(InjectionPolicy::Requested)),
        Some("Deny") => Ok(false),
        Some("Allow") => Ok(true),
        Some(other) => Err(invalid("annotation", ON_REFUSAL, other, "`Allow` or `Deny`")),
    }
}

pub(super) fn pod_options(pod: &Pod) -> Result<PodOptions, InjectionError> {
    let port = parse_annotation(pod, PORT, "a number from 1 to 65535", |text| {
        text.parse::<u16>().ok().filter(|port| *port > 0)
    })?;
    let inbound = parse_annotation(pod, INBOUND, SWITCH, switch)?;
    let client_addresses = parse_annotation(
        pod,
        CLIENT_ADDRESSES,
        "`required` or `hidden`",
        |text| match text {
            "required" => Some(false),
            "hidden" => Some(true),
            _ => None,
        },
    )?;
    let tracing = parse_annotation(pod, TRACING, SWITCH, switch)?;
    let start_timeout_seconds = parse_annotation(pod, START_TIMEOUT, "a number from 0 to 600", |text| {
        text.parse::<u32>()
            .ok()
            .filter(|seconds| *seconds <= MAX_START_TIMEOUT_SECONDS)
    })?;
    let keepalive_seconds = parse_annotation(pod, KEEPALIVE, "a number from 1 to 3600", |text| {
        text.parse::<u32>()
            .ok()
            .filter(|seconds| (1..=MAX_KEEPALIVE_SECONDS).contains(seconds))
    })?;
    let config_path = parse_annotation(
        pod,
        CONFIG_PATH,
        "`none` or an absolute path without `..` that ends in .yaml or .yml",
        |text| match text {
            "none" => Some(StatedConfig::None),
            path => normalize(path)
                .filter(|path| is_yaml(path))
                .map(StatedConfig::File),
        },
    )?;
    let audit_output = parse_annotation(
        pod,
        AUDIT_OUTPUT,
        "`stdout`, `file` or `otlp`",
        |text| match text {
            "stdout" => Some(AuditOutput::Stdout),
            "file" => Some(AuditOutput::File),
            "otlp" => Some(AuditOutput::Otlp),
            _ => None,
        },
    )?;
    let audit_volume = parse_annotation(pod, AUDIT_VOLUME, "the name of a volume of the pod", |text| {
        is_dns_subdomain(text).then(|| text.to_owned())
    })?;
    let otlp_endpoint = parse_annotation(
        pod,
        OTLP_ENDPOINT,
        "http://HOST:PORT or https://HOST:PORT, without user, query, `/v1/logs` and the port 4317 of gRPC",
        |text| {
            text.parse::<OtlpEndpoint>()
                .ok()
                .map(|endpoint| endpoint.to_string())
        },
    )?;
    let otlp_headers_secret = parse_annotation(
        pod,
        OTLP_HEADERS_SECRET,
        "NAME/KEY of a Secret of the pod's namespace",
        SecretKey::parse,
    )?;
    let security_context = parse_annotation(
        pod,
        SECURITY_CONTEXT,
        r#"JSON such as {"runAsUser":1001}, of runAsUser (not 0), runAsGroup, seccompProfile, appArmorProfile, seLinuxOptions, within PodSecurity restricted"#,
        StatedSecurityContext::parse,
    )?;
    let shared_memory = parse_annotation(pod, SHARED_MEMORY, "`true` or `false`", |text| text.parse().ok())?;
    Ok(PodOptions {
        container: annotation(pod, CONTAINER).map(str::to_owned),
        config_path,
        port,
        outbound_only: inbound == Some(false),
        hides_client_addresses: client_addresses == Some(true),
        start_timeout_seconds,
        keepalive_seconds,
        audit_output,
        audit_volume,
        otlp_endpoint,
        otlp_headers_secret,
        tracing,
        security_context: security_context.unwrap_or_default(),
        shared_memory,
    })
}

/// The resources of the pod's sidecar: those of the settings, with what the pod states over them. Of what the pod states
/// for all its containers together the sidecar takes its part without stating any: Kubernetes refuses a pod whose
/// containers request more than that.
pub(super) fn sidecar_resources(
    pod: &Pod,
    spec: &PodSpec,
    settings: &Settings,
) -> Result<SidecarResources, InjectionError> {
    let base = resources::without_those_of_pod(&settings.resources, spec.resources.as_ref());
    let stated = parse_annotation(
        pod,
        RESOURCES,
        r#"JSON such as {"limits":{"cpu":"100m"}} with cpu and memory (64Mi, not 64m; 16Mi at least), and no request above its limit"#,
        |text| resources::with_stated(&base, text),
    )?;
    Ok(stated.unwrap_or(SidecarResources {
        all: base,
        stated: None,
    }))
}

const SWITCH: &str = "`enabled` or `disabled`";

fn switch(text: &str) -> Option<bool> {
    match text {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

fn parse_annotation<T>(
    pod: &Pod,
    key: &'static str,
    allowed: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, InjectionError> {
    let Some(text) = annotation(pod, key) else {
        return Ok(None);
    };
    parse(text)
        .map(Some)
        .ok_or_else(|| invalid("annotation", key, text, allowed))
}

fn invalid(what: &'static str, key: &'static str, text: &str, allowed: &'static str) -> InjectionError {
    let shape = if text.is_empty() {
        "is empty".to_owned()
    } else if text.parse::<i128>().is_ok() {
        format!(
            "is a number of {} digits",
            text.trim_start_matches(['-', '+']).len()
        )
    } else {
        format!("is a text of {} characters", text.chars().count())
    };
    InjectionError::InvalidMetadata {
        what,
        key,
        shape,
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(key: &str, value: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
        pod
    }

    #[test]
    fn reads_what_users_ask_for() {
        assert_eq!(pod_options(&pod(PORT, "8080")).unwrap().port, Some(8080));
        assert!(pod_options(&pod(INBOUND, "disabled")).unwrap().outbound_only);
        assert!(!pod_options(&pod(INBOUND, "enabled")).unwrap().outbound_only);
        let hides_addresses = |value| {
            let options = pod_options(&pod(CLIENT_ADDRESSES, value)).unwrap();
            options.hides_client_addresses
        };
        assert!(hides_addresses("hidden") && !hides_addresses("required"));
        let shared_memory = |value| pod_options(&pod(SHARED_MEMORY, value)).unwrap().shared_memory;
        assert_eq!(
            (shared_memory("true"), shared_memory("false")),
            (Some(true), Some(false))
        );
        assert_eq!(
            pod_options(&pod(START_TIMEOUT, "0"))
                .unwrap()
                .start_timeout_seconds,
            Some(0)
        );
        assert_eq!(
            pod_options(&pod(CONFIG_PATH, "/etc//litellm/./config.yaml"))
                .unwrap()
                .config_path,
            Some(StatedConfig::File("/etc/litellm/config.yaml".to_owned()))
        );
        assert_eq!(
            pod_options(&pod(CONFIG_PATH, "none")).unwrap().config_path,
            Some(StatedConfig::None)
        );
    }

    #[test]
    fn only_a_pod_that_asks_for_the_sidecar_itself_may_be_kept_from_starting() {
        let labelled = |value: &str, mut pod: Pod| {
            pod.metadata.labels = Some([(INJECT_LABEL.to_owned(), value.to_owned())].into());
            may_start_without_sidecar(&pod).unwrap()
        };
        assert!(may_start_without_sidecar(&Pod::default()).unwrap());
        assert!(!labelled("true", Pod::default()));
        assert!(labelled("yes", Pod::default()));
        assert!(labelled("true", pod(ON_REFUSAL, "Allow")));
        assert!(!may_start_without_sidecar(&pod(ON_REFUSAL, "Deny")).unwrap());
        assert!(may_start_without_sidecar(&pod(ON_REFUSAL, "deny")).is_err());
    }

    #[test]
    fn refuses_values_it_does_not_know_without_repeating_them() {
        for (key, value, shape) in [
            (PORT, "0", "a number of 1 digits"),
            (PORT, "65536", "a number of 5 digits"),
            (PORT, "", "empty"),
            (INBOUND, "Disabled", "a text of 8 characters"),
            (CLIENT_ADDRESSES, "Hidden", "a text of 6 characters"),
            (START_TIMEOUT, "601", "a number of 3 digits"),
            (START_TIMEOUT, "20s", "a text of 3 characters"),
            (CONFIG_PATH, "config.yaml", "a text of 11 characters"),
            (CONFIG_PATH, "/etc/../config.yaml", "a text of 19 characters"),
            (CONFIG_PATH, "/etc/config.json", "a text of 16 characters"),
            (SECURITY_CONTEXT, r#"{"runAsUser": 0}"#, "a text of 16 characters"),
            (AUDIT_OUTPUT, "OTLP", "a text of 4 characters"),
            (AUDIT_VOLUME, "/var/log", "a text of 8 characters"),
            (TRACING, "true", "a text of 4 characters"),
            (SHARED_MEMORY, "enabled", "a text of 7 characters"),
            (OTLP_ENDPOINT, "collector:4318", "a text of 14 characters"),
            (OTLP_ENDPOINT, "http://collector:4317", "a text of 21 characters"),
            (OTLP_HEADERS_SECRET, "collector", "a text of 9 characters"),
            (
                OTLP_HEADERS_SECRET,
                "collector/he aders",
                "a text of 18 characters",
            ),
        ] {
            let error = pod_options(&pod(key, value)).unwrap_err();
            assert_eq!(error.reason(), "InvalidMetadata");
            let message = error.to_string();
            assert!(message.contains(key) && message.contains(shape), "{message}");
            assert!(value.len() < 4 || !message.contains(value), "{message}");
        }
    }
}
