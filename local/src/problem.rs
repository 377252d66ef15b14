//! What of the sources cannot be used, each with the servers that it concerns, so that it holds back no others.
//! A server that was served before serves on as it was, as the API server keeps the resource whose change it
//! refuses.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use crate::protected_server::ProtectedServer;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Names the place, and the way out.
    pub message: String,
    pub concerns: Concerns,
    /// A mistake of the command line or of all the settings, with which nothing starts.
    pub is_fatal: bool,
}

/// Which of the servers that were served before a problem concerns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Concerns {
    /// Those of these resources, be they of a folder or `mcp_servers.NAME`.
    Resources(BTreeSet<String>),
    /// Those whose resources were read from this file.
    File(PathBuf),
    /// Those of the whole folder.
    Folder,
    /// Those of LiteLLM's configuration.
    Configuration,
    /// None.
    Nothing,
}

impl Problem {
    pub fn new(error: &impl Error, concerns: Concerns) -> Self {
        Self {
            message: error.to_string(),
            concerns,
            is_fatal: false,
        }
    }

    /// Of one resource.
    pub fn of_resource(error: &impl Error, name: &str) -> Self {
        Self::new(error, Concerns::Resources([name.to_owned()].into()))
    }

    pub fn fatal(self) -> Self {
        Self {
            is_fatal: true,
            ..self
        }
    }

    pub fn concerns(&self, server: &ProtectedServer) -> bool {
        match &self.concerns {
            Concerns::Resources(names) => names.contains(server.resource_name()),
            Concerns::File(file) => server.file.as_ref() == Some(file),
            Concerns::Folder => server.file.is_some(),
            Concerns::Configuration => server.file.is_none(),
            Concerns::Nothing => false,
        }
    }
}

/// The servers that are served from now on: those that were read, and as they were before those that a problem
/// concerns.
pub fn merge(
    previous: &[ProtectedServer],
    read: Vec<ProtectedServer>,
    problems: &[Problem],
) -> Vec<ProtectedServer> {
    let is_read = |server: &ProtectedServer| {
        read.iter()
            .any(|new| new.is_same_resource(server) && new.is_usable())
    };
    let kept: Vec<ProtectedServer> = previous
        .iter()
        .filter(|server| server.is_usable() && !is_read(server))
        .filter(|server| problems.iter().any(|problem| problem.concerns(server)))
        .cloned()
        .collect();
    // One that serves already goes before another for the same server, as the older one does on Kubernetes.
    let is_kept = |new: &ProtectedServer| {
        kept.iter()
            .any(|kept| kept.is_same_resource(new) || kept.name() == new.name())
    };
    let mut servers: Vec<ProtectedServer> = read.into_iter().filter(|new| !is_kept(new)).collect();
    servers.extend(kept);
    servers
}

/// Problems with which nothing starts: nothing is left to be served.
#[derive(Debug)]
pub struct Unusable(pub Vec<Problem>);

impl Error for Unusable {}

impl Display for Unusable {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let messages: Vec<&str> = self.0.iter().map(|problem| &*problem.message).collect();
        formatter.write_str(&messages.join("\nmcp-auth: "))
    }
}
