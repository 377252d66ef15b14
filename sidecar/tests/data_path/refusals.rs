//! Requests that must not reach an MCP server.

use http::{Request, StatusCode};
use mcp_auth_protocol::sync::{Credential, Server, UserContext};
use serde_json::Value;

use crate::scene::{Scripted, Sidecar, get, json, post, read_head, send, server, unused_address, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"x"}}"#;

/// The answer to a call that never gets as far as a connection to the server.
async fn refused(change: impl Fn(&mut Server), path: &str) -> (StatusCode, Value) {
    let upstream = Scripted::echo().await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    change(&mut tools);
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let answer = post(sidecar.outbound, path, CALL).await;
    assert_eq!(upstream.connections(), 0);
    assert_eq!(answer.headers()["content-type"], "application/json");
    (answer.status(), json(answer).await)
}

#[tokio::test]
async fn without_a_valid_token_the_server_is_never_called() {
    let expired = Credential::Bearer {
        id: String::new(),
        token: "old".into(),
        proof_key: None,
        expires_at: Some(1),
    };
    let (status, body) = refused(|tools| tools.credential = expired.clone(), "/tools/mcp").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &(-32054).into())
    );
    assert_eq!(body["id"], "c-1");

    let unavailable = Credential::Unavailable {
        reason: "RequestFailed".into(),
        message: "the server said invalid_client".into(),
        keep: false,
    };
    let (status, body) = refused(|tools| tools.credential = unavailable.clone(), "/tools/mcp").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &(-32053).into())
    );
    let message = body["error"]["message"].as_str().unwrap();
    for part in ["tools-auth", "RequestFailed", "invalid_client"] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn unknown_servers_and_other_paths_are_not_found() {
    for (path, code) in [
        ("/other/mcp", -32050),
        ("/", -32050),
        ("/tools/admin", -32051),
        ("/tools/mcp/../admin", -32051),
        ("/tools/mcp/%2e%2e/admin", -32051),
    ] {
        let (status, body) = refused(|_| {}, path).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (StatusCode::NOT_FOUND, &code.into()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn oauth_probing_gets_a_plain_404() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    for path in [
        "/.well-known/oauth-protected-resource/tools/mcp",
        "/.well-known/oauth-authorization-server",
        "/tools/.well-known/openid-configuration",
        "/tools/mcp/.well-known/openid-configuration",
    ] {
        let answer = get(sidecar.outbound, path).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(!answer.headers().contains_key("www-authenticate"));
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_route_that_cannot_be_used_answers_with_its_problem() {
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let mut tools = server("https://127.0.0.1:9/mcp");
    tools.route.ca_bundle = Some("no PEM".into());
    let problems = sidecar.routes.apply(&[tools]);
    assert_eq!(problems[0].reason, "InvalidCaBundle");
    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        json(answer).await["error"]["message"]
            .as_str()
            .unwrap()
            .contains("CA bundle")
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_answers_the_message_by_its_id() {
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", unused_address().await))],
    );
    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let body = json(answer).await;
    assert_eq!(
        (&body["id"], &body["error"]["code"]),
        (&"c-1".into(), &(-32056).into())
    );
}

#[tokio::test]
async fn a_server_that_hangs_up_answers_the_message_by_its_id() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
        }
    });
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{address}/mcp"))],
    );
    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let body = json(answer).await;
    assert_eq!(
        (&body["id"], &body["error"]["code"]),
        (&"c-1".into(), &(-32057).into())
    );
}

/// What LiteLLM 1.109 shows of a status is the status alone; of a result, both show the text.
#[tokio::test]
async fn an_mcp_client_is_told_by_a_tools_result_why_its_call_failed_and_by_a_status_otherwise() {
    let upstream = Scripted::echo().await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.user_context = UserContext::Required;
    let mut without_token = server(&format!("http://{}/mcp", upstream.address));
    without_token.route.server = "expired".into();
    without_token.credential = Credential::Bearer {
        id: "1".into(),
        token: "old".into(),
        proof_key: None,
        expires_at: Some(1),
    };
    let sidecar = Sidecar::start(unused_address().await, &[tools, without_token]);
    let ask = async |path: &str, body: &'static str| {
        let accept = "application/json, text/event-stream";
        let request = Request::post(path).header("accept", accept);
        send(sidecar.outbound, request, whole(body)).await
    };
    for (path, reason, words) in [
        ("/tools/mcp", "user_context_required", "sign in"),
        ("/expired/mcp", "token_expired", "the token has expired"),
        ("/unknown/mcp", "unknown_server", "create an McpServerAuth"),
    ] {
        let answer = ask(path, CALL).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body = json(answer).await;
        assert_eq!(body["id"], "c-1", "{path}");
        let result = &body["result"];
        assert_eq!(result["isError"], true, "{body}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(words), "{text}");
        assert_eq!(result["_meta"]["mcpauth.dev/error"]["reason"], reason);
    }
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let answer = ask("/expired/mcp", list).await;
    assert_eq!(
        answer.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "listings as before"
    );
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call"}]"#;
    assert_eq!(ask("/tools/mcp", batch).await.status(), StatusCode::FORBIDDEN);
    for counted in [
        r#"mcpauth_sidecar_refused_total{half="outbound",reason="token_expired"}"#,
        r#"mcpauth_sidecar_calls_total{server="expired",status="5xx"}"#,
    ] {
        assert_eq!(sidecar.metric(counted), 2, "{counted}");
    }
}

#[tokio::test]
async fn where_a_user_is_required_a_body_that_cannot_be_read_as_discovery_needs_one() {
    let upstream = Scripted::echo().await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.user_context = UserContext::Required;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let answer = post(sidecar.outbound, "/tools/mcp", list).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        json(answer).await["method"],
        "tools/list",
        "the body that was looked into is sent on whole"
    );

    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let body = json(answer).await;
    assert_eq!(
        (&body["id"], &body["error"]["code"]),
        (&"c-1".into(), &(-32055).into())
    );

    let long = format!(
        r#"{{"method":"tools/list","params":"{}"}}"#,
        "x".repeat(64 * 1024)
    );
    let answer = send(sidecar.outbound, Request::post("/tools/mcp"), whole(long)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(upstream.seen().len(), 1);
}
