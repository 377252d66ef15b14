//! Errors of GitHub where a GitHub App asks for an installation access token, and what to check for each.

use std::fmt;

use crate::retry_after::RetryAfter;

/// An answer of GitHub that issues no token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InstallationError {
    pub problem: InstallationProblem,
    pub status: u16,
    /// What GitHub said.
    pub message: Option<String>,
    pub retry_after: Option<RetryAfter>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InstallationProblem {
    /// The app's JWT is not taken (401).
    KeyRefused,
    /// The app has no such installation (404).
    NotFound,
    /// Somebody suspended it (403).
    Suspended,
    /// There were too many requests (403, 429).
    RateLimited,
    /// A repository or permission that the installation has not (422).
    NotGranted,
    /// Anything else that is this client's to change.
    Refused,
}

impl InstallationProblem {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::KeyRefused => "GitHubKeyRefused",
            Self::NotFound => "GitHubInstallationNotFound",
            Self::Suspended => "GitHubInstallationSuspended",
            Self::RateLimited => "GitHubRateLimited",
            Self::NotGranted => "GitHubNotGranted",
            Self::Refused => "GitHubRefused",
        }
    }

    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::KeyRefused => {
                "check that githubApp.keyRef holds a private key of the app that githubApp.appId names, that the key \
                 was not deleted there, and the clock"
            }
            Self::NotFound => {
                "check githubApp.installationId, the number at the end of the installation's address, that the app of \
                 githubApp.appId is still installed, and githubApp.apiUrl"
            }
            Self::Suspended => {
                "have an owner of the organization take the suspension back, in the settings of the installed GitHub \
                 App"
            }
            Self::RateLimited => "requests go on when that time is over",
            Self::NotGranted => {
                "name in githubApp.repositories and githubApp.permissions only what the installation has, or give it \
                 more at GitHub"
            }
            Self::Refused => "check the app and its installation at GitHub",
        }
    }
}

impl fmt::Display for InstallationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HTTP status {}", self.status)?;
        match &self.message {
            Some(message) => write!(formatter, " ({message})"),
            None => Ok(()),
        }
    }
}
