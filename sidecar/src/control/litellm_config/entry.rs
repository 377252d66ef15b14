//! Rewrites the entry of one managed server: from the user's to one that leads through the sidecar. All of
//! the user's settings stay, except the address and whatever would have LiteLLM authenticate by itself, which
//! is the sidecar's now.

use std::net::SocketAddr;
use std::sync::Arc;

use mcp_auth_protocol::pod::CONTEXT_HEADER;
use mcp_auth_protocol::sync::{Problem, Route, Transport};
use url::Url;

use super::error::ConfigError;
use super::node::{Budget, Mapping, Node, Pair};
use super::server_id::ServerIdInputs;
use super::static_headers::{StaticHeaders, is_dropped};

/// Where LiteLLM finds a managed server. A change of it takes effect only when LiteLLM starts again.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Address {
    pub url: String,
    /// LiteLLM's word for it: `http` or `sse`.
    pub transport: String,
}

/// The entry to write, and what there is to say about it.
pub struct Managed {
    pub node: Arc<Node>,
    pub problem: Option<Problem>,
    pub notices: Vec<Problem>,
}

/// An entry that cannot be led through the sidecar and stays as the user wrote it.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("mcp_servers.{0} is no mapping; it stays as it is. Give it at least a url, or remove it")]
    NotMapping(String),
    #[error(
        "mcp_servers.{0} runs a command (transport stdio); it stays as it is, because there is no HTTP \
         request to authenticate. Give it the url of an HTTP server, or choose another server.name in the \
         McpServerAuth"
    )]
    Stdio(String),
    #[error(
        "mcp_servers.{0} is made from an OpenAPI document (spec_path); it stays as it is, because its \
         requests go to the API and not to an MCP server. Choose another server.name in the McpServerAuth"
    )]
    OpenApi(String),
    #[error(
        "mcp_servers.{0}.extra_headers is no list of header names; the entry stays as it is. Make it a list"
    )]
    ExtraHeaders(String),
    #[error("the url of McpServerAuth {0} is no absolute http or https URL; the server stays out of LiteLLM")]
    Url(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl EntryError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotMapping(_) | Self::ExtraHeaders(_) => "ServerInvalid",
            Self::Stdio(_) => "ServerIsStdio",
            Self::OpenApi(_) => "ServerIsOpenApi",
            Self::Url(_) => "RouteUrlInvalid",
            Self::Config(error) => error.reason(),
        }
    }
}

/// What LiteLLM would authenticate with, all names that `load_servers_from_config` in
/// `litellm/proxy/mcp_server/mcp_server_manager.py` (1.109.1) reads for it. `env_vars` stays: static headers
/// use it.
const AUTHENTICATION_KEYS: [&str; 39] = [
    "audience",
    "auth_type",
    "auth_value",
    "authentication_token",
    "authorization_url",
    "aws_access_key_id",
    "aws_region_name",
    "aws_role_name",
    "aws_secret_access_key",
    "aws_service_name",
    "aws_session_name",
    "aws_session_token",
    "client_assertion_signing_alg",
    "client_id",
    "client_private_key",
    "client_private_key_id",
    "client_secret",
    "dcr_bridge",
    "delegate_auth_to_upstream",
    "id_jag_resource",
    "id_jag_resource_client_id",
    "id_jag_resource_client_secret",
    "id_jag_resource_token_endpoint",
    "id_jag_subject_source",
    "issuer",
    "oauth2_flow",
    "oauth_identity_binding",
    "oauth_passthrough",
    "per_server_oauth_discovery",
    "registration_url",
    "scopes",
    "subject_token_type",
    "token_endpoint_auth_method",
    "token_exchange_endpoint",
    "token_exchange_profile",
    "token_url",
    "token_validation",
    "upstream_resource",
    "upstream_token_header",
];
/// Written anew.
const MANAGED_KEYS: [&str; 4] = ["url", "transport", "extra_headers", "server_id"];

/// Where `route` is found behind the sidecar's outbound listener.
pub fn address(route: &Route, outbound: SocketAddr) -> Result<Address, EntryError> {
    let unusable = || EntryError::Url(route.resource.clone());
    let url = Url::parse(&route.url).map_err(|_| unusable())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable());
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Address {
        url: format!("http://{outbound}/{}{}{query}", route.server, url.path()),
        transport: transport(route.transport).to_owned(),
    })
}

/// The entry of a managed server. `mapped_alias` is what `mcp_aliases` calls it.
pub fn manage(
    original: Option<&Node>,
    route: &Route,
    address: &Address,
    mapped_alias: Option<&str>,
    static_headers: &StaticHeaders,
    budget: &mut Budget,
) -> Result<Managed, EntryError> {
    let name = &route.server;
    let Some(original) = original.filter(|node| !node.is_null()) else {
        // The hash is over the real URL, so that grants outlive another port of the sidecar.
        let inputs = ServerIdInputs {
            name,
            url: &route.url,
            transport: Some(&address.transport),
            auth_type: None,
            alias: mapped_alias,
        };
        let node = entry(
            address,
            vec![Node::text(CONTEXT_HEADER)],
            Some(inputs.server_id()),
            Vec::new(),
        );
        return Ok(Managed {
            node,
            problem: None,
            notices: Vec::new(),
        });
    };
    let mapping = original
        .as_mapping()
        .ok_or_else(|| EntryError::NotMapping(name.clone()))?;
    let settings = mapping.flatten(budget)?;
    let get = |key: &str| {
        settings
            .iter()
            .find(|(k, _)| k.as_str() == Some(key))
            .map(|(_, value)| &**value)
    };
    let is_set = |key: &str| get(key).is_some_and(|value| !value.is_empty());
    if is_set("command") || get("transport").and_then(Node::as_str) == Some("stdio") {
        return Err(EntryError::Stdio(name.clone()));
    }
    if is_set("spec_path") {
        return Err(EntryError::OpenApi(name.clone()));
    }
    let extra_headers = match get("extra_headers").filter(|value| !value.is_null()) {
        None => vec![Node::text(CONTEXT_HEADER)],
        Some(value) => extra_headers(
            value
                .as_sequence()
                .ok_or_else(|| EntryError::ExtraHeaders(name.clone()))?,
        ),
    };
    let (server_id, problem) = match get("server_id").filter(|value| !value.is_null()) {
        Some(_) => (None, None),
        None => match server_id(name, &get, mapped_alias) {
            Ok(id) => (Some(id), None),
            Err(problem) => (None, Some(problem)),
        },
    };
    let mut notices = Vec::new();
    if let Some(headers) = get("static_headers").and_then(Node::as_mapping) {
        notices.extend(dropped_headers(name, headers, budget)?);
    }
    let pinned_by_us = server_id.is_some();
    let kept = settings
        .iter()
        .filter(|(key, value)| match key.as_str() {
            Some("server_id") => !pinned_by_us && !value.is_null(),
            Some(key) => !MANAGED_KEYS.contains(&key) && !AUTHENTICATION_KEYS.contains(&key),
            None => true,
        })
        .map(|(key, value)| {
            let value = match key.as_str() {
                Some("static_headers") => static_headers_for_overlay(value, static_headers, budget)?,
                _ => value.clone(),
            };
            Ok((key.clone(), value))
        })
        .collect::<Result<Vec<Pair>, ConfigError>>()?;
    Ok(Managed {
        node: entry(address, extra_headers, server_id, kept),
        problem,
        notices,
    })
}

fn entry(
    address: &Address,
    extra_headers: Vec<Arc<Node>>,
    server_id: Option<String>,
    kept: Vec<Pair>,
) -> Arc<Node> {
    let mut pairs = vec![
        (Node::text("url"), Node::text(&address.url)),
        (Node::text("transport"), Node::text(&address.transport)),
        (Node::text("extra_headers"), Node::sequence(extra_headers)),
    ];
    pairs.extend(server_id.map(|id| (Node::text("server_id"), Node::text(id))));
    pairs.extend(kept);
    Node::mapping(pairs)
}

/// The id LiteLLM computes for the original entry, or why it cannot be known.
fn server_id<'a>(
    name: &str,
    get: &impl Fn(&str) -> Option<&'a Node>,
    mapped_alias: Option<&str>,
) -> Result<String, Problem> {
    let literal = |key: &str| match get(key).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) if !text.starts_with("os.environ/") => Ok(Some(text)),
            text => Err(Problem {
                reason: "ServerIdUnknown".into(),
                message: format!(
                    "mcp_servers.{name}.{key} {}, so the server_id that LiteLLM computes from it is not \
                     known, and keys or teams that were granted this server by id lose it. Set \
                     mcp_servers.{name}.server_id to the id that LiteLLM shows for it today",
                    if text.is_some() {
                        "comes from LiteLLM's environment"
                    } else {
                        "is no string"
                    },
                ),
                server: None,
            }),
        },
    };
    let inputs = ServerIdInputs {
        name,
        url: literal("url")?.unwrap_or_default(),
        transport: literal("transport")?,
        auth_type: literal("auth_type")?,
        alias: literal("alias")?.or(mapped_alias),
    };
    Ok(inputs.server_id())
}

/// The user's, without `Authorization`, which would carry the client's key for LiteLLM, and with ours once.
fn extra_headers(names: &[Arc<Node>]) -> Vec<Arc<Node>> {
    let is_name = |node: &Node, name: &str| {
        node.as_str()
            .is_some_and(|text| text.trim().eq_ignore_ascii_case(name))
    };
    let mut kept: Vec<_> = names
        .iter()
        .filter(|name| !is_name(name, "authorization") && !is_name(name, CONTEXT_HEADER))
        .cloned()
        .collect();
    kept.push(Node::text(CONTEXT_HEADER));
    kept
}

/// Without `Authorization`, which is the sidecar's, and with the keys of gateways under other names.
fn static_headers_for_overlay(
    headers: &Arc<Node>,
    names: &StaticHeaders,
    budget: &mut Budget,
) -> Result<Arc<Node>, ConfigError> {
    let Some(mapping) = headers.as_mapping() else {
        return Ok(headers.clone());
    };
    let mut pairs = mapping.flatten(budget)?;
    pairs.retain(|(key, _)| {
        !key.as_str()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case("authorization"))
    });
    for (key, _) in &mut pairs {
        if let Some(name) = key.as_str().and_then(|name| names.overlay_name(name)) {
            *key = Node::text(name);
        }
    }
    Ok(Node::mapping(pairs))
}

/// Headers of the configuration that do not arrive.
fn dropped_headers(
    server: &str,
    headers: &Mapping,
    budget: &mut Budget,
) -> Result<Option<Problem>, ConfigError> {
    let pairs = headers.flatten(budget)?;
    let names = pairs.iter().filter_map(|(key, _)| key.as_str());
    let dropped: Vec<&str> = names.filter(|name| is_dropped(name)).collect();
    Ok((!dropped.is_empty()).then(|| {
        let message = format!(
            "mcp_servers.{server}.static_headers: {} of LiteLLM's configuration {} not reach the MCP server, because \
             only the sidecar says who calls; take {} out, and name cookies and headers of users in \
             spec.cookiePassthrough and spec.headerPassthrough",
            dropped.join(", "),
            if dropped.len() == 1 { "does" } else { "do" },
            if dropped.len() == 1 { "it" } else { "them" },
        );
        Problem::new("StaticHeaderDropped", message).for_server(server)
    }))
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::StreamableHttp => "http",
        Transport::Sse => "sse",
    }
}
