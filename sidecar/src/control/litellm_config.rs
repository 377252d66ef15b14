//! LiteLLM's overlay configuration: the user's `mcp_servers`, with the managed ones led through the sidecar.
//!
//! LiteLLM merges `include`d files and replaces every mapping as a whole, so the overlay holds the complete
//! `mcp_servers` and nothing else. [`config`] finds out what LiteLLM would make of the user's files,
//! [`entry`] rewrites one server or adds it by its [`registration`], [`server_id`] keeps its id, [`emit`] writes the text, [`write`](mod@write)
//! puts it in place, [`mirror`] has LiteLLM find what lies beside its own file, and [`restart`] tells which servers LiteLLM has not read yet.
//!
//! What is copied must mean the same to PyYAML afterwards. A YAML library that loads and dumps would decide
//! on the type of `yes`, `0123` or `12:30:45` by its own rules on the way in. So nothing is loaded:
//! [`parse`](mod@parse) keeps each scalar with its style and tag, and `emit` writes it so that PyYAML decides
//! as it would have before.

mod access_groups;
mod client_addresses;
pub mod config;
pub mod emit;
pub mod entry;
pub mod error;
pub mod mirror;
mod named;
pub mod node;
pub mod parse;
pub mod registration;
pub mod restart;
pub mod server_id;
pub mod static_headers;
pub mod tag_resolution;
pub mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcp_auth_protocol::sync::{Problem, Route, notices};

use super::outbound_secret::OutboundSecret;
use config::Config;
use entry::{Address, EntryError, Managed, Surroundings};
use error::{ConfigError, ConfigFileError};
use node::{Budget, Mapping, Node, Pair};
use static_headers::StaticHeaders;

/// Key of an entry of `mcp_servers` that says how the server is authenticated to, where mcp-auth reads it
/// there (`mcp-auth exec`).
pub const AUTH_BLOCK: &str = "auth";

/// What the overlay is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// LiteLLM's own configuration file, if it has one.
    pub original: Option<&'a Path>,
    /// Where the overlay is to be, for its parts to name one another.
    pub overlay: &'a Path,
    pub routes: &'a [Route],
    /// The sidecar's listener for LiteLLM's MCP client.
    pub outbound: SocketAddr,
    /// What LiteLLM shows that listener.
    pub outbound_secret: &'a OutboundSecret,
    /// Whether users' requests come to LiteLLM through the sidecar.
    pub inbound: bool,
    /// Whether [`AUTH_BLOCK`] in the entry of a server is for mcp-auth, and so kept from LiteLLM.
    pub auth_blocks: bool,
    /// What the keys of gateways in `static_headers` are called on their way through LiteLLM.
    pub static_headers: &'a StaticHeaders,
    /// What LiteLLM puts between the names of a server and of its tool: no server's name may hold it.
    pub tool_prefix_separator: &'a str,
}

/// The overlay, ready to be written.
#[derive(Clone, PartialEq)]
pub struct Overlay {
    /// The overlay, and behind it the files it includes; see [`render`].
    pub files: Vec<(PathBuf, String)>,
    /// As in [`Config::include_candidates`]; absent where the user's configuration cannot be used, and the overlay is
    /// empty.
    pub include_candidates: Option<Vec<PathBuf>>,
    /// The managed servers in it.
    pub servers: BTreeMap<String, Address>,
    /// What LiteLLM calls them beside their names, and their names.
    pub aliases: BTreeMap<String, String>,
    /// The access groups that they are in.
    pub access_groups: BTreeSet<String>,
    pub problems: Vec<Problem>,
    /// What keeps nothing from working and should be known all the same, such as what resources and the user's
    /// configuration contradict each other in.
    pub notices: Vec<Problem>,
}

/// Renders the overlay. It never fails: where the user's configuration cannot be used, the overlay is empty,
/// so that LiteLLM runs as it would without us, and a problem says why. To guess would lose servers of the
/// user.
///
/// LiteLLM merges breadth first (see [`config`]): the original's own includes come after the overlay, and
/// their `mcp_servers` would replace ours. So the overlay includes a copy of itself, which includes another,
/// until there is one as deep as the deepest file of the user. Each is the last of its level, and the last of
/// all is ours.
pub fn render(input: &Input<'_>) -> Overlay {
    let mut budget = Budget::default();
    let mut remarks = Remarks::default();
    let rendered = read(input, &mut budget).and_then(|config| {
        let in_original = |error| ConfigFileError {
            path: input.original.unwrap_or(input.overlay).to_owned(),
            error,
        };
        let mut servers = BTreeMap::new();
        let merged = merge(&config, input, &mut servers, &mut remarks, &mut budget).map_err(in_original)?;
        let paths = chain(input.overlay, config.depth);
        let files = paths.iter().enumerate().map(|(level, path)| {
            let text =
                text(merged.clone(), paths.get(level + 1), &mut Budget::default()).map_err(in_original)?;
            Ok((path.clone(), text))
        });
        let files = files.collect::<Result<Vec<_>, ConfigFileError>>()?;
        Ok((files, config.include_candidates, servers))
    });
    match rendered {
        Ok((files, include_candidates, servers)) => Overlay {
            files,
            include_candidates: Some(include_candidates),
            servers,
            aliases: remarks.aliases,
            access_groups: remarks.access_groups,
            problems: remarks.problems,
            notices: remarks.notices,
        },
        Err(unusable) => Overlay::unusable(input.overlay, unusable.error.reason(), &unusable),
    }
}

/// The text of the files holds secrets: that of the outbound listener, and what the user has written.
impl fmt::Debug for Overlay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.files.iter().map(|(path, _)| path).collect();
        formatter
            .debug_struct("Overlay")
            .field("files", &paths)
            .field("servers", &self.servers)
            .field("problems", &self.problems)
            .field("notices", &self.notices)
            .finish()
    }
}

/// What there is to say about the servers.
#[derive(Default)]
struct Remarks {
    /// Of the managed ones, and their names.
    aliases: BTreeMap<String, String>,
    access_groups: BTreeSet<String>,
    problems: Vec<Problem>,
    notices: Vec<Problem>,
}

impl Overlay {
    /// The empty one, with which LiteLLM runs as it would without us.
    pub fn unusable(path: &Path, reason: &str, why: &dyn std::error::Error) -> Self {
        let message = format!("{why}. LiteLLM runs without mcp-auth until then");
        Self {
            files: vec![(path.to_owned(), "{}\n".to_owned())],
            include_candidates: None,
            servers: BTreeMap::new(),
            aliases: BTreeMap::new(),
            access_groups: BTreeSet::new(),
            problems: vec![Problem::new(reason, message)],
            notices: Vec::new(),
        }
    }

    /// Writes what has changed, what is included first, so that LiteLLM never finds a name without its file.
    pub fn write(&self) -> io::Result<bool> {
        let mut changed = false;
        for (path, text) in self.files.iter().rev() {
            changed |= write::write(path, text)?;
        }
        Ok(changed)
    }
}

fn read(input: &Input<'_>, budget: &mut Budget) -> Result<Config, ConfigFileError> {
    input.original.map_or_else(
        || Ok(Config::default()),
        |original| config::read(original, budget),
    )
}

/// All the servers, the user's first.
fn merge(
    config: &Config,
    input: &Input<'_>,
    servers: &mut BTreeMap<String, Address>,
    remarks: &mut Remarks,
    budget: &mut Budget,
) -> Result<Arc<Node>, ConfigError> {
    let mut pairs = match config.servers.as_ref().and_then(|servers| servers.as_mapping()) {
        Some(mapping) => mapping.flatten(budget)?,
        None => Vec::new(),
    };
    if input.auth_blocks {
        for (_, entry) in &mut pairs {
            *entry = without_auth_block(entry, budget)?;
        }
    }
    remarks
        .notices
        .extend(under_other_names(&pairs, input.routes, budget)?);
    let aliases = mapped_aliases(config, budget)?;
    let names = names(&pairs, &aliases, input.routes, budget)?;
    for route in input.routes {
        let position = pairs
            .iter()
            .position(|(key, _)| key.as_str() == Some(&route.server));
        let original = position.map(|position| &*pairs[position].1);
        let surroundings = Surroundings {
            mapped_alias: aliases.get(&route.server).map(String::as_str),
            taken_names: &taken_names(&names, route),
            outbound_secret: input.outbound_secret,
            static_headers: input.static_headers,
            tool_prefix_separator: input.tool_prefix_separator,
        };
        match managed(route, original, input.outbound, surroundings, budget) {
            Ok((managed, address)) => {
                let alias = managed.alias.map(|alias| (alias, route.server.clone()));
                remarks.aliases.extend(alias);
                remarks.access_groups.extend(managed.access_groups);
                remarks.problems.extend(managed.problems);
                remarks.notices.extend(managed.notices);
                servers.insert(route.server.clone(), address);
                match position {
                    Some(position) => pairs[position].1 = managed.node,
                    None => pairs.push((Node::text(&route.server), managed.node)),
                }
            }
            Err(EntryError::Config(error)) => return Err(error),
            Err(error) => {
                remarks.problems.push(Problem {
                    reason: error.reason().to_owned(),
                    message: error.to_string(),
                    server: Some(route.server.clone()),
                });
            }
        }
    }
    if input.inbound {
        let notices = client_addresses::notices(config.general.as_deref(), &pairs, input.routes, budget)?;
        remarks.notices.extend(notices);
        let is_protected = |server: &str| servers.contains_key(server);
        let notices = access_groups::notices(&pairs, is_protected, budget)?;
        remarks.notices.extend(notices);
    }
    Ok(Node::mapping(pairs))
}

/// The user's entries that have the URL of a managed server under another name: by those LiteLLM calls it past the
/// sidecar.
fn under_other_names(
    pairs: &[Pair],
    routes: &[Route],
    budget: &mut Budget,
) -> Result<Vec<Problem>, ConfigError> {
    let mut notices = Vec::new();
    for (key, entry) in pairs {
        let (Some(name), Some(mapping)) = (key.as_str(), entry.as_mapping()) else {
            continue;
        };
        if routes.iter().any(|route| route.server == name) {
            continue;
        }
        let url = mapping.get("url", budget)?;
        let Some(url) = url.as_ref().and_then(|url| url.as_str()) else {
            continue;
        };
        notices.extend(routes.iter().filter(|route| is_same_url(&route.url, url)).map(|route| {
            let message = format!(
                "mcp_servers.{name} of LiteLLM's configuration has the URL of McpServerAuth {} under another name, and \
                 LiteLLM calls it there without a token: set spec.server.name to {name}, or remove that entry",
                route.resource
            );
            Problem::new(notices::SERVER_UNDER_OTHER_NAME, message).for_server(&route.server)
        }));
    }
    Ok(notices)
}

/// A slash at the end makes no other server.
fn is_same_url(one: &str, other: &str) -> bool {
    let read = |text: &str| {
        let url = url::Url::parse(text.trim()).ok()?;
        let path = url.path().trim_end_matches('/').to_owned();
        Some((url.origin(), path, url.query().map(str::to_owned)))
    };
    read(one).is_some_and(|url| read(other) == Some(url))
}

/// The server's entry, rewritten or added, and where it leads.
fn managed(
    route: &Route,
    original: Option<&Node>,
    outbound: SocketAddr,
    surroundings: Surroundings<'_>,
    budget: &mut Budget,
) -> Result<(Managed, Address), EntryError> {
    let mut address = entry::address(route, outbound)?;
    if route.server.contains(surroundings.tool_prefix_separator) {
        return Err(EntryError::Separator(route.server.clone()));
    }
    match original.filter(|node| !node.is_null()) {
        Some(original) => {
            let managed = entry::manage(original, route, &address, surroundings, budget)?;
            Ok((managed, address))
        }
        None => {
            address.settings.clone_from(&route.litellm);
            Ok((entry::register(route, &address, surroundings), address))
        }
    }
}

/// By server, its name and aliases: what LiteLLM may put in front of the names of its tools.
fn names(
    pairs: &[node::Pair],
    mapped_aliases: &HashMap<String, String>,
    routes: &[Route],
    budget: &mut Budget,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut names = Vec::new();
    for (key, entry) in pairs {
        let Some(server) = key.as_str() else { continue };
        names.push((server.to_owned(), server.to_owned()));
        let alias = match entry.as_mapping() {
            Some(mapping) => mapping.get("alias", budget)?,
            None => None,
        };
        if let Some(alias) = alias.as_ref().and_then(|alias| alias.as_str()) {
            names.push((server.to_owned(), alias.to_owned()));
        }
    }
    for (server, alias) in mapped_aliases {
        names.push((server.clone(), alias.clone()));
    }
    for route in routes {
        names.push((route.server.clone(), route.server.clone()));
        let alias = route.litellm.as_ref().and_then(|settings| settings.alias.clone());
        names.extend(alias.map(|alias| (route.server.clone(), alias)));
    }
    Ok(names)
}

/// The names of all servers but this one.
fn taken_names(names: &[(String, String)], route: &Route) -> BTreeSet<String> {
    let others = names.iter().filter(|(server, _)| *server != route.server);
    others.map(|(_, name)| name.clone()).collect()
}

/// The entry as LiteLLM is to see it.
fn without_auth_block(entry: &Arc<Node>, budget: &mut Budget) -> Result<Arc<Node>, ConfigError> {
    let Some(mapping) = entry.as_mapping() else {
        return Ok(entry.clone());
    };
    if mapping.get(AUTH_BLOCK, budget)?.is_none() {
        return Ok(entry.clone());
    }
    let mut pairs = mapping.flatten(budget)?;
    pairs.retain(|(key, _)| key.as_str() != Some(AUTH_BLOCK));
    Ok(Node::mapping(pairs))
}

/// Server to alias, from `litellm_settings.mcp_aliases`, which maps the other way round. The first one
/// counts.
fn mapped_aliases(config: &Config, budget: &mut Budget) -> Result<HashMap<String, String>, ConfigError> {
    let mut aliases = HashMap::new();
    let Some(settings) = config
        .settings
        .as_ref()
        .and_then(|settings| settings.as_mapping())
    else {
        return Ok(aliases);
    };
    let mapped = settings.get("mcp_aliases", budget)?;
    let Some(mapped) = mapped.as_ref().and_then(|mapped| mapped.as_mapping()) else {
        return Ok(aliases);
    };
    for (alias, server) in mapped.flatten(budget)? {
        if let (Some(alias), Some(server)) = (alias.as_str(), server.as_str()) {
            aliases
                .entry(server.to_owned())
                .or_insert_with(|| alias.to_owned());
        }
    }
    Ok(aliases)
}

fn text(servers: Arc<Node>, next: Option<&PathBuf>, budget: &mut Budget) -> Result<String, ConfigError> {
    let mut pairs = Vec::new();
    if let Some(next) = next {
        let path = Node::text(next.to_string_lossy());
        pairs.push((Node::text("include"), Node::sequence(vec![path])));
    }
    pairs.push((Node::text("mcp_servers"), servers));
    emit::emit(&Mapping { tag: None, pairs }, budget)
}

/// `overlay.yaml`, `overlay-1.yaml`, ... with one name for each level of includes below the first.
fn chain(overlay: &Path, depth: usize) -> Vec<PathBuf> {
    let stem = overlay.file_stem().unwrap_or_default().to_string_lossy();
    let below = (1..=depth).map(|level| overlay.with_file_name(format!("{stem}-{level}.yaml")));
    std::iter::once(overlay.to_owned()).chain(below).collect()
}

#[cfg(test)]
mod tests;
