//! The sidecar's settings: what every injected sidecar gets, as the chart's values state it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use mcp_auth_protocol::otlp::{OtlpEndpoint, OtlpEndpointError};
use serde::Deserialize;
use thiserror::Error;

use super::namespace_limits::NamespaceLimits;
use super::resources::{self, ResourcesError};
use super::security_context::{self, StatedSecurityContext};
use crate::object_names::is_dns_subdomain;

/// The settings of all sidecars, read from a file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    pub image: String,
    #[serde(default)]
    pub image_pull_policy: Option<String>,
    /// Names of Secrets that every injected pod gets in its `imagePullSecrets`, to pull the sidecar's image
    /// with. The kubelet reads them in the pod's own namespace.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// Without requests for CPU and memory a HorizontalPodAutoscaler stops computing for the pod.
    #[serde(default, deserialize_with = "resources::deserialize")]
    pub resources: ResourceRequirements,
    /// Over what is fixed of it.
    #[serde(default, deserialize_with = "security_context::deserialize")]
    pub security_context: StatedSecurityContext,
    /// Where audit lines go.
    #[serde(default)]
    pub audit: AuditSettings,
    /// The OpenTelemetry collector.
    #[serde(default)]
    pub otlp: OtlpSettings,
    /// Whether overlays are in the memory that the containers of a pod share, and in no volume.
    #[serde(default)]
    pub shared_memory: bool,
    /// Longest time that LiteLLM's start waits for routes and first tokens.
    #[serde(default = "default_start_timeout_seconds")]
    pub start_timeout_seconds: u32,
    /// Time between the pod's deletion and LiteLLM's SIGTERM, in which traffic goes to other pods.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u32,
    /// Level of the sidecar's log, or directives.
    #[serde(default = "default_log")]
    pub log: String,
    /// Whether the pod's environment gets the routes. It is not in the file: each review decides.
    #[serde(skip)]
    pub routes_in_pod: RoutesInPod,
    /// Name of the folder that the pod's sidecar makes in shared memory. It is not in the file: each review makes one that
    /// nobody can guess, since all containers of the pod reach that memory.
    #[serde(skip)]
    pub folder_name: String,
    /// What the pod's namespace allows its pods. It is not in the file: each review looks it up.
    #[serde(skip)]
    pub namespace_limits: NamespaceLimits,
    /// How the operator is reached. It is not in the file: the operator adds it.
    #[serde(skip)]
    pub operator: OperatorEndpoint,
}

/// Whether a pod's environment gets the routes of its servers, so that LiteLLM starts with them while no operator answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RoutesInPod {
    #[default]
    Told,
    /// They come with the operator's first answer to the sidecar alone, which shows whose pod it is in.
    Withheld,
}

/// How sidecars reach the operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorEndpoint {
    /// `https://HOST:PORT`.
    pub url: String,
    /// PEM certificates that its certificate is verified against.
    pub ca: String,
    /// Version of this operator, and so of the sidecars it injects.
    pub version: String,
}

/// Where the sidecars' audit lines go, unless a pod's annotations say otherwise.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditSettings {
    pub output: AuditOutput,
    /// Name of the pods' own volume that the file is in; empty where each pod says it.
    volume: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum AuditOutput {
    #[default]
    Stdout,
    /// In a volume of the pod's.
    File,
    /// To an OpenTelemetry collector.
    Otlp,
}

/// How sidecars call the OpenTelemetry collector. What is empty is not set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpSettings {
    endpoint: String,
    headers_secret: SecretKey,
    ca_bundle: String,
    /// Each call is a span that goes there.
    pub tracing: bool,
}

/// A key of a Secret in the pod's own namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SecretKey {
    pub name: String,
    pub key: String,
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    #[error("{0}")]
    Resources(#[from] ResourcesError),
    #[error("image is empty or holds a space; state the sidecar's image")]
    Image,
    #[error("imagePullPolicy is not one of Always, IfNotPresent and Never")]
    ImagePullPolicy,
    #[error("imagePullSecrets holds a text of {length} characters that is no name of a Secret")]
    ImagePullSecret { length: usize },
    #[error("{field} is above {MAX_SECONDS}")]
    TooLong { field: &'static str },
    #[error("audit.output is file and audit.volume is no name of a volume: a-z, 0-9 and - are")]
    AuditVolume,
    #[error("otlp.endpoint {0}")]
    OtlpEndpoint(#[from] OtlpEndpointError),
    #[error(
        "audit.output is otlp, or otlp.tracing is true, and otlp.endpoint is empty: state where the OpenTelemetry collector is"
    )]
    NoOtlpEndpoint,
    #[error("otlp.headersSecret is no name and key of a Secret")]
    OtlpHeadersSecret,
    #[error("otlp.caBundle holds no certificate in PEM, or more than {MAX_CA_BYTES} bytes")]
    OtlpCaBundle,
}

/// Longest wait that may be set for all pods.
const MAX_SECONDS: u32 = 3600;
/// Longest CA bundle: it is a variable of each sidecar.
const MAX_CA_BYTES: usize = 96 * 1024;

impl Settings {
    /// Reads the settings and checks that the API server takes what is made of them: a container that it
    /// refuses keeps LiteLLM's pods from starting, whatever the webhook's failure policy is.
    pub fn from_json(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = serde_json::from_str(text)?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.image.is_empty() || self.image.contains(char::is_whitespace) {
            return Err(SettingsError::Image);
        }
        let policy = self.image_pull_policy.as_deref();
        if !policy.is_none_or(|policy| ["Always", "IfNotPresent", "Never"].contains(&policy)) {
            return Err(SettingsError::ImagePullPolicy);
        }
        if let Some(name) = self
            .image_pull_secrets
            .iter()
            .find(|name| !is_dns_subdomain(name))
        {
            let length = name.chars().count();
            return Err(SettingsError::ImagePullSecret { length });
        }
        for (field, seconds) in [
            ("startTimeoutSeconds", self.start_timeout_seconds),
            ("drainSeconds", self.drain_seconds),
        ] {
            if seconds > MAX_SECONDS {
                return Err(SettingsError::TooLong { field });
            }
        }
        if let Some(volume) = self.audit.volume()
            && !is_dns_subdomain(volume)
        {
            return Err(SettingsError::AuditVolume);
        }
        self.otlp.check()?;
        let exports = self.audit.output == AuditOutput::Otlp || self.otlp.tracing;
        if exports && self.otlp.endpoint().is_none() {
            return Err(SettingsError::NoOtlpEndpoint);
        }
        Ok(resources::check(&self.resources)?)
    }
}

impl AuditSettings {
    pub fn volume(&self) -> Option<&str> {
        Some(self.volume.as_str()).filter(|volume| !volume.is_empty())
    }
}

impl OtlpSettings {
    fn check(&self) -> Result<(), SettingsError> {
        if let Some(endpoint) = self.endpoint() {
            endpoint.parse::<OtlpEndpoint>()?;
        }
        if self.headers_secret().is_some_and(|secret| !secret.is_valid()) {
            return Err(SettingsError::OtlpHeadersSecret);
        }
        let is_pem = |ca: &str| ca.contains("-----BEGIN CERTIFICATE-----") && ca.len() <= MAX_CA_BYTES;
        match self.ca_bundle().is_none_or(is_pem) {
            true => Ok(()),
            false => Err(SettingsError::OtlpCaBundle),
        }
    }

    pub fn endpoint(&self) -> Option<&str> {
        Some(self.endpoint.as_str()).filter(|endpoint| !endpoint.is_empty())
    }

    pub fn headers_secret(&self) -> Option<&SecretKey> {
        Some(&self.headers_secret).filter(|secret| !secret.name.is_empty())
    }

    pub fn ca_bundle(&self) -> Option<&str> {
        Some(self.ca_bundle.as_str()).filter(|ca| !ca.trim().is_empty())
    }
}

impl SecretKey {
    /// `NAME/KEY`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, key) = text.split_once('/')?;
        let secret = Self {
            name: name.to_owned(),
            key: key.to_owned(),
        };
        secret.is_valid().then_some(secret)
    }

    fn is_valid(&self) -> bool {
        let is_allowed = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
        is_dns_subdomain(&self.name)
            && (1..=253).contains(&self.key.len())
            && self.key.bytes().all(is_allowed)
            && ![".", ".."].contains(&self.key.as_str())
    }
}

/// 128 random bits in hexadecimal.
pub fn unguessable_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn default_start_timeout_seconds() -> u32 {
    20
}

fn default_drain_seconds() -> u32 {
    5
}

fn default_log() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_all_that_must_be_set_and_misspelt_settings_are_errors() {
        let settings = Settings::from_json(r#"{"image": "sidecar:1"}"#).unwrap();
        assert_eq!((settings.start_timeout_seconds, settings.drain_seconds), (20, 5));
        assert_eq!(settings.log, "info");
        assert!(Settings::from_json(r#"{"image": "sidecar:1", "drain": 5}"#).is_err());
        assert!(Settings::from_json("{}").is_err());
    }

    #[test]
    fn settings_that_the_api_server_would_refuse_in_every_pod_are_errors_that_name_the_field() {
        for (settings, expected) in [
            (
                r#""resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}"#,
                "requests.cpu",
            ),
            (r#""resources": {"limits": {"cpu": "abc"}}"#, "limits.cpu"),
            (r#""resources": {"request": {"cpu": "1"}}"#, "request"),
            (
                r#""securityContext": {"runAsUser": 0}"#,
                "securityContext.runAsUser must be a whole number from 1",
            ),
            (
                r#""securityContext": {"runAsuser": 1001}"#,
                "securityContext.runAsuser is not known; a sidecar takes runAsUser",
            ),
            (
                r#""securityContext": {"capabilities": {"add": ["NET_RAW"]}}"#,
                "securityContext.capabilities must be {drop: [ALL]}",
            ),
            (r#""securityContext": [1001]"#, "expected a map"),
            (r#""imagePullPolicy": "Sometimes""#, "imagePullPolicy"),
            (r#""imagePullSecrets": ["Not_A_Name"]"#, "imagePullSecrets"),
            (r#""drainSeconds": 86400"#, "drainSeconds"),
            (r#""audit": {"output": "syslog"}"#, "syslog"),
            (
                r#""audit": {"output": "file", "volume": "/var/log"}"#,
                "audit.volume",
            ),
            (r#""audit": {"output": "otlp"}"#, "otlp.endpoint is empty"),
            (r#""otlp": {"tracing": true}"#, "otlp.endpoint is empty"),
            (
                r#""otlp": {"endpoint": "collector:4318"}"#,
                "otlp.endpoint must be http://",
            ),
            (
                r#""otlp": {"headersSecret": {"name": "a", "key": "b/c"}}"#,
                "otlp.headersSecret",
            ),
            (r#""otlp": {"caBundle": "collector-ca"}"#, "otlp.caBundle"),
        ] {
            let text = format!(r#"{{"image": "sidecar:1", {settings}}}"#);
            let error = Settings::from_json(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(
            Settings::from_json(r#"{"image": ""}"#)
                .unwrap_err()
                .to_string()
                .contains("image")
        );
    }
}
