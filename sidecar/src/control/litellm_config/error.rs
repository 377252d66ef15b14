//! Configuration errors: why the user's configuration cannot be used.

use std::io;
use std::path::PathBuf;

/// A ConfigMap or Secret holds at most 1 MiB.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;
pub const MAX_FILES: usize = 100;

/// Why the configuration cannot be used, and the file it is about.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct ConfigFileError {
    pub path: PathBuf,
    pub error: ConfigError,
}

/// Messages quote nothing of the file: it may hold keys.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no such file; mount it into the sidecar at the same path as into LiteLLM")]
    NotFound,
    #[error("the file includes {0}, which does not exist; mount it into the sidecar as into LiteLLM")]
    IncludeNotFound(PathBuf),
    #[error("cannot be read ({0}); make it readable for the user that mcp-auth's process runs as")]
    Unreadable(io::ErrorKind),
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("more than {MAX_FILES} files are included")]
    TooManyFiles,
    #[error("no UTF-8 text")]
    NotText,
    #[error("no valid YAML at line {line}, column {column}: {what}")]
    Syntax {
        line: usize,
        column: usize,
        what: String,
    },
    #[error("anchors and merge keys expand to too much; write the servers out")]
    Expands,
    #[error("a merge key (<<) needs a mapping or a list of mappings")]
    Merge,
    #[error("the file is no YAML mapping at its top level, as in `model_list: []`")]
    NotMapping,
    #[error("include must be a list of file paths")]
    Include,
    #[error("mcp_servers must be a mapping from names to servers")]
    ServersNotMapping,
}

impl ConfigError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "ConfigNotFound",
            Self::IncludeNotFound(_) => "ConfigIncludeNotFound",
            Self::Unreadable(_) => "ConfigUnreadable",
            Self::TooLarge | Self::TooManyFiles | Self::Expands => "ConfigTooLarge",
            Self::NotText | Self::Syntax { .. } | Self::Merge => "ConfigNotYaml",
            Self::NotMapping => "ConfigNotMapping",
            Self::Include => "ConfigIncludeInvalid",
            Self::ServersNotMapping => "ConfigServersNotMapping",
        }
    }
}
