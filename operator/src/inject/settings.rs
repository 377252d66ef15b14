//! What every injected sidecar gets.

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Deserialize;

/// What the sidecar is to be, as the chart's values say it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    pub image: String,
    #[serde(default)]
    pub image_pull_policy: Option<String>,
    /// Without requests for CPU and memory a HorizontalPodAutoscaler stops computing for the pod.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Longest time that LiteLLM's start waits for routes and first tokens.
    #[serde(default = "default_start_timeout")]
    pub start_timeout_seconds: u32,
    /// Time between the word that the pod ends and LiteLLM's SIGTERM, in which traffic goes elsewhere.
    #[serde(default = "default_drain")]
    pub drain_seconds: u32,
    /// Level of the sidecar's log, or directives.
    #[serde(default = "default_log")]
    pub log: String,
    /// How the operator is reached. Not in the file of settings: the operator knows it itself.
    #[serde(skip)]
    pub operator: Operator,
}

/// How sidecars reach the operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operator {
    /// `https://HOST:PORT`.
    pub url: String,
    /// PEM certificates that its certificate is verified against.
    pub ca: String,
    /// Version of this operator, and so of the sidecars it injects.
    pub version: String,
}

fn default_start_timeout() -> u32 {
    20
}

fn default_drain() -> u32 {
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
