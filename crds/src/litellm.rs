//! What LiteLLM is told of a server that its own configuration does not name.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The entry that LiteLLM gets for this server in its `mcp_servers`, besides how the server is reached.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.description) || !self.description.startsWith('os.environ/')",
        "description must not begin with os.environ/: LiteLLM would show one of its environment variables in its place"
    ),
    validation = (
        "!has(self.instructions) || !self.instructions.startsWith('os.environ/')",
        "instructions must not begin with os.environ/: LiteLLM would show one of its environment variables in their place"
    ),
    validation = (
        "!(has(self.allowedTools) && has(self.disallowedTools))",
        "allowedTools and disallowedTools cannot both be set: a tool that allowedTools does not name is not offered anyway"
    ),
    validation = (
        "!has(self.allowedParameters) || self.allowedParameters.all(tool, size(tool) > 0 && size(tool) <= 128)",
        "allowedParameters must be by the name of a tool, of 1 to 128 characters"
    )
)]
pub struct LiteLlm {
    /// Shown to whoever lists LiteLLM's MCP servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub description: Option<String>,

    /// Stands in front of the names of the server's tools in place of `server.name`. No other server may have
    /// it as its name or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_]+$"))]
    pub alias: Option<String>,

    /// Instructions of the server to MCP clients, in place of its own. LiteLLM 1.80.17 does not know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub instructions: Option<String>,

    /// The only tools of the server that LiteLLM offers, by the names that the server gives them. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 128)))]
    pub allowed_tools: Vec<String>,

    /// Tools of the server that LiteLLM does not offer. Either this or `allowedTools`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 128)))]
    pub disallowed_tools: Vec<String>,

    /// By tool, the only parameters that a call may have. A tool that is not named may have any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "parameters_by_tool")]
    pub allowed_parameters: BTreeMap<String, Vec<String>>,

    /// LiteLLM's access groups that the server belongs to: keys and teams are granted a group by its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub access_groups: Vec<String>,

    /// Whether every key of LiteLLM may use the server. LiteLLM's default: no, it has to be granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_all_keys: Option<bool>,

    /// Whether clients from public addresses see the server. LiteLLM's default: yes. LiteLLM 1.80.17 does not
    /// know this and shows it to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_on_public_internet: Option<bool>,

    /// Whether the server may ask the client's model (MCP sampling). LiteLLM's default: no. LiteLLM 1.80.17
    /// does not know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_sampling: Option<bool>,

    /// Whether the server may ask the user (MCP elicitation). LiteLLM's default: no. LiteLLM 1.80.17 does not
    /// know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_elicitation: Option<bool>,

    /// Longest time that LiteLLM waits for the server, in seconds. LiteLLM 1.80.17 does not know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<i32>,

    /// Calls to the server that LiteLLM has under way at a time; further ones wait. Default: no limit. LiteLLM
    /// 1.80.17 does not know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent_requests: Option<i32>,

    /// Calls to the server that LiteLLM lets through in a minute. Default: no limit. LiteLLM 1.80.17 does not
    /// know this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<i32>,
}

fn parameters_by_tool(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = BTreeMap::<String, Vec<String>>::json_schema(generator);
    schema.insert("minProperties".into(), 1.into());
    schema.insert("maxProperties".into(), 64.into());
    schema.insert(
        "additionalProperties".into(),
        serde_json::json!({
            "type": "array",
            "minItems": 1,
            "maxItems": 64,
            "items": {"type": "string", "minLength": 1, "maxLength": 128},
        }),
    );
    schema
}
