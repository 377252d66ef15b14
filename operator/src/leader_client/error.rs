//! Leader errors: why the replica that leads cannot be followed or asked.

use std::io;
use std::path::PathBuf;

use axum::http::StatusCode;
use mcp_auth_protocol::reasons::NOT_LEADING;
use mcp_auth_protocol::sync::Problem;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum LeaderError {
    #[error("no replica is known to lead, or it does not say where it is followed (--pod-ip)")]
    NoLeader,
    #[error("without --replica-token-file this replica cannot show who it is")]
    NoTokenFile,
    #[error("the token file {path} cannot be read ({kind})", path = path.display())]
    TokenUnreadable { path: PathBuf, kind: io::ErrorKind },
    #[error("the replica that leads refuses with {status}: {}: {}", problem.reason, problem.message)]
    Refused { status: StatusCode, problem: Problem },
    #[error("the replica that leads does not answer")]
    Silent,
    #[error("the replica that leads cannot be reached: {}", causes(.0))]
    Http(#[from] reqwest::Error),
}

impl LeaderError {
    /// Whether the next leader may answer otherwise.
    pub fn is_about_the_lead(&self) -> bool {
        match self {
            Self::NoLeader | Self::Silent | Self::Http(_) => true,
            Self::Refused { problem, .. } => problem.reason == NOT_LEADING,
            Self::NoTokenFile | Self::TokenUnreadable { .. } => false,
        }
    }
}

/// The error with what it comes of: itself it says little.
fn causes(error: &reqwest::Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
