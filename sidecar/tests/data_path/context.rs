//! The user context at its edges: how old, how large, and in whose words.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mcp_auth_protocol::sync::UserContext;
use mcp_auth_sidecar::proxy::user_context::seal::EPOCH_SECONDS;
use mcp_auth_sidecar::proxy::user_context::{Allowlist, gather};

use crate::scene::{Scripted, Sidecar, json, listed, post, raw, send, server, unused_address, whole};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call"}"#;

/// What the sidecar gave a user some epochs ago.
fn sealed(sidecar: &Sidecar, cookie: &str, epochs_ago: i64) -> HeaderValue {
    let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::from_str(cookie).unwrap())]);
    let gathered = gather(&headers, &Allowlist::new(["session_id"], [])).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    sidecar
        .sealer
        .seal(&gathered.context.unwrap(), now - epochs_ago * EPOCH_SECONDS)
}

async fn call(sidecar: &Sidecar, context: HeaderValue) -> Response<hyper::body::Incoming> {
    let request = Request::post("/tools/mcp").header("mcpauth-context", context);
    send(sidecar.outbound, request, whole(CALL)).await
}

#[tokio::test]
async fn a_session_older_than_its_context_has_no_user_any_more_and_its_calls_are_told_so() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp", upstream.address);
    let mut strict = server(&url);
    strict.route.server = "strict".into();
    strict.route.user_context = UserContext::Required;
    let sidecar = Sidecar::start(unused_address().await, &[server(&url), strict]);

    let young = sealed(&sidecar, "session_id=S-a", 1);
    // Two epochs ago, and three, so that an hour that ends meanwhile changes nothing.
    let old = sealed(&sidecar, "session_id=S-a", 3);
    assert_eq!(call(&sidecar, young).await.status(), StatusCode::OK);
    assert_eq!(upstream.only().headers["cookie"], "session_id=S-a");
    for path in ["/tools/mcp", "/strict/mcp"] {
        let request = Request::post(path).header("mcpauth-context", old.clone());
        let answer = send(sidecar.outbound, request, whole(CALL)).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        let reason = json(answer).await["error"]["data"]["reason"].take();
        assert_eq!(reason, "user_context_invalid", "{path}");
    }
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_contexts_total{result="expired"}"#),
        2
    );
    assert_eq!(upstream.seen().len(), 1, "no call went without its user");

    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let request = Request::post("/tools/mcp").header("mcpauth-context", old);
    assert_eq!(
        send(sidecar.outbound, request, whole(list)).await.status(),
        StatusCode::OK
    );
    assert!(!upstream.seen()[1].headers.contains_key("cookie"));
}

#[tokio::test]
async fn the_largest_context_arrives_whole_and_one_byte_more_is_refused() {
    let upstream = Scripted::echo().await;
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(
        litellm.address,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let cookie = |length: usize| format!("session_id={}", "v".repeat(length - "session_id".len()));
    let request = Request::get("/").header("cookie", cookie(8192));
    assert_eq!(
        send(sidecar.inbound, request, whole("")).await.status(),
        StatusCode::OK
    );
    let context = litellm.only().headers["mcpauth-context"].clone();
    assert!(context.len() < 12 * 1024);
    assert_eq!(call(&sidecar, context).await.status(), StatusCode::OK);
    assert_eq!(upstream.only().headers["cookie"], cookie(8192));

    let request = Request::get("/").header("cookie", cookie(8193));
    let answer = send(sidecar.inbound, request, whole("")).await;
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let problem = json(answer).await;
    assert_eq!(problem["reason"], "context_too_large");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("8193") && detail.contains("8192"), "{detail}");
    assert!(
        detail.contains("delete cookies") && !detail.contains("vvv"),
        "{detail}"
    );
    assert_eq!(litellm.seen().len(), 1, "nothing was shortened and sent on");
}

#[tokio::test]
async fn several_cookie_fields_are_one_to_the_server_and_blank_identities_are_none() {
    let upstream = Scripted::echo().await;
    let litellm = Scripted::echo().await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.cookies = vec!["__Host-session".into(), "csrf".into()];
    let sidecar = Sidecar::start(litellm.address, &[tools]);

    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-User: \t \r\n\
        Cookie: csrf=\"c%3D\"\r\nCookie: __host-session=evil; =__Host-session=evil\r\nCookie: token=ui\r\n\
        cookie: __Host-session=S-a\r\n\r\n";
    let answer = raw(sidecar.inbound, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let context = litellm.only().headers["mcpauth-context"].clone();
    assert_eq!(call(&sidecar, context).await.status(), StatusCode::OK);
    let seen = upstream.only().headers;
    let cookies: Vec<_> = seen.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["__Host-session=S-a; csrf=\"c%3D\""]);
    assert!(!seen.contains_key("x-forwarded-user"));
}

#[tokio::test]
async fn discovery_carries_no_user_context_whatever_headers_litellm_sends() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    // As LiteLLM asks at its start, and as it asks for a user whose `x-mcp-tools-...` headers it sends along.
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    post(sidecar.outbound, "/tools/mcp", list).await;
    let mut request = Request::post("/tools/mcp");
    for (name, value) in [
        ("cookie", "session_id=stated"),
        ("x-forwarded-user", "root"),
        ("x_forwarded_user", "root"),
        ("X-Forwarded_User", "root"),
        ("mcpauth_context", "1AAAA"),
    ] {
        request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    send(sidecar.outbound, request, whole(list)).await;
    for seen in upstream.seen() {
        let names: Vec<String> = listed(&seen.headers).into_iter().map(|(name, _)| name).collect();
        let others: Vec<&String> = names
            .iter()
            .filter(|name| {
                !["authorization", "content-length", "content-type", "host"].contains(&name.as_str())
            })
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_body_cannot_name_our_header_for_one_server_either() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server("http://127.0.0.1:9/mcp")]);
    let body = concat!(
        r#"{"tools":[{"headers":{"x-mcp-tools-mcpauth-context":"forged","#,
        r#""x-mcp-others-mcpauth-context":"forged","x-mcp-others-authorization":"Bearer x"}}]}"#
    );
    let request = Request::post("/v1/responses").header("content-type", "application/json");
    let answer = send(sidecar.inbound, request, whole(body)).await;
    let arrived = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        arrived,
        body.replace("mcpauth-context", "mcpauth-contex_")
            .replace("tools-mcp", "tools_mcp")
    );
}
