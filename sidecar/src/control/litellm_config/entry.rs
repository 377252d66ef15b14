//! Rewrites the entry of one managed server: from the user's to one that leads through the sidecar. All of
//! the user's settings stay, except the address and whatever would have LiteLLM authenticate by itself, which
//! is the sidecar's now.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use mcp_auth_protocol::pod::{CONTEXT_HEADER, OUTBOUND_SECRET_HEADER};
use mcp_auth_protocol::sync::{LiteLlmSettings, Problem, Route, Transport, notices};
use url::Url;

use super::access_groups;
use super::error::ConfigError;
use super::node::{Budget, Mapping, Node, Pair};
use super::registration;
use super::server_id::ServerIdInputs;
use super::static_headers::{StaticHeaders, is_dropped};
use crate::control::outbound_secret::OutboundSecret;

/// Where LiteLLM finds a managed server. A change of it takes effect only when LiteLLM starts again.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Address {
    pub url: String,
    /// LiteLLM's word for it: `http` or `sse`.
    pub transport: String,
    /// What it is registered with, where LiteLLM's own configuration does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<LiteLlmSettings>,
}

/// The entry to write, and what there is to say about it.
pub struct Managed {
    pub node: Arc<Node>,
    /// What LiteLLM calls the server beside its name.
    pub alias: Option<String>,
    /// The access groups that it is in.
    pub access_groups: Vec<String>,
    pub problems: Vec<Problem>,
    /// What the resource and LiteLLM's own entry contradict each other in, and what of the entry does not arrive.
    pub notices: Vec<Problem>,
}

/// What else LiteLLM's configuration says that concerns the entry.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// What `mcp_aliases` calls the server.
    pub mapped_alias: Option<&'a str>,
    /// Names and aliases of all other servers.
    pub taken_names: &'a BTreeSet<String>,
    /// What LiteLLM shows the sidecar.
    pub outbound_secret: &'a OutboundSecret,
    /// What the keys of gateways are called on their way through LiteLLM.
    pub static_headers: &'a StaticHeaders,
    /// As in [`Input::tool_prefix_separator`](super::Input::tool_prefix_separator).
    pub tool_prefix_separator: &'a str,
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
    #[error(
        "mcp_servers.{0}.static_headers is no mapping of header names to values; the entry stays as it is. Make it a \
         mapping"
    )]
    StaticHeaders(String),
    #[error("the url of McpServerAuth {0} is no absolute http or https URL; the server stays out of LiteLLM")]
    Url(String),
    #[error(
        "the server name {0} holds the MCP_TOOL_PREFIX_SEPARATOR of LiteLLM's container, and LiteLLM does not start with such a \
         server: it stays out of LiteLLM. Choose another server.name in the McpServerAuth, or another separator"
    )]
    Separator(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl EntryError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotMapping(_) | Self::ExtraHeaders(_) | Self::StaticHeaders(_) => "ServerInvalid",
            Self::Stdio(_) => "ServerIsStdio",
            Self::OpenApi(_) => "ServerIsOpenApi",
            Self::Url(_) => "RouteUrlInvalid",
            Self::Separator(_) => "ServerNameHoldsSeparator",
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
const MANAGED_KEYS: [&str; 5] = ["url", "transport", "extra_headers", "static_headers", "server_id"];

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
        settings: None,
    })
}

/// The entry of a server that LiteLLM's own configuration does not name.
pub fn register(route: &Route, address: &Address, surroundings: Surroundings<'_>) -> Managed {
    let (settings, problems) = registration::pairs(
        route,
        surroundings.taken_names,
        surroundings.tool_prefix_separator,
    );
    let alias = settings.iter().find(|(key, _)| key.as_str() == Some("alias"));
    let alias = alias
        .and_then(|(_, alias)| alias.as_str())
        .or(surroundings.mapped_alias)
        .map(ToOwned::to_owned);
    // The hash is over the real URL, so that grants outlive another port of the sidecar.
    let inputs = ServerIdInputs {
        name: &route.server,
        url: &route.url,
        transport: Some(&address.transport),
        auth_type: None,
        alias: alias.as_deref(),
    };
    let context_header = vec![Node::text(CONTEXT_HEADER)];
    let static_headers = static_headers(Vec::new(), surroundings);
    let server_id = Some(inputs.server_id());
    let groups = settings
        .iter()
        .find(|(key, _)| key.as_str() == Some(access_groups::KEY));
    Managed {
        access_groups: access_groups::names(groups.map(|(_, groups)| &**groups)),
        node: entry(address, context_header, static_headers, server_id, settings),
        alias,
        problems,
        notices: Vec::new(),
    }
}

/// The entry of a server that LiteLLM's own configuration names.
pub fn manage(
    original: &Node,
    route: &Route,
    address: &Address,
    surroundings: Surroundings<'_>,
    budget: &mut Budget,
) -> Result<Managed, EntryError> {
    let name = &route.server;
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
    let static_headers = match get("static_headers").filter(|value| !value.is_null()) {
        None => static_headers(Vec::new(), surroundings),
        Some(value) => {
            let mapping = value
                .as_mapping()
                .ok_or_else(|| EntryError::StaticHeaders(name.clone()))?;
            static_headers(mapping.flatten(budget)?, surroundings)
        }
    };
    let (server_id, problem) = match get("server_id").filter(|value| !value.is_null()) {
        Some(_) => (None, None),
        None => match server_id(name, &get, surroundings.mapped_alias) {
            Ok(id) => (Some(id), None),
            Err(problem) => (None, Some(problem)),
        },
    };
    let mut notices = Vec::new();
    notices.extend(registration::differences(
        route,
        &settings,
        &address.transport,
        budget,
    )?);
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
        .cloned()
        .collect();
    let alias = get("alias").and_then(Node::as_str).or(surroundings.mapped_alias);
    Ok(Managed {
        alias: alias.map(ToOwned::to_owned),
        access_groups: access_groups::names(get(access_groups::KEY)),
        node: entry(address, extra_headers, static_headers, server_id, kept),
        problems: problem.into_iter().collect(),
        notices,
    })
}

fn entry(
    address: &Address,
    extra_headers: Vec<Arc<Node>>,
    static_headers: Vec<Pair>,
    server_id: Option<String>,
    kept: Vec<Pair>,
) -> Arc<Node> {
    let mut pairs = vec![
        (Node::text("url"), Node::text(&address.url)),
        (Node::text("transport"), Node::text(&address.transport)),
        (Node::text("extra_headers"), Node::sequence(extra_headers)),
        (Node::text("static_headers"), Node::mapping(static_headers)),
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

/// The user's, without `Authorization`, which is the sidecar's to set, with the keys of gateways under other names, and
/// with the outbound secret.
fn static_headers(stated: Vec<Pair>, surroundings: Surroundings<'_>) -> Vec<Pair> {
    let is_ours = |name: &str| {
        let name = name.trim();
        name.eq_ignore_ascii_case("authorization") || name.eq_ignore_ascii_case(OUTBOUND_SECRET_HEADER)
    };
    let mut kept = stated;
    kept.retain(|(key, _)| !key.as_str().is_some_and(is_ours));
    for (key, _) in &mut kept {
        let name = key.as_str();
        if let Some(name) = name.and_then(|name| surroundings.static_headers.overlay_name(name)) {
            *key = Node::text(name);
        }
    }
    let secret = surroundings.outbound_secret;
    kept.push((Node::text(OUTBOUND_SECRET_HEADER), Node::text(secret.expose())));
    kept
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
        Problem::new(notices::STATIC_HEADER_DROPPED, message).for_server(server)
    }))
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::StreamableHttp => "http",
        Transport::Sse => "sse",
    }
}
