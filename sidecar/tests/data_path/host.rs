//! Requests to the outbound listener by a name that is not loopback's, as those of a page that was led to it
//! are.

use crate::scene::{SECRET, SECRET_HEADER, Scripted, Sidecar, raw, server, unused_address};

const CALL: &str = r#"{"jsonrpc":"2.0","id":"c-1","method":"tools/call","params":{"name":"x"}}"#;

async fn scene() -> (Scripted, Sidecar) {
    let upstream = Scripted::echo().await;
    let tools = server(&format!("http://{}/mcp", upstream.address));
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    (upstream, sidecar)
}

/// The answer to a call with these lines before the rest of its headers.
async fn call(sidecar: &Sidecar, head: &str) -> String {
    let length = CALL.len();
    let request = format!(
        "{head}{SECRET_HEADER}: {SECRET}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{CALL}"
    );
    raw(sidecar.outbound, request.as_bytes()).await
}

#[tokio::test]
async fn a_request_by_a_name_that_is_not_loopback_is_refused_whatever_it_asks_for() {
    let (upstream, sidecar) = scene().await;
    let port = sidecar.outbound.port();
    let mut refused = 0;
    for head in [
        "POST /tools/mcp HTTP/1.1\r\nHost: evil.example.com\r\n".to_owned(),
        format!("POST /tools/mcp HTTP/1.1\r\nHost: evil.example.com:{port}\r\n"),
        format!("POST /tools/mcp HTTP/1.1\r\nHost: 127.0.0.1.evil.example.com:{port}\r\n"),
        "POST /tools/mcp HTTP/1.1\r\nHost: 10.0.0.9\r\n".to_owned(),
        "POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nHost: evil.example.com\r\n".to_owned(),
        "POST /tools/mcp HTTP/1.1\r\nHost:\r\n".to_owned(),
        "POST http://evil.example.com/tools/mcp HTTP/1.1\r\nHost: localhost\r\n".to_owned(),
        "POST http://localhost/tools/mcp HTTP/1.1\r\nHost: evil.example.com\r\n".to_owned(),
        "POST /tools/mcp HTTP/1.1\r\n".to_owned(),
        "POST /tools/mcp HTTP/1.0\r\n".to_owned(),
        "POST /unknown HTTP/1.1\r\nHost: evil.example.com\r\n".to_owned(),
    ] {
        let answer = call(&sidecar, &head).await;
        assert!(answer.contains(" 403 "), "{head}{answer}");
        for part in [
            "content-type: application/json",
            r#""id":"c-1""#,
            "-32067",
            "host_not_allowed",
        ] {
            assert!(answer.contains(part), "{head}{answer}");
        }
        assert!(!answer.contains("evil"), "{answer}");
        refused += 1;
    }
    let get = b"GET /tools/mcp HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n";
    let answer = raw(sidecar.outbound, get).await;
    assert!(
        answer.contains(" 403 ") && answer.contains("application/problem+json"),
        "{answer}"
    );
    let line = r#"mcpauth_sidecar_refused_total{half="outbound",reason="host_not_allowed"}"#;
    assert_eq!(sidecar.metric(line), refused + 1);
    assert_eq!(
        upstream.connections(),
        0,
        "nothing of it gets as far as the server"
    );
}

#[tokio::test]
async fn a_request_that_names_loopback_passes_in_any_case_and_with_any_port() {
    let (upstream, sidecar) = scene().await;
    let mut passed = 0;
    for head in [
        "POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\n",
        "POST /tools/mcp HTTP/1.1\r\nHost: LOCALHOST:1\r\n",
        "POST /tools/mcp HTTP/1.1\r\nHost: 127.0.0.1:16481\r\n",
        "POST /tools/mcp HTTP/1.1\r\nHost: 127.8.8.8\r\n",
        "POST /tools/mcp HTTP/1.1\r\nHost: [::1]\r\n",
        "POST /tools/mcp HTTP/1.1\r\nHost: [::1]:16481\r\n",
        "POST /tools/mcp HTTP/1.0\r\nHost: localhost\r\n",
        "POST http://LocalHost:1/tools/mcp HTTP/1.1\r\nHost: localhost:1\r\n",
    ] {
        let answer = call(&sidecar, head).await;
        assert!(
            answer.contains(" 200 ") && answer.ends_with(CALL),
            "{head}{answer}"
        );
        passed += 1;
    }
    assert_eq!(upstream.seen().len(), passed);
}
