//! Interim answers (103) where they could get into another answer, or another one into them: connections that have several
//! requests, and clients that take nothing.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::scene::{Sidecar, TEST_TIMEOUT, as_litellm, read_head, server};

/// A server that answers `?N` with N, and sends a hint of the same name ahead where N is odd.
async fn hinting_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_with_hints(stream));
        }
    });
    address
}

async fn answer_with_hints(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let (_, target) = head.split_once('?').unwrap();
        let number: u32 = target.split(' ').next().unwrap().parse().unwrap();
        if !number.is_multiple_of(2) {
            let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n");
            stream.write_all(hint.as_bytes()).await?;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// A connection to each half, for each of which the server is the upstream.
async fn connections() -> (Sidecar, [TcpStream; 2]) {
    let upstream = hinting_server().await;
    let sidecar = Sidecar::start(upstream, &[server(&format!("http://{upstream}/mcp"))]);
    let clients = [
        TcpStream::connect(sidecar.outbound).await.unwrap(),
        TcpStream::connect(sidecar.inbound).await.unwrap(),
    ];
    (sidecar, clients)
}

fn request(method: &str, number: u32) -> Vec<u8> {
    let head =
        format!("{method} /tools/mcp?{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    as_litellm(head.as_bytes())
}

/// The heads of interim answers, and the body of the answer behind them.
async fn next_answer(client: &mut TcpStream) -> (Vec<String>, char) {
    let mut interim = Vec::new();
    loop {
        let head = read_head(client).await;
        if head.starts_with("HTTP/1.1 200 OK\r\n") {
            let body = timeout(TEST_TIMEOUT, client.read_u8()).await;
            return (interim, char::from(body.expect("a body in time").unwrap()));
        }
        interim.push(head);
    }
}

fn hint(number: u32) -> Vec<String> {
    vec![format!("HTTP/1.1 103 Early Hints\r\nlink: </{number}>\r\n\r\n")]
}

#[tokio::test]
async fn each_of_two_requests_at_once_gets_its_own_interim_answer() {
    let (_sidecar, clients) = connections().await;
    for mut client in clients {
        let both = [request("GET", 1), request("GET", 3)].concat();
        client.write_all(&both).await.unwrap();
        assert_eq!(next_answer(&mut client).await, (hint(1), '1'));
        assert_eq!(next_answer(&mut client).await, (hint(3), '3'));
    }
}

#[tokio::test]
async fn an_interim_answer_comes_to_its_own_request_of_a_connection_and_to_no_other() {
    let (_sidecar, clients) = connections().await;
    for mut client in clients {
        for (method, number, expected) in [
            ("GET", 1, hint(1)),
            ("GET", 2, vec![]),
            ("GET", 3, hint(3)),
            ("POST", 5, vec![]),
            ("GET", 7, hint(7)),
            ("GET", 4, vec![]),
        ] {
            client.write_all(&request(method, number)).await.unwrap();
            let body = char::from_digit(number, 10).unwrap();
            assert_eq!(next_answer(&mut client).await, (expected, body));
        }
    }
}

/// What does not fit beside what waits for the client is dropped, and nothing of it is half there.
#[tokio::test]
async fn a_client_that_takes_nothing_for_long_gets_whole_interim_answers_and_then_the_answer() {
    const SENT: usize = 1_000;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    let sidecar = Sidecar::start(address, &[server(&format!("http://{address}/mcp"))]);
    let link = "x".repeat(8_000);
    for half in [sidecar.outbound, sidecar.inbound] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(half).await.unwrap();
        let head = b"GET /tools/mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.write_all(&as_litellm(head)).await.unwrap();
        let (mut stream, _) = upstream.accept().await.unwrap();
        read_head(&mut stream).await;
        let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: <{link}>\r\n\r\n");
        let interim = interim.repeat(SENT);
        let sending = stream.write_all(interim.as_bytes());
        let sent = timeout(TEST_TIMEOUT, sending).await;
        sent.expect("they are taken, though the client takes none")
            .unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();

        let mut read = String::new();
        let reading = client.read_to_string(&mut read);
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("an end in time")
            .unwrap();
        let expected = format!("HTTP/1.1 103 Early Hints\r\nlink: <{link}>\r\n\r\n");
        let (mut passed, mut rest) = (0, &*read);
        while let Some(behind) = rest.strip_prefix(&expected) {
            (passed, rest) = (passed + 1, behind);
        }
        assert!(
            (1..SENT).contains(&passed),
            "{passed} passed, where not all have room"
        );
        assert!(
            rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nok"),
            "behind {passed}: {}",
            rest.get(..200).unwrap_or(rest)
        );
        assert_eq!(rest.matches("HTTP/1.1").count(), 1, "nothing behind the answer");
    }
}
