//! The program with the memory that injection gives it and with the 1,024 files that container runtimes begin with,
//! while strangers take what they can get. Nobody has authenticated them; that is up to LiteLLM.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "under_attack/cgroup.rs"]
mod cgroup;
#[path = "under_attack/long_headers.rs"]
mod long_headers;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, StreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use cgroup::{Cgroup, MEMORY_LIMIT};

/// That of every POST.
const BODY_BYTES: usize = 100;

/// Nothing here takes nearly as long.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

struct Sidecar {
    child: Child,
    health: SocketAddr,
    inbound: SocketAddr,
    cgroup: Cgroup,
    folder: tempfile::TempDir,
    /// What LiteLLM sends next on its event streams.
    events: mpsc::UnboundedSender<&'static str>,
    /// What LiteLLM has got of bodies without a stated length.
    received: Arc<AtomicUsize>,
}

impl Sidecar {
    async fn start(name: &str) -> Option<Self> {
        Self::start_with(name, "ulimit -S -n 1024").await
    }

    async fn start_with(name: &str, limit_files: &str) -> Option<Self> {
        raise_own_files();
        let cgroup = Cgroup::new(name)?;
        let litellm = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let litellm_address = litellm.local_addr().unwrap();
        let (events, next_events) = mpsc::unbounded_channel();
        let received = Arc::<AtomicUsize>::default();
        tokio::spawn(serve_litellm(litellm, next_events, received.clone()));
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (health, users, operator) = (free(), free(), free());
        let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap();
        let (health_address, inbound) = (address(&health), address(&users));
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::var("MCPAUTH_TEST_SIDECAR_BINARY");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_mcp-auth-sidecar").to_owned());
        let procs = cgroup.processes();
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!(r#"echo $$ > "$0" && {limit_files} && exec "$@""#))
            .arg(procs)
            .args([&program, "serve"])
            .env("MCPAUTH_OUTBOUND", "127.0.0.1:0")
            .env("MCPAUTH_HEALTH", health_address.to_string())
            .env("MCPAUTH_INBOUND", inbound.to_string())
            .env("MCPAUTH_LITELLM", litellm_address.to_string())
            .env("MCPAUTH_OVERLAY", folder.path().join("overlay.yaml"))
            .env("MCPAUTH_OPERATOR", format!("https://{}", address(&operator)))
            .env("MCPAUTH_OPERATOR_CA", "none")
            .env("MCPAUTH_TOKEN_FILE", folder.path().join("token"))
            .env("MCPAUTH_POD_NAMESPACE", "n")
            .env("MCPAUTH_POD_NAME", "p")
            .env("MCPAUTH_POD_UID", "u")
            .env("MCPAUTH_START_TIMEOUT_SECONDS", "1")
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        drop((health, users));
        let mut sidecar = Self {
            child,
            health: health_address,
            inbound,
            cgroup,
            folder,
            events,
            received,
        };
        for _ in 0..600 {
            if sidecar
                .answer(sidecar.health, "/ready")
                .await
                .starts_with("HTTP/1.1 200")
                && sidecar
                    .answer(sidecar.inbound, "/")
                    .await
                    .starts_with("HTTP/1.1 200")
            {
                return Some(sidecar);
            }
            assert!(sidecar.child.try_wait().unwrap().is_none(), "{}", sidecar.log());
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it never starts: {}", sidecar.log());
    }

    /// The answer to a request on a connection of its own; nothing where there is none.
    async fn answer(&self, address: SocketAddr, path: &str) -> String {
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(Duration::from_secs(10), asking).await;
        answer.map(Result::unwrap_or_default).unwrap_or_default()
    }

    /// A user who is being served when the attack begins: an event stream whose first event has come.
    async fn user(&self) -> TcpStream {
        let mut user = TcpStream::connect(self.inbound).await.unwrap();
        let request = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n";
        user.write_all(request).await.unwrap();
        self.events.send("first").unwrap();
        wait_for(&mut user, "first").await;
        user
    }

    /// What must hold under attack: the process lives within its limit, probes and new users are answered, and the
    /// user goes on being served.
    async fn serves(&mut self, user: &mut TcpStream, attack: &str) {
        for path in ["/startup", "/ready", "/metrics"] {
            let answer = self.answer(self.health, path).await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{path}: {answer:?}; {}",
                self.log()
            );
        }
        let mut answer = String::new();
        // A first one may meet the moment in which nobody has been ended yet.
        for _ in 0..30 {
            answer = self.answer(self.inbound, "/").await;
            if answer.starts_with("HTTP/1.1 200") {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}; {}", self.log());
        self.events.send("second").unwrap();
        wait_for(user, "second").await;
        assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log());
        let peak = self.cgroup.peak();
        let limited = self.cgroup.times_at_limit();
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let resident = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        say(&format!(
            "{attack}: {} MiB of {} at most, at the limit {limited} times, {resident}",
            peak >> 20,
            MEMORY_LIMIT >> 20
        ));
        assert_eq!(limited, 0, "it stays clear of its limit");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 2 MB at `/openapi.json`, as LiteLLM answers without a key; the test's events at `/events`; `ok` elsewhere.
async fn serve_litellm(
    listener: TcpListener,
    mut events: mpsc::UnboundedReceiver<&'static str>,
    received: Arc<AtomicUsize>,
) {
    let (sender, _) = tokio::sync::broadcast::channel(16);
    let all_events = sender.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            // The stream that it is for may not have begun.
            while all_events.send(event).is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    while let Ok((mut stream, _)) = listener.accept().await {
        let (large, sender, received) = (large.clone(), sender.clone(), received.clone());
        tokio::spawn(async move {
            let mut read = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut read).await {
                while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head: Vec<u8> = read.drain(..end + 4).collect();
                    let lower = head.to_ascii_lowercase();
                    if lower.windows(8).any(|word| word == b" chunked") {
                        received.fetch_add(read.len(), Ordering::Relaxed);
                        let mut part = vec![0; 64 * 1024];
                        while let length @ 1.. = stream.read(&mut part).await? {
                            received.fetch_add(length, Ordering::Relaxed);
                        }
                        return Ok(());
                    }
                    // It reads a body before it asks who sends it.
                    let length = if head.starts_with(b"POST ") { BODY_BYTES } else { 0 };
                    while read.len() < length && stream.read_buf(&mut read).await? > 0 {}
                    read.drain(..length.min(read.len()));
                    if head.starts_with(b"GET /openapi.json ") {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len());
                        stream.write_all(head.as_bytes()).await?;
                        stream.write_all(&large).await?;
                    } else if head.starts_with(b"GET /events ") {
                        let mut events = sender.subscribe();
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                                    Transfer-Encoding: chunked\r\n\r\n";
                        stream.write_all(head.as_bytes()).await?;
                        while let Ok(event) = events.recv().await {
                            let event = format!("{:x}\r\n{event}\r\n", event.len());
                            stream.write_all(event.as_bytes()).await?;
                        }
                    } else {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .await?;
                    }
                }
            }
            std::io::Result::Ok(())
        });
    }
}

async fn wait_for(stream: &mut TcpStream, expected: &str) {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(expected) {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "the stream ended");
        }
    };
    timeout(TEST_TIMEOUT, reading).await.expect("an event in time");
}

/// For as many sockets as the attacks take.
fn raise_own_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A connection whose receive buffer is small, so that what it does not read stays with the sender.
async fn connect(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
    timeout(Duration::from_secs(10), socket.connect(address))
        .await
        .ok()?
        .ok()
}

/// Opens so many connections, sends this on each and keeps them. Where the sidecar takes no more of it, or has ended
/// the connection, the next one follows.
async fn keep_open(address: SocketAddr, number: usize, sent: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..number {
        if let Some(mut stream) = connect(address).await {
            let _ = timeout(Duration::from_secs(1), stream.write_all(sent)).await;
            open.push(stream);
        }
    }
    open
}

#[tokio::test]
async fn headers_that_never_end_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("headers").await else {
        return;
    };
    let mut user = sidecar.user().await;
    // The first are more than the memory there is.
    for (number, length) in [(5_000, 60_000), (2_000, 120_000)] {
        let mut sent = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        sent.resize(length, b'x');
        let _open = keep_open(sidecar.inbound, number, &sent).await;
        let attack = format!("{number} connections with {length} bytes of headers");
        sidecar.serves(&mut user, &attack).await;
    }
}

#[tokio::test]
async fn answers_that_are_never_read_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("unread").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let sent = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let _open = keep_open(sidecar.inbound, 500, sent).await;
    sidecar.serves(&mut user, "500 unread answers").await;
    let _more = keep_open(sidecar.inbound, 1_500, sent).await;
    sidecar.serves(&mut user, "2,000 unread answers").await;
}

#[tokio::test]
async fn unread_streams_of_http2_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("http2").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let (mut open, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let stream = connect(sidecar.inbound).await.unwrap();
        let (mut sender, connection) = h2::client::Builder::new()
            .initial_connection_window_size(16 << 20)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        connections.push(tokio::spawn(connection));
        for _ in 0..256 {
            let request = http::Request::get("http://a/openapi.json").body(()).unwrap();
            let Ok(ready) = sender.clone().ready().await else {
                break;
            };
            sender = ready;
            let Ok((response, _)) = sender.send_request(request, true) else {
                break;
            };
            // Its body is kept and not read.
            open.push(tokio::spawn(response));
        }
    }
    let mut unread = Vec::new();
    for response in open {
        let response = timeout(TEST_TIMEOUT, response).await;
        unread.push(response.expect("an answer or an end").unwrap());
    }
    let metrics = sidecar.answer(sidecar.health, "/metrics").await;
    assert!(
        !metrics.contains("litellm_unreachable"),
        "there are descriptors: {metrics}"
    );
    sidecar
        .serves(
            &mut user,
            "4 connections over HTTP/2 with 256 unread answers each",
        )
        .await;
}

#[tokio::test]
async fn connections_that_say_nothing_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("silent").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let _open = keep_open(sidecar.inbound, 6_000, b"").await;
    let _health = keep_open(sidecar.health, 1_000, b"").await;
    sidecar
        .serves(&mut user, "6,000 silent connections and 1,000 to the health port")
        .await;
}

#[tokio::test]
async fn descriptors_that_cannot_be_had_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start_with("descriptors", "ulimit -n 256").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let _open = keep_open(sidecar.inbound, 1_000, b"").await;
    let sent = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let _more = keep_open(sidecar.inbound, 200, sent).await;
    sidecar
        .serves(&mut user, "1,200 connections with 256 open files")
        .await;
}

#[tokio::test]
async fn a_thousand_slow_clients_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("slow").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let mut open = keep_open(sidecar.inbound, 1_000, b"POST / HTTP/1.1\r\nHost: a\r\nX: ").await;
    // Each byte comes in time.
    for _ in 0..5 {
        for stream in &mut open {
            let _ = stream.write_all(b"x").await;
        }
        let answer = sidecar.answer(sidecar.inbound, "/").await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
    }
    sidecar
        .serves(&mut user, "1,000 clients whose headers drip")
        .await;
}

#[tokio::test]
async fn bodies_that_never_end_cost_no_user_and_no_probe() {
    let Some(mut sidecar) = Sidecar::start("bodies").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let sent = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\nx");
    let _open = keep_open(sidecar.inbound, 3_000, sent.as_bytes()).await;
    sidecar
        .serves(&mut user, "3,000 requests whose body does not end")
        .await;
}

/// Each kilobyte becomes a megabyte that is looked at, of more bodies than there are decoders for.
#[tokio::test]
async fn compressed_bodies_that_become_long_cost_no_user_and_no_probe() {
    const BODIES: usize = 300;
    /// What there is room for with this limit of memory.
    const DECODERS: usize = 185;
    let Some(mut sidecar) = Sidecar::start("compressed").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b' '; 16 << 20]).unwrap();
    let spaces = encoder.finish().unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n";
    // Not to its end, behind which nothing may follow.
    let sent = [&head[..], &spaces[..spaces.len() - 100]].concat();
    let mut open = keep_open(sidecar.inbound, BODIES, &sent).await;
    // The others have a decoder each.
    let refused = stream::iter(&mut open).map(async |stream: &mut TcpStream| {
        let mut read = [0; 1024];
        while let Ok(1..) = stream.read(&mut read).await {}
    });
    let refused = refused.buffer_unordered(BODIES).take(BODIES - DECODERS).count();
    let refused = timeout(TEST_TIMEOUT, refused).await;
    refused.expect("they end for whom there is no decoder");
    sidecar
        .serves(&mut user, "300 bodies in gzip that become 16 MiB each")
        .await;
}

#[tokio::test]
async fn bodies_of_one_byte_a_chunk_at_mcp_paths_cost_no_user_and_no_probe() {
    const CHUNKS: usize = 16_384;
    const REQUESTS: usize = 60;
    let Some(mut sidecar) = Sidecar::start("chunks").await else {
        return;
    };
    let mut user = sidecar.user().await;
    let before = sidecar.cgroup.peak();
    let head = b"POST /mcp/tools HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sent = [&head[..], &b"1\r\nx\r\n".repeat(CHUNKS)].concat();
    let _open = keep_open(sidecar.inbound, REQUESTS, &sent).await;
    // Not before they have passed through: sockets hold as much.
    let passing = async {
        while sidecar.received.load(Ordering::Relaxed) < REQUESTS * CHUNKS * b"1\r\nx\r\n".len() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(2 * TEST_TIMEOUT, passing)
        .await
        .expect("the bodies pass through");
    let attack = format!("{REQUESTS} requests of {CHUNKS} chunks of one byte");
    sidecar.serves(&mut user, &attack).await;
    let taken = sidecar.cgroup.peak() - before;
    let each = taken / REQUESTS as u64;
    assert!(each < 256 << 10, "{each} bytes are held for each request");
}
