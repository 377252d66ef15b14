//! Sessions that cannot be opened for a user's request: what LiteLLM's MCP client sends, one message after the other, and what
//! it gets instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Credential, Server};
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::{Value, json};

use crate::scene::{Scripted, Sidecar, get, json as body_of, send, server, unused_address, whole};

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;

fn initialize(version: &str) -> String {
    let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "mcp", "version": "1"}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string()
}

/// As LiteLLM's client sends it for a user's request, in this session.
async fn ask(
    sidecar: &Sidecar,
    method: &str,
    path: &str,
    session: Option<&HeaderValue>,
    body: &str,
) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(path);
    request = request
        .header("accept", "application/json, text/event-stream")
        .header("mcpauth-context", "none");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    send(sidecar.outbound, request, whole(body.to_owned())).await
}

async fn opened(sidecar: &Sidecar, path: &str, version: &str) -> HeaderValue {
    let answer = ask(sidecar, "POST", path, None, &initialize(version)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let session = answer.headers()["mcp-session-id"].clone();
    let body = body_of(answer).await;
    assert_eq!(
        (&body["id"], &body["result"]["protocolVersion"]),
        (&json!(1), &json!(version))
    );
    // What is not declared LiteLLM takes for an empty list, and does not ask.
    for declared in ["tools", "prompts", "resources"] {
        assert!(body["result"]["capabilities"][declared].is_object(), "{declared}");
    }
    session
}

fn text(result: &Value) -> &str {
    assert_eq!(result["result"]["isError"], true, "{result}");
    result["result"]["content"][0]["text"].as_str().unwrap()
}

fn named(name: &str, url: &str) -> Server {
    let mut named = server(url);
    named.route.server = name.into();
    named
}

#[tokio::test]
async fn a_tool_call_says_why_its_session_could_not_be_opened() {
    let upstream = Scripted::echo().await;
    let refusing = Scripted::start(async |_| {
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        answer
    })
    .await;
    let url = |scripted: &Scripted| format!("http://{}/mcp", scripted.address);
    let mut without_token = named("expired", &url(&upstream));
    without_token.credential = Credential::Unavailable {
        reason: "RequestFailed".into(),
        message: "the server said invalid_client".into(),
        keep: false,
    };
    let mut unusable = named("unusable", "https://127.0.0.1:9/mcp");
    unusable.route.ca_bundle = Some("no PEM".into());
    let servers = [
        without_token,
        unusable,
        named("refusing", &url(&refusing)),
        named("away", &format!("http://{}/mcp", unused_address().await)),
    ];
    let limits = Limits {
        token_wait: Duration::from_millis(10),
        ..Default::default()
    };
    let sidecar = Sidecar::limited(&[], limits).await;
    assert_eq!(sidecar.routes.apply(&servers).len(), 1, "one is unusable");
    for (path, reason, words, status) in [
        ("/expired/mcp", "token_unavailable", "invalid_client", 503),
        ("/unusable/mcp", "route_unusable", "CA bundle", 503),
        ("/refusing/mcp", "token_refused", "rejected the service", 502),
        ("/away/mcp", "server_unreachable", "cannot be reached", 502),
        (
            "/unheard-of/mcp",
            "unknown_server",
            "create an McpServerAuth",
            404,
        ),
    ] {
        let session = opened(&sidecar, path, "2025-06-18").await;
        let accepted = ask(&sidecar, "POST", path, Some(&session), INITIALIZED).await;
        assert_eq!(accepted.status(), StatusCode::ACCEPTED, "{path}");
        let stream = ask(&sidecar, "GET", path, Some(&session), "").await;
        assert_eq!(stream.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");

        let listing = ask(&sidecar, "POST", path, Some(&session), LIST).await;
        assert_eq!(
            listing.status(),
            status,
            "a listing fails as without a session: {path}"
        );
        assert_eq!(body_of(listing).await["error"]["data"]["reason"], reason);

        let call = ask(&sidecar, "POST", path, Some(&session), CALL).await;
        assert_eq!(call.status(), StatusCode::OK, "{path}");
        let result = body_of(call).await;
        assert!(text(&result).contains(words), "{result}");
        assert_eq!(result["id"], 2);
        assert_eq!(result["result"]["_meta"]["mcpauth.dev/error"]["reason"], reason);

        let ended = ask(&sidecar, "DELETE", path, Some(&session), "").await;
        assert_eq!(ended.status(), StatusCode::NO_CONTENT, "{path}");
    }
    assert_eq!(upstream.seen().len(), 0);
    for seen in refusing.seen() {
        assert!(
            !seen.headers.contains_key("mcp-session-id"),
            "it is the sidecar's own"
        );
    }
}

/// A session that LiteLLM keeps for its next call (1.110) is not to say for ever what was true once.
#[tokio::test]
async fn a_client_that_keeps_such_a_session_opens_another_once_it_was_told() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp", upstream.address);
    let mut without_token = server(&url);
    let good = without_token.credential.clone();
    without_token.credential = Credential::Unavailable {
        reason: "RequestFailed".into(),
        message: "why".into(),
        keep: false,
    };
    let sidecar = Sidecar::start(unused_address().await, &[without_token.clone()]);
    let session = opened(&sidecar, "/tools/mcp", "2025-11-25").await;
    let call = ask(&sidecar, "POST", "/tools/mcp", Some(&session), CALL).await;
    text(&body_of(call).await);

    sidecar.routes.apply(&[Server {
        credential: good,
        ..without_token
    }]);
    let again = ask(&sidecar, "POST", "/tools/mcp", Some(&session), CALL).await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    let error = body_of(again).await["error"].clone();
    assert_eq!(error["code"], -32000);
    assert!(error["message"].as_str().unwrap().contains("no token"), "{error}");
    assert_eq!(upstream.seen().len(), 0);

    let answer = ask(&sidecar, "POST", "/tools/mcp", None, &initialize("2025-11-25")).await;
    assert_eq!(body_of(answer).await["method"], "initialize", "by the server");

    ask(&sidecar, "DELETE", "/tools/mcp", Some(&session), "").await;
    let forgotten = ask(&sidecar, "POST", "/tools/mcp", Some(&session), CALL).await;
    assert_eq!(forgotten.status(), StatusCode::NOT_FOUND);
    assert_eq!(body_of(forgotten).await["error"]["code"], -32000);
    assert_eq!(
        upstream.seen().len(),
        1,
        "the server never hears of such a session"
    );
}

/// Else LiteLLM would call a server healthy that is not, or keep that it has no tools.
#[tokio::test]
async fn what_litellm_does_by_itself_and_what_opens_no_session_fails_as_ever() {
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", unused_address().await))],
    );
    let accept = ("accept", "application/json, text/event-stream");
    let of_user = ("mcpauth-context", "none");
    let forged = ("mcp-session-id", "of the server's own");
    let initialize = initialize("2025-06-18");
    let endless = initialize.replace("2025-06-18", &"9".repeat(33));
    let discover = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    let batch = format!("[{initialize}]");
    for (headers, body) in [
        (&[accept][..], &*initialize),
        (&[accept], INITIALIZED),
        (&[of_user], &initialize),
        (&[accept, of_user], &endless),
        (&[accept, of_user], discover),
        (&[accept, of_user], &batch),
        (&[accept, of_user], LIST),
        (&[accept, of_user, forged], LIST),
    ] {
        let mut request = Request::post("/tools/mcp");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = send(sidecar.outbound, request, whole(body.to_owned())).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{headers:?} {body}");
        assert!(!answer.headers().contains_key("mcp-session-id"));
    }
}

/// The session was opened, and the server has gone since.
#[tokio::test]
async fn a_session_whose_beginning_is_refused_says_why_to_its_call() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let upstream = Scripted::start(move |_| {
        let mut answer = Response::new(whole("{}"));
        match away.load(Ordering::SeqCst) {
            true => {
                *answer.status_mut() = StatusCode::FOUND;
                let elsewhere = HeaderValue::from_static("https://elsewhere.example/");
                answer.headers_mut().insert("location", elsewhere);
            }
            false => drop(
                answer
                    .headers_mut()
                    .insert("mcp-session-id", HeaderValue::from_static("s-1")),
            ),
        }
        std::future::ready(answer)
    })
    .await;
    let tools = server(&format!("http://{}/mcp", upstream.address));
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let answer = ask(&sidecar, "POST", "/tools/mcp", None, &initialize("2025-06-18")).await;
    let session = answer.headers()["mcp-session-id"].clone();
    assert_eq!(session, "s-1");
    is_away.store(true, Ordering::SeqCst);
    let begun = ask(&sidecar, "POST", "/tools/mcp", Some(&session), INITIALIZED).await;
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    is_away.store(false, Ordering::SeqCst);
    let before = upstream.seen().len();
    let call = ask(&sidecar, "POST", "/tools/mcp", Some(&session), CALL).await;
    assert!(text(&body_of(call).await).contains("redirects to another origin"));
    assert_eq!(
        upstream.seen().len(),
        before,
        "a session that never began calls nothing"
    );

    let other = HeaderValue::from_static("s-2");
    let call = ask(&sidecar, "POST", "/tools/mcp", Some(&other), CALL).await;
    assert_eq!(body_of(call).await, json!({}), "another session goes on");
    ask(&sidecar, "DELETE", "/tools/mcp", Some(&session), "").await;
    assert_eq!(
        upstream.seen().last().unwrap().method,
        "DELETE",
        "the server has it still"
    );
}

#[tokio::test]
async fn the_outbound_half_hears_which_requests_a_users_led_to() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server("http://127.0.0.1:9/mcp")]);
    let post = Request::post("/mcp").header("mcpauth-context", "forged");
    send(sidecar.inbound, post, whole("{}")).await;
    get(sidecar.inbound, "/health").await;
    let post = Request::post("/mcp").header("cookie", "session_id=S-a");
    send(sidecar.inbound, post, whole("{}")).await;
    let seen = litellm.seen();
    let contexts: Vec<_> = seen
        .iter()
        .map(|seen| seen.headers.get("mcpauth-context"))
        .collect();
    assert_eq!(contexts[0].unwrap(), "none");
    assert_eq!(contexts[1], None, "of a page");
    assert_ne!(contexts[2].unwrap(), "none");
}
