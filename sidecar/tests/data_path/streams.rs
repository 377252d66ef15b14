//! Bodies that take their time: events one by one, endings, and what is large.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_auth_protocol::sync::{Server, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::scene::{
    Scripted, Sidecar, TEST_TIMEOUT, as_litellm, bytes, get, json, read_head, received, send, server,
    streamed, unused_address, whole,
};

/// A server whose event streams the test writes: each request hands over the sending end.
async fn events() -> (Scripted, mpsc::UnboundedReceiver<mpsc::UnboundedSender<Bytes>>) {
    let (hand_over, streams) = mpsc::unbounded_channel();
    let scripted = Scripted::start(move |_| {
        let (sender, body) = streamed();
        hand_over.send(sender).unwrap();
        let response = Response::builder().header("content-type", "text/event-stream; charset=utf-8");
        std::future::ready(response.body(body).unwrap())
    })
    .await;
    (scripted, streams)
}

fn sse(address: SocketAddr) -> Server {
    let mut tools = server(&format!("http://{address}/sse"));
    tools.route.transport = Transport::Sse;
    tools
}

async fn next(body: &mut Incoming) -> Bytes {
    let frame = timeout(TEST_TIMEOUT, body.frame())
        .await
        .expect("an event in time");
    frame.expect("the stream goes on").unwrap().into_data().unwrap()
}

/// The second event is sent only after the first has arrived, so a proxy that waits for more waits for ever.
#[tokio::test]
async fn events_are_passed_on_one_by_one_both_halves() {
    let (upstream, mut streams) = events().await;
    let url = format!("http://{}/mcp", upstream.address);
    let mut legacy = sse(upstream.address);
    legacy.route.server = "legacy".into();
    // The scripted server stands in for LiteLLM as well: the inbound half passes its events on just the same.
    let sidecar = Sidecar::start(upstream.address, &[server(&url), legacy]);
    for (address, path) in [
        (sidecar.outbound, "/tools/mcp"),
        (sidecar.outbound, "/legacy/sse"),
        (sidecar.inbound, "/v1/chat/completions"),
    ] {
        let mut answer = get(address, path).await;
        let sender = received(&mut streams).await;
        for number in 0..20 {
            let event = format!("id: {number}\ndata: {{}}\n\n");
            sender.send(event.clone().into()).unwrap();
            assert_eq!(next(answer.body_mut()).await, event, "{path}");
        }
        drop(sender);
        assert!(
            timeout(TEST_TIMEOUT, answer.body_mut().frame())
                .await
                .unwrap()
                .is_none(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_endpoint_event_leads_through_us() {
    let (upstream, mut streams) = events().await;
    let sidecar = Sidecar::start(unused_address().await, &[sse(upstream.address)]);
    for named in [
        "/messages/?session_id=1".to_owned(),
        format!("http://{}/messages/?session_id=1", upstream.address),
    ] {
        let mut answer = get(sidecar.outbound, "/tools/sse").await;
        let sender = received(&mut streams).await;
        sender.send("event: endpoint\r\nda".into()).unwrap();
        sender.send(format!("ta: {named}\r\n\r\n").into()).unwrap();
        let mut event = Vec::new();
        while !event.ends_with(b"\r\n\r\n") {
            event.extend(next(answer.body_mut()).await);
        }
        assert_eq!(
            event,
            b"event: endpoint\r\ndata: /tools/messages/?session_id=1\r\n\r\n"
        );
        sender.send("event: message\r\ndata: {}\r\n\r\n".into()).unwrap();
        assert_eq!(
            next(answer.body_mut()).await,
            "event: message\r\ndata: {}\r\n\r\n"
        );
    }
    assert_eq!(upstream.seen()[0].headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn an_endpoint_at_another_origin_ends_the_stream() {
    let (upstream, mut streams) = events().await;
    let sidecar = Sidecar::start(unused_address().await, &[sse(upstream.address)]);
    let answer = get(sidecar.outbound, "/tools/sse").await;
    let sender = received(&mut streams).await;
    sender
        .send("event: endpoint\ndata: http://evil.example.com/m\n\n".into())
        .unwrap();
    let text = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
    assert!(
        text.starts_with("event: error\n") && !text.contains("evil"),
        "{text}"
    );
    timeout(TEST_TIMEOUT, sender.closed())
        .await
        .expect("the server sees that nobody listens");
}

#[tokio::test]
async fn an_event_stream_that_could_be_read_in_another_way_is_an_error_and_not_passed_on() {
    const EVENTS: &str = "text/event-stream";
    let cases: [&[(&str, &str)]; 8] = [
        &[("content-type", EVENTS), ("content-encoding", "gzip")],
        &[
            ("content-type", EVENTS),
            ("content-encoding", "identity"),
            ("content-encoding", "gzip"),
        ],
        &[("content-type", "text/event-stream; charset=utf-16-le")],
        &[("content-type", "text/event-stream;charset=utf-7")],
        &[("content-type", "x-text/event-stream")],
        &[("content-type", "text/plain"), ("content-type", EVENTS)],
        &[("content-type", "text/event-stream; charset=utf-8; charset=utf-7")],
        &[],
    ];
    for lines in cases {
        let upstream = Scripted::start(move |_| {
            let mut answer = Response::builder();
            for (name, value) in lines {
                answer = answer.header(*name, *value);
            }
            let answer = answer
                .body(whole("event: endpoint\ndata: /other/mcp\n\n"))
                .unwrap();
            async { answer }
        })
        .await;
        let sidecar = Sidecar::start(unused_address().await, &[sse(upstream.address)]);
        let answer = get(sidecar.outbound, "/tools/sse").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{lines:?}");
        assert_eq!(json(answer).await["reason"], "answer_unusable", "{lines:?}");
    }
}

#[tokio::test]
async fn an_event_stream_is_in_utf_8_for_whoever_reads_it() {
    let upstream = Scripted::start(async |_| {
        let answer = Response::builder().header("content-type", "Text/Event-Stream; Charset=\"UTF-8\"");
        answer.body(whole("event: endpoint\ndata: /m\n\n")).unwrap()
    })
    .await;
    let sidecar = Sidecar::start(unused_address().await, &[sse(upstream.address)]);
    let answer = get(sidecar.outbound, "/tools/sse").await;
    assert_eq!(
        answer.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    assert_eq!(bytes(answer).await, "event: endpoint\ndata: /tools/m\n\n");
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways() {
    let upstream = Scripted::echo().await;
    let sidecar = Sidecar::start(
        unused_address().await,
        &[server(&format!("http://{}/mcp", upstream.address))],
    );
    let large: Bytes = (0..10 * 1024 * 1024u32)
        .map(|at| (at % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let answer = send(
        sidecar.outbound,
        Request::post("/tools/mcp"),
        whole(large.clone()),
    )
    .await;
    assert!(bytes(answer).await == large);
}

/// The server has had the whole request and not answered, or is in the middle of its answer: in both cases it
/// sees the connection close when the client goes.
#[tokio::test]
async fn when_the_client_goes_the_connection_to_the_server_closes() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let sidecar = Sidecar::start(upstream.local_addr().unwrap(), &[server(&url)]);
    for address in [sidecar.outbound, sidecar.inbound] {
        for begin_to_answer in [false, true] {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
            client.write_all(&as_litellm(request)).await.unwrap();
            let (mut server, _) = upstream.accept().await.unwrap();
            read_head(&mut server).await;
            assert_eq!(
                (server.read_u8().await.unwrap(), server.read_u8().await.unwrap()),
                (b'{', b'}')
            );
            if begin_to_answer {
                let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
                server.write_all(begun).await.unwrap();
                read_head(&mut client).await;
            }
            drop(client);
            let end = timeout(TEST_TIMEOUT, server.read_u8())
                .await
                .expect("the end in time");
            assert!(end.is_err(), "nothing but the end comes");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let sidecar = Sidecar::start(unused_address().await, &[server(&url)]);
    let asked = tokio::spawn(get(sidecar.outbound, "/tools/mcp"));
    let (mut server, _) = upstream.accept().await.unwrap();
    read_head(&mut server).await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        .await
        .unwrap();
    let answer = asked.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(server);
    assert!(
        timeout(TEST_TIMEOUT, answer.into_body().collect())
            .await
            .unwrap()
            .is_err(),
        "it must not look whole"
    );
}
