//! Discovery errors: why no authorization server was found, by the requests made. What other servers said
//! is in here only as [`Redactor`] let it through.

use std::fmt;
use std::time::Duration;

use crate::destinations::DestinationError;
use crate::redact::Redactor;
use crate::transport::body_shape::BodyShape;
use crate::transport::connect_error::ConnectError;

/// Characters repeated of a name or address that another server gave.
const MAX_NAME_CHARS: usize = 256;

/// Which field or host is meant stands before it.
const NOT_ALLOWED_HINT: &str = "ask who runs mcp-auth, whose chart's policy.authorizationServers and policy.* say where \
                                requests may go, or state an issuer or tokenUrl that they allow";

/// A search without a result.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DiscoveryError {
    #[error("{field} {problem}")]
    InvalidUrl {
        field: &'static str,
        problem: &'static str,
    },
    #[error("no metadata of the {what} were found ({})", list(.attempts))]
    NotFound {
        /// What was searched for.
        what: &'static str,
        attempts: Vec<Attempt>,
    },
    #[error(
        "the metadata at {url} are those of the issuer {found}, and not of {expected}{}",
        slash(.expected, .found)
    )]
    IssuerMismatch {
        url: String,
        expected: String,
        found: String,
    },
    #[error("the MCP server names the authorization server {found}, and before that it was {known}")]
    IssuerChanged { known: String, found: String },
    #[error("the metadata at {url} are those of the resource {found}, which server.url is no part of")]
    ResourceMismatch { url: String, found: String },
    #[error("the metadata of {issuer} name a {field} that {problem}")]
    UnusableEndpoint {
        issuer: String,
        /// Of the metadata.
        field: &'static str,
        problem: &'static str,
    },
    #[error("the metadata of {issuer} name a {field} that may not be used: {error}")]
    EndpointNotAllowed {
        issuer: String,
        field: &'static str,
        error: DestinationError,
    },
    #[error("the search for the authorization server took longer than {} s", limit.as_secs_f64())]
    Timeout { limit: Duration },
}

/// One request of a search.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt {
    pub url: String,
    pub outcome: AttemptError,
}

/// Why a request brought no metadata.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AttemptError {
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("a redirect, which is not followed")]
    Redirect,
    #[error("{0} instead of JSON")]
    NotJson(BodyShape),
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("no complete answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("no connection: {0}")]
    Connect(ConnectError),
    #[error("the connection ended before the answer was complete")]
    Interrupted,
    /// A document, but one that is of no use.
    #[error("its {field} {problem}")]
    Unusable {
        field: &'static str,
        problem: &'static str,
    },
    #[error("no request is possible: the system has no certificate authorities")]
    NoTrustRoots,
}

impl DiscoveryError {
    pub(super) fn unusable_endpoint(issuer: &str, field: &'static str, problem: &'static str) -> Self {
        Self::UnusableEndpoint {
            issuer: name(issuer),
            field,
            problem,
        }
    }

    pub(crate) fn endpoint_not_allowed(issuer: &str, field: &'static str, error: DestinationError) -> Self {
        Self::EndpointNotAllowed {
            issuer: name(issuer),
            field,
            error,
        }
    }

    /// Whether the administrator's policy is why.
    pub(crate) fn is_not_allowed(&self) -> bool {
        match self {
            Self::EndpointNotAllowed { .. } => true,
            Self::NotFound { attempts, .. } => attempts.iter().any(Attempt::is_not_allowed),
            _ => false,
        }
    }

    /// Closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } | Self::UnusableEndpoint { .. } => "InvalidUrl",
            Self::EndpointNotAllowed { .. } => "NotAllowed",
            Self::NotFound { .. } | Self::Timeout { .. } => "DiscoveryFailed",
            Self::IssuerMismatch { .. } => "IssuerMismatch",
            Self::IssuerChanged { .. } => "IssuerChanged",
            Self::ResourceMismatch { .. } => "ResourceMismatch",
        }
    }

    /// What to check.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "set it to a URL such as https://auth.example.com",
            Self::NotFound { attempts, .. } if attempts.iter().any(Attempt::is_distrusted) => {
                "if private authorities signed the servers' certificates, set server.tls.caBundle for the \
                 MCP server and oauth2.caBundle for the authorization server"
            }
            Self::NotFound { attempts, .. } if attempts.iter().any(Attempt::is_refused_by_proxy) => {
                ConnectError::Proxy.hint()
            }
            Self::EndpointNotAllowed { .. } => NOT_ALLOWED_HINT,
            Self::NotFound { .. } if self.is_not_allowed() => NOT_ALLOWED_HINT,
            Self::NotFound { attempts, .. } if attempts.iter().any(Attempt::is_forbidden) => {
                "if what was discovered is to be at a private address, set oauth2.allowPrivateAddresses: \
                 true, or state issuer or tokenUrl"
            }
            Self::NotFound { .. } => {
                "check issuer, or server.url where the server is to name its authorization server; or state \
                 tokenUrl"
            }
            Self::IssuerMismatch { .. } => {
                "nothing was sent there; state the issuer exactly as its own metadata do, or ask who runs \
                 the server that names it"
            }
            Self::IssuerChanged { .. } => {
                "no credentials were sent there; if the change is meant, set oauth2.issuer to the new one \
                 and check that this client is registered there"
            }
            Self::ResourceMismatch { .. } => {
                "nothing was sent to the authorization server that they name; set server.url to the \
                 resource's own address, or state issuer"
            }
            Self::UnusableEndpoint { .. } => {
                "ask who runs the authorization server to mend its metadata, or state tokenUrl"
            }
            Self::Timeout { .. } => "check network policies and the health of the servers on the way",
        }
    }

    /// Whether it says that something is otherwise than it was, or than it should be, and not only that
    /// nothing is known.
    pub(super) fn is_contradiction(&self) -> bool {
        match self {
            Self::IssuerMismatch { .. } | Self::IssuerChanged { .. } | Self::ResourceMismatch { .. } => true,
            Self::InvalidUrl { .. }
            | Self::NotFound { .. }
            | Self::UnusableEndpoint { .. }
            | Self::EndpointNotAllowed { .. }
            | Self::Timeout { .. } => false,
        }
    }
}

impl DiscoveryError {
    /// Whether the same search would most likely end in the same way, see [`crate::Error::is_permanent`].
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound { attempts, .. } => attempts.iter().all(Attempt::is_permanent),
            Self::Timeout { .. } => false,
            Self::InvalidUrl { .. }
            | Self::IssuerMismatch { .. }
            | Self::IssuerChanged { .. }
            | Self::ResourceMismatch { .. }
            | Self::UnusableEndpoint { .. }
            | Self::EndpointNotAllowed { .. } => true,
        }
    }
}

impl Attempt {
    fn is_not_allowed(&self) -> bool {
        matches!(
            self.outcome,
            AttemptError::Connect(ConnectError::ForbiddenByPolicy(_))
        )
    }

    fn is_permanent(&self) -> bool {
        self.is_absent()
            || matches!(
                self.outcome,
                AttemptError::Redirect
                    | AttemptError::NotJson(_)
                    | AttemptError::TooLarge(_)
                    | AttemptError::Unusable { .. }
                    | AttemptError::NoTrustRoots
                    | AttemptError::Connect(
                        ConnectError::Tls(_)
                            | ConnectError::Forbidden(_)
                            | ConnectError::ForbiddenByPolicy(_)
                    )
            )
    }

    /// Whether the server is there and says that it has no such document; whatever else it is, it may have
    /// one.
    pub(super) fn is_absent(&self) -> bool {
        match self.outcome {
            AttemptError::Status(408 | 429) => false,
            AttemptError::Status(status) => (400..500).contains(&status),
            _ => false,
        }
    }

    fn is_distrusted(&self) -> bool {
        matches!(self.outcome, AttemptError::Connect(ConnectError::Tls(_)))
    }

    fn is_refused_by_proxy(&self) -> bool {
        matches!(
            self.outcome,
            AttemptError::Connect(ConnectError::Proxy | ConnectError::ProxyAuthentication)
        )
    }

    fn is_forbidden(&self) -> bool {
        matches!(self.outcome, AttemptError::Connect(ConnectError::Forbidden(_)))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.url, self.outcome)
    }
}

/// What is repeated of a name or address.
pub(super) fn name(text: &str) -> String {
    Redactor::default()
        .redact(text, MAX_NAME_CHARS)
        .unwrap_or_else(|| "without a name".to_owned())
}

fn list(attempts: &[Attempt]) -> String {
    let attempts: Vec<_> = attempts.iter().map(Attempt::to_string).collect();
    attempts.join("; ")
}

fn slash(expected: &str, found: &str) -> &'static str {
    if expected.trim_end_matches('/') == found.trim_end_matches('/') {
        ": a slash at the end makes the difference"
    } else {
        ""
    }
}
