//! Registration: what a resource says of its server (`spec.liteLLM`), in LiteLLM's own keys, for a server that
//! LiteLLM's configuration does not name. Where it does, that entry counts as it stands, since who may use a
//! server is decided there, and [`differences`] tells what the resource says otherwise.
//!
//! The keys are those that `load_servers_from_config` reads in
//! `litellm/proxy/mcp_server/mcp_server_manager.py` (1.109.1); `tests/surfaces/registration.py` compares them
//! with the oldest and the newest LiteLLM.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp_auth_protocol::sync::{LiteLlmSettings, Problem, Route, notices};
use url::Url;

use super::error::ConfigError;
use super::node::{Budget, Node, Pair};
use super::tag_resolution::Kind;

/// LiteLLM reads a text that begins so from its environment.
const ENVIRONMENT: &str = "os.environ/";

/// One setting in both vocabularies.
struct Setting<'a> {
    /// Name below `spec.liteLLM`.
    field: &'static str,
    /// LiteLLM's key.
    key: &'static str,
    value: Value<'a>,
    /// What LiteLLM takes where the key is absent, if the two can be told apart from it.
    default: Option<bool>,
}

enum Value<'a> {
    Text(&'a str),
    Flag(bool),
    Number(u32),
    Names(&'a [String]),
    NamesByName(&'a BTreeMap<String, Vec<String>>),
}

/// The pairs of the entry, and what is left out of them.
pub fn pairs(
    route: &Route,
    taken_names: &BTreeSet<String>,
    tool_prefix_separator: &str,
) -> (Vec<Pair>, Vec<Problem>) {
    let mut pairs = Vec::new();
    let mut problems = Vec::new();
    for setting in route.litellm.iter().flat_map(settings) {
        match objection(&setting, route, taken_names, tool_prefix_separator) {
            Some(problem) => problems.push(problem),
            None => pairs.push((Node::text(setting.key), setting.value.node())),
        }
    }
    (pairs, problems)
}

/// What the resource says of its server and LiteLLM's own entry does not; `None` where they agree.
pub fn differences(
    route: &Route,
    entry: &[Pair],
    transport: &str,
    budget: &mut Budget,
) -> Result<Option<Problem>, ConfigError> {
    let get = |key: &str| {
        let pair = entry.iter().find(|(name, _)| name.as_str() == Some(key));
        pair.map(|(_, value)| &**value).filter(|value| !value.is_null())
    };
    let mut unused = Vec::new();
    for setting in route.litellm.iter().flat_map(settings) {
        let agrees = match get(setting.key) {
            Some(value) => setting.value.equals(value, budget)?,
            None => matches!((&setting.value, setting.default), (Value::Flag(a), Some(b)) if *a == b),
        };
        if !agrees {
            unused.push(format!("spec.liteLLM.{}", setting.field));
        }
    }
    let mut overruled = Vec::new();
    // What comes from LiteLLM's environment is not known here.
    let literal = |key| {
        get(key)
            .and_then(Node::as_str)
            .filter(|text| !text.starts_with(ENVIRONMENT))
    };
    if literal("url").is_some_and(|url| !is_same_url(url, &route.url)) {
        overruled.push("url");
    }
    if literal("transport").is_some_and(|stated| stated != transport) {
        overruled.push("transport");
    }
    let mut sentences = Vec::new();
    let name = &route.server;
    if !unused.is_empty() {
        sentences.push(format!(
            "LiteLLM's own configuration has mcp_servers.{name}, which counts: {} of McpServerAuth {} differ from it \
             and are not used. Say the same in both, or remove one of them",
            unused.join(", "),
            route.resource
        ));
    }
    if !overruled.is_empty() {
        let fields: Vec<String> = overruled
            .iter()
            .map(|key| format!("mcp_servers.{name}.{key}"))
            .collect();
        sentences.push(format!(
            "{} of LiteLLM's own configuration differ from spec.server of McpServerAuth {}, which counts",
            fields.join(" and "),
            route.resource
        ));
    }
    Ok((!sentences.is_empty())
        .then(|| Problem::new(notices::CONFIGURATION_DIFFERS, sentences.join(". ")).for_server(name.clone())))
}

/// Why a setting is left out.
fn objection(
    setting: &Setting<'_>,
    route: &Route,
    taken_names: &BTreeSet<String>,
    tool_prefix_separator: &str,
) -> Option<Problem> {
    let Value::Text(text) = setting.value else {
        return None;
    };
    let field = format!(
        "spec.liteLLM.{} of McpServerAuth {}",
        setting.field, route.resource
    );
    let problem =
        |reason: &str, message: String| Some(Problem::new(reason, message).for_server(&route.server));
    if text.starts_with(ENVIRONMENT) {
        let message = format!(
            "{field} begins with {ENVIRONMENT}, which would show LiteLLM's environment; it is left out"
        );
        return problem("LiteLlmSettingInvalid", message);
    }
    if setting.key != "alias" {
        return None;
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        let message = format!("{field} may hold letters, digits and _ only; it is left out");
        return problem("LiteLlmSettingInvalid", message);
    }
    if text.contains(tool_prefix_separator) {
        let message = format!(
            "{field} holds the MCP_TOOL_PREFIX_SEPARATOR of LiteLLM's container, so that LiteLLM would find none of its tools; \
             it is left out"
        );
        return problem("LiteLlmSettingInvalid", message);
    }
    if taken_names.contains(text) {
        let message = format!(
            "{field} is the name or alias of another server of LiteLLM, whose tools would be called the same; it is left \
             out. Choose another one"
        );
        return problem("LiteLlmAliasTaken", message);
    }
    None
}

fn text(text: &Option<String>) -> Option<Value<'_>> {
    text.as_deref().map(Value::Text)
}

fn names(names: &[String]) -> Option<Value<'_>> {
    (!names.is_empty()).then_some(Value::Names(names))
}

fn settings(settings: &LiteLlmSettings) -> Vec<Setting<'_>> {
    let LiteLlmSettings {
        description,
        alias,
        instructions,
        allowed_tools,
        disallowed_tools,
        allowed_parameters,
        access_groups,
        allow_all_keys,
        available_on_public_internet,
        allow_sampling,
        allow_elicitation,
        timeout_seconds,
        max_concurrent_requests,
        requests_per_minute,
    } = settings;
    let flag = |flag: &Option<bool>| flag.map(Value::Flag);
    let number = |number: &Option<u32>| number.map(Value::Number);
    let by_name = (!allowed_parameters.is_empty()).then_some(Value::NamesByName(allowed_parameters));
    [
        ("description", "description", text(description), None),
        ("alias", "alias", text(alias), None),
        ("instructions", "instructions", text(instructions), None),
        ("allowedTools", "allowed_tools", names(allowed_tools), None),
        (
            "disallowedTools",
            "disallowed_tools",
            names(disallowed_tools),
            None,
        ),
        ("allowedParameters", "allowed_params", by_name, None),
        ("accessGroups", "access_groups", names(access_groups), None),
        (
            "allowAllKeys",
            "allow_all_keys",
            flag(allow_all_keys),
            Some(false),
        ),
        (
            "availableOnPublicInternet",
            "available_on_public_internet",
            flag(available_on_public_internet),
            Some(true),
        ),
        (
            "allowSampling",
            "allow_sampling",
            flag(allow_sampling),
            Some(false),
        ),
        (
            "allowElicitation",
            "allow_elicitation",
            flag(allow_elicitation),
            Some(false),
        ),
        ("timeoutSeconds", "timeout", number(timeout_seconds), None),
        (
            "maxConcurrentRequests",
            "max_concurrent_requests",
            number(max_concurrent_requests),
            None,
        ),
        ("requestsPerMinute", "rpm", number(requests_per_minute), None),
    ]
    .into_iter()
    .filter_map(|(field, key, value, default)| {
        Some(Setting {
            field,
            key,
            value: value?,
            default,
        })
    })
    .collect()
}

impl Value<'_> {
    fn node(&self) -> Arc<Node> {
        let list = |names: &[String]| Node::sequence(names.iter().map(Node::text).collect());
        match self {
            Self::Text(text) => Node::text(*text),
            Self::Flag(flag) => Node::plain(flag.to_string()),
            Self::Number(number) => Node::plain(number.to_string()),
            Self::Names(names) => list(names),
            Self::NamesByName(names) => {
                let pairs = names.iter().map(|(name, names)| (Node::text(name), list(names)));
                Node::mapping(pairs.collect())
            }
        }
    }

    /// Whether LiteLLM would do the same with `node`.
    fn equals(&self, node: &Node, budget: &mut Budget) -> Result<bool, ConfigError> {
        Ok(match self {
            Self::Text(text) => node.as_str() == Some(text),
            // Python's idea of false, since LiteLLM asks no more.
            Self::Flag(flag) => *flag != (node.is_empty() || is_zero(node)),
            Self::Number(number) => scalar(node, &[Kind::Int, Kind::Float])
                .and_then(|text| text.parse::<f64>().ok())
                .is_some_and(|value| value == f64::from(*number)),
            Self::Names(names) => is_list_of(node, names, budget)?,
            Self::NamesByName(names) => {
                let Some(mapping) = node.as_mapping() else {
                    return Ok(false);
                };
                let pairs = mapping.flatten(budget)?;
                let mut equal = pairs.len() == names.len();
                for (key, value) in &pairs {
                    let expected = key.as_str().and_then(|key| names.get(key));
                    equal &= match expected {
                        Some(expected) => is_list_of(value, expected, budget)?,
                        None => false,
                    };
                }
                equal
            }
        })
    }
}

/// Whether the list holds these names, in whatever order.
fn is_list_of(node: &Node, names: &[String], budget: &mut Budget) -> Result<bool, ConfigError> {
    let Some(items) = node.as_sequence() else {
        return Ok(false);
    };
    budget.spend(items.len())?;
    let found: Option<BTreeSet<&str>> = items.iter().map(|item| item.as_str()).collect();
    Ok(found == Some(names.iter().map(String::as_str).collect()))
}

fn is_zero(node: &Node) -> bool {
    let number = scalar(node, &[Kind::Int, Kind::Float]);
    number.and_then(|text| text.parse::<f64>().ok()) == Some(0.0)
}

fn scalar<'a>(node: &'a Node, kinds: &[Kind]) -> Option<&'a str> {
    match node {
        Node::Scalar(scalar) if scalar.kind().is_some_and(|kind| kinds.contains(&kind)) => Some(&scalar.text),
        _ => None,
    }
}

fn is_same_url(a: &str, b: &str) -> bool {
    match (Url::parse(a), Url::parse(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
