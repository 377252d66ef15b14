//! What a server is registered in LiteLLM with, where LiteLLM's own configuration does not name it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Settings of the entry that the sidecar adds to LiteLLM's `mcp_servers`. What is absent or empty stays as
/// LiteLLM has it by default.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiteLlmSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disallowed_tools: Vec<String>,
    /// By tool.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allowed_parameters: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_all_keys: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_on_public_internet: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_sampling: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_elicitation: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
}
