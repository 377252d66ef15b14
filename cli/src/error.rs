//! Errors that end a command, each with its exit code.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::exit_code::ExitStatus;
use crate::kubeconfig::LoadError;

#[derive(Debug, Error)]
pub enum CliError {
    #[error(transparent)]
    Kubeconfig(#[from] LoadError),
    #[error("the kubeconfig's cluster or user cannot be used: {0}")]
    Client(String),
    #[error(
        "the cluster at {url} does not answer within {} s; look at the address and at the network: {remedy}",
        limit.as_secs()
    )]
    Silent {
        url: String,
        limit: Duration,
        remedy: &'static str,
    },
    #[error(
        "the cluster at {url} cannot be reached: {cause}. Is it running? The address is the kubeconfig's: name another \
         context with --context, or another kubeconfig with --kubeconfig"
    )]
    Unreachable { url: String, cause: String },
    #[error(
        "the cluster at {url} does not take the kubeconfig's credentials (401): renew them, or name another \
         context with --context"
    )]
    NotAuthenticated { url: String },
    #[error("you may not {action} ({cause}); {remedy}")]
    Forbidden {
        action: String,
        cause: String,
        remedy: &'static str,
    },
    #[error(
        "mcp-auth is not installed in the cluster at {url}: it serves no McpServerAuth resources. Install the \
         chart, which brings the CustomResourceDefinition mcpserverauths.mcpauth.dev"
    )]
    NotInstalled { url: String },
    #[error(
        "the mcp-auth in the cluster at {url} is of another version: it serves mcpauth.dev/{served} and this \
         program knows mcpauth.dev/v1alpha1. Use the kubectl-mcp_auth of that version"
    )]
    OtherVersion { url: String, served: String },
    #[error("there is no {kind} {name} in the namespace {namespace}; {remedy}")]
    NotFound {
        kind: &'static str,
        name: String,
        namespace: String,
        remedy: &'static str,
    },
    #[error("no McpServerAuth of the namespace {namespace} has the server {server}: {there_are}")]
    NoSuchServer {
        server: String,
        namespace: String,
        there_are: String,
    },
    #[error("the API server does not let this program {action}: {cause}")]
    Api { action: String, cause: String },
    #[error("--litellm-key-file {}: {problem}", path.display())]
    LiteLlmKey { path: PathBuf, problem: String },
    #[error("{}: {problem}", path.display())]
    LiteLlmConfiguration { path: PathBuf, problem: String },
    #[error("{0}")]
    Manifests(String),
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Kubeconfig(_)
            | Self::Client(_)
            | Self::Silent { .. }
            | Self::Unreachable { .. }
            | Self::Api { .. } => ExitStatus::ClusterUnusable,
            Self::NotAuthenticated { .. } | Self::Forbidden { .. } => ExitStatus::NotAllowed,
            Self::NotInstalled { .. } | Self::OtherVersion { .. } => ExitStatus::NotInstalled,
            Self::NotFound { .. }
            | Self::NoSuchServer { .. }
            | Self::Manifests(_)
            | Self::LiteLlmKey { .. }
            | Self::LiteLlmConfiguration { .. } => ExitStatus::NotFound,
            Self::Output(_) => ExitStatus::OutputFailed,
        }
    }
}
