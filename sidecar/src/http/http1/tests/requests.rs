//! What is sent of a request, and what becomes of one that cannot be sent.

use super::*;

const POST: (&str, &str) = ("POST", "/mcp");

/// What is sent of a request whose server takes all.
fn becomes(request: Request<Parts>) -> (String, bool) {
    let (mut client, mut server) = connection();
    client.begin(request);
    assert!(client.poll_answer(&mut unwoken()).is_pending());
    write(&mut server, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert!(client.poll_answer(&mut unwoken()).is_ready());
    (sent(&mut server), client.is_at_rest())
}

fn post(headers: &[(&'static str, &str)], body: Parts) -> Request<Parts> {
    request(POST.0, POST.1, headers, body)
}

#[test]
fn a_target_is_written_as_it_was_stated() {
    for (target, line) in [
        ("/mcp?a=b", "GET /mcp?a=b HTTP/1.1\r\n\r\n"),
        ("*", "GET * HTTP/1.1\r\n\r\n"),
        ("http://tools/mcp", "GET http://tools/mcp HTTP/1.1\r\n\r\n"),
    ] {
        assert_eq!(
            becomes(request("GET", target, &[], Parts::over(&[]))),
            (line.into(), true)
        );
    }
}

#[test]
fn a_body_is_framed_once() {
    let stated = |parts: &[&'static str], length| Parts {
        stated: Some(length),
        ..Parts::over(parts)
    };
    let chunked = ("transfer-encoding", "chunked");
    for (sent, expected) in [
        (
            post(&[("content-length", "2"), ("x", "y")], Parts::over(&["{}"])),
            "x: y\r\ncontent-length: 2\r\n\r\n{}",
        ),
        (post(&[], stated(&["{", "}"], 2)), "content-length: 2\r\n\r\n{}"),
        (
            post(&[], Parts::over(&["{", "}"])),
            "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        ),
        (
            post(&[chunked, ("content-length", "9")], stated(&["{}"], 2)),
            "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        (
            post(&[("content-length", "0")], Parts::over(&[])),
            "content-length: 0\r\n\r\n",
        ),
        (
            post(&[chunked, ("content-length", "9")], Parts::over(&[])),
            "\r\n",
        ),
        (
            post(&[("content-length", "2")], Parts::over(&["{}GET / HTTP/1.1\r\n"])),
            "content-length: 2\r\n\r\n{}",
        ),
    ] {
        let expected = format!("POST /mcp HTTP/1.1\r\n{expected}");
        assert_eq!(becomes(sent), (expected, true));
    }
    let unstated = request("GET", "/", &[], Parts::over(&["x"]));
    assert_eq!(becomes(unstated), ("GET / HTTP/1.1\r\n\r\n".into(), true));
}

#[test]
fn chunk_sizes_are_hexadecimal() {
    for size in [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536, 100_000] {
        let text: &'static str = "x".repeat(size).leak();
        let (sent, _) = becomes(post(&[], Parts::over(&[text])));
        let (_, body) = sent.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, format!("{size:X}\r\n{text}\r\n0\r\n\r\n"));
    }
}

#[test]
fn only_trailers_that_were_announced_are_sent() {
    let mut body = Parts::over(&["{}"]);
    let names = ["x-sum", "x-other", "content-length"];
    let trailers = names.map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("1")));
    body.parts
        .push_back(Ok(Frame::trailers(trailers.into_iter().collect())));
    let (sent, _) = becomes(post(&[("trailer", "X-Sum, Content-Length")], body));
    assert!(
        sent.ends_with("\r\n\r\n2\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n"),
        "{sent}"
    );
}

#[test]
fn a_request_that_asks_to_close_is_the_last() {
    let asked = request("GET", "/", &[("connection", "te, Close")], Parts::over(&[]));
    assert_eq!(
        becomes(asked),
        ("GET / HTTP/1.1\r\nconnection: te, Close\r\n\r\n".into(), false)
    );
}

#[test]
fn a_body_is_taken_only_as_fast_as_it_is_sent() {
    let (ours, mut server) = duplex(1024);
    let mut client = Client::new(ours);
    let part: &'static str = "x".repeat(8 * 1024).leak();
    let body = Parts {
        stated: Some(20 * part.len() as u64),
        ..Parts::over(&[part; 20])
    };
    client.begin(post(&[], body));
    let left = |client: &Client| client.writer.body().map_or(0, |body| body.parts.len());
    assert!(client.poll_answer(&mut unwoken()).is_pending());
    assert_eq!(left(&client), 19, "of which a part is sent");
    let mut received = sent(&mut server).len();
    while left(&client) > 0 {
        let before = left(&client);
        assert!(client.poll_answer(&mut unwoken()).is_pending());
        received += sent(&mut server).len();
        assert!(before - left(&client) <= 1);
    }
    while !client.writer.is_done() {
        assert!(client.poll_answer(&mut unwoken()).is_pending());
        received += sent(&mut server).len();
    }
    assert!(received > 20 * part.len());
}

#[test]
fn an_answer_may_come_before_the_request_is_sent_which_goes_on() {
    let (mut client, mut server) = connection();
    let body = Parts::begun(&["begin"]);
    client.begin(post(&[], body));
    assert!(client.poll_answer(&mut unwoken()).is_pending());
    write(
        &mut server,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    );
    assert!(client.poll_answer(&mut unwoken()).is_ready());
    assert!(client.poll_frame(&mut unwoken()).is_ready());
    assert!(sent(&mut server).ends_with("5\r\nbegin\r\n"));
    let body = client.writer.body_mut().unwrap();
    body.parts.push_back(Ok(Frame::data(Bytes::from_static(b"end"))));
    body.is_over = true;
    assert!(client.poll_frame(&mut unwoken()).is_pending());
    assert_eq!(sent(&mut server), "3\r\nend\r\n0\r\n\r\n");
    write(&mut server, b"0\r\n\r\n");
    assert!(matches!(client.poll_frame(&mut unwoken()), Poll::Ready(None)));
    assert!(client.is_at_rest());
}

#[test]
fn an_answer_to_half_a_request_ends_the_connection() {
    let (mut client, mut server) = connection();
    client.begin(post(&[], Parts::begun(&["begin"])));
    write(
        &mut server,
        b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n",
    );
    assert!(client.poll_answer(&mut unwoken()).is_ready());
    assert!(client.is_end_stream() && !client.is_at_rest());
}

#[test]
fn an_answer_counts_though_the_server_takes_no_more_of_the_request() {
    let (ours, mut server) = duplex(1024);
    let mut client = Client::new(ours);
    client.begin(post(&[], Parts::begun(&["x".repeat(4096).leak()])));
    write(
        &mut server,
        b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nok",
    );
    drop(server);
    let Poll::Ready(Ok(answer)) = client.poll_answer(&mut unwoken()) else {
        panic!("it has come");
    };
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(
        client.poll_frame(&mut unwoken()),
        Poll::Ready(Some(Ok(_)))
    ));
    assert!(client.is_end_stream() && !client.is_at_rest());
}

#[test]
fn a_body_that_breaks_off_fails_the_request_and_an_answer_that_has_begun() {
    let (mut client, _server) = connection();
    let mut body = Parts::begun(&["begin"]);
    body.parts.push_back(Err(BodyError::NotUtf8));
    client.begin(post(&[], body));
    let Poll::Ready(Err(error)) = client.poll_answer(&mut unwoken()) else {
        panic!("it cannot be sent");
    };
    assert!(matches!(error.body_error(), Some(BodyError::NotUtf8)));

    let (mut client, mut server) = connection();
    client.begin(post(&[], Parts::begun(&["begin"])));
    write(&mut server, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
    assert!(client.poll_answer(&mut unwoken()).is_ready());
    client
        .writer
        .body_mut()
        .unwrap()
        .parts
        .push_back(Err(BodyError::NamesHeaders));
    assert!(matches!(
        client.poll_frame(&mut unwoken()),
        Poll::Ready(Some(Err(_)))
    ));
    assert!(!client.is_end_stream() && !client.is_at_rest());

    for body in [Parts::over(&["x"]), Parts::begun(&["x"])] {
        let is_over = body.is_over;
        let (mut client, _server) = connection();
        client.begin(post(&[("content-length", "2")], body));
        let failed = client.poll_answer(&mut unwoken());
        assert_eq!(
            matches!(failed, Poll::Ready(Err(Http1Error::RequestBodyShort))),
            is_over
        );
    }
}

/// A server that has closed: nothing more can be written, and that its answer has come is told a moment later.
struct Closed(VecDeque<Poll<&'static [u8]>>);

impl AsyncRead for Closed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let bytes = std::task::ready!(self.0.pop_front().unwrap_or(Poll::Ready(b"")));
        buffer.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Closed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn an_answer_counts_that_is_told_after_the_connection_was_reset() {
    let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
    for (reads, expected) in [
        (vec![Poll::Pending, Poll::Ready(&answer[..])], Some(413)),
        (vec![Poll::Pending], None),
    ] {
        let mut client = Connection::new(Closed(reads.into()));
        client.begin(post(&[("content-length", "2")], Parts::over(&["xy"])));
        assert!(client.poll_answer(&mut unwoken()).is_pending());
        match client.poll_answer(&mut unwoken()) {
            Poll::Ready(Ok(answer)) => assert_eq!(Some(answer.status().as_u16()), expected),
            Poll::Ready(Err(error)) => assert!(expected.is_none() && error.has_ended(), "{error}"),
            Poll::Pending => panic!("it would never end"),
        }
    }
}

#[test]
fn a_connection_has_ended_that_tls_did_not_close() {
    let error = |kind: std::io::ErrorKind| Http1Error::Io(kind.into());
    assert!(error(std::io::ErrorKind::UnexpectedEof).has_ended());
    assert!(!error(std::io::ErrorKind::InvalidData).has_ended());
}
