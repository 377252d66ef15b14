//! Clients that speak HTTP/2 without TLS and without asking.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::scene::{
    SECRET, SECRET_HEADER, Scripted, Sidecar, TEST_TIMEOUT, bytes, json, listed, read_head, server, streamed,
    until, unused_address, whole,
};
use crate::wires::{absolute, ask, http2};

const SERVER: &str = "https://tools.example.com/mcp";

#[tokio::test]
async fn litellm_gets_what_it_would_get_over_http1() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[server(SERVER)]);
    let mut sender = http2(sidecar.inbound).await;
    let (body, streamed) = streamed();
    body.send("{\"a\":".into()).unwrap();
    body.send("1}".into()).unwrap();
    drop(body);
    let request = Request::post("/v1/chat/completions?x=%2F")
        .header("content-type", "application/json")
        .header("cookie", "token=ui")
        .header("cookie", "session_id=S-a")
        .header("host", "other.example.com")
        .header("te", "trailers");
    let answer = sender
        .send_request(absolute(request, "llm.example.com:4000", streamed))
        .await
        .unwrap();
    assert_eq!(
        (answer.status(), answer.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    assert_eq!(bytes(answer).await, "{\"a\":1}");
    let seen = litellm.only();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/v1/chat/completions?x=%2F")
    );
    let mut headers = seen.headers;
    assert!(headers.remove("mcpauth-context").is_some());
    let expected = [
        ("connection", "te"),
        ("content-type", "application/json"),
        ("cookie", "token=ui; session_id=S-a"),
        ("host", "llm.example.com:4000"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    assert_eq!(
        listed(&headers),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

/// Over HTTP/1.1 a GET without a stated length would count as one without a body.
#[tokio::test]
async fn a_body_that_is_unusual_is_not_lost() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    for method in ["GET", "DELETE"] {
        let (body, streamed) = streamed();
        body.send("{}".into()).unwrap();
        drop(body);
        let request = Request::builder().method(method).uri("/");
        let answer = ask(Version::HTTP_2, sidecar.inbound, request, streamed).await;
        assert_eq!(bytes(answer).await, "{}", "{method}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_at_a_time() {
    let (gate, litellm) = gated().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let sender = http2(sidecar.inbound).await;
    let asked = (0..200).map(|number| {
        let mut sender = sender.clone();
        let request = absolute(Request::get(format!("/{number}")), "localhost", whole(""));
        tokio::spawn(async move { bytes(sender.send_request(request).await.unwrap()).await })
    });
    let asked: Vec<_> = asked.collect();
    until(|| litellm.seen().len() == 200).await;
    gate.add_permits(200);
    for (number, body) in join_all(asked).await.into_iter().enumerate() {
        assert_eq!(body.unwrap(), format!("/{number}"));
    }
}

/// Answers a request with its path, but only with a permit.
async fn gated() -> (Arc<Semaphore>, Scripted) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let litellm = Scripted::start(move |request: Request<Incoming>| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(whole(request.uri().path().to_owned()))
        }
    })
    .await;
    (gate, litellm)
}

#[tokio::test]
async fn the_outbound_listener_takes_no_other_host_for_its_own() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let mut sender = http2(sidecar.outbound).await;
    for (authority, header, status) in [
        ("localhost:16481", None, StatusCode::OK),
        ("evil.example.com", None, StatusCode::FORBIDDEN),
        // The authority counts, and what is said beside it does not.
        ("evil.example.com", Some("localhost"), StatusCode::FORBIDDEN),
    ] {
        let mut request = Request::post("/tools/mcp");
        if let Some(host) = header {
            request = request.header("host", host);
        }
        let answer = sender
            .send_request(absolute(request, authority, whole("{}")))
            .await;
        assert_eq!(answer.unwrap().status(), status, "{authority}");
    }
    let seen = upstream.only();
    assert_eq!(seen.headers["host"], upstream.address.to_string());
    assert_eq!(seen.headers["authorization"], "Bearer service-token");
}

#[tokio::test]
async fn a_tunnel_is_not_opened() {
    let sidecar = Sidecar::start(unused_address().await, &[]);
    for address in [sidecar.inbound, sidecar.outbound] {
        let mut sender = http2(address).await;
        let request = Request::connect("localhost:80").header(SECRET_HEADER, SECRET);
        let request = request.body(whole("")).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let expected = match address == sidecar.inbound {
            true => StatusCode::NOT_IMPLEMENTED,
            // There is no path in it that names a server.
            false => StatusCode::NOT_FOUND,
        };
        assert_eq!(answer.status(), expected);
    }
}

#[tokio::test]
async fn an_error_of_ours_looks_the_same() {
    let sidecar = Sidecar::start(unused_address().await, &[]);
    let answer = ask(
        Version::HTTP_2,
        sidecar.outbound,
        Request::post("/nothing/mcp"),
        whole("{\"id\":3}"),
    )
    .await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let body = json(answer).await;
    assert_eq!(
        (&body["error"]["code"], &body["id"]),
        (&(-32050).into(), &3.into())
    );
}

#[tokio::test]
async fn while_draining_the_connection_is_taken_leave_of_and_what_has_begun_ends_whole() {
    let (hand_over, mut senders) = mpsc::unbounded_channel();
    let litellm = Scripted::start(move |_| {
        let (sender, body) = streamed();
        hand_over.send(sender).unwrap();
        std::future::ready(Response::new(body))
    })
    .await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let mut sender = http2(sidecar.inbound).await;
    let ask = || absolute(Request::get("/"), "localhost", whole(""));
    let mut before = sender.send_request(ask()).await.unwrap();
    let before_sender = senders.recv().await.unwrap();
    sidecar.drain.start(TEST_TIMEOUT);
    let last = sender.send_request(ask()).await.unwrap();
    assert!(!last.headers().contains_key("connection"));
    drop(senders.recv().await.unwrap());
    assert_eq!(bytes(last).await, "");
    // GOAWAY may come only after the answer, but it comes.
    let taken_leave_of = async {
        while sender.send_request(ask()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, taken_leave_of)
        .await
        .expect("no request in time");
    before_sender.send("the rest".into()).unwrap();
    let frame = timeout(TEST_TIMEOUT, before.body_mut().frame()).await.unwrap();
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "the rest");
    drop(before_sender);
    assert_eq!(bytes(before).await, "");
}

#[tokio::test]
async fn the_sidecar_ends_after_the_requests_that_have_begun() {
    let (gate, litellm) = gated().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let mut sender = http2(sidecar.inbound).await;
    let begun = tokio::spawn(sender.send_request(absolute(Request::get("/late"), "localhost", whole(""))));
    until(|| litellm.seen().len() == 1).await;
    sidecar.stop(TEST_TIMEOUT);
    let inbound = sidecar.inbound;
    // Its end shows that the sidecar has taken note.
    while TcpStream::connect(inbound).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.add_permits(1);
    assert_eq!(bytes(begun.await.unwrap().unwrap()).await, "/late");
    timeout(TEST_TIMEOUT, tokio::task::spawn_blocking(move || sidecar.join()))
        .await
        .expect("an end in time")
        .unwrap();
}

/// CVE-2023-44487: each request is begun and given up, so that no bound on concurrent streams is ever
/// reached.
#[tokio::test]
async fn a_client_that_keeps_giving_up_its_requests_is_cut_off_and_others_are_served() {
    let (gate, litellm) = gated().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let sender = http2(sidecar.inbound).await;
    let mut rounds = 0;
    while !sender.is_closed() {
        rounds += 1;
        assert!(rounds < 100, "it is cut off");
        let before = litellm.seen().len();
        let asked: Vec<_> = (0..50)
            .map(|_| {
                let mut sender = sender.clone();
                let request = absolute(Request::get("/"), "localhost", whole(""));
                tokio::spawn(async move { sender.send_request(request).await.is_ok() })
            })
            .collect();
        until(|| litellm.seen().len() == before + 50 || sender.is_closed()).await;
        asked.iter().for_each(|asked| asked.abort());
        join_all(asked).await;
    }
    assert!(rounds > 10, "some may be given up");
    gate.add_permits(1_000_000);
    let answer = ask(Version::HTTP_2, sidecar.inbound, Request::get("/well"), whole("")).await;
    assert_eq!(bytes(answer).await, "/well");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused_and_large_ones_pass() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let cookie = |bytes: usize| Request::get("/").header("cookie", "c".repeat(bytes));
    let answer = ask(Version::HTTP_2, sidecar.inbound, cookie(60 * 1024), whole("")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut sender = http2(sidecar.inbound).await;
    let refused = sender
        .send_request(absolute(cookie(100 * 1024), "localhost", whole("")))
        .await;
    // The client knows the limit by the settings and may not send at all; if it does, it gets this answer.
    assert!(refused.is_ok_and(|answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    assert_eq!(litellm.seen().len(), 1);
}

/// The preface decides, however it is cut; and what begins like it is HTTP/1.1 as ever.
#[tokio::test]
async fn a_beginning_that_comes_in_pieces_is_told_apart() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let mut client = TcpStream::connect(sidecar.inbound).await.unwrap();
    client.set_nodelay(true).unwrap();
    for byte in b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));

    let mut client = TcpStream::connect(sidecar.inbound).await.unwrap();
    client.set_nodelay(true).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().chain(&settings) {
        client.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut head = [0; 9];
    timeout(TEST_TIMEOUT, client.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head[3], 4, "the answer begins with settings");
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let litellm = Scripted::echo().await;
    let sidecar = Sidecar::start(litellm.address, &[]);
    let large = Bytes::from(vec![b'x'; 10 * 1024 * 1024]);
    let request = Request::post("/").header("content-length", large.len());
    let answer = ask(Version::HTTP_2, sidecar.inbound, request, whole(large.clone())).await;
    assert!(bytes(answer).await == large);
    assert_eq!(litellm.only().headers["content-length"], large.len().to_string());
}
