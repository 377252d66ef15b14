//! Proxy errors: why the sidecar answers a request itself, and by which reason, status and JSON-RPC code.
//! [`respond`](super::respond) makes the answers.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::http::framing::FramingError;
use crate::proxy::user_context::ContextTooLargeError;
use crate::proxy::user_context::seal::OpenError;

/// Why the sidecar answers a request itself. `resource` is the name of the `McpServerAuth`; messages hold
/// nothing of the request and no secret.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "no MCP server of this name is set up for this pod; create an McpServerAuth with this \
         spec.server.name that selects the pod, or correct the URL"
    )]
    UnknownServer,
    #[error(
        "McpServerAuth {resource}: this path is outside of spec.server.url; requests are passed on only to \
         that path and below"
    )]
    PathNotServed { resource: Box<str> },
    #[error("McpServerAuth {resource} cannot be used: {message}")]
    RouteUnusable { resource: Box<str>, message: Box<str> },
    #[error("McpServerAuth {resource} has no token now ({why}): {message}; see its status")]
    TokenUnavailable {
        resource: Box<str>,
        why: Box<str>,
        message: Box<str>,
    },
    #[error(
        "McpServerAuth {resource}: the token has expired and no new one has come; see its status, and \
         whether the operator runs"
    )]
    TokenExpired { resource: Box<str> },
    #[error(
        "McpServerAuth {resource} demands user context for all but discovery, and this request carries none of \
         the cookies and headers that it passes on or exchanges; sign in, and send them with the request to \
         LiteLLM"
    )]
    UserContextRequired { resource: Box<str> },
    #[error(
        "McpServerAuth {resource}: the user context of this request cannot be opened: {}; send the request to \
         LiteLLM again, over a new connection of the MCP client if that keeps one open",
        invalid_context(*why)
    )]
    UserContextInvalid { resource: Box<str>, why: OpenError },
    #[error(
        "McpServerAuth {resource}: the MCP server cannot be reached: {why}; check spec.server.url, DNS, \
         network policies and spec.server.tls"
    )]
    ServerUnreachable { resource: Box<str>, why: Box<str> },
    #[error("McpServerAuth {resource}: the MCP server gave no answer: {why}")]
    ServerFailed { resource: Box<str>, why: Box<str> },
    #[error("McpServerAuth {resource}: the MCP server gave no answer in time")]
    ServerTimeout { resource: Box<str> },
    #[error(
        "McpServerAuth {resource}: the MCP server rejected {owner} token ({status}){renewal}; check scopes, \
         audience and resource in spec.oauth2 against what the server expects"
    )]
    TokenRefused {
        resource: Box<str>,
        owner: TokenOwner,
        status: u16,
        renewal: RenewalOutcome,
    },
    #[error(
        "McpServerAuth {resource}: the MCP server demands {} for this call, which {owner} token has not{}; \
         let the authorization server grant them to this client, and add them to spec.oauth2.scopes",
        scope_list(scopes),
        declined.as_deref().map(declined_clause).unwrap_or_default()
    )]
    InsufficientScope {
        resource: Box<str>,
        owner: TokenOwner,
        scopes: Vec<String>,
        /// The operator's answer about these scopes, if it has declined them.
        declined: Option<Box<str>>,
    },
    #[error("McpServerAuth {resource}: {why}, and the call cannot be repeated by itself; try again")]
    NotRepeated { resource: Box<str>, why: ReplayError },
    #[error(
        "McpServerAuth {resource}: there is no token for this user ({why}): {message}; if it is the user's \
         session that has ended, sign in again, else see spec.oauth2.tokenExchange and the client's \
         registration"
    )]
    ExchangeFailed {
        resource: Box<str>,
        why: Box<str>,
        message: Box<str>,
    },
    #[error("McpServerAuth {resource}: too many calls wait for a token already; see its status")]
    TooManyWaiting { resource: Box<str> },
    #[error(
        "a request to this port must name it by localhost, 127.0.0.1 or [::1] in its Host header; any other \
         name may be an attack by DNS rebinding"
    )]
    HostNotAllowed,
    #[error(
        "only LiteLLM may call this port, and shows that it does by a header that the sidecar has put into LiteLLM's \
         configuration (static_headers of each server); a server that was added in LiteLLM's database or UI with this \
         URL needs an McpServerAuth instead; if LiteLLM itself is refused, restart its pod"
    )]
    CallerNotAllowed,
    #[error(
        "McpServerAuth {resource}: the MCP server redirects to another origin, which never gets the token; \
         set spec.server.url to where it redirects to"
    )]
    RedirectRefused { resource: Box<str> },
    #[error("McpServerAuth {resource}: the answer of the MCP server cannot be passed on: {why}")]
    AnswerUnusable { resource: Box<str>, why: &'static str },
    #[error("the request's body could not be read")]
    BodyUnreadable,
    #[error(
        "the request's body is JSON in UTF-16 or UTF-32, of which LiteLLM would read what the sidecar cannot check; send it in \
         UTF-8, as RFC 8259 demands"
    )]
    BodyNotUtf8,
    #[error(
        "the request's body is compressed and has a key by which LiteLLM would take headers for protected MCP servers from it \
         (mcpauth-context, x-mcp-SERVER-HEADER, mcp_auth_header or mcp_server_auth_headers); leave the key out, or send the \
         body without Content-Encoding, where the sidecar renames the key"
    )]
    BodyNamesHeaders,
    #[error(
        "the request's body cannot be decoded as its Content-Encoding says, so the sidecar cannot check what LiteLLM would \
         read of it; send one gzip member, or one zstd frame with a window of 8 MiB at most, and nothing behind it, or send it \
         without Content-Encoding"
    )]
    BodyUndecodable,
    #[error("LiteLLM is not reachable; it may be starting")]
    LiteLlmUnreachable { why: Box<str> },
    #[error("LiteLLM gave no answer that can be passed on")]
    LiteLlmFailed { why: Box<str> },
    #[error(
        "{0}; delete cookies of this site, or allow fewer of them in spec.cookiePassthrough and \
         spec.headerPassthrough"
    )]
    ContextTooLarge(#[from] ContextTooLargeError),
    #[error("as many requests are being answered as this pod's sidecar has memory for; try again")]
    Overloaded,
    #[error("the method is not supported")]
    MethodNotSupported,
    #[error("the request can be understood in more than one way: {0}")]
    RequestAmbiguous(#[from] FramingError),
}

/// Reasons of the HTTP parser, which answers before there is a request.
pub const REQUEST_MALFORMED: &str = "request_malformed";
pub const HEADERS_TOO_LARGE: &str = "headers_too_large";
/// That of [`ProxyError::Overloaded`], and of a connection over HTTP/2 for which there is no memory.
pub const OVERLOADED: &str = "overloaded";

/// The owner of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenOwner {
    Service,
    User,
}

/// The outcome of requesting another token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RenewalOutcome {
    /// Another token would not help.
    NotRequested,
    /// No other token has come in time.
    TimedOut { within: Duration },
    /// The operator has no better token for now; `message` says why.
    Declined { message: Box<str> },
    /// The server rejected the other token too.
    RejectedToo,
    /// The server rejected the other token too with the same user, so it may reject the user's cookies or
    /// headers.
    RejectedForUser,
}

/// Why a request that should be sent again is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplayError {
    #[error("the MCP server rejected the token, another is requested")]
    Streamed,
    #[error("the resource was changed while the call waited for a token")]
    RouteChanged,
}

impl fmt::Display for TokenOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Service => "the service",
            Self::User => "the user's own",
        })
    }
}

impl fmt::Display for RenewalOutcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRequested => Ok(()),
            Self::TimedOut { within } => {
                write!(formatter, ", and no other has come within {} s", within.as_secs())
            }
            Self::Declined { message } => formatter.write_str(&declined_clause(message)),
            Self::RejectedToo => formatter.write_str(", and the one that replaced it as well"),
            Self::RejectedForUser => formatter.write_str(
                ", and another one with the same user: it may be the user's cookies or headers that it \
                 rejects, so sign in again where they come from",
            ),
        }
    }
}

fn invalid_context(why: OpenError) -> &'static str {
    match why {
        OpenError::Expired => "it is too old, as in a session that outlives it",
        OpenError::Forged | OpenError::Malformed => {
            "it was sealed by another pod or before this one's sidecar restarted, or it was changed on its way"
        }
    }
}

/// `message` comes from the operator.
fn declined_clause(message: &str) -> String {
    format!(", and the operator has no other: {message}")
}

/// The first eight scopes, without anything that is no scope (RFC 6749 section 3.3).
fn scope_list(scopes: &[String]) -> String {
    let plain = |scope: &&String| {
        !scope.is_empty() && scope.len() <= 128 && scope.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let shown: Vec<_> = scopes.iter().filter(plain).take(8).map(String::as_str).collect();
    match (shown.as_slice(), scopes.len() - shown.len()) {
        ([], _) => "scopes that it does not name".to_owned(),
        ([one], 0) => format!("the scope {one}"),
        (several, 0) => format!("the scopes {}", several.join(" ")),
        (several, more) => format!("the scopes {} and {more} more", several.join(" ")),
    }
}

impl ProxyError {
    /// Why LiteLLM gave no answer, for the log alone: clients are strangers.
    pub fn litellm_cause(&self) -> Option<&str> {
        match self {
            Self::LiteLlmUnreachable { why } | Self::LiteLlmFailed { why } => Some(why),
            _ => None,
        }
    }

    /// One of a closed set: the label in metrics and logs.
    pub fn reason(&self) -> &'static str {
        self.reason_status_code().0
    }

    pub fn status(&self) -> StatusCode {
        self.reason_status_code().1
    }

    /// In the range that JSON-RPC leaves to servers, clear of what MCP has taken of it. 0: never JSON-RPC.
    pub fn code(&self) -> i32 {
        self.reason_status_code().2
    }

    /// Whether a user who called a tool can do something about it, or tell somebody who can. The others are for whoever
    /// wrote the client.
    pub fn is_for_users(&self) -> bool {
        !matches!(
            self,
            Self::HostNotAllowed
                | Self::CallerNotAllowed
                | Self::BodyUnreadable
                | Self::BodyNotUtf8
                | Self::BodyNamesHeaders
                | Self::BodyUndecodable
                | Self::RequestAmbiguous(_)
                | Self::MethodNotSupported
        )
    }

    fn reason_status_code(&self) -> (&'static str, StatusCode, i32) {
        match self {
            Self::UnknownServer => ("unknown_server", StatusCode::NOT_FOUND, -32050),
            Self::PathNotServed { .. } => ("path_not_served", StatusCode::NOT_FOUND, -32051),
            Self::RouteUnusable { .. } => ("route_unusable", StatusCode::SERVICE_UNAVAILABLE, -32052),
            Self::TokenUnavailable { .. } => ("token_unavailable", StatusCode::SERVICE_UNAVAILABLE, -32053),
            Self::TokenExpired { .. } => ("token_expired", StatusCode::SERVICE_UNAVAILABLE, -32054),
            Self::UserContextRequired { .. } => ("user_context_required", StatusCode::FORBIDDEN, -32055),
            Self::UserContextInvalid { .. } => ("user_context_invalid", StatusCode::FORBIDDEN, -32069),
            Self::ServerUnreachable { .. } => ("server_unreachable", StatusCode::BAD_GATEWAY, -32056),
            Self::ServerFailed { .. } => ("server_failed", StatusCode::BAD_GATEWAY, -32057),
            Self::ServerTimeout { .. } => ("server_timeout", StatusCode::GATEWAY_TIMEOUT, -32058),
            Self::TokenRefused { .. } => ("token_refused", StatusCode::BAD_GATEWAY, -32059),
            Self::RedirectRefused { .. } => ("redirect_refused", StatusCode::BAD_GATEWAY, -32060),
            Self::AnswerUnusable { .. } => ("answer_unusable", StatusCode::BAD_GATEWAY, -32061),
            Self::BodyUnreadable => ("body_unreadable", StatusCode::BAD_REQUEST, -32062),
            Self::InsufficientScope { .. } => ("insufficient_scope", StatusCode::BAD_GATEWAY, -32063),
            Self::NotRepeated { .. } => ("not_repeated", StatusCode::SERVICE_UNAVAILABLE, -32064),
            Self::ExchangeFailed { .. } => ("exchange_failed", StatusCode::BAD_GATEWAY, -32065),
            Self::TooManyWaiting { .. } => ("too_many_waiting", StatusCode::SERVICE_UNAVAILABLE, -32066),
            Self::HostNotAllowed => ("host_not_allowed", StatusCode::FORBIDDEN, -32067),
            Self::CallerNotAllowed => ("caller_not_allowed", StatusCode::FORBIDDEN, -32070),
            Self::RequestAmbiguous(_) => ("request_ambiguous", StatusCode::BAD_REQUEST, -32068),
            Self::BodyNotUtf8 => ("body_not_utf8", StatusCode::BAD_REQUEST, 0),
            Self::BodyNamesHeaders => ("body_names_headers", StatusCode::BAD_REQUEST, 0),
            Self::BodyUndecodable => ("body_undecodable", StatusCode::BAD_REQUEST, 0),
            Self::LiteLlmUnreachable { .. } => ("litellm_unreachable", StatusCode::SERVICE_UNAVAILABLE, 0),
            Self::LiteLlmFailed { .. } => ("litellm_failed", StatusCode::BAD_GATEWAY, 0),
            Self::ContextTooLarge(_) => (
                "context_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                0,
            ),
            Self::Overloaded => (OVERLOADED, StatusCode::SERVICE_UNAVAILABLE, -32075),
            Self::MethodNotSupported => ("method_not_supported", StatusCode::NOT_IMPLEMENTED, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_within_bounds_and_only_what_is_a_scope() {
        let text =
            |scopes: &[&str]| scope_list(&scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>());
        assert_eq!(text(&["tools:call"]), "the scope tools:call");
        assert_eq!(text(&["a", "b"]), "the scopes a b");
        assert_eq!(text(&["a\nb", "c"]), "the scopes c and 1 more");
        assert_eq!(text(&[]), "scopes that it does not name");
        assert_eq!(text(&["x"; 100]), "the scopes x x x x x x x x and 92 more");
    }
}
