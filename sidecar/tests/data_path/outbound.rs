//! From LiteLLM to MCP servers: what arrives there, and what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Credential, Transport};
use mcp_auth_sidecar::proxy::outbound::Limits;
use tokio::sync::mpsc;

use crate::scene::{
    Scripted, Sidecar, TEST_TIMEOUT, bytes, get, json, listed, post, raw, received, send, server, streamed,
    unused_address, whole,
};

#[tokio::test]
async fn the_server_gets_the_token_and_nothing_of_litellms_credentials() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/a/mcp", upstream.address))],
    );
    let request = Request::post("/tools/a/mcp?x=1")
        .header("authorization", "Bearer sk-user")
        .header("x-litellm-api-key", "sk-user")
        .header("cookie", "session_id=not-sealed")
        .header("x-forwarded-user", "eve")
        .header("x-forwarded-for", "10.0.0.9")
        .header("mcpauth-context", "1Zm9yZ2Vk")
        .header("mcp-session-id", "s-1")
        .header("accept", "application/json, text/event-stream");
    let answer = send(sidecar.outbound, request, whole(r#"{"method":"ping"}"#)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let seen = upstream.only();
    assert_eq!(seen.target, "/a/mcp?x=1");
    let host = upstream.address.to_string();
    let expected = [
        ("accept", "application/json, text/event-stream"),
        ("authorization", "Bearer service-token"),
        ("content-length", "17"),
        ("host", &host),
        ("mcp-session-id", "s-1"),
    ];
    assert_eq!(
        listed(&seen.headers),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_contexts_total{result="forged"}"#),
        1
    );
}

#[tokio::test]
async fn a_renewed_token_is_used_from_the_next_request_on_over_the_same_connection() {
    let upstream = Scripted::echo().await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&tools));
    bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await;
    tools.credential = Credential::Bearer {
        id: String::new(),
        token: "second".into(),
        proof_key: None,
        expires_at: None,
    };
    sidecar.routes.apply(&[tools]);
    bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await;
    let tokens: Vec<_> = upstream
        .seen()
        .into_iter()
        .map(|seen| seen.headers["authorization"].clone())
        .collect();
    assert_eq!(tokens, ["Bearer service-token", "Bearer second"]);
    assert_eq!(upstream.connections(), 1);
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_upstream_connects_total{server="tools"}"#),
        1
    );
}

#[tokio::test]
async fn cookies_of_the_server_stay_with_us_and_everything_else_comes_back() {
    let upstream = Scripted::start(async |_| {
        let answer = Response::builder()
            .status(202)
            .header("set-cookie", "a=1")
            .header("mcp-session-id", "s-1");
        answer
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .body(whole("accepted"))
            .unwrap()
    })
    .await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let mut headers = answer.headers().clone();
    headers.remove("date");
    let expected = [("content-length", "8"), ("mcp-session-id", "s-1")];
    assert_eq!(
        listed(&headers),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(bytes(answer).await, "accepted");
}

#[tokio::test]
async fn an_answer_of_256_header_fields_passes_and_one_of_more_is_an_error() {
    // Date and length are two more.
    for (fields, status, arriving) in [(254, "200", 254), (255, "502", 0)] {
        let upstream = Scripted::start(move |_: Request<Incoming>| async move {
            let mut answer = Response::builder();
            for _ in 0..fields {
                answer = answer.header("x-field", "1");
            }
            answer.body(whole("{}")).unwrap()
        })
        .await;
        let sidecar = Sidecar::start(
            unused_address().await,
            &[server(&format!("http://{}/mcp", upstream.address))],
        );
        let request = b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = raw(sidecar.outbound, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{fields}: {answer}"
        );
        assert_eq!(answer.matches("x-field: 1").count(), arriving);
    }
}

#[tokio::test]
async fn a_challenge_never_reaches_litellm() {
    let upstream = Scripted::start(async |request: Request<hyper::body::Incoming>| {
        let status = if request.method() == "POST" { 401 } else { 403 };
        let challenge = "Bearer resource_metadata=\"http://127.0.0.1/.well-known/oauth-protected-resource\"";
        Response::builder()
            .status(status)
            .header("www-authenticate", challenge)
            .body(whole("secret"))
            .unwrap()
    })
    .await;
    let impatient = Limits {
        token_wait: Duration::ZERO,
        ..Limits::default()
    };
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::limited(&[server(&url)], impatient).await;
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(!answer.headers().contains_key("www-authenticate"));
    let body = json(answer).await;
    assert_eq!(body["error"]["code"], -32059);
    assert!(body["error"]["message"].as_str().unwrap().contains("tools-auth"));
    assert_eq!(
        get(sidecar.outbound, "/tools/mcp").await.status(),
        StatusCode::BAD_GATEWAY
    );
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_refused_total{half="outbound",reason="token_refused"}"#),
        2
    );
}

#[tokio::test]
async fn a_403_without_challenge_is_the_servers_own_word() {
    let upstream =
        Scripted::start(async |_| Response::builder().status(403).body(whole("not you")).unwrap()).await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(bytes(answer).await, "not you");
}

#[tokio::test]
async fn a_redirect_leads_back_to_us_or_nowhere() {
    let upstream = Scripted::start(async |request: Request<hyper::body::Incoming>| {
        let location = request.headers()["x-location"].clone();
        Response::builder()
            .status(307)
            .header("location", location)
            .body(whole(""))
            .unwrap()
    })
    .await;
    let origin = format!("http://{}", upstream.address);
    let sidecar = Sidecar::start(unused_address().await, &[server(&format!("{origin}/mcp"))]);
    let redirect = |location: String| {
        let request = Request::post("/tools/mcp").header("x-location", location);
        send(sidecar.outbound, request, whole("{}"))
    };
    for location in ["/mcp/", "mcp/", &format!("{origin}/mcp/")] {
        let answer = redirect(location.to_owned()).await;
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(answer.headers()["location"], "/tools/mcp/", "{location}");
    }
    let answer = redirect("http://evil.example.com/mcp".to_owned()).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(!answer.headers().contains_key("location"));
    assert_eq!(json(answer).await["error"]["data"]["reason"], "redirect_refused");
}

/// As AWS' balancer does: each answer brings another cookie for the same target.
#[tokio::test]
async fn a_load_balancers_cookie_comes_back_within_its_session_and_never_a_users() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        let opens = request.headers().get("x-opens").cloned();
        let before = request.headers().get("cookie").map(|cookie| cookie.len());
        let mut answer = Response::builder()
            .header(
                "set-cookie",
                format!("AWSALB={}; Path=/", "x".repeat(before.unwrap_or(1))),
            )
            .header("set-cookie", "sid=of-the-server; HttpOnly")
            .header("set-cookie", "my-lb=1; Path=/");
        if let Some(session) = opens {
            answer = answer.header("mcp-session-id", session);
        }
        answer.body(whole("{}")).unwrap()
    })
    .await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.affinity_cookies = vec!["my-lb".to_owned()];
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let ask = async |name: &str, value: &str| {
        let request = Request::post("/tools/mcp")
            .header(name, value)
            .header("cookie", "AWSALB=of-the-user; my-lb=of-the-user");
        let answer = send(sidecar.outbound, request, whole("{}")).await;
        assert!(!answer.headers().contains_key("set-cookie"));
        let seen = upstream.seen().pop().unwrap();
        seen.headers
            .get("cookie")
            .map(|cookie| cookie.to_str().unwrap().to_owned())
    };
    assert_eq!(ask("x-opens", "s-1").await, None);
    assert_eq!(
        ask("mcp-session-id", "s-1").await.as_deref(),
        Some("AWSALB=x; my-lb=1")
    );
    assert_eq!(
        ask("mcp-session-id", "s-1").await.as_deref(),
        Some("AWSALB=xxxxxxxxxxxxxxxxx; my-lb=1")
    );
    assert_eq!(ask("mcp-session-id", "s-2").await, None, "another session");
    assert_eq!(ask("x-other", "1").await, None, "no session");
}

/// Two replicas behind a balancer that goes by its cookie alone: each knows its own sessions only.
#[tokio::test]
async fn with_legacy_sse_messages_go_to_the_replica_that_has_the_stream() {
    let (hand_over, mut streams) = mpsc::unbounded_channel();
    let streams_before = Arc::new(AtomicUsize::new(0));
    let upstream = Scripted::start(move |request: Request<Incoming>| {
        let answer = Response::builder();
        let answer = if request.method() == "GET" {
            let replica = streams_before.fetch_add(1, Ordering::Relaxed);
            let (sender, body) = streamed();
            hand_over.send(sender).unwrap();
            let cookie = format!("ApplicationGatewayAffinity=replica-{replica}; Path=/");
            let answer = answer.header("content-type", "text/event-stream");
            answer.header("set-cookie", cookie).body(body)
        } else {
            let cookie = request.headers().get("cookie");
            let session = request.uri().query().unwrap().replace("session_id=", "");
            let found = cookie.is_some_and(|cookie| {
                cookie.to_str().unwrap() == format!("ApplicationGatewayAffinity=replica-{session}")
            });
            let status = if found { 202 } else { 404 };
            answer.status(status).body(whole(""))
        };
        std::future::ready(answer.unwrap())
    })
    .await;
    let mut tools = server(&format!("http://{}/sse", upstream.address));
    tools.route.transport = Transport::Sse;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let mut open = Vec::new();
    for session in 0..2 {
        let mut stream = get(sidecar.outbound, "/tools/sse").await;
        assert!(!stream.headers().contains_key("set-cookie"));
        let events = received(&mut streams).await;
        let event = format!("event: endpoint\ndata: /messages/?session_id={session}\n\n");
        events.send(event.into()).unwrap();
        stream.frame().await.unwrap().unwrap();
        open.push((stream, events));
    }
    for session in [0, 1, 0] {
        let path = format!("/tools/messages/?session_id={session}");
        let status = post(sidecar.outbound, &path, "{}").await.status();
        assert_eq!(status, StatusCode::ACCEPTED, "{session}");
    }
}

#[tokio::test]
async fn with_sse_messages_go_to_the_path_that_an_open_stream_announces_and_to_no_other() {
    let (hand_over, mut streams) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |request: Request<Incoming>| {
        let response = Response::builder();
        let response = match request.method() == "GET" {
            true => {
                let (sender, body) = streamed();
                hand_over.send(sender).unwrap();
                response.header("content-type", "text/event-stream").body(body)
            }
            false => response.body(whole("{}")),
        };
        std::future::ready(response.unwrap())
    })
    .await;
    let mut tools = server(&format!("http://{}/sse", upstream.address));
    tools.route.transport = Transport::Sse;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let message = async |path: &str| post(sidecar.outbound, path, "{}").await.status();
    let endpoint = "/tools/messages/?session_id=1";
    assert_eq!(
        message(endpoint).await,
        StatusCode::NOT_FOUND,
        "no stream has announced it"
    );
    let mut stream = get(sidecar.outbound, "/tools/sse").await;
    let events = received(&mut streams).await;
    events
        .send("event: endpoint\ndata: /messages/?session_id=1\n\n".into())
        .unwrap();
    let event = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(event, format!("event: endpoint\ndata: {endpoint}\n\n"));
    assert_eq!(message(endpoint).await, StatusCode::OK);
    assert_eq!(upstream.seen()[1].target, "/messages/?session_id=1");
    for other in [
        "/tools/admin",
        "/tools/",
        "/tools/messages/other",
        "/tools/sse/../admin",
    ] {
        assert_eq!(message(other).await, StatusCode::NOT_FOUND, "{other}");
    }
    drop((stream, events));
    until_not_found(&sidecar, endpoint).await;
}

async fn until_not_found(sidecar: &Sidecar, path: &str) {
    let looking =
        async { while post(sidecar.outbound, path, "{}").await.status() != StatusCode::NOT_FOUND {} };
    tokio::time::timeout(TEST_TIMEOUT, looking)
        .await
        .expect("what was announced ends with its stream");
}

/// As LiteLLM sends it: by the name of the overlay, beside one that a client made it pass on.
#[tokio::test]
async fn a_gateways_key_of_litellms_configuration_arrives_and_a_clients_does_not() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let overlay_name = sidecar
        .static_headers
        .overlay_name("Ocp-Apim-Subscription-Key")
        .unwrap();
    let request = Request::post("/tools/mcp")
        .header(overlay_name, "of the gateway")
        .header("ocp-apim-subscription-key", "of a client")
        .header("x-api-key", "of a client")
        .header("mcpauth-static-0-x-goog-api-key", "forged");
    bytes(send(sidecar.outbound, request, whole("{}")).await).await;
    let seen = upstream.only().headers;
    let keys: Vec<_> = listed(&seen)
        .into_iter()
        .filter(|(name, _)| name.contains("key") || name.starts_with("mcpauth"))
        .collect();
    let expected = (
        "ocp-apim-subscription-key".to_owned(),
        "of the gateway".to_owned(),
    );
    assert_eq!(keys, [expected]);
}
