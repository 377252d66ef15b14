//! What becomes of an answer, wherever it is cut.

use proptest::prelude::*;

use super::*;
use crate::promises;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// What comes of `sent` to a request with this method, in a few words: `kept` if the connection takes another request.
pub(super) fn outcome(method: &str, pieces: &[&[u8]], closes: bool) -> String {
    let (mut client, server) = connection();
    let mut server = Some(server);
    client.begin(request(method, "/", &[], Parts::over(&[])));
    let (mut head, mut body, mut rest) = (None, Vec::new(), String::new());
    let mut pieces = pieces.iter();
    let end = loop {
        if head.is_none() {
            match client.poll_answer(&mut unwoken()) {
                Poll::Ready(Ok(answer)) => head = Some(answer),
                Poll::Ready(Err(error)) => return format!("failed: {error}"),
                Poll::Pending => {}
            }
        }
        let mut end = None;
        while head.is_some() && end.is_none() {
            match client.poll_frame(&mut unwoken()) {
                Poll::Ready(None) => end = Some("whole"),
                Poll::Ready(Some(Err(_))) => end = Some("broken"),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => rest = format!(" {:?}", frame.into_trailers().unwrap()),
                },
                Poll::Pending => break,
            }
        }
        if let Some(end) = end {
            break end;
        }
        match (pieces.next(), &mut server) {
            (Some(piece), Some(server)) => write(server, piece),
            (None, Some(_)) if closes => server = None,
            _ => break "unfinished",
        }
    };
    for piece in pieces {
        write(server.as_mut().unwrap(), piece);
    }
    if closes {
        drop(server.take());
    }
    let kept = match end == "whole" && client.look().is_ok() {
        true => ", kept",
        false => "",
    };
    let status = head.map(|head| head.status().as_u16());
    let status = status.map(|status| status.to_string()).unwrap_or_default();
    format!("{status} {}{rest}, {end}{kept}", String::from_utf8_lossy(&body))
}

/// The same however the answer is cut in two, and byte by byte.
fn becomes(method: &str, sent: &str, closes: bool) -> String {
    let sent = sent.as_bytes();
    let whole = outcome(method, &[sent], closes);
    for at in 1..sent.len() {
        let (first, rest) = sent.split_at(at);
        assert_eq!(outcome(method, &[first, rest], closes), whole, "cut at {at}");
    }
    let bytes: Vec<&[u8]> = sent.chunks(1).collect();
    assert_eq!(outcome(method, &bytes, closes), whole, "byte by byte");
    whole
}

#[test]
fn a_body_ends_where_its_head_says() {
    for (sent, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "200 hello, whole, kept",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "200 , whole, kept",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "200 ok, whole, kept"),
        (
            "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
            "200 ok, whole, kept",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "204 , whole, kept"),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            "304 , whole, kept",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x, Close\r\n\r\nok",
            "200 ok, whole",
        ),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
            "200 ok, whole",
        ),
        ("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", "101 , whole"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
            "200 hello, unfinished",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "200 hello, unfinished"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            "200 ok, whole",
        ),
        (
            "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n",
            "204 , whole",
        ),
        (
            "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            "204 , whole, kept",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n",
            "200 ok, whole",
        ),
    ] {
        assert_eq!(becomes("GET", sent, false), expected, "{sent}");
    }
    for (sent, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\nhello", "200 hello, whole"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
            "200 hello, broken",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "200 hello, broken",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-le",
            "failed: connection closed before message completed",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "200 ok, whole"),
    ] {
        assert_eq!(becomes("GET", sent, true), expected, "{sent}");
    }
    for head in ["content-length: 5", "transfer-encoding: chunked", "x: y"] {
        let sent = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
        assert_eq!(becomes("HEAD", &sent, false), "200 , whole, kept");
    }
}

#[test]
fn a_length_that_could_mean_something_else_is_refused_or_ends_the_connection() {
    let answer = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    for fields in [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: 2, 3",
        "content-length: +2",
        "content-length: ",
        "content-length: 2 2",
        "content-length: 0x2",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip",
        "transfer-encoding: identity",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: xchunked",
    ] {
        let became = becomes("GET", &answer(fields), false);
        assert!(
            became.starts_with("failed: ambiguous length"),
            "{fields}: {became}"
        );
    }
    for fields in [
        "x-folded: a\r\n b\r\ncontent-length: 2",
        "content-length : 2",
        " content-length: 2",
        "x: a\0b",
        "x: a\rb",
        "x\0: b",
    ] {
        let became = becomes("GET", &answer(fields), false);
        assert!(
            became.starts_with("failed: malformed head"),
            "{fields:?}: {became}"
        );
    }
    // Those above take no answer with more than one length, so these are only closed here.
    for fields in [
        "transfer-encoding: chunked\r\ncontent-length: 30",
        "content-length: 30\r\ntransfer-encoding: chunked",
    ] {
        assert_eq!(becomes("GET", &answer(fields), false), "200 ok, whole");
    }
    assert_eq!(
        becomes(
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            false
        ),
        "200 ok, whole"
    );
    let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(becomes("GET", old, false).starts_with("failed: ambiguous length"));
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
    ] {
        assert!(
            becomes("GET", garbage, false).starts_with("failed: malformed head"),
            "{garbage}"
        );
    }
}

#[test]
fn chunks_are_read_to_their_end_and_not_beyond() {
    for (sent, expected) in [
        ("2\r\nok\r\n0\r\n\r\n", "200 ok, whole, kept"),
        (
            "2\r\nok\r\nA;a=\"b\"\r\n0123456789\r\n000\r\n\r\n",
            "200 ok0123456789, whole, kept",
        ),
        ("2 \t;x\r\nok\r\n0 \r\n\r\n", "200 ok, whole, kept"),
        ("0\r\n\r\n", "200 , whole, kept"),
        ("0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "200 , whole"),
        (
            "2\r\nok\r\n0\r\nX-Sum: 1\r\ny: 2\r\n\r\n",
            "200 ok {\"x-sum\": \"1\", \"y\": \"2\"}, whole, kept",
        ),
        ("2\r\nok", "200 ok, unfinished"),
        ("2\r\nok\r\n0\r\nx: y\r\n", "200 ok, unfinished"),
        ("2\r\nokX", "200 ok, broken"),
        ("2\r\nok\n0\r\n\r\n", "200 ok, broken"),
        ("2\r\nok\r\n0\r\nx: a\n\r\n\r\n", "200 ok, broken"),
        ("2\r\nok\r\n0\r\nx: a\r\n b\r\n\r\n", "200 ok, broken"),
        ("2\r\nok\r\n0\r\nx : a\r\n\r\n", "200 ok, broken"),
        ("2\r\nok\r\n0\r\n: a\r\n\r\n", "200 ok, broken"),
        ("zz\r\n", "200 , broken"),
        ("-2\r\nok", "200 , broken"),
        ("\r\nok", "200 , broken"),
        ("0x2\r\nok", "200 , broken"),
        ("2\nok", "200 , broken"),
        ("2\rok", "200 , broken"),
        ("2 2\r\nok", "200 , broken"),
        ("2;a\nok", "200 , broken"),
        ("fffffffffffffffff\r\nok", "200 , broken"),
        ("ffffffffffffffff\r\nok", "200 ok, unfinished"),
    ] {
        assert_eq!(
            becomes("GET", &format!("{CHUNKED}{sent}"), false),
            expected,
            "{sent:?}"
        );
    }
}

#[test]
fn a_body_of_any_length_may_pad_each_size() {
    let padded = "1    \r\nx\r\n".repeat(10_000);
    let sent = format!("{CHUNKED}{padded}0\r\n\r\n");
    let expected = format!("200 {}, whole, kept", "x".repeat(10_000));
    assert_eq!(outcome("GET", &[sent.as_bytes()], false), expected);
}

#[test]
fn heads_extensions_and_trailers_have_an_end() {
    let long = "x".repeat(70_000);
    let many = "x: y\r\n".repeat(300);
    for (sent, expected) in [
        (
            format!("HTTP/1.1 200 OK\r\nx: {long}"),
            "failed: the head of an answer is too long, or has too many fields",
        ),
        (
            format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
            "failed: the head of an answer is too long, or has too many fields",
        ),
        (format!("{CHUNKED}2;{long}"), "200 , broken"),
        (format!("{CHUNKED}2{}", " ".repeat(20_000)), "200 , broken"),
        (format!("{CHUNKED}0\r\nx: {long}"), "200 , broken"),
        (format!("{CHUNKED}0\r\n{many}\r\n"), "200 , broken"),
    ] {
        let bytes = sent.as_bytes();
        assert_eq!(outcome("GET", &[bytes], false), expected);
        let pieces: Vec<&[u8]> = bytes.chunks(1000).collect();
        assert_eq!(outcome("GET", &pieces, false), expected);
    }
    let fields = "x: y\r\n".repeat(250);
    let sent = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
    assert_eq!(outcome("GET", &[sent.as_bytes()], false), "200 ok, whole, kept");
}

#[test]
fn what_comes_before_a_request_or_behind_an_answer_ends_the_connection() {
    let (mut client, mut server) = connection();
    assert!(client.look().is_ok());
    write(&mut server, b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(matches!(client.look(), Err(Http1Error::Unasked)));
    assert!(!client.is_at_rest());

    let (mut client, server) = connection();
    drop(server);
    assert!(matches!(client.look(), Err(Http1Error::Incomplete)));
    assert!(!client.is_at_rest());
}

#[test]
fn a_connection_carries_one_answer_after_the_other() {
    let (mut client, mut server) = connection();
    for (number, body) in ["first", "", "third"].into_iter().enumerate() {
        assert!(client.look().is_ok(), "{number}");
        client.begin(get());
        assert!(client.poll_answer(&mut unwoken()).is_pending());
        assert_eq!(sent(&mut server), "GET / HTTP/1.1\r\n\r\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-number: {number}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        write(&mut server, head.as_bytes());
        let Poll::Ready(Ok(answer)) = client.poll_answer(&mut unwoken()) else {
            panic!("it has come");
        };
        assert_eq!(answer.headers().len(), 2);
        assert_eq!(answer.headers()["x-number"], number.to_string());
        assert_eq!(client.is_end_stream(), body.is_empty());
        assert_eq!(client.size_hint().exact(), Some(body.len() as u64));
        write(&mut server, body.as_bytes());
        let mut whole = Vec::new();
        while let Poll::Ready(Some(frame)) = client.poll_frame(&mut unwoken()) {
            whole.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(whole, body.as_bytes());
        assert!(client.is_end_stream());
    }
}

#[test]
fn nothing_is_read_ahead_of_whoever_takes_the_body_but_one_buffer() {
    let (ours, mut server) = duplex(16 * 1024);
    let mut client = Client::new(ours);
    client.begin(get());
    assert!(client.poll_answer(&mut unwoken()).is_pending());
    write(&mut server, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    assert!(client.poll_answer(&mut unwoken()).is_ready());
    let mut taken = 0;
    while let Some(Ok(more)) = server.write(&[b'x'; 1000]).now_or_never() {
        taken += more;
    }
    assert!(taken <= 16 * 1024, "{taken}");
}

#[test]
fn the_last_byte_is_known_to_be_the_last() {
    for sent in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (mut client, mut server) = connection();
        client.begin(get());
        write(&mut server, sent.as_bytes());
        assert!(client.poll_answer(&mut unwoken()).is_ready());
        assert!(!client.is_end_stream());
        assert!(client.poll_frame(&mut unwoken()).is_ready());
        assert!(client.is_end_stream() && client.is_at_rest(), "{sent}");
    }
}

#[test]
fn interim_answers_are_told_in_their_order_and_another_reason_is_kept() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let mut asked = get();
    OnInterim::set(&mut asked, move |status: StatusCode, headers: &HeaderMap| {
        listener
            .lock()
            .push((status.as_u16(), headers.get("link").cloned()));
    });
    let (mut client, mut server) = connection();
    client.begin(asked);
    write(
        &mut server,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
          HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n",
    );
    let Poll::Ready(Ok(answer)) = client.poll_answer(&mut unwoken()) else {
        panic!("it has come");
    };
    assert_eq!(answer.headers().len(), 1, "nothing of the hint's");
    assert_eq!(
        answer
            .extensions()
            .get::<hyper::ext::ReasonPhrase>()
            .unwrap()
            .as_bytes(),
        b"Fine"
    );
    let link = Some(HeaderValue::from_static("</x>"));
    assert_eq!(*told.lock(), [(100, None), (103, link)]);
}

/// Pieces of answers in any order, with any bytes in between, beside what hyper reads in them.
fn pieces_of_answers() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 204 No Content\r\n",
            "HTTP/1.1 304 Not Modified\r\n",
            "HTTP/1.1 103 Early Hints\r\n",
            "HTTP/1.1 101 Switching\r\n",
            "content-length: 2\r\n",
            "Content-Length: 2, 2\r\n",
            "content-length: 11\r\n",
            "transfer-encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "connection: close\r\n",
            "connection: keep-alive\r\n",
            "x: y\r\n",
            "\r\n",
            "2\r\nok\r\n",
            "0\r\n\r\n",
            "0\r\n",
            "ok",
            "b;x=y\r\nhello world\r\n",
            "\n",
            "\r",
            " ",
            ":",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_more_is_read_in_an_answer_than_hyper_reads_in_it(
        begin in prop::sample::select(vec![
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ]),
        kind in any::<[u8; 5]>(),
        rest in pieces_of_answers(),
    ) {
        promises::answer(&[&kind[..], begin.as_bytes(), &rest].concat());
    }
}
