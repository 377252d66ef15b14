//! MCP servers that speak HTTP/2.

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::scene::{
    Body, Sidecar, TEST_TIMEOUT, as_litellm, bytes, get, listed, post, send, streamed, until, unused_address,
    whole,
};
use crate::wires::{Options, Secure};

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(whole(body))
}

#[tokio::test]
async fn a_server_that_has_http2_gets_it_and_one_connection_carries_all() {
    let upstream = Secure::start(Options::default(), echo).await;
    let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
    let asked = (0..50).map(|_| async { bytes(post(sidecar.outbound, "/tools/mcp?x=1", "{}").await).await });
    for body in join_all(asked).await {
        assert_eq!(body, "{}");
    }
    assert_eq!(upstream.connections(), 1);
    let connects = sidecar.metric(r#"mcpauth_sidecar_upstream_connects_total{server="tools"}"#);
    assert_eq!(connects, 1);
    let target = format!("https://localhost:{}/mcp?x=1", upstream.address.port());
    let expected = [
        ("authorization", "Bearer service-token"),
        ("content-length", "2"),
        ("content-type", "application/json"),
    ];
    for (version, seen) in upstream.seen() {
        assert_eq!((version, &seen.target), (Version::HTTP_2, &target));
        assert_eq!(
            listed(&seen.headers),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}

#[tokio::test]
async fn a_server_that_has_only_http1_gets_that() {
    let only = Options {
        offers: &[Version::HTTP_11],
        ..Options::default()
    };
    let upstream = Secure::start(only, echo).await;
    let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
    for _ in 0..3 {
        bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await;
    }
    assert_eq!(upstream.connections(), 1);
    assert!(
        upstream
            .seen()
            .iter()
            .all(|(version, seen)| *version == Version::HTTP_11 && seen.target == "/mcp")
    );
}

#[tokio::test]
async fn a_server_for_which_http2_is_turned_off_gets_http1_though_it_offers_both() {
    let upstream = Secure::start(Options::default(), echo).await;
    let mut tools = upstream.tools();
    tools.route.http1_only = true;
    let sidecar = Sidecar::start(unused_address().await, &[tools]);
    for _ in 0..3 {
        assert_eq!(
            bytes(post(sidecar.outbound, "/tools/mcp", "{}").await).await,
            "{}"
        );
    }
    let versions: Vec<_> = upstream.seen().iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, [Version::HTTP_11; 3]);
}

/// Streams that last would hold up everything behind them on a connection that takes no more.
#[tokio::test]
async fn another_connection_is_opened_only_when_the_first_takes_no_more_streams() {
    let (hand_over, mut senders) = mpsc::unbounded_channel();
    let few = Options {
        max_streams: 10,
        ..Options::default()
    };
    let upstream = Secure::start(few, move |_| {
        let (sender, body) = streamed();
        hand_over.send(sender).unwrap();
        std::future::ready(Response::new(body))
    })
    .await;
    let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
    let answers = join_all((0..25).map(|_| get(sidecar.outbound, "/tools/mcp"))).await;
    assert_eq!(upstream.connections(), 3);
    let mut kept = Vec::new();
    for _ in 0..25 {
        let sender = senders.recv().await.unwrap();
        sender.send("data: {}\n\n".into()).unwrap();
        kept.push(sender);
    }
    for mut answer in answers {
        let frame = timeout(TEST_TIMEOUT, answer.body_mut().frame()).await.unwrap();
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "data: {}\n\n");
        // The client goes, and makes room.
        drop(answer);
    }
    until(|| kept.iter().all(|sender| sender.is_closed())).await;
    get(sidecar.outbound, "/tools/mcp").await;
    assert_eq!(upstream.connections(), 3, "there is room on the old ones");
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways_and_a_client_that_does_not_read_holds_up_nobody() {
    let upstream = Secure::start(Options::default(), echo).await;
    let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
    let large: Bytes = (0..10 * 1024 * 1024u32)
        .map(|at| (at % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let ask = || {
        send(
            sidecar.outbound,
            Request::post("/tools/mcp"),
            whole(large.clone()),
        )
    };
    let unread = ask().await;
    assert!(bytes(ask().await).await == large);
    assert!(bytes(unread).await == large, "and nothing of it is lost");
    assert_eq!(upstream.connections(), 1);
}

/// Only the stream ends: others of the connection go on.
#[tokio::test]
async fn when_the_client_goes_its_stream_is_reset_at_once() {
    let (hand_over, mut senders) = mpsc::unbounded_channel();
    let (came, mut waiting) = mpsc::unbounded_channel();
    let upstream = Secure::start(Options::default(), move |request| {
        let (hand_over, came) = (hand_over.clone(), came.clone());
        async move {
            let (sender, body) = streamed();
            if request.uri().query() == Some("silent") {
                // Ends only with the request.
                came.send(sender).unwrap();
                let _body = body;
                std::future::pending::<()>().await;
                unreachable!()
            }
            hand_over.send(sender).unwrap();
            Response::new(body)
        }
    })
    .await;
    let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
    let mut goes_on = get(sidecar.outbound, "/tools/mcp").await;
    let goes_on_sender = senders.recv().await.unwrap();

    let answered = get(sidecar.outbound, "/tools/mcp").await;
    let answered_sender = senders.recv().await.unwrap();
    drop(answered);
    timeout(TEST_TIMEOUT, answered_sender.closed())
        .await
        .expect("the server sees the end");

    let mut client = TcpStream::connect(sidecar.outbound).await.unwrap();
    client
        .write_all(&as_litellm(
            b"GET /tools/mcp?silent HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ))
        .await
        .unwrap();
    let silent = waiting.recv().await.unwrap();
    drop(client);
    timeout(TEST_TIMEOUT, silent.closed())
        .await
        .expect("the server sees the end before an answer, too");

    goes_on_sender.send("still here".into()).unwrap();
    let frame = timeout(TEST_TIMEOUT, goes_on.body_mut().frame()).await.unwrap();
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "still here");
    assert_eq!(upstream.connections(), 1);
}
