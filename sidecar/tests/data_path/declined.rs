//! Refused tokens for which the operator has nothing better: no request waits for a token that will not come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{DeclinedRefresh, RejectionCause, Server};
use mcp_auth_sidecar::proxy::outbound::Limits;
use serde_json::Value;

use crate::scene::{Scripted, Sidecar, TEST_TIMEOUT, json, post, send, streamed, whole};
use crate::tokens::{CALL, PATIENT, challenge, is_error, takes_only, tools, unauthorized};

const SAID: &str = "tokens that were just issued are refused as well";

fn declined(mut server: Server, token: &str, why: RejectionCause) -> Server {
    server.declined = Some(DeclinedRefresh {
        token: token.into(),
        why,
        message: SAID.into(),
    });
    server
}

fn scopes(names: &[&str]) -> RejectionCause {
    RejectionCause::InsufficientScope(names.iter().map(|name| (*name).to_owned()).collect())
}

fn tells(body: &Value, code: i32, part: &str) -> bool {
    let message = body["error"]["message"].as_str().unwrap();
    is_error(body, code) && message.contains("tools-auth") && message.contains(part)
}

#[tokio::test]
async fn those_who_wait_are_told_at_once_and_those_who_come_later_do_not_wait() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = || tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await });
    let first = call();
    sidecar.refused().await;
    let waiting: Vec<_> = (0..20).map(|_| call()).chain([first]).collect();
    sidecar.waiting(21).await;
    let server = declined(tools(&upstream, "old"), "old", RejectionCause::Unauthorized);
    sidecar.routes.apply(&[server]);
    for call in waiting.into_iter().chain([call()]) {
        let answer = call.await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(answer).await;
        assert!(tells(&body, -32059, SAID), "{body}");
    }
    assert_eq!(upstream.seen().len(), 1, "the server is spared as before");
    assert_eq!(sidecar.metric("mcpauth_sidecar_waiting"), 0);
    assert_eq!(
        sidecar.reports.borrow().refused,
        [unauthorized("old")],
        "it is still in use"
    );
    sidecar.routes.apply(&[tools(&upstream, "new")]);
    assert_eq!(call().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_was_declined_before_is_tried_and_its_refusal_answered_at_once() {
    let upstream = takes_only("new").await;
    let server = declined(tools(&upstream, "old"), "old", RejectionCause::Unauthorized);
    for streams in [false, true] {
        let before = upstream.seen().len();
        let sidecar = Sidecar::limited(std::slice::from_ref(&server), PATIENT).await;
        let body = match streams {
            false => whole(CALL),
            true => {
                let (sender, streaming) = streamed();
                sender.send(CALL.into()).unwrap();
                streaming
            }
        };
        let answer = send(sidecar.outbound, Request::post("/tools/mcp"), body).await;
        let body = json(answer).await;
        assert_eq!(body["error"]["code"], -32059, "nothing is on its way: {body}");
        assert!(
            body["error"]["message"].as_str().unwrap().contains(SAID),
            "{body}"
        );
        assert_eq!(upstream.seen().len(), before + 1);
    }
}

#[tokio::test]
async fn the_server_taking_the_token_again_is_noticed_all_the_same() {
    let takes = Arc::new(AtomicBool::new(false));
    let taking = takes.clone();
    let upstream = Scripted::start(move |_| {
        let takes = taking.load(Ordering::SeqCst);
        async move {
            match takes {
                true => Response::new(whole("ok")),
                false => challenge(401, "Bearer"),
            }
        }
    })
    .await;
    let server = declined(tools(&upstream, "old"), "old", RejectionCause::Unauthorized);
    let limits = Limits {
        probe_interval: Duration::from_millis(50),
        ..PATIENT
    };
    let sidecar = Sidecar::limited(&[server], limits).await;
    let outbound = sidecar.outbound;
    assert!(is_error(
        &json(post(outbound, "/tools/mcp", CALL).await).await,
        -32059
    ));
    takes.store(true, Ordering::SeqCst);
    let recovered = async {
        while post(outbound, "/tools/mcp", CALL).await.status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, recovered)
        .await
        .expect("one of the calls finds out");
    assert_eq!(post(outbound, "/tools/mcp", CALL).await.status(), StatusCode::OK);
    assert_eq!(sidecar.reports.borrow().refused, []);
}

#[tokio::test]
async fn what_is_declined_of_another_token_or_for_another_reason_wakes_nobody() {
    let upstream = takes_only("new").await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = || tokio::spawn(async move { post(outbound, "/tools/mcp", CALL).await.status() });
    let mut calls = vec![call()];
    sidecar.refused().await;
    for (token, why) in [
        ("older", RejectionCause::Unauthorized),
        ("old", scopes(&["admin"])),
    ] {
        sidecar
            .routes
            .apply(&[declined(tools(&upstream, "old"), token, why)]);
        calls.push(call());
        sidecar.waiting(calls.len() as u64).await;
    }
    // The newer token may be good, whatever was said of the one before.
    let server = declined(tools(&upstream, "new"), "old", RejectionCause::Unauthorized);
    sidecar.routes.apply(&[server]);
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_call_that_demands_a_declined_scope_does_not_wait_and_one_for_other_scopes_does() {
    let upstream = Scripted::start(async |request: Request<Incoming>| {
        let demanded = request.headers()["x-demand"].to_str().unwrap();
        match request.headers()["authorization"] == "Bearer more" {
            true => Response::new(whole("ok")),
            false => challenge(
                403,
                &format!(r#"Bearer error="insufficient_scope", scope="{demanded}""#),
            ),
        }
    })
    .await;
    let sidecar = Sidecar::limited(&[tools(&upstream, "old")], PATIENT).await;
    let outbound = sidecar.outbound;
    let call = |demand: &'static str| {
        let request = Request::post("/tools/mcp").header("x-demand", demand);
        tokio::spawn(async move { send(outbound, request, whole(CALL)).await })
    };
    let first = call("files admin");
    sidecar.refused().await;
    sidecar.waiting(1).await;
    let server = declined(tools(&upstream, "old"), "old", scopes(&["admin"]));
    sidecar.routes.apply(&[server]);
    for (call, named) in [
        (first, "the scopes files admin"),
        (call("admin"), "the scope admin"),
    ] {
        let answer = call.await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let body = json(answer).await;
        assert!(
            tells(&body, -32063, SAID) && tells(&body, -32063, named),
            "{body}"
        );
    }
    let other = call("files");
    sidecar.waiting(1).await;
    sidecar.routes.apply(&[tools(&upstream, "more")]);
    assert_eq!(other.await.unwrap().status(), StatusCode::OK);
}
