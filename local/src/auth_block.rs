//! The `auth:` block of an entry of `mcp_servers`: how the server is authenticated to, and which cookies of the
//! user it gets. LiteLLM never sees it.

use std::collections::BTreeMap;

use mcp_auth_sidecar::control::litellm_config::node::{Budget, Node, Scalar};
use mcp_auth_sidecar::control::litellm_config::tag_resolution::Kind;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

/// What a block says.
#[derive(Debug)]
pub enum Auth {
    /// `auth: false`: the server stays as LiteLLM's own configuration has it.
    Off,
    On(Box<AuthBlock>),
}

#[derive(Debug, Default)]
pub struct AuthBlock {
    pub oauth2: Option<OAuth2Block>,
    pub cookies: CookieBlock,
    /// Allows plain http beyond this machine.
    pub allow_insecure_http: bool,
}

/// Texts may hold `${NAME}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth2Block {
    pub token_url: Option<String>,
    pub issuer: Option<String>,
    pub client_id: String,
    pub client_secret: String,
    /// `client_secret_basic`, unless it says `client_secret_post`.
    pub client_authentication: Option<String>,
    #[serde(default)]
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    pub resource: Option<String>,
    #[serde(default)]
    pub extra_parameters: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CookieBlock {
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub cookie_names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    oauth2: Option<Value>,
    cookie_passthrough: Option<Value>,
    #[serde(default)]
    allow_insecure_http: bool,
}

/// A block that does not parse. Values are not repeated: they may be secrets.
#[derive(Debug, Error)]
#[error("{field}: {problem}")]
pub struct BlockError {
    pub field: String,
    pub problem: String,
}

/// Reads the block that stands at `field`.
pub fn parse(node: &Node, field: &str, budget: &mut Budget) -> Result<Auth, BlockError> {
    let wrong = |problem: String| BlockError {
        field: field.to_owned(),
        problem,
    };
    let value =
        value(node, budget).ok_or_else(|| wrong("anchors and merge keys expand to too much".into()))?;
    match value {
        Value::Bool(false) => return Ok(Auth::Off),
        Value::Object(_) => {}
        _ => {
            return Err(wrong(
                "must be false, or a mapping with oauth2 or cookie_passthrough".into(),
            ));
        }
    }
    let parts: Parts = read(value, field)?;
    let oauth2 = parts
        .oauth2
        .map(|value| read(value, &format!("{field}.oauth2")))
        .transpose()?;
    let cookies = parts
        .cookie_passthrough
        .map(|value| read(value, &format!("{field}.cookie_passthrough")));
    Ok(Auth::On(Box::new(AuthBlock {
        oauth2,
        cookies: cookies.transpose()?.unwrap_or_default(),
        allow_insecure_http: parts.allow_insecure_http,
    })))
}

fn read<T: DeserializeOwned>(value: Value, field: &str) -> Result<T, BlockError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut problem = without_values(&error.inner().to_string());
        let path = error.path().to_string();
        // An unknown or missing key is named by the message itself.
        let field = match problem.starts_with("invalid ") && path != "." {
            true => format!("{field}.{path}"),
            false => field.to_owned(),
        };
        if problem.ends_with("expected a string") && !problem.contains("sequence") && !problem.contains("map")
        {
            problem += ": put it in quotes";
        }
        BlockError { field, problem }
    })
}

/// serde's message without the value that it quotes: `invalid type: string, expected a sequence`.
fn without_values(message: &str) -> String {
    let expected = message.rfind(", expected");
    for kind in ["invalid type: ", "invalid value: "] {
        if let (Some(found), Some(expected)) = (message.strip_prefix(kind), expected) {
            let word = found.split([' ', ',', '`', '"']).next().unwrap_or_default();
            return format!("{kind}{word}{}", &message[expected..]);
        }
    }
    message.to_owned()
}

/// The node as JSON, or nothing if it expands to too much. Scalars that YAML has and JSON has not are texts.
fn value(node: &Node, budget: &mut Budget) -> Option<Value> {
    budget.spend(1).ok()?;
    Some(match node {
        Node::Scalar(scalar) => scalar_value(scalar),
        Node::Sequence { items, .. } => Value::Array(
            items
                .iter()
                .map(|item| value(item, budget))
                .collect::<Option<_>>()?,
        ),
        Node::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, entry) in mapping.flatten(budget).ok()? {
                let key = match &*key {
                    Node::Scalar(scalar) => scalar.text.clone(),
                    _ => "a key that is no text".to_owned(),
                };
                object.insert(key, value(&entry, budget)?);
            }
            Value::Object(object)
        }
    })
}

fn scalar_value(scalar: &Scalar) -> Value {
    match scalar.kind() {
        Some(Kind::Null) => Value::Null,
        Some(Kind::Bool) => {
            let text = scalar.text.to_ascii_lowercase();
            Value::Bool(matches!(text.as_str(), "true" | "yes" | "on"))
        }
        Some(Kind::Int) => scalar
            .text
            .parse::<i64>()
            .map_or_else(|_| scalar.text.clone().into(), Value::from),
        _ => Value::String(scalar.text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use mcp_auth_sidecar::control::litellm_config::parse::parse as parse_yaml;

    use super::*;

    fn read_block(yaml: &str) -> Result<Auth, String> {
        let node = parse_yaml(yaml).unwrap().unwrap();
        parse(&node, "mcp_servers.tools.auth", &mut Budget::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_block_with_oauth2_and_cookies_is_read() {
        let Auth::On(block) = read_block(
            r#"{"oauth2": {"token_url": "https://auth.company.com/oauth2/token", "client_id": "litellm-proxy",
                "client_secret": "${SECRET}"},
                "cookie_passthrough": {"enabled": true, "cookie_names": ["session_id", "user_id"]}}"#,
        )
        .unwrap() else {
            panic!("it is not off");
        };
        let oauth2 = block.oauth2.unwrap();
        assert_eq!(
            oauth2.token_url.as_deref(),
            Some("https://auth.company.com/oauth2/token")
        );
        assert_eq!(
            (oauth2.client_id.as_str(), oauth2.client_secret.as_str()),
            ("litellm-proxy", "${SECRET}")
        );
        assert!(block.cookies.enabled);
        assert_eq!(block.cookies.cookie_names, ["session_id", "user_id"]);
    }

    #[test]
    fn a_server_can_be_left_as_it_is() {
        assert!(
            matches!(read_block("no").unwrap(), Auth::Off),
            "YAML 1.1, as LiteLLM reads it"
        );
    }

    #[test]
    fn what_does_not_parse_is_named_and_never_quoted() {
        for (yaml, expected) in [
            ("s3cret", "mcp_servers.tools.auth: must be false, or a mapping"),
            (
                "{oauth: {}}",
                "mcp_servers.tools.auth: unknown field `oauth`, expected one of `oauth2`",
            ),
            (
                "{oauth2: s3cret}",
                "mcp_servers.tools.auth.oauth2: invalid type: string, expected struct",
            ),
            (
                "{oauth2: {client_id: a, client_secret: [s3cret]}}",
                "auth.oauth2.client_secret: invalid type: sequence, expected a string",
            ),
            (
                "{oauth2: {client_id: a, client_secret: 5309}}",
                "auth.oauth2.client_secret: invalid type: integer, expected a string: put it in quotes",
            ),
            (
                "{oauth2: {client_id: a, client_secret: b, scopes: [a, 5309]}}",
                "auth.oauth2.scopes[1]: invalid type: integer, expected a string: put it in quotes",
            ),
            (
                "{oauth2: {client_id: a, client_secret: b, scopes: s3cret}}",
                "auth.oauth2.scopes: invalid type: string, expected a sequence",
            ),
            (
                "{oauth2: {client_id: a, client_secret: b, extra_parameters: {tenant: true}}}",
                "auth.oauth2.extra_parameters.tenant: invalid type: boolean, expected a string: put it in quotes",
            ),
            (
                "{allow_insecure_http: s3cret}",
                "mcp_servers.tools.auth.allow_insecure_http: invalid type: string, expected a boolean",
            ),
            (
                "{oauth2: {client_id: a}}",
                "auth.oauth2: missing field `client_secret`",
            ),
            (
                "{cookie_passthrough: {names: [a]}}",
                "auth.cookie_passthrough: unknown field `names`",
            ),
        ] {
            let message = read_block(yaml).unwrap_err();
            assert!(message.contains(expected), "{message}");
            assert!(
                !message.contains("s3cret") && !message.contains("5309"),
                "{message}"
            );
        }
    }
}
