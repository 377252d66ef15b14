//! The sidecar's settings: what every injected sidecar gets, as the chart's values state it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Deserialize;
use thiserror::Error;

use super::resources::{self, ResourcesError};

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
}

/// Longest wait that may be set for all pods.
const MAX_SECONDS: u32 = 3600;

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
        if let Some(name) = self.image_pull_secrets.iter().find(|name| !is_object_name(name)) {
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
        Ok(resources::check(&self.resources)?)
    }
}

/// A DNS subdomain (RFC 1123), as names of objects are.
fn is_object_name(name: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|letter| is_letter(*letter) || *letter == b'-')
            && bytes.first().is_some_and(|letter| is_letter(*letter))
            && bytes.last().is_some_and(|letter| is_letter(*letter))
    };
    name.len() <= 253 && name.split('.').all(is_label)
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
            (r#""imagePullPolicy": "Sometimes""#, "imagePullPolicy"),
            (r#""imagePullSecrets": ["Not_A_Name"]"#, "imagePullSecrets"),
            (r#""drainSeconds": 86400"#, "drainSeconds"),
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
