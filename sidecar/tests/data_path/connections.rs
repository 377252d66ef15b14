//! Connections to the other side: kept, lost, encrypted; and the end of the sidecar itself.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::scene::{
    Scripted, Sidecar, TEST_TIMEOUT, bytes, get, json, post, raw, read_head, send, server, streamed, until,
    unused_address, whole,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_are_used_again() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        upstream.address,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    for _ in 0..10 {
        assert_eq!(
            bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await,
            "{}"
        );
    }
    assert_eq!(upstream.connections(), 1);
    for _ in 0..10 {
        assert_eq!(bytes(post(sidecar.inbound, "/", "{}").await).await, "{}");
    }
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_replaced() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(upstream.local_addr().unwrap(), &[]);
    for _ in 0..3 {
        let answer = tokio::spawn(post(sidecar.inbound, "/", "{}"));
        let (mut server, _) = upstream.accept().await.unwrap();
        read_head(&mut server).await;
        server.write_all(OK).await.unwrap();
        assert_eq!(bytes(answer.await.unwrap()).await, "ok");
        // No "Connection: close" announces this.
        drop(server);
    }
}

/// The connection closes after the request was sent on it and before an answer: what is safe to repeat is,
/// once, and a POST never is.
#[tokio::test]
async fn only_a_safe_request_is_sent_a_second_time() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(upstream.local_addr().unwrap(), &[]);
    for (method, repeated) in [("GET", true), ("POST", false)] {
        let first = tokio::spawn(get(sidecar.inbound, "/"));
        let (mut kept, _) = upstream.accept().await.unwrap();
        read_head(&mut kept).await;
        kept.write_all(OK).await.unwrap();
        bytes(first.await.unwrap()).await;

        let second = tokio::spawn(send(
            sidecar.inbound,
            Request::builder().method(method).uri("/"),
            whole(""),
        ));
        read_head(&mut kept).await;
        drop(kept);
        if repeated {
            let (mut server, _) = upstream.accept().await.unwrap();
            assert!(read_head(&mut server).await.starts_with("GET / "));
            server.write_all(OK).await.unwrap();
            assert_eq!(bytes(second.await.unwrap()).await, "ok");
        } else {
            let answer = second.await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(json(answer).await["reason"], "litellm_failed");
        }
    }
}

/// An MCP server may close a connection just after an answer, as the MCP SDK's does when a session ends while one of
/// its notifications is being processed. Another session's message that is on its way then is repeated if it only reads.
#[tokio::test]
async fn a_message_that_only_reads_is_sent_again_when_a_kept_connection_ends() {
    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}"#;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let sidecar = Sidecar::start(unused_address().await, &[server(&url)]);
    for (message, repeated) in [(LIST, true), (CALL, false)] {
        let first = tokio::spawn(post(sidecar.outbound, "/tools/mcp", LIST));
        let (mut kept, _) = upstream.accept().await.unwrap();
        read_message(&mut kept).await;
        kept.write_all(OK).await.unwrap();
        bytes(first.await.unwrap()).await;

        let second = tokio::spawn(post(sidecar.outbound, "/tools/mcp", message));
        assert_eq!(read_message(&mut kept).await, message);
        drop(kept);
        if repeated {
            let (mut server, _) = upstream.accept().await.unwrap();
            assert_eq!(read_message(&mut server).await, message);
            server.write_all(OK).await.unwrap();
            assert_eq!(bytes(second.await.unwrap()).await, "ok");
            assert_eq!(
                sidecar.metric(r#"mcpauth_sidecar_replays_total{why="connection_ended"}"#),
                1
            );
        } else {
            let answer = second.await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(json(answer).await["error"]["data"]["reason"], "server_failed");
        }
    }
}

async fn read_message(stream: &mut TcpStream) -> String {
    let head = read_head(stream).await.to_lowercase();
    let (_, length) = head
        .split_once("content-length: ")
        .expect("the sidecar states it");
    let length = length.lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn an_early_answer_does_not_leave_a_half_sent_request_behind() {
    let upstream =
        Scripted::start(async |_| Response::builder().status(413).body(whole("too much")).unwrap()).await;
    let sidecar = Sidecar::start(upstream.address, &[]);
    let (sender, body) = streamed();
    sender.send("begin".into()).unwrap();
    let answer = send(sidecar.inbound, Request::post("/"), body).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(bytes(answer).await, "too much");
    assert_eq!(
        get(sidecar.inbound, "/").await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_server_with_a_private_authority_is_reached_by_its_ca_bundle_and_not_without() {
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                let token = request.headers()["authorization"].to_str().unwrap().to_owned();
                Ok::<_, std::convert::Infallible>(Response::new(whole(token)))
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    for host in ["127.0.0.1", "localhost"] {
        let mut tools = server(&format!("https://{host}:{port}/mcp"));
        tools.route.ca_bundle = Some(key.cert.pem());
        let sidecar = Sidecar::start(unused_address().await, std::slice::from_ref(&tools));
        assert_eq!(
            bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await,
            "Bearer service-token"
        );

        tools.route.ca_bundle = None;
        sidecar.routes.apply(&[tools]);
        let answer = post(sidecar.outbound, "/tools/mcp", "{}").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let message = json(answer).await["error"]["message"].to_string();
        assert!(message.contains("TLS"), "{message}");
    }
}

#[tokio::test]
async fn a_request_that_has_begun_is_answered_before_the_sidecar_ends() {
    let (begun, has_begun) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let once = Arc::new(std::sync::Mutex::new(Some((begun, may_go_on))));
    let litellm = Scripted::start(move |_| {
        let (begun, may_go_on) = once.lock().unwrap().take().unwrap();
        async move {
            begun.send(()).unwrap();
            may_go_on.await.unwrap();
            Response::new(whole("late"))
        }
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let answer = tokio::spawn(get(sidecar.inbound, "/"));
    has_begun.await.unwrap();
    let mut idle = TcpStream::connect(sidecar.inbound).await.unwrap();
    idle.write_all(b"GET /").await.unwrap();
    sidecar.stop(TEST_TIMEOUT);
    let inbound = sidecar.inbound;
    // Its end shows that the sidecar has taken note.
    while TcpStream::connect(inbound).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    go_on.send(()).unwrap();
    assert_eq!(bytes(answer.await.unwrap()).await, "late");
    drop(idle);
    timeout(TEST_TIMEOUT, tokio::task::spawn_blocking(move || sidecar.join()))
        .await
        .expect("an end in time")
        .unwrap();
}

#[tokio::test]
async fn what_is_no_http_is_closed() {
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    stream.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer))
        .await
        .expect("an end in time")
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    assert!(
        raw(sidecar.outbound, large.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    for counted in [
        r#"mcpauth_sidecar_refused_total{half="inbound",reason="request_malformed"}"#,
        r#"mcpauth_sidecar_refused_total{half="outbound",reason="headers_too_large"}"#,
    ] {
        until(|| sidecar.metric(counted) == 1).await;
    }
    assert_eq!(
        get(sidecar.inbound, "/").await.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "it goes on serving"
    );
}

#[tokio::test]
async fn how_long_an_answer_may_take_is_the_routes() {
    let upstream = Scripted::start(async |_| std::future::pending().await).await;
    let mut tools = server(&format!("http://{}/mcp", upstream.address));
    tools.route.answer_timeout_seconds = Some(1);
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    let answer = timeout(TEST_TIMEOUT, post(sidecar.outbound, "/tools/mcp", "{}")).await;
    let answer = answer.expect("long before the 300 seconds that it may take otherwise");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(json(answer).await["error"]["data"]["reason"], "server_timeout");
}
