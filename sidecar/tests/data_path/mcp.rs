//! What MCP is made of, through the outbound half to servers of either version of HTTP, and from clients of
//! either.

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use mcp_auth_protocol::sync::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::scene::{
    Body, Scripted, Sidecar, TEST_TIMEOUT, as_litellm, bytes, get, listed, read_head, received, server,
    streamed, unused_address, whole,
};
use crate::wires::{BOTH, Secure, ask};

type Streams = mpsc::UnboundedReceiver<mpsc::UnboundedSender<Bytes>>;

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let encoding = request.headers().get("content-encoding").cloned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut response = Response::new(whole(body));
    if let Some(encoding) = encoding {
        response.headers_mut().insert("content-encoding", encoding);
    }
    response
}

/// A server that opens an event stream, whose sending end it hands over, for each GET, and for a POST that
/// asks for one; it accepts any other message.
async fn events(version: Version) -> (Secure, Streams) {
    let (hand_over, streams) = mpsc::unbounded_channel();
    let upstream = Secure::speaking(version, move |request: Request<Incoming>| {
        let hand_over = hand_over.clone();
        async move {
            let streams = request.method() == "GET" || request.headers().contains_key("streams");
            request.into_body().collect().await.unwrap();
            if !streams {
                return Response::builder().status(202).body(whole("")).unwrap();
            }
            let (sender, body) = streamed();
            hand_over.send(sender).unwrap();
            let answer = Response::builder().header("content-type", "text/event-stream");
            answer.body(body).unwrap()
        }
    })
    .await;
    (upstream, streams)
}

async fn next(body: &mut Incoming) -> Bytes {
    let frame = timeout(TEST_TIMEOUT, body.frame())
        .await
        .expect("an event in time");
    frame.expect("the stream goes on").unwrap().into_data().unwrap()
}

fn with_trailers(chunk: &'static str, trailers: &[(&'static str, &'static str)]) -> Body {
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        map.append(*name, value.parse().unwrap());
    }
    let frames = [Ok(Frame::data(Bytes::from(chunk))), Ok(Frame::trailers(map))];
    BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
}

/// The stateless era puts into headers what a router wants to know; older ones have a session and its version
/// there.
#[tokio::test]
async fn headers_of_every_era_pass_both_ways() {
    let theirs = [
        ("mcp-session-id", "S-1"),
        ("mcp-method", "tools/call"),
        ("mcp-param-region", "=?base64?w7xi?="),
        ("cache-control", "no-store"),
    ];
    let ours = [
        ("accept", "application/json, text/event-stream"),
        ("last-event-id", "7"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "weather"),
        ("mcp-param-region", "=?base64?w7xi?="),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-session-id", "S-1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    for upstream_version in BOTH {
        let upstream = Secure::speaking(upstream_version, move |_| async move {
            let mut answer = Response::builder();
            for (name, value) in theirs {
                answer = answer.header(name, value);
            }
            answer.body(whole("{}")).unwrap()
        })
        .await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            let mut request = Request::post("/tools/mcp");
            for (name, value) in ours {
                request = request.header(name, value);
            }
            let answer = ask(version, sidecar.outbound, request, whole("{}")).await;
            for (name, value) in theirs {
                assert_eq!(answer.headers()[name], value);
            }
            let (spoken, seen) = upstream.seen().pop().unwrap();
            assert_eq!(spoken, upstream_version);
            let mut seen = seen.headers;
            for ours_to_add in ["host", "authorization", "content-length"] {
                seen.remove(ours_to_add);
            }
            assert_eq!(
                listed(&seen),
                ours.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
        }
    }
}

#[tokio::test]
async fn a_notification_is_accepted_and_a_session_deleted() {
    for upstream_version in BOTH {
        let (upstream, _streams) = events(upstream_version).await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            for request in [Request::post("/tools/mcp"), Request::delete("/tools/mcp")] {
                let request = request.header("mcp-session-id", "S-1");
                let answer = ask(version, sidecar.outbound, request, whole("")).await;
                assert_eq!(answer.status(), StatusCode::ACCEPTED);
                assert_eq!(bytes(answer).await, "");
            }
            let methods: Vec<_> = upstream.seen().into_iter().map(|(_, seen)| seen.method).collect();
            assert!(
                methods.ends_with(&["POST".into(), "DELETE".into()]),
                "{methods:?}"
            );
        }
    }
}

/// The server asks the user something in the stream of the call, and gets the answer by a request of its own,
/// while that stream stands. Progress comes one by one. After a break the stream is taken up where it was.
#[tokio::test]
async fn a_call_may_report_progress_and_ask_the_user_and_be_resumed() {
    for upstream_version in BOTH {
        let (upstream, mut streams) = events(upstream_version).await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            let call = Request::post("/tools/mcp").header("streams", "yes");
            let mut answer = ask(version, sidecar.outbound, call, whole("{}")).await;
            let sender = received(&mut streams).await;
            for progress in 0..5 {
                let event = format!("id: {progress}\ndata: {{\"method\":\"notifications/progress\"}}\n\n");
                sender.send(event.clone().into()).unwrap();
                assert_eq!(next(answer.body_mut()).await, event);
            }
            for asked in ["elicitation/create", "sampling/createMessage"] {
                let event = format!("id: 5\ndata: {{\"id\":1,\"method\":\"{asked}\"}}\n\n");
                sender.send(event.clone().into()).unwrap();
                assert_eq!(next(answer.body_mut()).await, event);
                let said = Request::post("/tools/mcp");
                let accepted = ask(version, sidecar.outbound, said, whole(r#"{"id":1,"result":{}}"#)).await;
                assert_eq!(accepted.status(), StatusCode::ACCEPTED);
            }
            sender.send("data: {\"result\":{}}\n\n".into()).unwrap();
            assert_eq!(next(answer.body_mut()).await, "data: {\"result\":{}}\n\n");
            drop(answer);
            timeout(TEST_TIMEOUT, sender.closed())
                .await
                .expect("the server sees that the client has gone");

            let resume = Request::get("/tools/mcp").header("last-event-id", "5");
            let mut resumed = ask(version, sidecar.outbound, resume, whole("")).await;
            assert_eq!(upstream.seen().pop().unwrap().1.headers["last-event-id"], "5");
            let sender = received(&mut streams).await;
            sender.send("id: 6\ndata: {}\n\n".into()).unwrap();
            assert_eq!(next(resumed.body_mut()).await, "id: 6\ndata: {}\n\n");
            drop(sender);
            assert_eq!(bytes(resumed).await, "");
        }
    }
}

/// The transport of before streamable HTTP: the stream names where messages go, which must lead through us.
#[tokio::test]
async fn the_older_event_stream_and_its_messages_pass() {
    for upstream_version in BOTH {
        let (upstream, mut streams) = events(upstream_version).await;
        let mut tools = upstream.tools();
        tools.route.transport = Transport::Sse;
        let sidecar = Sidecar::start(unused_address().await, &[tools]);
        for version in BOTH {
            let mut stream = ask(version, sidecar.outbound, Request::get("/tools/mcp"), whole("")).await;
            let sender = received(&mut streams).await;
            sender
                .send("event: endpoint\ndata: /messages/?session_id=1\n\n".into())
                .unwrap();
            let named = "event: endpoint\ndata: /tools/messages/?session_id=1\n\n";
            assert_eq!(next(stream.body_mut()).await, named);
            let message = Request::post("/tools/messages/?session_id=1");
            let accepted = ask(version, sidecar.outbound, message, whole("{}")).await;
            assert_eq!(accepted.status(), StatusCode::ACCEPTED);
            assert!(
                upstream
                    .seen()
                    .pop()
                    .unwrap()
                    .1
                    .target
                    .ends_with("/messages/?session_id=1")
            );
            sender.send("event: message\ndata: {}\n\n".into()).unwrap();
            assert_eq!(next(stream.body_mut()).await, "event: message\ndata: {}\n\n");
        }
    }
}

/// A client that goes before there is an answer is how a call is cancelled.
#[tokio::test]
async fn a_call_without_an_answer_yet_ends_with_its_client() {
    for upstream_version in BOTH {
        let (came, mut calls) = mpsc::unbounded_channel();
        let upstream = Secure::speaking(upstream_version, move |_| {
            let came = came.clone();
            async move {
                let (sender, body) = streamed();
                came.send(sender).unwrap();
                let _body = body;
                std::future::pending::<()>().await;
                unreachable!()
            }
        })
        .await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            let address = sidecar.outbound;
            let call = async move { ask(version, address, Request::post("/tools/mcp"), whole("{}")).await };
            let call = tokio::spawn(call);
            let ends = received(&mut calls).await;
            // For HTTP/1.1 the connection is driven by another task, which ends with the last handle to it.
            call.abort();
            timeout(TEST_TIMEOUT, ends.closed())
                .await
                .expect("the server sees the end");
        }
    }
}

#[tokio::test]
async fn two_hundred_streams_stand_at_a_time() {
    for upstream_version in BOTH {
        let (upstream, mut streams) = events(upstream_version).await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        let seen = || {
            let (requests, connections) = (upstream.seen().len(), upstream.connections());
            format!("{upstream_version:?}: the server saw {requests} requests on {connections} connections")
        };
        // Twenty are opened at a time: on a busy machine more handshakes would outlast the connect timeout.
        let opened = stream::iter(0..200).map(|_| get(sidecar.outbound, "/tools/mcp"));
        let answers: Vec<_> = opened.buffered(20).collect().await;
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.status(), StatusCode::OK, "answer {number}; {}", seen());
        }
        let mut senders = Vec::new();
        for number in 0..200 {
            let sender = timeout(TEST_TIMEOUT, streams.recv()).await;
            let sender = sender.unwrap_or_else(|_| panic!("{number} streams were opened; {}", seen()));
            senders.push(sender.unwrap());
        }
        for (number, sender) in senders.iter().enumerate() {
            sender.send(format!("data: {number}\n\n").into()).unwrap();
        }
        let numbered = answers.into_iter().enumerate();
        let first = join_all(numbered.map(async |(number, mut answer)| {
            let frame = timeout(TEST_TIMEOUT, answer.body_mut().frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("no event in answer {number}; {}", seen()));
            let event = frame.unwrap().unwrap().into_data().unwrap();
            (answer, event)
        }));
        let (answers, mut events): (Vec<_>, Vec<_>) = first.await.into_iter().unzip();
        events.sort();
        events.dedup();
        assert_eq!(events.len(), 200, "each gets its own");
        drop(senders);
        for (number, answer) in answers.into_iter().enumerate() {
            let rest = timeout(TEST_TIMEOUT, answer.into_body().collect()).await;
            let rest = rest.unwrap_or_else(|_| panic!("answer {number} goes on; {}", seen()));
            assert_eq!(rest.unwrap().to_bytes(), "");
        }
    }
}

/// Byte for byte, whatever they are.
#[tokio::test]
async fn encoded_and_large_bodies_pass_both_ways_untouched() {
    let large: Bytes = (0..10 * 1024 * 1024u32)
        .map(|at| (at % 251) as u8)
        .collect::<Vec<u8>>()
        .into();
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    let bodies = [
        ("gzip", Bytes::from_static(gzip)),
        ("br", Bytes::from_static(b"\x0b\x00\x80\x7b\x7d\x03")),
        ("zstd", Bytes::from_static(b"\x28\xb5\x2f\xfd\x20\x02\x11\0\0{}")),
        ("identity", large),
    ];
    for upstream_version in BOTH {
        let upstream = Secure::speaking(upstream_version, echo).await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            for (encoding, body) in &bodies {
                let request = Request::post("/tools/mcp")
                    .header("content-encoding", *encoding)
                    .header("accept-encoding", "gzip, br");
                let answer = ask(version, sidecar.outbound, request, whole(body.clone())).await;
                assert_eq!(answer.headers()["content-encoding"], *encoding);
                assert_eq!(answer.headers()["content-length"], body.len().to_string());
                assert!(bytes(answer).await == *body, "{encoding}");
                let seen = upstream.seen().pop().unwrap().1;
                assert_eq!(seen.headers["accept-encoding"], "gzip, br");
            }
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for upstream_version in BOTH {
        let upstream = Secure::speaking(upstream_version, |request: Request<Incoming>| async {
            assert_eq!(request.headers()["te"], "trailers");
            let sent = request.into_body().collect().await.unwrap();
            let trailers = sent.trailers().expect("trailers of the request");
            assert_eq!(trailers.len(), 1, "nothing but the sum");
            let sum = trailers["x-sum"].clone();
            assert_eq!((sum, sent.to_bytes()), ("up".parse().unwrap(), "{}".into()));
            let answer = Response::builder().header("trailer", "x-sum, set-cookie");
            answer
                .body(with_trailers("[]", &[("x-sum", "down"), ("set-cookie", "a=b")]))
                .unwrap()
        })
        .await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            let request = Request::post("/tools/mcp")
                .header("te", "trailers")
                .header("trailer", "x-sum, mcpauth-context");
            let answer = ask(
                version,
                sidecar.outbound,
                request,
                with_trailers("{}", &[("x-sum", "up"), ("mcpauth-context", "forged")]),
            )
            .await;
            let got = timeout(TEST_TIMEOUT, answer.into_body().collect())
                .await
                .unwrap()
                .unwrap();
            let trailers = got.trailers().expect("trailers of the answer");
            assert_eq!(
                (trailers.len(), &trailers["x-sum"]),
                (1, &"down".parse().unwrap())
            );
            assert_eq!(got.to_bytes(), "[]");
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    for upstream_version in BOTH {
        let upstream = Secure::speaking(upstream_version, |request: Request<Incoming>| async move {
            let status = request.uri().query().unwrap().parse::<u16>().unwrap();
            let answer = Response::builder().status(status).header("etag", "\"1\"");
            match status {
                200 => answer.header("content-length", 1234).body(whole("")).unwrap(),
                _ => answer.body(whole("")).unwrap(),
            }
        })
        .await;
        let sidecar = Sidecar::start(unused_address().await, &[upstream.tools()]);
        for version in BOTH {
            for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 304)] {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("/tools/mcp?{status}"))
                    .header("if-none-match", "\"1\"");
                let answer = ask(version, sidecar.outbound, request, whole("")).await;
                assert_eq!(answer.status(), status);
                assert_eq!(answer.headers()["etag"], "\"1\"");
                let length = answer.headers().get("content-length").cloned();
                if status == 200 {
                    assert_eq!(length.unwrap(), "1234", "what a GET would have");
                }
                assert_eq!(bytes(answer).await, "");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_and_the_server_is_not_asked() {
    let upstream = Scripted::echo().await;
    let url = format!("http://{}/mcp", upstream.address);
    let sidecar = Sidecar::start(upstream.address, &[server(&url)]);
    for address in [sidecar.outbound, sidecar.inbound] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = b"POST /tools/mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
            Content-Length: 2\r\n\r\n";
        client.write_all(&as_litellm(head)).await.unwrap();
        assert_eq!(read_head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"{}").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut body = [0; 2];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"{}");
        assert!(!upstream.seen().pop().unwrap().headers.contains_key("expect"));
    }
}

/// Those that are for the connection which they come over do not, nor do any to clients that may not know them.
#[tokio::test]
async fn interim_answers_pass_and_are_not_taken_for_the_answer() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let sidecar = Sidecar::start(upstream.local_addr().unwrap(), &[server(&url)]);
    // As of an answer, LiteLLM gets no cookie of a server.
    for (address, cookie) in [(sidecar.outbound, ""), (sidecar.inbound, "set-cookie: a=b\r\n")] {
        let expected = format!("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n{cookie}\r\n");
        for (line, passes) in [
            ("GET /tools/mcp HTTP/1.1", true),
            ("GET /tools/mcp HTTP/1.0", false),
            ("POST /tools/mcp HTTP/1.1", false),
        ] {
            let (client, mut read) = (TcpStream::connect(address).await.unwrap(), Vec::new());
            let (mut reading, mut writing) = client.into_split();
            let request =
                format!("{line}\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            writing.write_all(&as_litellm(request.as_bytes())).await.unwrap();
            let (mut server, _) = upstream.accept().await.unwrap();
            read_head(&mut server).await;
            let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nSet-Cookie: a=b\r\n\
                           Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 9\r\n\r\n";
            server.write_all(interim.as_bytes()).await.unwrap();
            if passes {
                // Before there is an answer.
                while read.len() < expected.len() {
                    let more = timeout(TEST_TIMEOUT, reading.read_buf(&mut read)).await;
                    assert_ne!(more.expect("it comes at once").unwrap(), 0, "{line}");
                }
            }
            // With the next one comes the answer itself.
            let last = "HTTP/1.1 103 Early Hints\r\nLink: </y>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            server.write_all(last.as_bytes()).await.unwrap();
            timeout(TEST_TIMEOUT, reading.read_to_end(&mut read))
                .await
                .expect("an end in time")
                .unwrap();
            let read = String::from_utf8(read).unwrap();
            let second = "HTTP/1.1 103 Early Hints\r\nlink: </y>\r\n\r\n";
            let answer = match passes {
                true => read
                    .strip_prefix(&expected)
                    .and_then(|read| read.strip_prefix(second))
                    .unwrap_or_else(|| panic!("{line}: {read}")),
                false => &read,
            };
            assert!(
                answer[8..].starts_with(" 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
                "{line}: {answer}"
            );
        }
    }
}
