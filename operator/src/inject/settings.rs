//! The sidecar's settings: what every injected sidecar gets, as the chart's values state it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Deserialize;

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
    #[serde(default)]
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
    /// How the operator is reached. It is not in the file: the operator adds it.
    #[serde(skip)]
    pub operator: OperatorEndpoint,
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
        let settings: Settings = serde_json::from_str(r#"{"image": "sidecar:1"}"#).unwrap();
        assert_eq!((settings.start_timeout_seconds, settings.drain_seconds), (20, 5));
        assert_eq!(settings.log, "info");
        assert!(serde_json::from_str::<Settings>(r#"{"image": "sidecar:1", "drain": 5}"#).is_err());
        assert!(serde_json::from_str::<Settings>("{}").is_err());
    }
}
