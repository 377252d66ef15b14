//! Error responses: the one place where errors become answers.
//!
//! A POST to the outbound half is JSON-RPC and gets a JSON-RPC error; everything else gets a problem document
//! (RFC 9457). JSON-RPC errors come with a status of their own rather than 200: LiteLLM reports the status of
//! a listing that failed, and a load test or a dashboard counts it. 401 is never among them: it would send LiteLLM
//! into an OAuth flow against localhost. A tool call gets the result of a tool that failed, with status 200: LiteLLM
//! shows the user of a failed request its status alone, and the text of a result. For the same reason a session that cannot
//! be opened for a user is opened all the same, by the sidecar ([`stand_in`]).
//!
//! `docs/errors.md` has the table of them all, which a test compares, and what LiteLLM makes of them.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::proxy::error::ProxyError;
use crate::proxy::response_body::ResponseBody;

/// The identifier that a JSON-RPC error is for; `null` where it is unknown.
pub type RequestId = Value;

/// A problem document. `type` is left out, which means `about:blank`: the title says no more than the status.
pub fn problem(error: &ProxyError) -> Response<ResponseBody> {
    let status = error.status();
    let body = json!({
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": error.to_string(),
        "reason": error.reason(),
    });
    answer(error, "application/problem+json", &body)
}

/// A JSON-RPC error.
pub fn json_rpc(error: &ProxyError, id: RequestId) -> Response<ResponseBody> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": {
            "code": error.code(),
            "message": error.to_string(),
            "data": { "reason": error.reason() },
        },
    });
    answer(error, "application/json", &body)
}

/// Key of `_meta` with what a program needs to know.
const META_KEY: &str = "mcpauth.dev/error";

/// Of MCP's SDKs for a connection that was closed: LiteLLM opens another session then, where it would keep this one.
const CONNECTION_CLOSED: i32 = -32000;

/// A session of the sidecar's own, for a client that asks for this version of MCP: there is no other because of `error`.
pub fn stand_in(error: &ProxyError, id: RequestId, version: &str) -> Response<ResponseBody> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": id,
        "result": {
            "protocolVersion": version,
            "capabilities": { "tools": {}, "prompts": {}, "resources": {} },
            "serverInfo": { "name": "mcp-auth", "version": env!("CARGO_PKG_VERSION") },
            "_meta": { META_KEY: details(error) },
        },
    });
    let mut response = answer(error, "application/json", &body);
    as_result(&mut response);
    response
}

/// To a message of such a session that has told why: the client is to open another one (revision 2025-11-25 of MCP,
/// Streamable HTTP, session management). `error` is `None` where that was forgotten.
pub fn session_ended(error: Option<&ProxyError>, id: RequestId) -> Response<ResponseBody> {
    let message = match error {
        Some(error) => error.to_string(),
        None => "the session could not be opened, and has ended; open another".to_owned(),
    };
    let body = json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": {
            "code": CONNECTION_CLOSED,
            "message": message,
            "data": { "reason": error.map(ProxyError::reason) },
        },
    });
    let mut response = Response::new(ResponseBody::Whole(Some(Bytes::from(body.to_string()))));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// To what is no message of such a session: `true` for its end, `false` for a stream, of which it has none.
pub fn of_stand_in(is_end: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(None));
    if is_end {
        *response.status_mut() = StatusCode::NO_CONTENT;
    } else {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allowed = HeaderValue::from_static("POST, DELETE");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// The result of a tool call that has failed. `resultType` is required from version 2026-07-28 of MCP on, and ignored
/// before.
pub fn tool_result(error: &ProxyError, id: RequestId) -> Response<ResponseBody> {
    let body = json!({
        "jsonrpc": "2.0",
        "id": id,
        "result": {
            "resultType": "complete",
            "isError": true,
            "content": [{ "type": "text", "text": error.to_string() }],
            "_meta": { META_KEY: details(error) },
        },
    });
    let mut response = answer(error, "application/json", &body);
    as_result(&mut response);
    response
}

fn details(error: &ProxyError) -> Value {
    json!({ "code": error.code(), "reason": error.reason(), "status": error.status().as_u16() })
}

fn as_result(response: &mut Response<ResponseBody>) {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(RETRY_AFTER);
}

/// The answer to a message whose own answer comes in its stream, as with legacy SSE.
pub fn accepted() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(None));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn answer(error: &ProxyError, content_type: &'static str, body: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Some(Bytes::from(body.to_string()))));
    *response.status_mut() = error.status();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The bytes that follow on the connection may be part of the ambiguous request.
    if matches!(error, ProxyError::RequestAmbiguous(_)) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if error.status() == StatusCode::SERVICE_UNAVAILABLE {
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
    use crate::http::framing::FramingError;
    use crate::proxy::error::{RenewalOutcome, ReplayError, TokenOwner};
    use crate::proxy::user_context::ContextTooLargeError;
    use crate::proxy::user_context::seal::OpenError;

    /// One of each. A new error does not compile without an arm in [`half`]; it belongs here as well.
    fn one_of_each() -> Vec<ProxyError> {
        let resource = || Box::<str>::from("tools");
        let text = || Box::<str>::from("why");
        vec![
            ProxyError::UnknownServer,
            ProxyError::PathNotServed { resource: resource() },
            ProxyError::RouteUnusable {
                resource: resource(),
                message: text(),
            },
            ProxyError::TokenUnavailable {
                resource: resource(),
                why: text(),
                message: text(),
            },
            ProxyError::TokenExpired { resource: resource() },
            ProxyError::UserContextRequired { resource: resource() },
            ProxyError::UserContextInvalid {
                resource: resource(),
                why: OpenError::Expired,
            },
            ProxyError::ServerUnreachable {
                resource: resource(),
                why: text(),
            },
            ProxyError::ServerFailed {
                resource: resource(),
                why: text(),
            },
            ProxyError::ServerTimeout { resource: resource() },
            ProxyError::TokenRefused {
                resource: resource(),
                owner: TokenOwner::Service,
                status: 401,
                renewal: RenewalOutcome::NotRequested,
            },
            ProxyError::RedirectRefused { resource: resource() },
            ProxyError::AnswerUnusable {
                resource: resource(),
                why: "why",
            },
            ProxyError::BodyUnreadable,
            ProxyError::InsufficientScope {
                resource: resource(),
                owner: TokenOwner::Service,
                scopes: Vec::new(),
                declined: None,
            },
            ProxyError::NotRepeated {
                resource: resource(),
                why: ReplayError::Streamed,
            },
            ProxyError::ExchangeFailed {
                resource: resource(),
                why: text(),
                message: text(),
            },
            ProxyError::TooManyWaiting { resource: resource() },
            ProxyError::HostNotAllowed,
            ProxyError::CallerNotAllowed,
            ProxyError::RequestAmbiguous(FramingError::HostMissing),
            ProxyError::BodyNotUtf8,
            ProxyError::BodyNamesHeaders,
            ProxyError::BodyUndecodable,
            ProxyError::LiteLlmUnreachable { why: text() },
            ProxyError::LiteLlmFailed { why: text() },
            ProxyError::ContextTooLarge(ContextTooLargeError { bytes: 9000 }),
            ProxyError::MethodNotSupported,
            ProxyError::Overloaded,
        ]
    }

    fn half(error: &ProxyError) -> &'static str {
        match error {
            ProxyError::UnknownServer
            | ProxyError::PathNotServed { .. }
            | ProxyError::RouteUnusable { .. }
            | ProxyError::TokenUnavailable { .. }
            | ProxyError::TokenExpired { .. }
            | ProxyError::UserContextRequired { .. }
            | ProxyError::UserContextInvalid { .. }
            | ProxyError::ServerUnreachable { .. }
            | ProxyError::ServerFailed { .. }
            | ProxyError::ServerTimeout { .. }
            | ProxyError::TokenRefused { .. }
            | ProxyError::RedirectRefused { .. }
            | ProxyError::AnswerUnusable { .. }
            | ProxyError::InsufficientScope { .. }
            | ProxyError::NotRepeated { .. }
            | ProxyError::ExchangeFailed { .. }
            | ProxyError::TooManyWaiting { .. }
            | ProxyError::HostNotAllowed
            | ProxyError::CallerNotAllowed => "outbound",
            ProxyError::BodyNotUtf8
            | ProxyError::BodyNamesHeaders
            | ProxyError::BodyUndecodable
            | ProxyError::LiteLlmUnreachable { .. }
            | ProxyError::LiteLlmFailed { .. }
            | ProxyError::ContextTooLarge(_) => "inbound",
            ProxyError::BodyUnreadable
            | ProxyError::RequestAmbiguous(_)
            | ProxyError::MethodNotSupported
            | ProxyError::Overloaded => "both",
        }
    }

    #[test]
    fn every_error_is_in_the_table_of_errors_as_it_is_answered_and_no_other_is() {
        let expected: Vec<String> = one_of_each()
            .iter()
            .map(|error| {
                let code = match error.code() {
                    0 => String::new(),
                    code => format!(" {code}"),
                };
                let (reason, status) = (error.reason(), error.status().as_u16());
                format!("| `{reason}` | {} | {status} |{code} |", half(error))
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
            let columns = row[expected.len()..]
                .split('|')
                .filter(|cell| !cell.trim().is_empty());
            assert_eq!(
                columns.count(),
                2,
                "{row} should say what it means and what to do"
            );
        }
        assert_eq!(
            rows.len(),
            expected.len(),
            "docs/errors.md has a row for each error, in this order"
        );
    }

    #[test]
    fn no_two_errors_have_the_same_reason_or_code() {
        let one_of_each = one_of_each();
        let reasons: HashSet<_> = one_of_each.iter().map(ProxyError::reason).collect();
        assert_eq!(reasons.len(), one_of_each.len());
        let codes: Vec<_> = one_of_each
            .iter()
            .map(ProxyError::code)
            .filter(|code| *code != 0)
            .collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
    }

    #[test]
    fn no_error_is_a_401() {
        assert!(one_of_each().iter().all(|error| error.status() != 401));
    }

    async fn text(response: Response<ResponseBody>) -> Value {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_json_rpc_error_carries_id_code_and_the_name_of_the_resource() {
        let response = json_rpc(
            &ProxyError::TokenExpired {
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

    #[tokio::test]
    async fn the_result_of_a_tool_that_failed_says_why_in_words_and_for_programs() {
        let error = ProxyError::TokenExpired {
            resource: "tools".into(),
        };
        let response = tool_result(&error, json!(7));
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key(RETRY_AFTER));
        let body = text(response).await;
        assert_eq!(body["id"], 7);
        let result = &body["result"];
        assert_eq!(result["isError"], true);
        assert_eq!(result["content"][0]["text"], error.to_string());
        let expected = json!({"code": -32054, "reason": "token_expired", "status": 503});
        assert_eq!(result["_meta"]["mcpauth.dev/error"], expected);
    }

    #[tokio::test]
    async fn a_problem_says_which_limit() {
        let response = problem(&ContextTooLargeError { bytes: 9000 }.into());
        assert_eq!(response.status(), 431);
        let detail = text(response).await["detail"].to_string();
        assert!(detail.contains("9000") && detail.contains("8192"), "{detail}");
    }
}
