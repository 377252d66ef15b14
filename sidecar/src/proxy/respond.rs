//! The one place where errors become answers.
//!
//! A POST to the outbound half is JSON-RPC and gets a JSON-RPC error; everything else gets a problem document
//! (RFC 9457). JSON-RPC errors come with a status of their own rather than 200: it is what LiteLLM tells its operator
//! of a listing that failed, and a load test or a dashboard sees what happened. The price is that LiteLLM tells the
//! user of a failed call the status and not the message. 401 is never among them: it would send LiteLLM into an
//! OAuth flow against localhost.
//!
//! `docs/errors.md` has the table of them all, which a test compares, and what LiteLLM makes of them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::proxy::response_body::ResponseBody;
use crate::proxy::user_context::TooLarge;

/// Why a request is not answered by the other side. `resource` is the name of the `McpServerAuth`; messages hold
/// nothing of the request and no secret.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no MCP server of this name is set up for this pod; create an McpServerAuth with this spec.server.name that selects the pod, or correct the URL"
    )]
    UnknownServer,
    #[error(
        "McpServerAuth {resource}: this path is outside of spec.server.url; requests are passed on only to that path and below"
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
        "McpServerAuth {resource}: the token has expired and no new one has come; see its status, and whether the operator runs"
    )]
    TokenExpired { resource: Box<str> },
    #[error(
        "McpServerAuth {resource} demands user context for tool calls, and this call carries none of the cookies and headers that it passes on or exchanges; sign in, and send them with the request to LiteLLM"
    )]
    UserContextRequired { resource: Box<str> },
    #[error(
        "McpServerAuth {resource}: the MCP server cannot be reached: {why}; check spec.server.url, DNS, network policies and spec.server.tls"
    )]
    ServerUnreachable { resource: Box<str>, why: Box<str> },
    #[error("McpServerAuth {resource}: the MCP server gave no answer: {why}")]
    ServerFailed { resource: Box<str>, why: Box<str> },
    #[error("McpServerAuth {resource}: the MCP server gave no answer in time")]
    ServerTimeout { resource: Box<str> },
    #[error(
        "McpServerAuth {resource}: the MCP server refused {whose} token ({status}){renewal}; check scopes, audience and resource in spec.oauth2 against what the server expects"
    )]
    TokenRefused {
        resource: Box<str>,
        whose: Whose,
        status: u16,
        renewal: Renewal,
    },
    #[error(
        "McpServerAuth {resource}: the MCP server demands {} for this call, which {whose} token has not{}; let the authorization server grant them to this client, and add them to spec.oauth2.scopes",
        list(scopes),
        declined.as_deref().map(no_other).unwrap_or_default()
    )]
    InsufficientScope {
        resource: Box<str>,
        whose: Whose,
        scopes: Vec<String>,
        /// What the operator says of them, if it does.
        declined: Option<Box<str>>,
    },
    #[error("McpServerAuth {resource}: {why}, and the call cannot be repeated by itself; try again")]
    NotRepeated { resource: Box<str>, why: NotRepeated },
    #[error(
        "McpServerAuth {resource}: there is no token for this user ({why}): {message}; if it is the user's session that has ended, sign in again, else see spec.oauth2.tokenExchange and the client's registration"
    )]
    ExchangeFailed {
        resource: Box<str>,
        why: Box<str>,
        message: Box<str>,
    },
    #[error("McpServerAuth {resource}: too many calls wait for a token already; see its status")]
    TooManyWaiting { resource: Box<str> },
    #[error(
        "a request to this port must name it by localhost, 127.0.0.1 or [::1] in its Host header; by any other name, only those come here who were led astray"
    )]
    HostNotAllowed,
    #[error(
        "McpServerAuth {resource}: the MCP server redirects to another origin, which never gets the token; set spec.server.url to where it redirects to"
    )]
    RedirectRefused { resource: Box<str> },
    #[error("McpServerAuth {resource}: the answer of the MCP server cannot be passed on: {why}")]
    AnswerUnusable { resource: Box<str>, why: &'static str },
    #[error("the request's body could not be read")]
    BodyUnreadable,
    #[error("LiteLLM is not reachable; it may be starting")]
    LiteLlmUnreachable,
    #[error("LiteLLM closed the connection without an answer")]
    LiteLlmFailed,
    #[error(
        "{0}; delete cookies of this site, or allow fewer of them in spec.cookiePassthrough and spec.headerPassthrough"
    )]
    ContextTooLarge(#[from] TooLarge),
    #[error("the method is not supported")]
    MethodNotSupported,
    #[error("the request can be understood in more than one way: {why}")]
    RequestAmbiguous { why: &'static str },
}

/// Reasons of the parser, which answers by itself, before there is a request.
pub const REQUEST_MALFORMED: &str = "request_malformed";
pub const HEADERS_TOO_LARGE: &str = "headers_too_large";

/// Whose token it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    Service,
    User,
}

/// What came of asking for another token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Renewal {
    /// Another would not help.
    NotAsked,
    /// None has come.
    NoneCame { within: Duration },
    /// The operator says that there is no better one for now, and why.
    Declined { message: Box<str> },
    /// The server refused that one too.
    RefusedToo,
    /// The server has refused another one too to the same user, whose cookies or headers it may be about.
    RefusedToUser,
}

/// Why a call that should be repeated is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotRepeated {
    #[error("the MCP server did not take the token, another is on its way")]
    Streamed,
    #[error("the resource was changed while the call waited for a token")]
    RouteChanged,
}

impl fmt::Display for Whose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Service => "the service",
            Self::User => "the user's own",
        })
    }
}

impl fmt::Display for Renewal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => Ok(()),
            Self::NoneCame { within } => {
                write!(formatter, ", and no other has come within {} s", within.as_secs())
            }
            Self::Declined { message } => formatter.write_str(&no_other(message)),
            Self::RefusedToo => formatter.write_str(", and the one renewed for it as well"),
            Self::RefusedToUser => formatter.write_str(
                ", as it did another one to the same user: it may be the user's cookies or headers that it does not take, so sign in again where they come from",
            ),
        }
    }
}

/// `message` is the operator's.
fn no_other(message: &str) -> String {
    format!(", and the operator has no other: {message}")
}

/// As many of the scopes as a message can bear, without anything that is no scope (RFC 6749 section 3.3).
fn list(scopes: &[String]) -> String {
    let plain = |scope: &&String| {
        !scope.is_empty() && scope.len() <= 128 && scope.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let named: Vec<_> = scopes.iter().filter(plain).take(8).map(String::as_str).collect();
    match (named.as_slice(), scopes.len() - named.len()) {
        ([], _) => "scopes that it does not name".to_owned(),
        ([one], 0) => format!("the scope {one}"),
        (several, 0) => format!("the scopes {}", several.join(" ")),
        (several, more) => format!("the scopes {} and {more} more", several.join(" ")),
    }
}

/// The identifier that a JSON-RPC error is for; `null` where it is unknown.
pub type RequestId = Value;

impl Refusal {
    /// Closed set: the label in metrics and logs.
    pub fn reason(&self) -> &'static str {
        self.facts().0
    }

    pub fn status(&self) -> StatusCode {
        self.facts().1
    }

    /// In the range that JSON-RPC leaves to servers, clear of what MCP has taken of it. 0: never JSON-RPC.
    pub fn code(&self) -> i32 {
        self.facts().2
    }

    fn facts(&self) -> (&'static str, StatusCode, i32) {
        match self {
            Self::UnknownServer => ("unknown_server", StatusCode::NOT_FOUND, -32050),
            Self::PathNotServed { .. } => ("path_not_served", StatusCode::NOT_FOUND, -32051),
            Self::RouteUnusable { .. } => ("route_unusable", StatusCode::SERVICE_UNAVAILABLE, -32052),
            Self::TokenUnavailable { .. } => ("token_unavailable", StatusCode::SERVICE_UNAVAILABLE, -32053),
            Self::TokenExpired { .. } => ("token_expired", StatusCode::SERVICE_UNAVAILABLE, -32054),
            Self::UserContextRequired { .. } => ("user_context_required", StatusCode::FORBIDDEN, -32055),
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
            Self::RequestAmbiguous { .. } => ("request_ambiguous", StatusCode::BAD_REQUEST, -32068),
            Self::LiteLlmUnreachable => ("litellm_unreachable", StatusCode::SERVICE_UNAVAILABLE, 0),
            Self::LiteLlmFailed => ("litellm_failed", StatusCode::BAD_GATEWAY, 0),
            Self::ContextTooLarge(_) => (
                "context_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                0,
            ),
            Self::MethodNotSupported => ("method_not_supported", StatusCode::NOT_IMPLEMENTED, 0),
        }
    }
}

/// A problem document. `type` is left out, which means `about:blank`: the title says no more than the status.
pub fn problem(refusal: &Refusal) -> Response<ResponseBody> {
    let status = refusal.status();
    let body = json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": refusal.to_string(),
        "reason": refusal.reason(),
    });
    answer(refusal, "application/problem+json", &body)
}

/// A JSON-RPC error.
pub fn json_rpc(refusal: &Refusal, id: RequestId) -> Response<ResponseBody> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": {
            "code": refusal.code(),
            "message": refusal.to_string(),
            "data": { "reason": refusal.reason() },
        },
    });
    answer(refusal, "application/json", &body)
}

fn answer(refusal: &Refusal, content_type: &'static str, body: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Some(Bytes::from(body.to_string()))));
    *response.status_mut() = refusal.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What follows on the connection may be another part of the same ambiguity.
    if matches!(refusal, Refusal::RequestAmbiguous { .. }) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http_body_util::BodyExt;

    use super::*;

    /// One of each. A new refusal does not compile without an arm in [`half`]; it belongs here as well.
    fn every() -> Vec<Refusal> {
        let resource = || Box::<str>::from("tools");
        let text = || Box::<str>::from("why");
        vec![
            Refusal::UnknownServer,
            Refusal::PathNotServed { resource: resource() },
            Refusal::RouteUnusable {
                resource: resource(),
                message: text(),
            },
            Refusal::TokenUnavailable {
                resource: resource(),
                why: text(),
                message: text(),
            },
            Refusal::TokenExpired { resource: resource() },
            Refusal::UserContextRequired { resource: resource() },
            Refusal::ServerUnreachable {
                resource: resource(),
                why: text(),
            },
            Refusal::ServerFailed {
                resource: resource(),
                why: text(),
            },
            Refusal::ServerTimeout { resource: resource() },
            Refusal::TokenRefused {
                resource: resource(),
                whose: Whose::Service,
                status: 401,
                renewal: Renewal::NotAsked,
            },
            Refusal::RedirectRefused { resource: resource() },
            Refusal::AnswerUnusable {
                resource: resource(),
                why: "why",
            },
            Refusal::BodyUnreadable,
            Refusal::InsufficientScope {
                resource: resource(),
                whose: Whose::Service,
                scopes: Vec::new(),
                declined: None,
            },
            Refusal::NotRepeated {
                resource: resource(),
                why: NotRepeated::Streamed,
            },
            Refusal::ExchangeFailed {
                resource: resource(),
                why: text(),
                message: text(),
            },
            Refusal::TooManyWaiting { resource: resource() },
            Refusal::HostNotAllowed,
            Refusal::RequestAmbiguous { why: "why" },
            Refusal::LiteLlmUnreachable,
            Refusal::LiteLlmFailed,
            Refusal::ContextTooLarge(TooLarge { bytes: 9000 }),
            Refusal::MethodNotSupported,
        ]
    }

    fn half(refusal: &Refusal) -> &'static str {
        match refusal {
            Refusal::UnknownServer
            | Refusal::PathNotServed { .. }
            | Refusal::RouteUnusable { .. }
            | Refusal::TokenUnavailable { .. }
            | Refusal::TokenExpired { .. }
            | Refusal::UserContextRequired { .. }
            | Refusal::ServerUnreachable { .. }
            | Refusal::ServerFailed { .. }
            | Refusal::ServerTimeout { .. }
            | Refusal::TokenRefused { .. }
            | Refusal::RedirectRefused { .. }
            | Refusal::AnswerUnusable { .. }
            | Refusal::InsufficientScope { .. }
            | Refusal::NotRepeated { .. }
            | Refusal::ExchangeFailed { .. }
            | Refusal::TooManyWaiting { .. }
            | Refusal::HostNotAllowed => "outbound",
            Refusal::LiteLlmUnreachable | Refusal::LiteLlmFailed | Refusal::ContextTooLarge(_) => "inbound",
            Refusal::BodyUnreadable | Refusal::RequestAmbiguous { .. } | Refusal::MethodNotSupported => {
                "both"
            }
        }
    }

    #[test]
    fn every_refusal_is_in_the_table_of_errors_as_it_is_answered_and_no_other_is() {
        let expected: Vec<String> = every()
            .iter()
            .map(|refusal| {
                let code = match refusal.code() {
                    0 => String::new(),
                    code => format!(" {code}"),
                };
                let (reason, status) = (refusal.reason(), refusal.status().as_u16());
                format!("| `{reason}` | {} | {status} |{code} |", half(refusal))
            })
            .collect();
        let rows: Vec<&str> = include_str!("../../../docs/errors.md")
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(
                row.starts_with(expected.as_str()),
                "{row} should begin with {expected}"
            );
            let told = row[expected.len()..]
                .split('|')
                .filter(|cell| !cell.trim().is_empty());
            assert_eq!(told.count(), 2, "{row} should tell what it means and what to do");
        }
        assert_eq!(
            rows.len(),
            expected.len(),
            "docs/errors.md has a row for each refusal, in this order"
        );
    }

    #[test]
    fn no_two_refusals_have_the_same_reason_or_code() {
        let every = every();
        let reasons: HashSet<_> = every.iter().map(Refusal::reason).collect();
        assert_eq!(reasons.len(), every.len());
        let codes: Vec<_> = every
            .iter()
            .map(Refusal::code)
            .filter(|code| *code != 0)
            .collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
    }

    #[test]
    fn no_refusal_is_a_401() {
        assert!(every().iter().all(|refusal| refusal.status() != 401));
    }

    async fn text(response: Response<ResponseBody>) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_json_rpc_error_carries_id_code_and_the_name_of_the_resource() {
        let response = json_rpc(
            &Refusal::TokenExpired {
                resource: "tools".into(),
            },
            json!("a-7"),
        );
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = text(response).await;
        assert_eq!(body["id"], "a-7");
        assert_eq!(body["error"]["code"], -32054);
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with("McpServerAuth tools: ")
        );
    }

    #[test]
    fn scopes_are_named_within_bounds_and_only_what_is_a_scope() {
        let text =
            |scopes: &[&str]| list(&scopes.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>());
        assert_eq!(text(&["tools:call"]), "the scope tools:call");
        assert_eq!(text(&["a", "b"]), "the scopes a b");
        assert_eq!(text(&["a\nb", "c"]), "the scopes c and 1 more");
        assert_eq!(text(&[]), "scopes that it does not name");
        assert_eq!(text(&["x"; 100]), "the scopes x x x x x x x x and 92 more");
    }

    #[tokio::test]
    async fn a_problem_says_which_limit() {
        let response = problem(&TooLarge { bytes: 9000 }.into());
        assert_eq!(response.status(), 431);
        let detail = text(response).await["detail"].to_string();
        assert!(detail.contains("9000") && detail.contains("8192"), "{detail}");
    }
}
