//! From users to LiteLLM.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mcp_auth_protocol::sync::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scene::{
    Scripted, Seen, Sidecar, TEST_TIMEOUT, bytes, client_frame, get, json, listed, raw, read_head, send,
    server, streamed, unused_address, whole,
};

const SERVER: &str = "http://127.0.0.1:9/mcp";

#[tokio::test]
async fn litellm_gets_the_request_as_it_was_and_one_context() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let request = "POST /v1/chat/completions?x=%2F..//y HTTP/1.1\r\n\
        Host: llm.example.com:4000\r\n\
        Authorization: Bearer sk-user\r\n\
        Cookie: token=ui; session_id=S-a\r\n\
        Cookie: tracking=1\r\n\
        X-Forwarded-User: ada\r\n\
        X-Forwarded-For: 203.0.113.7\r\n\
        mcpauth-context: forged\r\n\
        McpAuth-Context: forged too\r\n\
        MCPAUTH-OTHER: x\r\n\
        x-mcp-tools-mcpauth-context: forged\r\n\
        Connection: close, x-hop\r\n\
        X-Hop: 1\r\n\
        TE: trailers\r\n\
        Content-Type: application/json\r\n\
        Content-Length: 2\r\n\r\n{}";
    let answer = raw(sidecar.inbound, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n{}"),
        "{answer}"
    );

    let seen = litellm.only();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/v1/chat/completions?x=%2F..//y")
    );
    let mut headers = seen.headers.clone();
    let contexts: Vec<_> = headers.get_all("mcpauth-context").iter().cloned().collect();
    let [context] = contexts.try_into().unwrap();
    assert!(!context.to_str().unwrap().contains("forged"));
    headers.remove("mcpauth-context");
    let expected = [
        ("authorization", "Bearer sk-user"),
        ("connection", "te"),
        ("content-length", "2"),
        ("content-type", "application/json"),
        ("cookie", "token=ui; session_id=S-a"),
        ("cookie", "tracking=1"),
        ("host", "llm.example.com:4000"),
        ("te", "trailers"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-user", "ada"),
    ];
    assert_eq!(
        listed(&headers),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn where_litellm_lists_tools_by_the_servers_own_headers_the_context_is_one_of_them() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    for (path, cookie, expected) in [
        ("/mcp-rest/tools/list?x=1", "session_id=S-a", 1),
        ("/llm/mcp-rest/tools/list", "session_id=S-a", 1),
        ("/v1/messages", "session_id=S-a", 1),
        ("/v1/messages", "other=1", 0),
        ("/mcp/", "session_id=S-a", 0),
        ("/v1/chat/completions", "session_id=S-a", 0),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nX-Mcp-Tools-Mcpauth-Context: forged\r\n\
             Connection: close\r\n\r\n"
        );
        raw(sidecar.inbound, request.as_bytes()).await;
        let headers = litellm.seen().pop().unwrap().headers;
        let by_server: Vec<_> = headers.get_all("x-mcp-tools-mcpauth-context").iter().collect();
        assert_eq!(by_server.len(), expected, "{path} with {cookie}");
        if let [only] = by_server[..] {
            assert_eq!(Some(only), headers.get("mcpauth-context"), "{path}");
        }
    }
}

/// Ten servers with a cookie of their own, and one that takes nothing of users.
fn many_servers(url: &str) -> Vec<Server> {
    let named = |number: usize| {
        let mut one = server(url);
        one.route.server = format!("tools_{number:02}");
        one.route.cookies = vec![format!("session_{number:02}")];
        one.route.headers = vec![];
        one
    };
    let mut servers: Vec<_> = (0..10).map(named).collect();
    let mut takes_nothing = named(10);
    takes_nothing.route.cookies = vec![];
    servers.push(takes_nothing);
    servers
}

fn copies(seen: &Seen) -> Vec<(String, HeaderValue)> {
    let copies = seen
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-mcp-"));
    copies
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect()
}

#[tokio::test]
async fn each_server_is_listed_with_its_own_part_of_the_context_and_with_none_where_it_takes_nothing() {
    let (litellm, upstream) = (Scripted::echo().await, Scripted::echo().await);
    let servers = many_servers(&format!("http://{}/mcp", upstream.address));
    let sidecar = Sidecar::start(litellm.address, &servers);
    let cookies = "session_02=S-two; session_07=S-seven; token=ui";
    let request = Request::get("/mcp-rest/tools/list").header("cookie", cookies);
    let listed = send(sidecar.inbound, request, whole("")).await;
    let status = listed.status();
    assert_eq!(status, StatusCode::OK, "{:?}", bytes(listed).await);
    let copies = copies(&litellm.only());
    let names: Vec<_> = copies.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["x-mcp-tools_02-mcpauth-context", "x-mcp-tools_07-mcpauth-context"]
    );
    for (path, expected) in [
        ("/tools_02/mcp", Some("session_02=S-two")),
        ("/tools_07/mcp", None),
    ] {
        let request = Request::post(path).header("mcpauth-context", &copies[0].1);
        let answer = send(sidecar.outbound, request, whole("{}")).await;
        let status = answer.status();
        assert_eq!(status, StatusCode::OK, "{path}: {:?}", bytes(answer).await);
        let seen = upstream.seen().pop().unwrap();
        let cookie = seen.headers.get("cookie").map(|value| value.to_str().unwrap());
        assert_eq!(cookie, expected, "{path}");
    }
}

#[tokio::test]
async fn however_many_servers_there_are_litellm_can_take_the_headers_of_a_listing() {
    let litellm = Scripted::echo().await;
    let mut servers = many_servers("http://127.0.0.1:9/mcp");
    for one in &mut servers {
        one.route.cookies = vec!["session".into()];
    }
    let sidecar = Sidecar::start(litellm.address, &servers);
    let request = Request::get("/v1/messages").header("cookie", format!("session={}", "v".repeat(4000)));
    send(sidecar.inbound, request, whole("")).await;
    let seen = litellm.only();
    let bytes: usize = copies(&seen)
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    assert!(bytes <= 24 * 1024, "{bytes}");
    let fitting = copies(&seen).len();
    assert_eq!(fitting, 4, "each is about 5.4 KiB");
    let dropped = sidecar.metric("mcpauth_sidecar_context_copies_dropped_total");
    assert_eq!(dropped, 11 - fitting as u64);
}

#[tokio::test]
async fn nothing_allowed_means_no_context() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    for cookie in [
        "",
        "Session_ID=1",
        "session_id",
        "session_id=1; session_id=2",
        "a=session_id=1",
    ] {
        let request = Request::get("/")
            .header("cookie", cookie)
            .header("mcpauth-context", "forged");
        send(sidecar.inbound, request, whole("")).await;
    }
    let seen = litellm.seen();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter()
            .all(|seen| !seen.headers.contains_key("mcpauth-context"))
    );
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_contexts_total{result="none"}"#),
        5
    );
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_context_names_dropped_total{cause="duplicate"}"#),
        1
    );
}

#[tokio::test]
async fn the_same_user_gets_the_same_context_and_another_user_another() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    // An hour may end between two requests, but not twice.
    for user in ["a", "a", "a", "b"] {
        let request = Request::get("/").header("cookie", format!("session_id=S-{user}"));
        send(sidecar.inbound, request, whole("")).await;
    }
    let contexts: Vec<_> = litellm
        .seen()
        .into_iter()
        .map(|seen| seen.headers["mcpauth-context"].clone())
        .collect();
    assert!(contexts[0] == contexts[1] || contexts[1] == contexts[2]);
    assert!(!contexts[..3].contains(&contexts[3]));
}

#[tokio::test]
async fn large_cookies_pass_and_a_large_context_is_refused() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let large = "c".repeat(64 * 1024);
    let answer = send(
        sidecar.inbound,
        Request::get("/").header("cookie", format!("other={large}")),
        whole(""),
    )
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(litellm.only().headers["cookie"], format!("other={large}"));

    let request = Request::get("/").header("cookie", format!("session_id={large}"));
    let answer = send(sidecar.inbound, request, whole("")).await;
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(json(answer).await["detail"].as_str().unwrap().contains("8192"));
    assert_eq!(litellm.seen().len(), 1);
}

#[tokio::test]
async fn line_breaks_and_nul_in_a_cookie_never_get_anywhere() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    for bad in ["\r", "\0", "\u{1}", "\u{7f}"] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: session_id=a{bad}b\r\nConnection: close\r\n\r\n");
        let answer = raw(sidecar.inbound, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
    }
    // A line feed ends the line, so that the rest is another header and not part of the cookie.
    let request =
        "GET / HTTP/1.1\r\nHost: x\r\nCookie: session_id=a\nX-Injected: b\r\nConnection: close\r\n\r\n";
    raw(sidecar.inbound, request.as_bytes()).await;
    for seen in litellm.seen() {
        assert_eq!(seen.headers["cookie"], "session_id=a");
    }
}

#[tokio::test]
async fn our_header_is_renamed_in_a_json_body_however_it_is_cut_and_nowhere_else() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let body = concat!(
        r#"{"messages":[{"content":"\"mcpauth-context\": what is it?"}],"#,
        r#""tools":[{"headers":{"MCPauth-\u0063ontext":"forged"}}]}"#
    );
    let expected = body.replace(r"MCPauth-\u0063ontext", r"MCPauth-\u0063ontex_");
    for cut in 0..body.len() {
        let (sender, streamed) = streamed();
        sender.send(Bytes::from_static(&body.as_bytes()[..cut])).unwrap();
        sender.send(Bytes::from_static(&body.as_bytes()[cut..])).unwrap();
        drop(sender);
        let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
        assert_eq!(
            bytes(send(sidecar.inbound, request, streamed).await).await,
            expected,
            "cut at {cut}"
        );
    }
    let request = Request::post("/").header("content-type", "multipart/form-data; boundary=x");
    let form = format!("--x\r\n\r\n{body}\r\n--x--\r\n");
    assert_eq!(
        bytes(send(sidecar.inbound, request, whole(form.clone())).await).await,
        form
    );
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let large: Bytes = (0..10 * 1024 * 1024u32)
        .map(|at| (at % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let request = Request::post("/").header("content-type", "application/json");
    assert!(bytes(send(sidecar.inbound, request, whole(large.clone())).await).await == large);
    assert_eq!(litellm.only().headers["content-length"], large.len().to_string());
}

#[tokio::test]
async fn a_websocket_is_passed_through() {
    let litellm = Scripted::start(async |mut request: Request<hyper::body::Incoming>| {
        assert_eq!(request.headers()["connection"], "upgrade");
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert!(request.headers().contains_key("mcpauth-context"));
        tokio::spawn(async move {
            let mut upgraded = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut message = client_frame("ping");
            upgraded.read_exact(&mut message).await.unwrap();
            upgraded.write_all(&message).await.unwrap();
        });
        let switching = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        switching
            .header("sec-websocket-accept", "yes")
            .body(whole(""))
            .unwrap()
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    // Draining changes nothing for a connection that will not be used again anyway.
    sidecar.drain.start(TEST_TIMEOUT);
    let request = Request::get("/v1/realtime")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("cookie", "session_id=S-a");
    let mut answer = send(sidecar.inbound, request, whole("")).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["sec-websocket-accept"], "yes");
    let mut upgraded = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    upgraded.write_all(&client_frame("ping")).await.unwrap();
    let mut echo = Vec::new();
    upgraded.read_to_end(&mut echo).await.unwrap();
    assert_eq!(echo, client_frame("ping"));
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let litellm = Scripted::start(async |_| Response::builder().status(403).body(whole("no")).unwrap()).await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let request = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let answer = send(sidecar.inbound, request, whole("")).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(bytes(answer).await, "no");
}

#[tokio::test]
async fn no_litellm_is_a_503_that_says_when_to_come_again() {
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let answer = get(sidecar.inbound, "/v1/models").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(json(answer).await["reason"], "litellm_unreachable");
    assert_eq!(
        sidecar.metric(r#"mcpauth_sidecar_refused_total{half="inbound",reason="litellm_unreachable"}"#),
        1
    );
}

#[tokio::test]
async fn draining_closes_connections_after_their_answer() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    assert!(
        !get(sidecar.inbound, "/")
            .await
            .headers()
            .contains_key("connection")
    );
    sidecar.drain.start(TEST_TIMEOUT);
    // Ends only because the sidecar closes: the request asks for nothing of the kind.
    let answer = raw(sidecar.inbound, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn when_draining_ends_a_kept_connection_that_is_not_used_is_closed_and_nothing_else() {
    let (sender, events) = streamed();
    let events = std::sync::Arc::new(std::sync::Mutex::new(Some(events)));
    let litellm = Scripted::start(move |request: Request<hyper::body::Incoming>| {
        let body = match request.uri().path() {
            "/stream" => events.lock().unwrap().take().unwrap(),
            _ => whole("{}"),
        };
        async move { Response::new(body) }
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = TcpStream::connect(sidecar.inbound).await.unwrap();
    idle.write_all(ask).await.unwrap();
    read_head(&mut idle).await;
    let mut new = TcpStream::connect(sidecar.inbound).await.unwrap();
    let streaming = get(sidecar.inbound, "/stream").await;

    sidecar.drain.start(std::time::Duration::ZERO);
    sidecar.drain.wait_for_end().await;
    let mut rest = Vec::new();
    tokio::time::timeout(TEST_TIMEOUT, idle.read_to_end(&mut rest))
        .await
        .expect("it is closed unasked")
        .unwrap();
    sender.send(Bytes::from_static(b"still here")).unwrap();
    drop(sender);
    assert_eq!(bytes(streaming).await, "still here");
    // Whoever has not heard of it yet is still answered.
    new.write_all(ask).await.unwrap();
    assert!(read_head(&mut new).await.contains("connection: close\r\n"));
    assert_eq!(get(sidecar.inbound, "/").await.status(), StatusCode::OK);
}
