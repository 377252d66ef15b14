//! Tokens that the MCP server refuses: reported once, waited for within bounds, and the request sent once
//! more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{
    Credential, RejectedToken, RejectionCause, Server, SubjectTokenSource, UserContext,
};
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::scene::{
    Body, Scripted, Sidecar, bearer, bytes, get, json, post, send, server, streamed, until, whole,
};

pub const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"x"}}"#;

/// So short that what never comes is noticed, and yet long enough for all that does.
const IMPATIENT: Limits = Limits {
    token_wait: Duration::from_millis(300),
    probe_interval: Duration::from_millis(100),
    exchange_timeout: Duration::from_secs(10),
    max_waiting: 1_000,
    max_users: 10_000,
};

/// Nobody waits so long in these tests: what is answered was answered because something happened.
pub const PATIENT: Limits = Limits {
    token_wait: Duration::from_secs(3_600),
    probe_interval: Duration::from_secs(3_600),
    ..IMPATIENT
};

/// Takes one token, and answers with the body that came with it.
pub async fn takes_only(token: &'static str) -> Scripted {
    Scripted::start(async move |request: Request<Incoming>| answer(token, request).await).await
}

async fn answer(token: &str, request: Request<Incoming>) -> Response<Body> {
    let taken = request.headers()["authorization"] == format!("Bearer {token}");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    match taken {
        true => Response::new(whole(body)),
        false => challenge(401, r#"Bearer error="invalid_token""#),
    }
}

pub fn challenge(status: u16, challenge: &str) -> Response<Body> {
    let answer = Response::builder().status(status);
    let answer = answer.header("www-authenticate", challenge);
    answer.body(whole("not for the client")).unwrap()
}

pub fn tools(upstream: &Scripted, token: &str) -> Server {
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.credential = bearer(token);
    tools
}

pub fn unauthorized(token: &str) -> RejectedToken {
    RejectedToken {
        server: "tools".into(),
        token: token.into(),
        why: RejectionCause::Unauthorized,
    }
}

pub fn is_error(body: &Value, code: i32) -> bool {
    body["id"] == "c-1" && body["error"]["code"] == code
}

#[tokio::test]
async fn a_refused_token_is_reported_and_the_call_sent_again_with_the_next() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await });
    assert_eq!(sidecar.refused().await, [unauthorized("old")]);
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    let answer = call.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("www-authenticate"));
    assert_eq!(bytes(answer).await, CALL, "the body is whole the second time");
    assert_eq!(sidecar.reports.borrow().refused, [], "another token is in use");
    assert_eq!(upstream.seen().len(), 2);
    for line in [
        r#"mcpauth_sidecar_tokens_refused_total{whose="service",why="unauthorized"}"#,
        r#"mcpauth_sidecar_replays_total{why="unauthorized"}"#,
    ] {
        assert_eq!(sidecar.metric(line), 1, "{line}");
    }
    assert_eq!(sidecar.metric("mcpauth_sidecar_waiting"), 0);
}

#[tokio::test]
async fn a_hundred_calls_at_once_are_one_report_and_all_are_answered() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let mut reports = sidecar.reports.clone();
    let calls: Vec<_> = (0..100)
        .map(|_| tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() }))
        .collect();
    assert_eq!(sidecar.refused().await, [unauthorized("old")]);
    reports.mark_unchanged();
    sidecar.waiting(100).await;
    assert!(!reports.has_changed().unwrap(), "one report for all of them");
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    let seen = upstream.seen();
    let with = |token: &str| {
        let token = format!("Bearer {token}");
        seen.iter()
            .filter(|seen| seen.headers["authorization"] == token)
            .count()
    };
    assert_eq!(with("new"), 100);
    assert!(with("old") <= 100, "nobody is sent twice with the same token");
}

#[tokio::test]
async fn while_a_token_is_known_to_be_refused_the_server_is_spared() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = || tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() });
    let first = call();
    sidecar.refused().await;
    let later: Vec<_> = (0..20).map(|_| call()).collect();
    sidecar.waiting(21).await;
    assert_eq!(upstream.seen().len(), 1);
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    for call in later.into_iter().chain([first]) {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(upstream.seen().len(), 22);
}

#[tokio::test]
async fn without_another_token_in_time_the_call_gets_an_error_and_a_later_one_too() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], IMPATIENT).await;
    for _ in 0..2 {
        let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(answer).await;
        assert!(is_error(&body, -32059), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("tools-auth") && message.contains("no other has come"),
            "{message}"
        );
        assert!(!message.contains("not for the client"), "{message}");
    }
    assert_eq!(
        sidecar.reports.borrow().refused,
        [unauthorized("old")],
        "it is still in use"
    );
}

#[tokio::test]
async fn what_the_operator_says_instead_of_a_token_is_answered_at_once() {
    let upstream = takes_only("new").await;
    let mut server = tools(&upstream, "old");
    let sidecar = Sidecar::limited(std::slice::from_ref(&server), PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { json(post(outbound, "/tools/mcp", CALL).await).await });
    sidecar.refused().await;
    server.credential = Credential::Unavailable {
        reason: "TokenRefused".into(),
        message: "the server refuses tokens that were just issued".into(),
        keep: false,
    };
    sidecar.routes.apply(&[server]);
    let body = call.await.unwrap();
    assert!(is_error(&body, -32053), "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("just issued"), "{message}");
    assert_eq!(sidecar.reports.borrow().refused, []);
}

#[tokio::test]
async fn a_call_is_sent_twice_and_never_more_often() {
    let upstream = takes_only("none").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { json(post(outbound, "/tools/mcp", CALL).await).await });
    sidecar.refused().await;
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    let body = call.await.unwrap();
    assert!(is_error(&body, -32059), "{body}");
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(
        sidecar.reports.borrow().refused,
        [unauthorized("new")],
        "the operator learns of that one too"
    );
}

#[tokio::test]
async fn a_token_that_another_request_got_is_used_without_waiting() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let upstream = Scripted::start(move |request: Request<Incoming>| {
        let opened = opened.clone();
        async move {
            if request.headers()["authorization"] == "Bearer old" {
                opened.acquire().await.unwrap().forget();
            }
            answer("new", request).await
        }
    })
    .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() });
    until(|| !upstream.seen().is_empty()).await;
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    gate.add_permits(1);
    assert_eq!(call.await.unwrap(), StatusCode::OK);
    assert_eq!(
        sidecar.reports.borrow().refused,
        [],
        "what is not in use any more is no news"
    );
}

#[tokio::test]
async fn a_call_that_waited_is_not_repeated_where_the_route_demands_something_else_by_now() {
    let changes: [fn(&mut Server); 3] = [
        |tools| tools.route.user_context = UserContext::Required,
        |tools| tools.route.exchange = Some(SubjectTokenSource::Cookie("idp_token".into())),
        |tools| tools.route.credential_identity = "read".into(),
    ];
    for change in changes {
        let upstream = takes_only("new").await;
        let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
        let outbound = sidecar.outbound;
        let call = || tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await });
        let refused = call();
        sidecar.refused().await;
        let held_back = call();
        sidecar.waiting(2).await;
        let mut changed = tools(&upstream, "new");
        change(&mut changed);
        sidecar.routes.apply(&[changed]);
        for call in [refused, held_back] {
            let answer = call.await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            let body = json(answer).await;
            assert!(is_error(&body, -32064), "{body}");
            assert!(body["error"]["message"].to_string().contains("try again"));
        }
        assert_eq!(upstream.seen().len(), 1, "the new token went nowhere");
    }
}

#[tokio::test]
async fn requests_without_a_body_are_sent_again_too() {
    for method in ["GET", "DELETE"] {
        let upstream = takes_only("new").await;
        let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
        let outbound = sidecar.outbound;
        let request = Request::builder().method(method).uri("/tools/mcp");
        let call = tokio::spawn(async move { send(outbound, request, whole("")).await.status() });
        sidecar.refused().await;
        sidecar.routes.apply(&[tools(&upstream, "new")]);
        assert_eq!(call.await.unwrap(), StatusCode::OK, "{method}");
        assert_eq!(upstream.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_or_streamed_is_not_sent_again_but_the_token_is_reported() {
    let upstream = takes_only("new").await;
    let long = "x".repeat(64 * 1024 + 1);
    let (sender, streaming) = streamed();
    sender.send(CALL.into()).unwrap();
    drop(sender);
    for body in [whole(long), streaming] {
        let before = upstream.seen().len();
        let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
        let answer = send(sidecar.outbound, Request::post("/tools/mcp"), body).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = json(answer).await;
        assert_eq!(body["error"]["code"], -32064);
        assert!(body["error"]["message"].as_str().unwrap().contains("try again"));
        assert_eq!(sidecar.refused().await, [unauthorized("old")]);
        assert_eq!(upstream.seen().len(), before + 1);
    }
}

#[tokio::test]
async fn so_many_wait_and_those_beyond_are_answered_at_once() {
    let upstream = takes_only("new").await;
    let limits = Limits {
        max_waiting: 6,
        ..PATIENT
    };
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], limits).await;
    let outbound = sidecar.outbound;
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() }))
        .collect();
    sidecar.waiting(3).await;
    let answer = post(sidecar.outbound, "/tools/mcp", CALL).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(is_error(&json(answer).await, -32066));
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn one_server_that_rejects_all_tokens_leaves_room_for_those_who_wait_at_another() {
    let upstream = takes_only("new").await;
    let limits = Limits {
        max_waiting: 6,
        ..PATIENT
    };
    let mut other = tools(&upstream, "old");
    (other.route.resource, other.route.server) = ("other-auth".into(), "other".into());
    let sidecar = Sidecar::limited(&[tools(&upstream, "old"), other.clone()], limits).await;
    let outbound = sidecar.outbound;
    let call = |path: &'static str| tokio::spawn(async move { post(outbound, path, CALL).await.status() });
    let refused: Vec<_> = (0..10).map(|_| call("/tools/mcp")).collect();
    sidecar.waiting(3).await;
    until(|| refused.iter().filter(|call| call.is_finished()).count() == 7).await;
    let waiting = call("/other/mcp");
    sidecar.waiting(4).await;
    other.credential = bearer("new");
    sidecar.routes.apply(&[tools(&upstream, "new"), other]);
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_takes_the_token_again_is_found_out_without_an_operator() {
    let refusals = Arc::new(AtomicUsize::new(1));
    let upstream = Scripted::start(move |_| {
        let refused = refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        async move {
            match refused {
                true => challenge(401, "Bearer"),
                false => Response::new(whole("ok")),
            }
        }
    })
    .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], IMPATIENT).await;
    assert_eq!(
        post(sidecar.outbound, "/tools/mcp", CALL).await.status(),
        StatusCode::BAD_GATEWAY
    );
    assert_eq!(sidecar.refused().await, [unauthorized("old")]);
    assert_eq!(
        post(sidecar.outbound, "/tools/mcp", CALL).await.status(),
        StatusCode::OK
    );
    assert_eq!(sidecar.reports.borrow().refused, []);
}

#[tokio::test]
async fn more_scopes_are_asked_for_once_and_the_call_sent_again() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        match request.headers()["authorization"] == "Bearer more" {
            true => Response::new(whole("ok")),
            false => challenge(
                403,
                r#"Bearer error="insufficient_scope", scope="tools:write files""#,
            ),
        }
    })
    .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() });
    let expected = RejectedToken {
        server: "tools".into(),
        token: "old".into(),
        why: RejectionCause::InsufficientScope(vec!["tools:write".into(), "files".into()]),
    };
    assert_eq!(sidecar.refused().await, [expected]);
    sidecar.routes.apply(&[tools(&upstream, "more")]);
    assert_eq!(call.await.unwrap(), StatusCode::OK);
    assert_eq!(sidecar.reports.borrow().refused, []);
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_replays_total{why="insufficient_scope"}"#),
        1
    );
}

#[tokio::test]
async fn scopes_that_nobody_grants_are_an_error_that_names_them_and_hold_nobody_up() {
    let upstream = Scripted::start(
        async |request: Request<Incoming>| match request.method() == "GET" {
            true => Response::new(whole("ok")),
            false => challenge(403, r#"Bearer error="insufficient_scope", scope="admin""#),
        },
    )
    .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = tokio::spawn(async move { json(post(outbound, "/tools/mcp", CALL).await).await });
    sidecar.refused().await;
    assert_eq!(
        get(outbound, "/tools/mcp").await.status(),
        StatusCode::OK,
        "others go on meanwhile"
    );
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    let refused = call.await.unwrap();
    // The second call is not worth another wait.
    for body in [refused, json(post(outbound, "/tools/mcp", CALL).await).await] {
        assert!(is_error(&body, -32063), "{body}");
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .contains("the scope admin"),
            "{body}"
        );
    }
    assert_eq!(upstream.seen().len(), 4);
}

#[tokio::test]
async fn scopes_that_only_the_next_token_lacks_are_asked_for_and_not_given_up() {
    let upstream =
        Scripted::start(async |request: Request<Incoming>| {
            match request.headers()["authorization"].to_str().unwrap() {
                "Bearer old" => challenge(401, r#"Bearer error="invalid_token""#),
                "Bearer new" => challenge(403, r#"Bearer error="insufficient_scope", scope="files""#),
                _ => Response::new(whole("ok")),
            }
        })
        .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = || tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await });
    let first = call();
    assert_eq!(sidecar.refused().await, [unauthorized("old")]);
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    assert!(
        is_error(&json(first.await.unwrap()).await, -32063),
        "one retry and no more"
    );
    let expected = RejectionCause::InsufficientScope(vec!["files".into()]);
    assert_eq!(sidecar.refused().await[0].why, expected);
    let second = call();
    sidecar.waiting(1).await;
    sidecar.routes.apply(&[tools(&upstream, "more")]);
    assert_eq!(second.await.unwrap().status(), StatusCode::OK);
}
