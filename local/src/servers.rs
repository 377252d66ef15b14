//! From LiteLLM's configuration and the environment to the servers that are authenticated to: each becomes the
//! resource that it would be on Kubernetes, with its secret beside it. All that follows is shared with the
//! operator. What cannot be used becomes a [`Problem`], and the other servers are read all the same.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mcp_auth_crds::admission::Admission;
use mcp_auth_credentials::NotServedError;
use mcp_auth_sidecar::control::litellm_config::AUTH_BLOCK;
use mcp_auth_sidecar::control::litellm_config::config::{self, Config};
use mcp_auth_sidecar::control::litellm_config::error::{ConfigError, ConfigFileError};
use mcp_auth_sidecar::control::litellm_config::node::{Budget, Node, Pair};
use thiserror::Error;

use crate::auth_block::BlockError;
use crate::problem::{Concerns, Problem, Unusable};
use crate::protected_server::{ProtectedServer, entry_resource_name};
use crate::resources::{self, Resources};
use crate::settings::{self, SettingsError, TOKEN_URL, Variables};
use entry::{Defaulted, Reader, Wanted};

/// Said where there is none, with the ways out.
pub const NO_SERVER: &str = "no MCP server is authenticated to: set MCP_OAUTH2_*, add an auth block to an entry of mcp_servers, \
                             or give --resources";

/// Where the servers are read from.
pub struct Sources {
    /// LiteLLM's own configuration.
    pub config: Option<PathBuf>,
    /// A folder with resources, and what admits them.
    pub resources: Option<(PathBuf, Admission)>,
    pub variables: Variables,
}

/// What LiteLLM's configuration, resources and the environment ask for.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    pub protected: Vec<ProtectedServer>,
    /// Variables that were read for `${NAME}`, and that LiteLLM's configuration does not use itself.
    pub secret_variables: BTreeSet<String>,
    /// What of the resources is ignored on one machine, and which servers get no token of the variables'.
    pub ignored: Vec<String>,
    pub problems: Vec<Problem>,
}

impl Servers {
    /// As they are to start with, unless one of the problems lets nothing start, or all that is there has one.
    pub fn for_start(self) -> Result<Self, Unusable> {
        let is_any_usable = self.protected.iter().any(ProtectedServer::is_usable);
        if self.problems.iter().any(|problem| problem.is_fatal) {
            let (fatal, _) = self.problems.into_iter().partition(|problem| problem.is_fatal);
            return Err(Unusable(fatal));
        }
        match is_any_usable || self.problems.is_empty() {
            true => Ok(self),
            false => Err(Unusable(self.problems)),
        }
    }
}

#[derive(Debug, Error)]
pub enum ServerError {
    #[error("the configuration {0} does not exist: check --config or CONFIG_FILE_PATH")]
    NoConfig(PathBuf),
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    #[error("mcp_servers: {0}")]
    Expands(#[from] ConfigError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(
        "mcp_servers.{server}.auth and McpServerAuth {resource} are both for this server, and the resource is taken: leave \
         one out"
    )]
    TwoSources { server: String, resource: String },
    #[error(
        "mcp_servers.{0}.auth says nothing of oauth2, and {TOKEN_URL} is not set: add an oauth2 block, or set \
         MCP_OAUTH2_*"
    )]
    NoOAuth2(String),
    #[error(
        "mcp_servers.{0}.auth needs a server with a url: there is no HTTP request to authenticate otherwise"
    )]
    NoUrl(String),
    #[error(
        "mcp_servers.{0}: the name may hold letters, digits and _ only (at most 64), for LiteLLM and for mcp-auth"
    )]
    Name(String),
    #[error("{field} must be an absolute http or https URL without user, password and fragment")]
    Url { field: String },
    #[error(
        "{field} is plain http to another machine: tokens and cookies would be readable on the way. Use https, or set \
         allow_insecure_http: true in an auth block of the entry in mcp_servers"
    )]
    PlainHttp { field: String },
    #[error("{0} must be client_secret_basic or client_secret_post")]
    ClientAuthentication(String),
    #[error("mcp_servers.{0}.auth.oauth2 needs exactly one of token_url and issuer")]
    Endpoint(String),
    #[error("{field}: {problem}")]
    Cookies { field: String, problem: &'static str },
    #[error("{field}: {problem}")]
    NotServed { field: String, problem: NotServedError },
}

/// Reads what they ask for. A server of the resources takes nothing from the variables, and its block is not used.
pub fn read(sources: &Sources) -> Servers {
    let Resources {
        servers: by_resource,
        ignored,
        problems,
        refused,
    } = match &sources.resources {
        Some((folder, admission)) => resources::read(folder, admission),
        None => Resources::default(),
    };
    let mut servers = Servers {
        ignored,
        problems,
        ..Servers::default()
    };
    match read_configuration(sources) {
        Ok((files, entries, mut budget)) => {
            let (refused, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(name, _)| {
                refused.contains(name) && !by_resource.iter().any(|it| it.name() == name)
            });
            for (name, entry) in refused {
                servers.hide_references(&entry, &mut budget);
                let line =
                    format!("mcp_servers.{name} gets no other token: its McpServerAuth cannot be used");
                servers.ignored.push(line);
            }
            servers.add_entries(entries, budget, &by_resource, &sources.variables);
            let is_used = |name: &String| files.iter().any(|file| mentions(file, name));
            servers.secret_variables.retain(|name| !is_used(name));
        }
        Err(error) => {
            let problem = Problem::new(&error, Concerns::Configuration);
            servers.problems.push(problem.fatal());
        }
    }
    servers.protected.extend(by_resource);
    servers
}

impl Servers {
    fn add_entries(
        &mut self,
        entries: Vec<Entry>,
        mut budget: Budget,
        by_resource: &[ProtectedServer],
        variables: &Variables,
    ) {
        let (defaults, settings_error) = match variables.defaults() {
            Ok(defaults) => (Defaulted::from(defaults), None),
            Err(error) => (Defaulted::Unusable, Some(error)),
        };
        let mut without_defaults = BTreeSet::new();
        for (name, entry) in entries {
            let resource = by_resource.iter().find(|server| server.name() == name);
            if let Some(resource) = resource {
                if has_block(&entry) {
                    let error = ServerError::TwoSources {
                        server: name,
                        resource: resource.resource_name().to_owned(),
                    };
                    self.problems.push(Problem::new(&error, Concerns::Nothing));
                    self.hide_references(&entry, &mut budget);
                }
                continue;
            }
            let mut reader = Reader {
                name: &name,
                variables,
                used: &mut self.secret_variables,
                ignored: &mut self.ignored,
            };
            match reader.server(&entry, &defaults, &mut budget) {
                Ok(Wanted::Protected(server)) => self.protected.push(*server),
                Ok(Wanted::Nothing) => {}
                Ok(Wanted::Defaults) => {
                    without_defaults.insert(entry_resource_name(&name));
                }
                Err(error) => {
                    self.hide_references(&entry, &mut budget);
                    self.problems
                        .push(Problem::of_resource(&error, &entry_resource_name(&name)));
                }
            }
        }
        if let Some(error) = settings_error {
            let problem = Problem::new(&error, Concerns::Resources(without_defaults));
            self.problems.push(problem.fatal());
        }
    }

    /// LiteLLM sees no variable that a block names, be the block used or not.
    fn hide_references(&mut self, entry: &[Pair], budget: &mut Budget) {
        for (_, block) in entry.iter().filter(|(key, _)| is_block(key)) {
            add_references(block, &mut self.secret_variables, budget);
        }
    }
}

fn is_block(key: &Node) -> bool {
    key.as_str() == Some(AUTH_BLOCK)
}

fn has_block(entry: &[Pair]) -> bool {
    entry.iter().any(|(key, value)| is_block(key) && !value.is_null())
}

/// The variables of all `${NAME}` below the node.
fn add_references(node: &Node, names: &mut BTreeSet<String>, budget: &mut Budget) {
    if budget.spend(1).is_err() {
        return;
    }
    match node {
        Node::Scalar(scalar) => names.extend(settings::references(&scalar.text)),
        Node::Sequence { items, .. } => {
            for item in items {
                add_references(item, names, budget);
            }
        }
        Node::Mapping(mapping) => {
            for (_, value) in &mapping.pairs {
                add_references(value, names, budget);
            }
        }
    }
}

/// LiteLLM's configuration: its files, and the entries of `mcp_servers`.
fn read_configuration(sources: &Sources) -> Result<(Vec<PathBuf>, Vec<Entry>, Budget), ServerError> {
    let mut budget = Budget::default();
    let config = match &sources.config {
        Some(path) if !path.exists() => return Err(ServerError::NoConfig(path.to_owned())),
        Some(path) => config::read(path, &mut budget)?,
        None => Config::default(),
    };
    let entries = entries(&config, &mut budget)?;
    Ok((config.files, entries, budget))
}

/// Whether the file takes this variable from LiteLLM's environment.
fn mentions(file: &Path, variable: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut places = text.split("os.environ/").skip(1);
    places.any(|rest| {
        let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        &rest[..end.unwrap_or(rest.len())] == variable
    })
}

type Entry = (String, Vec<Pair>);

/// The servers, each with its settings.
fn entries(config: &Config, budget: &mut Budget) -> Result<Vec<Entry>, ConfigError> {
    let Some(servers) = config.servers.as_ref().and_then(|servers| servers.as_mapping()) else {
        return Ok(Vec::new());
    };
    let mut entries = Vec::new();
    for (key, value) in servers.flatten(budget)? {
        if let (Some(name), Some(mapping)) = (key.as_str(), value.as_mapping()) {
            entries.push((name.to_owned(), mapping.flatten(budget)?));
        }
    }
    Ok(entries)
}
