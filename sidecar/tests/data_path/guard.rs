//! The guard: what may be asked of an MCP server that demands a user, and by whom.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Server, SubjectTokenSource, Transport, UserContext};
use mcp_auth_sidecar::proxy::user_context::seal::{EPOCH_SECONDS, Sealer};
use mcp_auth_sidecar::proxy::user_context::{Allowlist, gather};
use tokio::sync::mpsc;

use crate::scene::{Body, Scripted, Sidecar, json, received, send, server, streamed, unused_address, whole};

/// An MCP server that opens the session which the message names, and else repeats the body.
async fn stateful() -> Scripted {
    Scripted::start(async |request: Request<Incoming>| {
        let opens = request.headers().get("x-opens").cloned();
        let mut response: Response<Body> = Response::new(whole("{}"));
        if let Some(session) = opens.or_else(|| request.headers().get("mcp-session-id").cloned()) {
            response.headers_mut().insert("mcp-session-id", session);
        }
        response
    })
    .await
}

/// One server that demands the user's cookie, and one that exchanges it.
fn demanding(upstream: &Scripted) -> [Server; 2] {
    let url = format!("http://{}/mcp", upstream.address);
    let mut strict = server(&url);
    strict.route.user_context = UserContext::Required;
    let mut exchanging = server(&url);
    exchanging.route.server = "exchanging".into();
    exchanging.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into()));
    [strict, exchanging]
}

async fn ask(
    sidecar: &Sidecar,
    method: &str,
    path: &str,
    headers: &[(&'static str, HeaderValue)],
    body: &str,
) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    send(sidecar.outbound, request, whole(body.to_owned())).await
}

fn sealed(sealer: &Sealer, epochs_ago: i64) -> HeaderValue {
    sealed_cookie(sealer, epochs_ago, "session_id=S-a")
}

fn sealed_cookie(sealer: &Sealer, epochs_ago: i64, cookie: &'static str) -> HeaderValue {
    let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::from_static(cookie))]);
    let gathered = gather(&headers, &Allowlist::new(["session_id", "idp_token"], [])).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    sealer.seal(&gathered.context.unwrap(), now - epochs_ago * EPOCH_SECONDS)
}

fn session(id: &'static str) -> (&'static str, HeaderValue) {
    ("mcp-session-id", HeaderValue::from_static(id))
}

async fn reason(answer: Response<Incoming>) -> String {
    let body = json(answer).await;
    let reason = body["error"]["data"]["reason"]
        .as_str()
        .or(body["reason"].as_str());
    reason.unwrap().to_owned()
}

#[tokio::test]
async fn nobody_can_do_anything_but_discover_where_a_user_is_demanded() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    for path in ["/tools/mcp", "/exchanging/mcp"] {
        for method in [
            "tools/call",
            "resources/read",
            "resources/subscribe",
            "prompts/get",
            "completion/complete",
            "tasks/get",
            "tasks/list",
            "tasks/result",
            "logging/setLevel",
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{}}}}"#);
            let answer = ask(&sidecar, "POST", path, &[], &body).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {method}");
            assert_eq!(reason(answer).await, "user_context_required", "{path} {method}");
        }
        for method in ["GET", "DELETE", "HEAD", "PUT"] {
            let answer = ask(&sidecar, method, path, &[session("of-some-user")], "").await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {method}");
        }
        let elicited = r#"{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}"#;
        let answer = ask(&sidecar, "POST", path, &[session("of-some-user")], elicited).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(
        upstream.seen().len(),
        0,
        "nothing of it was sent with the service's token"
    );
}

/// Longer than what is read before it is sent, and with its identifier at its end, as the Python SDK writes it.
#[tokio::test]
async fn a_long_call_without_a_user_is_refused_by_a_result_with_its_identifier() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    let both = HeaderValue::from_static("application/json, text/event-stream");
    let arguments = "x".repeat(70_000);
    for method in ["tools/call", "prompts/get"] {
        let call = format!(
            r#"{{"method":"{method}","params":{{"name":"n","arguments":{{"a":"{arguments}","id":1}}}},"jsonrpc":"2.0","id":23}}"#
        );
        let answer = ask(&sidecar, "POST", "/tools/mcp", &[("accept", both.clone())], &call).await;
        let body = json(answer).await;
        assert_eq!(body["id"], 23, "{body}");
        assert_eq!(
            body["result"]["isError"] == true,
            method == "tools/call",
            "{body}"
        );
    }
    assert_eq!(upstream.seen().len(), 0);
}

/// As front ends leave them behind that sign a user out without `Max-Age=0`.
#[tokio::test]
async fn cookies_without_a_value_name_nobody() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
    for cookie in ["session_id=; idp_token=", "session_id=\"\"; idp_token=\"\""] {
        let context = sealed_cookie(&sidecar.sealer, 0, cookie);
        let headers = [("mcpauth-context", context)];
        for path in ["/tools/mcp", "/exchanging/mcp"] {
            let answer = ask(&sidecar, "POST", path, &headers, call).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {cookie}");
            assert_eq!(reason(answer).await, "user_context_required", "{path} {cookie}");
        }
    }
    assert_eq!(upstream.seen().len(), 0);
    let context = sealed_cookie(&sidecar.sealer, 0, "session_id=S-a; idp_token=");
    let answer = ask(
        &sidecar,
        "POST",
        "/tools/mcp",
        &[("mcpauth-context", context)],
        call,
    )
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn nobody_can_discover_also_in_a_batch() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"resources/templates/list"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"prompts/list"}]"#,
    ] {
        let answer = ask(&sidecar, "POST", "/tools/mcp", &[], body).await;
        assert_eq!(answer.status(), StatusCode::OK, "{body}");
    }
    let hidden =
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"prompts/get"}]"#;
    let answer = ask(&sidecar, "POST", "/tools/mcp", &[], hidden).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

/// A gateway before the server, or the server itself, may go by the header.
#[tokio::test]
async fn a_call_in_the_header_is_a_call_whatever_the_body_says() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let stated = |name: &'static str, method: &'static str| (name, HeaderValue::from_static(method));
    for path in ["/tools/mcp", "/exchanging/mcp"] {
        for headers in [
            &[stated("mcp-method", "tools/call")][..],
            &[stated("mcp_method", "tools/call")],
            &[
                stated("mcp-method", "tools/list"),
                stated("mcp-method", "tools/call"),
            ],
        ] {
            let answer = ask(&sidecar, "POST", path, headers, list).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert_eq!(reason(answer).await, "user_context_required");
        }
    }
    assert_eq!(upstream.seen().len(), 0, "nothing of it was sent");
    let answer = ask(
        &sidecar,
        "POST",
        "/tools/mcp",
        &[stated("mcp-method", "tools/list")],
        list,
    )
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_session_that_discovery_opened_has_its_stream_and_its_end_and_no_other_session_has() {
    let upstream = stateful().await;
    let sidecar = Sidecar::start(unused_address().await, &demanding(&upstream));
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    let of_user = ("mcpauth-context", sealed(&sidecar.sealer, 0));
    let opens = |id: &'static str| ("x-opens", HeaderValue::from_static(id));
    ask(&sidecar, "POST", "/tools/mcp", &[opens("discovery")], initialize).await;
    ask(
        &sidecar,
        "POST",
        "/tools/mcp",
        &[opens("of-a-user"), of_user.clone()],
        initialize,
    )
    .await;
    // The server repeats the session in its answer, which makes it nobody's no more than before.
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    ask(&sidecar, "POST", "/tools/mcp", &[session("of-a-user")], ping).await;

    let rooted = r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#;
    for (method, body) in [("GET", ""), ("POST", rooted), ("DELETE", "")] {
        for (id, expected) in [("discovery", 200), ("of-a-user", 403), ("unheard-of", 403)] {
            let answer = ask(&sidecar, method, "/tools/mcp", &[session(id)], body).await;
            assert_eq!(answer.status(), expected, "{method} {id}");
        }
        let by_user = [session("of-a-user"), of_user.clone()];
        let answer = ask(&sidecar, method, "/tools/mcp", &by_user, body).await;
        assert_eq!(answer.status(), StatusCode::OK, "{method} by the user");
    }
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
    let answer = ask(&sidecar, "POST", "/tools/mcp", &[session("discovery")], call).await;
    assert_eq!(
        answer.status(),
        StatusCode::FORBIDDEN,
        "it is no way to call tools"
    );
}

#[tokio::test]
async fn discovery_over_legacy_sse_opens_its_stream() {
    let upstream = Scripted::start(async |_| {
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(whole("event: endpoint\ndata: /messages?session_id=1\n\n"))
            .unwrap()
    })
    .await;
    let mut tools = server(&format!("http://{}/sse", upstream.address));
    tools.route.transport = Transport::Sse;
    tools.route.user_context = UserContext::Required;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let answer = ask(&sidecar, "GET", "/tools/sse", &[], "").await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = ask(&sidecar, "GET", "/tools/sse/other", &[], "").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

/// What a user is asked (elicitation) is answered by this user, or by nobody whom nobody is asked for.
#[tokio::test]
async fn with_legacy_sse_nobody_answers_for_a_user() {
    let (hand_over, mut streams) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |request: Request<Incoming>| {
        let answer = Response::builder().header("content-type", "text/event-stream");
        let answer = match request.method() == "GET" {
            true => {
                let (sender, body) = streamed();
                hand_over.send(sender).unwrap();
                answer.body(body)
            }
            false => answer.status(StatusCode::ACCEPTED).body(whole("")),
        };
        std::future::ready(answer.unwrap())
    })
    .await;
    let mut tools = server(&format!("http://{}/sse", upstream.address));
    tools.route.transport = Transport::Sse;
    tools.route.user_context = UserContext::Required;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let of_user = ("mcpauth-context", sealed(&sidecar.sealer, 0));
    let mut open = Vec::new();
    for (headers, session) in [(&[of_user.clone()][..], "users"), (&[], "nobodys")] {
        let mut stream = ask(&sidecar, "GET", "/tools/sse", headers, "").await;
        let events = received(&mut streams).await;
        let event = format!("event: endpoint\ndata: /messages/?session_id={session}\n\n");
        events.send(event.into()).unwrap();
        stream.frame().await.unwrap().unwrap();
        open.push((stream, events));
    }
    let call = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{}}"#;
    for (method, is_result) in [("tools/call", true), ("prompts/get", false)] {
        let call = call.replace("tools/call", method);
        let path = "/tools/messages/?session_id=nobodys";
        let answer = ask(&sidecar, "POST", path, &[], &call).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "the stream has the answer");
        let (stream, events) = &mut open[1];
        let event = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        let event = String::from_utf8(event.to_vec()).unwrap();
        let message = event.strip_prefix("event: message\ndata: ").unwrap();
        let message: serde_json::Value = serde_json::from_str(message.strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(message["id"], 5, "{message}");
        assert_eq!(message["result"]["isError"] == true, is_result, "{message}");
        assert!(event.contains("user_context_required"), "{event}");
        // In between, not within an event of the server's.
        events.send("data: one\n".into()).unwrap();
        events.send("\n".into()).unwrap();
        let event = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(event, "data: one\n\n");
    }
    // A session without a stream is told by the status.
    let path = "/tools/messages/?session_id=other";
    let answer = ask(&sidecar, "POST", path, &[], call).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let elicited = r#"{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}"#;
    let expired = ("mcpauth-context", sealed(&sidecar.sealer, 3));
    for (headers, session, status) in [
        (&[][..], "users", StatusCode::FORBIDDEN),
        (&[expired][..], "users", StatusCode::FORBIDDEN),
        (&[of_user][..], "users", StatusCode::ACCEPTED),
        (&[], "nobodys", StatusCode::ACCEPTED),
    ] {
        let path = format!("/tools/messages/?session_id={session}");
        let answer = ask(&sidecar, "POST", &path, headers, elicited).await;
        assert_eq!(answer.status(), status, "{session}");
    }
}

/// Some servers announce the same endpoint in all streams, and clients count their identifiers from 0 each.
#[tokio::test]
async fn where_legacy_sse_streams_share_an_endpoint_no_stream_has_the_refusal_of_another_users_call() {
    let (hand_over, mut streams) = mpsc::unbounded_channel();
    let upstream = Scripted::start(move |_| {
        let (sender, body) = streamed();
        hand_over.send(sender).unwrap();
        let answer = Response::builder().header("content-type", "text/event-stream");
        std::future::ready(answer.body(body).unwrap())
    })
    .await;
    let mut tools = server(&format!("http://{}/sse", upstream.address));
    tools.route.transport = Transport::Sse;
    tools.route.user_context = UserContext::Required;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let of_user = [("mcpauth-context", sealed(&sidecar.sealer, 0))];
    let mut open = Vec::new();
    for headers in [&[][..], &of_user] {
        let mut stream = ask(&sidecar, "GET", "/tools/sse", headers, "").await;
        let events = received(&mut streams).await;
        events
            .send("event: endpoint\ndata: /messages\n\n".into())
            .unwrap();
        stream.frame().await.unwrap().unwrap();
        open.push((stream, events));
    }
    let call = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{}}"#;
    let answer = ask(&sidecar, "POST", "/tools/messages", &[], call).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(reason(answer).await, "user_context_required");
    for (stream, events) in &mut open {
        events.send("data: next\n\n".into()).unwrap();
        let next = stream.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(next, "data: next\n\n");
    }
}

#[tokio::test]
async fn a_context_that_cannot_be_opened_is_an_error_of_its_own_for_calls_and_none_for_discovery() {
    let upstream = stateful().await;
    let url = format!("http://{}/mcp", upstream.address);
    let [strict, exchanging] = demanding(&upstream);
    let mut optional = server(&url);
    optional.route.server = "optional".into();
    let mut takes_nothing = server(&url);
    takes_nothing.route.server = "open".into();
    (takes_nothing.route.cookies, takes_nothing.route.headers) = (vec![], vec![]);
    let servers = [strict, exchanging, optional, takes_nothing];
    let sidecar = Sidecar::start(unused_address().await, &servers);

    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let another_pods = sealed(&Sealer::new(), 0);
    let expired = sealed(&sidecar.sealer, 3);
    for (context, why) in [
        (another_pods, "another pod"),
        (expired, "too old"),
        (HeaderValue::from_static("1AAAA"), "another pod"),
        (HeaderValue::from_static("garbage"), "another pod"),
    ] {
        let headers = [("mcpauth-context", context.clone())];
        for path in ["/tools/mcp", "/exchanging/mcp", "/optional/mcp"] {
            let answer = ask(&sidecar, "POST", path, &headers, call).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {context:?}");
            let body = json(answer).await;
            assert_eq!(body["error"]["code"], -32069, "{path} {body}");
            assert_eq!(body["error"]["data"]["reason"], "user_context_invalid");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(why), "{message}");
            let answer = ask(&sidecar, "POST", path, &headers, list).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path} {context:?}");
        }
        let answer = ask(&sidecar, "POST", "/open/mcp", &headers, call).await;
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "there is nothing of a user to lose"
        );
    }
}
