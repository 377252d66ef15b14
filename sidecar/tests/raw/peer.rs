//! The two ends, which speak bytes: a client that takes answers apart itself, and a server that keeps what it
//! saw.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::row::{NOTHING, Then};
use crate::scene::{SECRET, SECRET_HEADER, TEST_TIMEOUT, as_litellm};

/// What is read ahead of being taken apart.
struct Buffered {
    stream: TcpStream,
    read: Vec<u8>,
}

pub struct Client {
    peer: Buffered,
    address: SocketAddr,
    ended: bool,
}

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    answer: Option<(Vec<u8>, Then)>,
    seen: Vec<String>,
}

/// A message as it came: `whole` if its end did.
struct Message {
    head: String,
    body: Vec<u8>,
    whole: bool,
}

impl Buffered {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Whether more came. A reset is an end.
    async fn more(&mut self) -> bool {
        let read = timeout(TEST_TIMEOUT, self.stream.read_buf(&mut self.read)).await;
        matches!(read.expect("bytes or an end in time"), Ok(number) if number > 0)
    }

    /// Everything up to and with `end`; what there is, if it does not come.
    async fn until(&mut self, end: &[u8]) -> (Vec<u8>, bool) {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                let rest = self.read.split_off(at + end.len());
                return (std::mem::replace(&mut self.read, rest), true);
            }
            if !self.more().await {
                return (std::mem::take(&mut self.read), false);
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> (Vec<u8>, bool) {
        while self.read.len() < length {
            if !self.more().await {
                return (std::mem::take(&mut self.read), false);
            }
        }
        let rest = self.read.split_off(length);
        (std::mem::replace(&mut self.read, rest), true)
    }

    /// Strictly: what is framed in more than one way, or not by the letter, fails the test.
    async fn message(&mut self) -> Option<Message> {
        let (head, whole) = self.until(b"\r\n\r\n").await;
        if head.is_empty() {
            return None;
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if !whole {
            return Some(Message {
                head,
                body: Vec::new(),
                whole,
            });
        }
        let lengths = values(&head, "content-length");
        let codings = values(&head, "transfer-encoding");
        let (body, whole) = match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => (Vec::new(), true),
            ([length], []) => {
                assert!(length.bytes().all(|byte| byte.is_ascii_digit()), "{head}");
                self.exactly(length.parse().unwrap()).await
            }
            ([], ["chunked"]) => self.chunks().await,
            _ => panic!("framed in more than one way: {head}"),
        };
        Some(Message { head, body, whole })
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let (size, whole) = self.until(b"\r\n").await;
            if !whole {
                return (body, false);
            }
            let size = String::from_utf8(size).unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).expect("a size and nothing else");
            if size == 0 {
                let (trailers, whole) = self.until(b"\r\n").await;
                assert!(!whole || trailers == b"\r\n", "trailers unasked");
                return (body, whole);
            }
            let (chunk, whole) = self.exactly(size).await;
            body.extend(chunk);
            if !whole || !self.until(b"\r\n").await.1 {
                return (body, false);
            }
        }
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self {
            peer: Buffered::new(stream),
            address,
            ended: false,
        }
    }

    /// Sends the bytes, as LiteLLM does where they say `Host: localhost`, and returns the whole answers.
    pub async fn send(&mut self, sent: &[u8]) -> String {
        // The other side may well close before it has had all.
        let _ = self.peer.stream.write_all(&as_litellm(sent)).await;
        let mut got = Vec::new();
        for _ in 0..requests_in(sent) {
            match self.answer().await {
                Some(answer) => got.push(answer),
                None => break,
            }
            if self.ended {
                break;
            }
        }
        got.join(", ")
    }

    /// What another request on this connection gets; `None` if it is closed.
    pub async fn next(&mut self, user: &str) -> Option<String> {
        if self.ended {
            return None;
        }
        let request = format!(
            "GET /tools/mcp?for={user} HTTP/1.1\r\nHost: {}\r\n{SECRET_HEADER}: {SECRET}\r\n\r\n",
            self.address
        );
        if self.peer.stream.write_all(request.as_bytes()).await.is_err() {
            return None;
        }
        self.answer().await
    }

    /// Whether the other side has left the connection open. All answers must have been read.
    pub fn is_open(&self) -> bool {
        let read = self.peer.stream.try_read(&mut [0; 1]);
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    async fn answer(&mut self) -> Option<String> {
        let message = loop {
            // Whether the head of an answer that breaks off still comes is a matter of moments.
            let Some(message) = self.peer.message().await.filter(|message| message.whole) else {
                self.ended = true;
                return None;
            };
            if !message.head.starts_with("HTTP/1.1 103 ") {
                break message;
            }
        };
        self.ended |= values(&message.head, "connection").contains(&"close");
        let status = message.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = String::from_utf8_lossy(&message.body).into_owned();
        let said = match body.split_once("\"reason\":\"") {
            Some((_, reason)) => reason.split('"').next().map(|reason| format!(" {reason}")),
            None if body.starts_with("for ") => Some(format!(" {body}")),
            None => None,
        };
        Some(format!("{status}{}", said.unwrap_or_default()))
    }
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::default(),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        upstream
    }

    /// Forgets what was seen; the next request gets `answer`.
    pub fn begin(&self, answer: Option<(Vec<u8>, Then)>) {
        let mut script = self.script.lock().unwrap();
        *script = Script {
            answer,
            seen: Vec::new(),
        };
    }

    pub fn seen(&self) -> String {
        let seen = self.script.lock().unwrap().seen.clone();
        match seen.is_empty() {
            true => NOTHING.to_owned(),
            false => seen.join(" and "),
        }
    }

    async fn serve(&self, stream: TcpStream) {
        let mut peer = Buffered::new(stream);
        while let Some(message) = peer.message().await {
            let answer = {
                let mut script = self.script.lock().unwrap();
                // Half a request is none, as every server must take it.
                if message.whole {
                    script.seen.push(self.shape(&message));
                }
                script.answer.take()
            };
            let target = message.head.split(' ').nth(1).unwrap_or_default();
            let user = target.split_once("for=").map_or("no user", |(_, user)| user);
            let body = format!("for {user}");
            let ordinary = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let (answer, then) = answer.unwrap_or((ordinary.into_bytes(), Then::Stays));
            let written = peer.stream.write_all(&answer).await;
            if then == Then::Resets {
                // What is not read or taken by then is lost, and the other side gets a reset for its end.
                SockRef::from(&peer.stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            if written.is_err() || then != Then::Stays || !message.whole {
                return;
            }
        }
    }

    /// Request line, headers that not every request has, body.
    fn shape(&self, message: &Message) -> String {
        let mut lines = message.head.trim_end().split("\r\n");
        let mut shape = lines.next().unwrap_or_default().to_owned();
        let expected = [
            format!("host: {}", self.address),
            "authorization: Bearer service-token".to_owned(),
            "x-forwarded-for: 127.0.0.1".to_owned(),
            "mcpauth-context: none".to_owned(),
        ];
        for line in lines {
            let ours = expected.iter().any(|expected| expected == line);
            if !ours {
                shape.push_str(&format!("; {line}"));
            }
        }
        if !message.body.is_empty() {
            shape.push_str(&format!("; {}", brief(&message.body)));
        }
        brief(shape.as_bytes())
    }
}

/// Printable and short.
pub fn brief(bytes: &[u8]) -> String {
    const LONGEST: usize = 160;
    match bytes.len() > LONGEST {
        true => format!("{} ... ({} bytes)", bytes[..60].escape_ascii(), bytes.len()),
        false => bytes
            .escape_ascii()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\\\", "\\"),
    }
}

/// How many answers to wait for. Only rows that pipeline send more than one request.
fn requests_in(sent: &[u8]) -> usize {
    let marks = sent
        .windows(12)
        .filter(|window| window == b"X-Pipelined:")
        .count();
    marks.max(1)
}

fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    fields
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}
