//! Reads the user's configuration as LiteLLM would: the file and everything it includes, merged as
//! `litellm/proxy/common_utils/config_includes.py` (1.109.1) merges them.
//!
//! - Breadth first: a file's own includes come after everything that stands in the queue already.
//! - A later file counts more. Lists are appended to each other, every other value is replaced as a whole.
//! - A path is looked up beside the file that states it, then beside the root file. A file is merged once.
//!
//! From the first rule follows what [`Config::depth`] is for. The root file is our wrapper, which includes
//! the original and then the overlay, so an include of the original comes *after* the overlay and its
//! `mcp_servers` would win. The overlay therefore goes down just as deep; see [`render`](super::render).

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigError, ConfigFileError, MAX_BYTES, MAX_FILES};
use super::node::{Budget, Mapping, Node};
use super::parse::parse;

/// The part of the merged configuration that the overlay depends on.
#[derive(Debug, Default)]
pub struct Config {
    /// `mcp_servers`; absent if LiteLLM would take it for absent.
    pub servers: Option<Arc<Node>>,
    /// `litellm_settings`, for its `mcp_aliases`.
    pub settings: Option<Arc<Node>>,
    /// `general_settings`, for how LiteLLM finds out a client's address.
    pub general: Option<Arc<Node>>,
    /// The original, and every file that it includes.
    pub files: Vec<PathBuf>,
    /// Where LiteLLM looks for what relative includes name, whatever is there: beside the file that states it, and
    /// beside the original.
    pub include_candidates: Vec<PathBuf>,
    /// How many includes lead from the original to its deepest include.
    pub depth: usize,
}

/// A file that is still to be merged.
struct Pending {
    path: PathBuf,
    depth: usize,
    declared_in: PathBuf,
}

/// Reads the configuration whose root file is `original`.
pub fn read(original: &Path, budget: &mut Budget) -> Result<Config, ConfigFileError> {
    let root = absolute(original);
    let mut merged = Config::default();
    let mut visited = HashSet::from([root.clone()]);
    let mut pending = VecDeque::from([Pending {
        path: root.clone(),
        depth: 0,
        declared_in: root.clone(),
    }]);
    while let Some(Pending {
        path,
        depth,
        declared_in,
    }) = pending.pop_front()
    {
        let file_error = |error| ConfigFileError {
            path: path.clone(),
            error,
        };
        let text = read_text(&path).map_err(|error| match error {
            ConfigError::NotFound if path != root => ConfigFileError {
                path: declared_in,
                error: ConfigError::IncludeNotFound(path.clone()),
            },
            error => file_error(error),
        })?;
        let Some(document) = parse(&text).map_err(file_error)? else {
            continue;
        };
        if document.is_empty() {
            continue;
        }
        let top = document
            .as_mapping()
            .ok_or_else(|| file_error(ConfigError::NotMapping))?;
        merged.files.push(path.clone());
        merged.depth = merged.depth.max(depth);
        merge(
            &mut merged.servers,
            top.get("mcp_servers", budget).map_err(file_error)?,
        );
        merge(
            &mut merged.settings,
            top.get("litellm_settings", budget).map_err(file_error)?,
        );
        merge(
            &mut merged.general,
            top.get("general_settings", budget).map_err(file_error)?,
        );
        for include in includes(top, budget).map_err(file_error)? {
            let candidates = candidates(&include, &path, &root);
            if !include.starts_with('/') {
                merged.include_candidates.extend(candidates.clone());
            }
            let next = locate(candidates);
            if visited.insert(next.clone()) {
                pending.push_back(Pending {
                    path: next,
                    depth: depth + 1,
                    declared_in: path.clone(),
                });
            }
        }
        if visited.len() > MAX_FILES {
            return Err(file_error(ConfigError::TooManyFiles));
        }
    }
    if merged.servers.as_ref().is_some_and(|servers| servers.is_empty()) {
        merged.servers = None;
    }
    if merged
        .servers
        .as_ref()
        .is_some_and(|servers| servers.as_mapping().is_none())
    {
        return Err(ConfigFileError {
            path: root,
            error: ConfigError::ServersNotMapping,
        });
    }
    Ok(merged)
}

fn merge(earlier: &mut Option<Arc<Node>>, later: Option<Arc<Node>>) {
    let Some(later) = later else { return };
    *earlier = Some(
        match (
            earlier.as_ref().and_then(|node| node.as_sequence()),
            later.as_sequence(),
        ) {
            (Some(a), Some(b)) => Node::sequence(a.iter().chain(b).cloned().collect()),
            _ => later,
        },
    );
}

fn includes(top: &Mapping, budget: &mut Budget) -> Result<Vec<String>, ConfigError> {
    let Some(include) = top.get("include", budget)? else {
        return Ok(Vec::new());
    };
    let entries = include.as_sequence().ok_or(ConfigError::Include)?;
    budget.spend(entries.len())?;
    entries
        .iter()
        .map(|entry| entry.as_str().map(str::to_owned).ok_or(ConfigError::Include))
        .collect()
}

/// Where an include may be, what counts more first.
fn candidates(include: &str, declared_in: &Path, root: &Path) -> [PathBuf; 2] {
    [declared_in, root].map(|file| absolute(&file.parent().unwrap_or(Path::new("/")).join(include)))
}

fn locate([declared, fallback]: [PathBuf; 2]) -> PathBuf {
    if !declared.exists() && fallback.exists() {
        return fallback;
    }
    declared
}

/// Python's `os.path.abspath`: `..` is resolved by the text, without looking at symbolic links.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            component => normal.push(component),
        }
        normal
    })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ConfigError::NotFound,
        kind => ConfigError::Unreadable(kind),
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ConfigError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in a new folder; the first is the root.
    fn read_files(files: &[(&str, &str)]) -> Result<Config, ConfigFileError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        read(&folder.path().join(files[0].0), &mut Budget::default())
    }

    fn names(config: &Config) -> Vec<String> {
        let servers = config.servers.as_ref().unwrap().as_mapping().unwrap();
        servers
            .pairs
            .iter()
            .map(|(key, _)| key.as_str().unwrap().to_owned())
            .collect()
    }

    fn reason(files: &[(&str, &str)]) -> &'static str {
        read_files(files).unwrap_err().error.reason()
    }

    #[test]
    fn a_later_file_replaces_servers_as_a_whole() {
        let config = read_files(&[
            ("a.yaml", "mcp_servers: {a: {}}\ninclude: [b.yaml, sub/c.yaml]"),
            ("b.yaml", "mcp_servers: {b: {}}\ninclude: [d.yaml]"),
            ("sub/c.yaml", "mcp_servers: {c: {}}"),
            ("d.yaml", "mcp_servers: {d: {}}\ninclude: [a.yaml, b.yaml]"),
        ])
        .unwrap();
        assert_eq!(names(&config), ["d"], "breadth first, so d comes after c");
        assert_eq!(config.depth, 2);
    }

    #[test]
    fn a_nested_include_is_looked_up_beside_its_file_and_then_beside_the_root() {
        let files = [
            ("a.yaml", "include: [sub/b.yaml]"),
            ("sub/b.yaml", "include: [c.yaml]"),
            ("c.yaml", "mcp_servers: {root: {}}"),
            ("sub/c.yaml", "mcp_servers: {near: {}}"),
        ];
        assert_eq!(names(&read_files(&files).unwrap()), ["near"]);
        assert_eq!(names(&read_files(&files[..3]).unwrap()), ["root"]);
    }

    #[test]
    fn empty_means_no_servers() {
        for text in ["", "{}", "mcp_servers:", "mcp_servers: {}", "mcp_servers: []"] {
            assert!(
                read_files(&[("a.yaml", text)]).unwrap().servers.is_none(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn each_obstacle_has_its_reason() {
        let missing = read(Path::new("/does/not/exist.yaml"), &mut Budget::default()).unwrap_err();
        assert_eq!(missing.error.reason(), "ConfigNotFound");
        assert!(missing.to_string().starts_with("/does/not/exist.yaml: "));
        assert_eq!(
            reason(&[("a.yaml", "include: [b.yaml]")]),
            "ConfigIncludeNotFound"
        );
        assert_eq!(reason(&[("a.yaml", "include: b.yaml")]), "ConfigIncludeInvalid");
        assert_eq!(reason(&[("a.yaml", "include: [1]")]), "ConfigIncludeInvalid");
        assert_eq!(reason(&[("a.yaml", "a: [")]), "ConfigNotYaml");
        assert_eq!(reason(&[("a.yaml", "- a")]), "ConfigNotMapping");
        assert_eq!(
            reason(&[("a.yaml", "mcp_servers: [a]")]),
            "ConfigServersNotMapping"
        );
        assert_eq!(reason(&[("a.yaml", "<<: text")]), "ConfigNotYaml");
        let folder = tempfile::tempdir().unwrap();
        let unreadable = read(folder.path(), &mut Budget::default()).unwrap_err();
        assert_eq!(unreadable.error.reason(), "ConfigUnreadable");
        std::fs::write(folder.path().join("latin"), b"a: \xe4").unwrap();
        assert_eq!(
            read(&folder.path().join("latin"), &mut Budget::default())
                .unwrap_err()
                .error
                .reason(),
            "ConfigNotYaml"
        );
    }
}
