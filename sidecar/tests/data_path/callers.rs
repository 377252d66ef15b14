//! Who may call the outbound half: LiteLLM, which shows the secret of its configuration, and nobody else.

use http::{Request, StatusCode};

use crate::scene::{
    SECRET, SECRET_HEADER, Scripted, Sidecar, json, send_as_stranger, server, unused_address, whole,
};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/list"}"#;

async fn scene() -> (Scripted, Sidecar) {
    let upstream = Scripted::echo().await;
    let tools = server(&format!("http://{}/mcp", upstream.address));
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    (upstream, sidecar)
}

#[tokio::test]
async fn who_does_not_show_litellms_secret_gets_nothing_sent_to_any_server() {
    let (upstream, sidecar) = scene().await;
    let shorter = &SECRET[1..];
    for stated in [
        &[][..],
        &[""],
        &["sk-1234"],
        &[shorter],
        &[SECRET, "other"],
        &["other", SECRET],
    ] {
        for path in ["/tools/mcp", "/tools/mcp/x", "/unknown/mcp"] {
            let request = Request::post(path);
            let request = stated
                .iter()
                .fold(request, |request, value| request.header(SECRET_HEADER, *value));
            let answer = send_as_stranger(sidecar.outbound, request, whole(CALL)).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path} {stated:?}");
            let body = json(answer).await;
            assert_eq!(
                body["error"]["data"]["reason"], "caller_not_allowed",
                "{path} {stated:?}"
            );
            assert_eq!(
                (&body["id"], &body["error"]["code"]),
                (&"c-1".into(), &(-32070).into())
            );
            assert!(!body.to_string().contains(shorter), "{body}");
        }
    }
    let answer = send_as_stranger(sidecar.outbound, Request::get("/tools/mcp"), whole("")).await;
    assert_eq!(json(answer).await["reason"], "caller_not_allowed");
    assert_eq!(upstream.connections(), 0);
    let counted = r#"mcpauth_sidecar_refused_total{half="outbound",reason="caller_not_allowed"}"#;
    assert_eq!(sidecar.metric(counted), 19);
}

#[tokio::test]
async fn the_secret_goes_no_further_than_the_sidecar() {
    let (upstream, sidecar) = scene().await;
    for name in [SECRET_HEADER, "mcpauth_outbound_secret"] {
        let request = Request::post("/tools/mcp")
            .header(SECRET_HEADER, SECRET)
            .header(name, SECRET);
        let answer = send_as_stranger(sidecar.outbound, request, whole(CALL)).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    for seen in upstream.seen() {
        assert!(
            !format!("{:?}", seen.headers).contains(SECRET),
            "{:?}",
            seen.headers
        );
    }
}

#[tokio::test]
async fn a_user_cannot_have_litellm_show_it() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server("http://127.0.0.1:9/mcp")]);
    let request = Request::get("/mcp-rest/tools/list")
        .header(SECRET_HEADER, SECRET)
        .header("x-mcp-tools-mcpauth-outbound-secret", SECRET);
    send_as_stranger(sidecar.inbound, request, whole("")).await;
    assert!(!format!("{:?}", litellm.only().headers).contains(SECRET));
}
