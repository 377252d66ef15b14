//! What a context check is told of a call that went through both halves and LiteLLM.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use mcp_auth_protocol::context_check::{CheckValue, SentRequest};

use crate::scene::{Scripted, bytes, send, server, unused_address, whole};
use crate::tokens::challenge;
use crate::users::LiteLlm;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

fn call(cookie: &str, user: &str) -> http::request::Builder {
    Request::post("/tools/mcp")
        .header(
            "cookie",
            format!("token={cookie}; session_id={cookie}; other={cookie}"),
        )
        .header("x-forwarded-user", user)
}

#[tokio::test]
async fn a_check_is_told_what_an_mcp_server_got_of_the_user_that_it_made_and_of_nobody_else() {
    let litellm = LiteLlm::start().await;
    let upstream = Scripted::start(async |_: Request<Incoming>| {
        let mut answer = Response::new(whole("{}"));
        *answer.status_mut() = StatusCode::ACCEPTED;
        answer
    })
    .await;
    let sidecar = litellm.sidecar(&[server(&format!("http://{}/mcp", upstream.address))]);
    let value = CheckValue::new([7; 16]);
    assert_eq!(sidecar.context_checks.ask(value.clone()).requests, []);
    bytes(send(sidecar.inbound, call("S-ada", "ada"), whole(LIST)).await).await;
    bytes(send(sidecar.inbound, call(value.as_str(), value.as_str()), whole(LIST)).await).await;
    bytes(send(sidecar.inbound, call("S-bob", value.as_str()), whole("{}")).await).await;
    let mut sent = sidecar.context_checks.ask(value).requests;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_ne!(sent[0].request, sent[1].request);
    for request in &mut sent {
        request.request.clear();
    }
    let both = SentRequest {
        request: String::new(),
        server: "tools".to_owned(),
        method: Some("tools/list".to_owned()),
        cookies: vec!["session_id".to_owned()],
        headers: vec!["x-forwarded-user".to_owned()],
        authorized: true,
        status: Some(202),
    };
    let header = SentRequest {
        method: None,
        cookies: Vec::new(),
        ..both.clone()
    };
    assert_eq!(sent, [both, header]);
}

/// Another token would not help, and the operator would request one for each check.
#[tokio::test]
async fn the_token_is_not_blamed_for_the_refusal_of_a_user_that_a_check_made() {
    const SCOPE: &str = r#"Bearer error="insufficient_scope", scope="admin""#;
    for (status, why) in [(401, "Bearer"), (403, SCOPE)] {
        let upstream =
            Scripted::start(move |_: Request<Incoming>| async move { challenge(status, why) }).await;
        let litellm = LiteLlm::start().await;
        let sidecar = litellm.sidecar(&[server(&format!("http://{}/mcp", upstream.address))]);
        let value = CheckValue::new([7; 16]);
        sidecar.context_checks.ask(value.clone());
        let answer = send(sidecar.inbound, call(value.as_str(), value.as_str()), whole(LIST)).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let sent = sidecar.context_checks.ask(value).requests;
        let statuses: Vec<_> = sent.iter().map(|request| request.status).collect();
        assert_eq!(statuses, [Some(status)], "it is sent once");
        assert_eq!(sidecar.reports.borrow().refused, []);
        // Of a real user it is reported, and waits for another token.
        let real = tokio::spawn(send(sidecar.inbound, call("S-ada", "ada"), whole(LIST)));
        assert_eq!(sidecar.refused().await.len(), 1);
        real.abort();
    }
}

#[tokio::test]
async fn a_check_is_told_of_a_request_that_no_mcp_server_answers() {
    let litellm = LiteLlm::start().await;
    let url = format!("http://{}/mcp", unused_address().await);
    let sidecar = litellm.sidecar(&[server(&url)]);
    let value = CheckValue::new([7; 16]);
    sidecar.context_checks.ask(value.clone());
    let answer = send(sidecar.inbound, call(value.as_str(), "ada"), whole(LIST)).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let sent = sidecar.context_checks.ask(value).requests;
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(
        (sent[0].status, &*sent[0].cookies),
        (None, &["session_id".to_owned()][..])
    );
}
