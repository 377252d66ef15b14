//! Why a route cannot be used.

use super::access_token::InvalidTokenError;
use crate::http::tls::TlsConfigError;

/// Why a route cannot be used. Messages name the field, never its value where that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(
        "the URL is not an absolute http or https URL without user name and fragment, such as \
         https://tools.example.com/mcp"
    )]
    Url,
    #[error("{0}")]
    CaBundle(TlsConfigError),
    #[error("spec.server.tls.clientCertificate: {0}")]
    ClientCertificate(TlsConfigError),
    #[error("spec.egressProxy is not an http or https URL of a proxy, such as http://proxy.example.com:3128")]
    EgressProxy,
    #[error(
        "header {0:?} cannot be passed on: it is a credential, belongs to the connection or the transport, \
         or is no header name"
    )]
    Header(String),
    #[error("the cookie `token` is LiteLLM's own session and is never passed on")]
    Cookie,
    #[error("{0}")]
    Token(#[from] InvalidTokenError),
}

impl RouteError {
    /// One of a closed set, in CamelCase as in [`Problem`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url => "InvalidUrl",
            Self::CaBundle(_) => "InvalidCaBundle",
            Self::ClientCertificate(_) => "InvalidClientCertificate",
            Self::EgressProxy => "InvalidEgressProxy",
            Self::Header(_) => "InvalidHeaderName",
            Self::Cookie => "InvalidCookieName",
            Self::Token(_) => "InvalidToken",
        }
    }
}

impl From<TlsConfigError> for RouteError {
    fn from(error: TlsConfigError) -> Self {
        match error {
            TlsConfigError::ClientCertificate(_) => Self::ClientCertificate(error),
            _ => Self::CaBundle(error),
        }
    }
}
