//! Why there is no token, with a word about what to check. No variant holds a secret or a token, and what the
//! authorization server wrote is bounded and cleaned before it gets in here.

use std::time::Duration;

use thiserror::Error;

/// Longest text of a server that is repeated.
const QUOTED: usize = 200;

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Error {
    /// An OAuth error response (RFC 6749 section 5.2).
    #[error("the authorization server answered {code}{}{}", quoted(.description), hint(.code))]
    Refused {
        code: String,
        description: Option<String>,
    },
    #[error("the token endpoint answered HTTP {status}{}", status_hint(*.status))]
    Status {
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error(
        "the token endpoint answered HTTP {status} with {content_type} where JSON belongs: check that the URL is \
         the token endpoint and not a page or a login"
    )]
    NotJson { status: u16, content_type: String },
    #[error("the token endpoint's answer cannot be used: {0}")]
    Malformed(String),
    #[error("the token endpoint's answer is longer than {0} bytes")]
    TooLarge(usize),
    #[error("the token is of type {0:?}, and only Bearer is known")]
    TokenType(String),
    #[error(
        "the token has expired on arrival (expires_in {0}): check the authorization server's token lifetime"
    )]
    ExpiredOnArrival(i64),
    #[error("the token endpoint redirects, which is not followed with a client secret: use the final URL")]
    Redirect,
    #[error("the token endpoint did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the token endpoint's host name cannot be resolved: {0}")]
    Dns(String),
    #[error(
        "no trust in the token endpoint's certificate: {0}; a private authority belongs into spec.oauth2.caBundle"
    )]
    Tls(String),
    #[error("the token endpoint cannot be reached: {0}")]
    Connect(String),
    #[error("the token URL is not usable: {0}")]
    InvalidUrl(String),
    #[error("the CA bundle is not usable: {0}")]
    InvalidCaBundle(String),
}

impl Error {
    /// The error code of the server, or the kind of failure.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Status { .. } => "HttpStatus",
            Self::NotJson { .. } => "NotJson",
            Self::Malformed(_) => "Malformed",
            Self::TooLarge(_) => "TooLarge",
            Self::TokenType(_) => "TokenType",
            Self::ExpiredOnArrival(_) => "ExpiredOnArrival",
            Self::Redirect => "Redirect",
            Self::Timeout(_) => "Timeout",
            Self::Dns(_) => "Dns",
            Self::Tls(_) => "Tls",
            Self::Connect(_) => "Connect",
            Self::InvalidUrl(_) => "InvalidUrl",
            Self::InvalidCaBundle(_) => "InvalidCaBundle",
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Text of a server, fit to be repeated: bounded, printable, and without any of the secrets of the request.
pub(crate) fn clean(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "[secret]");
    }
    text.chars()
        .filter(|char| matches!(char, ' '..='~'))
        .take(QUOTED)
        .collect()
}

fn quoted(description: &Option<String>) -> String {
    description
        .as_ref()
        .map_or(String::new(), |description| format!(" ({description:?})"))
}

fn hint(code: &str) -> &'static str {
    match code {
        "invalid_client" => ": check the client id, the client secret and clientAuthentication.method",
        "unauthorized_client" => {
            ": allow this client the client_credentials grant at the authorization server"
        }
        "unsupported_grant_type" => ": enable the client_credentials grant at the authorization server",
        "invalid_scope" => ": check spec.oauth2.scopes",
        "invalid_target" => {
            ": check spec.oauth2.resource (default: the server's URL) and spec.oauth2.audience"
        }
        "invalid_request" => ": check spec.oauth2, above all resource, audience and extraParameters",
        _ => "",
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        404 | 405 => ": check that spec.oauth2.tokenUrl is the token endpoint",
        429 => ": it limits the rate of requests",
        _ => "",
    }
}
