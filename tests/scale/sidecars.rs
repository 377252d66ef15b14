//! Simulated sidecars: each has an address and a connection of its own, its pod's token, and comes back as the real
//! one does. It reads deltas, reports every server that it has, and acknowledges what changes. Of a line it reads the
//! revision alone, and looks for the token that all wait for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use k8s_openapi::api::core::v1::Pod;
use mcp_auth_protocol::reachability::{Reachability, ServerReachability};
use mcp_auth_protocol::sync::{Capability, Report, Snapshot, SnapshotLine};
use mcp_auth_tests::sidecar::{learned, report};
use mcp_auth_tests::upgraded_stream::{self, Answer};
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::objects::server_name;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// First and longest wait between two attempts, and after how long a stream counts as a good one: as the sidecar's.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
const SETTLED: Duration = Duration::from_secs(30);
/// Room for what arrives at once.
const READ_BYTES: usize = 4096;
/// Longest wait where the operator answered and another of its replicas will serve.
const OTHER_REPLICA: Duration = Duration::from_secs(1);

/// All simulated sidecars. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Sidecars(Arc<Inner>);

struct Inner {
    replicas: RwLock<Vec<SocketAddr>>,
    tls: TlsConnector,
    /// Those that have a stream, and a snapshot by it.
    connected: AtomicUsize,
    started: AtomicUsize,
    received_bytes: AtomicUsize,
    awaited: RwLock<Option<Arc<Awaited>>>,
}

/// A token that so many sidecars are to be given.
pub struct Awaited {
    text: String,
    missing: AtomicUsize,
    last_at: Mutex<Option<Instant>>,
}

impl Awaited {
    pub fn missing(&self) -> usize {
        self.missing.load(Ordering::SeqCst)
    }

    /// Once none is missing.
    pub fn completed_at(&self) -> Instant {
        self.last_at.lock().expect("a sidecar has had it")
    }
}

/// One of them.
struct Identity {
    address: Ipv4Addr,
    token: String,
    report: Report,
}

/// One that a test speaks through.
#[derive(Clone)]
pub struct Speaker {
    reports: Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>,
    /// The last whole snapshot, and the deltas since.
    lines: Arc<Mutex<Vec<Bytes>>>,
    /// The last token that it was counted for.
    counted: Arc<Mutex<Option<Arc<Awaited>>>>,
    report: Report,
}

impl Speaker {
    /// Of its namespace's name.
    pub fn namespace_number(&self) -> usize {
        let number = self.report.pod.namespace.rsplit('-').next();
        number
            .and_then(|number| number.parse().ok())
            .expect("it ends with one")
    }

    /// The snapshot in use.
    pub fn snapshot(&self) -> Snapshot {
        let lines = self.lines.lock();
        let mut lines = lines.iter().map(|line| serde_json::from_slice(line).unwrap());
        let Some(SnapshotLine::Whole(mut snapshot)) = lines.next() else {
            panic!("the first line of a stream is the whole");
        };
        for line in lines {
            let SnapshotLine::Delta(delta) = line else {
                panic!("what was before the whole is forgotten");
            };
            assert_eq!(delta.base, snapshot.revision, "no line is missing");
            snapshot.revision = delta.revision;
            for server in delta.servers {
                let name = &server.route.server;
                snapshot.servers.retain(|before| before.route.server != *name);
                snapshot.servers.push(server);
            }
        }
        snapshot
    }

    fn take_over(&self, line: Bytes) {
        let mut lines = self.lines.lock();
        if is_whole(&line) {
            lines.clear();
        }
        lines.push(line);
    }

    /// What it has applied, and more.
    pub fn say(&self, change: impl FnOnce(&mut Report)) {
        let snapshot = self.snapshot();
        let mut report = self.report.clone();
        report.applied = Some(snapshot.revision);
        report.reachability = answered(snapshot.servers.len());
        change(&mut report);
        let reports = self.reports.lock();
        let reports = reports.as_ref().expect("it is connected");
        reports.send(line(&report)).expect("its stream lives");
    }
}

impl Sidecars {
    pub fn new(authority: &str) -> Self {
        Self(Arc::new(Inner {
            replicas: RwLock::default(),
            tls: upgraded_stream::tls(authority),
            connected: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            received_bytes: AtomicUsize::new(0),
            awaited: RwLock::default(),
        }))
    }

    /// Where new connections go from now on, one or the other.
    pub fn lead_to<'a>(&self, replicas: impl IntoIterator<Item = &'a str>) {
        let replicas = replicas.into_iter().map(|address| address.parse().unwrap());
        *self.0.replicas.write() = replicas.collect();
    }

    pub fn connected(&self) -> usize {
        self.0.connected.load(Ordering::SeqCst)
    }

    pub fn started(&self) -> usize {
        self.0.started.load(Ordering::SeqCst)
    }

    pub fn received_bytes(&self) -> usize {
        self.0.received_bytes.load(Ordering::SeqCst)
    }

    /// Starts the sidecar of this pod.
    pub fn start(&self, pod: &Pod, token: String) -> Speaker {
        let number = self.0.started.fetch_add(1, Ordering::SeqCst);
        let [_, high, middle, low] = u32::try_from(number).unwrap().to_be_bytes();
        let identity = Identity {
            // Connections without a request are counted by address.
            address: Ipv4Addr::new(127, 1 + high, middle, low),
            token,
            report: Report {
                capabilities: vec![Capability::Deltas],
                ..report(pod)
            },
        };
        let speaker = Speaker {
            reports: Arc::default(),
            lines: Arc::default(),
            counted: Arc::default(),
            report: identity.report.clone(),
        };
        tokio::spawn(self.clone().run(identity, number, speaker.clone()));
        speaker
    }

    /// From now on `text` is awaited by so many sidecars.
    pub fn await_text(&self, text: &str, sidecars: usize) -> Arc<Awaited> {
        let awaited = Arc::new(Awaited {
            text: text.to_owned(),
            missing: AtomicUsize::new(sidecars),
            last_at: Mutex::default(),
        });
        *self.0.awaited.write() = Some(awaited.clone());
        awaited
    }

    async fn run(self, identity: Identity, number: usize, speaker: Speaker) {
        let mut failures = 0;
        // They are dealt out evenly at first, and come back by chance.
        let mut choice = number;
        loop {
            let began = Instant::now();
            let ended = self.stream(&identity, choice, &speaker).await;
            speaker.reports.lock().take();
            choice = rand::random_range(0..1000);
            if began.elapsed() >= SETTLED {
                failures = 0;
            }
            let mut wait = (BACKOFF.0 * 2_u32.pow(failures)).min(BACKOFF.1);
            failures = (failures + 1).min(7);
            if matches!(ended, Err(Ended::Refused)) {
                wait = wait.min(OTHER_REPLICA);
            }
            tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        }
    }

    async fn stream(&self, identity: &Identity, choice: usize, speaker: &Speaker) -> Result<(), Ended> {
        let replica = {
            let replicas = self.0.replicas.read();
            replicas[choice % replicas.len()]
        };
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((identity.address, 0)))?;
        let stream = socket.connect(replica).await?;
        stream.set_nodelay(true)?;
        let stream = self.0.tls.connect(ServerName::from(replica.ip()), stream).await?;
        let first = line(&identity.report);
        let opened = upgraded_stream::open(stream, &replica.to_string(), &identity.token, first).await?;
        let Answer::Stream(stream) = opened else {
            return Err(Ended::Refused);
        };
        let (reports, mut receiver) = mpsc::unbounded_channel::<Bytes>();
        *speaker.reports.lock() = Some(reports.clone());
        let (reader, mut writer) = tokio::io::split(stream);
        let writing = async {
            while let Some(line) = receiver.recv().await {
                writer.write_all(&line).await?;
                writer.flush().await?;
            }
            Ok::<_, Ended>(())
        };
        tokio::select! {
            ended = self.read(reader, identity, &reports, speaker) => ended,
            ended = writing => ended,
        }
    }

    async fn read(
        &self,
        mut reader: impl AsyncRead + Unpin,
        identity: &Identity,
        reports: &mpsc::UnboundedSender<Bytes>,
        speaker: &Speaker,
    ) -> Result<(), Ended> {
        let mut buffer = BytesMut::new();
        let mut connected = None;
        let mut servers = 0;
        loop {
            let searched = buffer.len();
            buffer.reserve(READ_BYTES);
            let read = reader.read_buf(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            self.0.received_bytes.fetch_add(read, Ordering::Relaxed);
            let mut from = searched;
            while let Some(end) = buffer[from..].iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(from + end + 1).freeze();
                from = 0;
                if line.len() > 1 {
                    self.take_over(&line, speaker);
                    connected.get_or_insert_with(|| Connected::new(self));
                    let known = servers;
                    servers = servers.max(servers_up_to(&line));
                    let said = match is_whole(&line) || servers > known {
                        true => Report {
                            applied: Some(revision(&line).to_owned()),
                            reachability: answered(servers),
                            ..identity.report.clone()
                        },
                        // The rest is as it was.
                        false => Report {
                            pod: identity.report.pod.clone(),
                            version: identity.report.version.clone(),
                            acknowledged: Some(revision(&line).to_owned()),
                            ..Report::default()
                        },
                    };
                    speaker.take_over(Bytes::copy_from_slice(&line));
                    let _ = reports.send(self::line(&said));
                }
            }
        }
    }

    fn take_over(&self, line: &[u8], speaker: &Speaker) {
        let awaited = self.0.awaited.read().clone();
        let Some(awaited) = awaited else { return };
        // It may stand in later snapshots too.
        let is_counted = |counted: &Arc<Awaited>| Arc::ptr_eq(counted, &awaited);
        let mut counted = speaker.counted.lock();
        let is_news = !counted.as_ref().is_some_and(is_counted);
        if is_news && std::str::from_utf8(line).is_ok_and(|line| line.contains(&awaited.text)) {
            *counted = Some(awaited.clone());
            *awaited.last_at.lock() = Some(Instant::now());
            awaited.missing.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// How a stream ended.
enum Ended {
    Refused,
    #[expect(dead_code, reason = "for whoever looks why")]
    Broken(Error),
}

impl<E: Into<Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

struct Connected(Sidecars);

impl Connected {
    fn new(sidecars: &Sidecars) -> Self {
        sidecars.0.connected.fetch_add(1, Ordering::SeqCst);
        Self(sidecars.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.0.connected.fetch_sub(1, Ordering::SeqCst);
    }
}

fn revision(line: &[u8]) -> &str {
    let text = std::str::from_utf8(&line[..line.len().min(200)]).unwrap_or_default();
    let text = text
        .strip_prefix(r#"{"revision":""#)
        .expect("a snapshot begins with it");
    text.split('"').next().unwrap()
}

fn is_whole(line: &[u8]) -> bool {
    let beginning = &line[..line.len().min(200)];
    !String::from_utf8_lossy(beginning).contains(r#","base":""#)
}

/// One more than the greatest number among the names of its servers.
fn servers_up_to(line: &[u8]) -> usize {
    let text = std::str::from_utf8(line).expect("lines are UTF-8");
    let names = text.split(r#""server":""#).skip(1);
    let numbers = names.filter_map(|name| name.split('"').next()?.rsplit('_').next()?.parse().ok());
    numbers.max().map_or(0, |greatest: usize| greatest + 1)
}

/// What a sidecar reports that has all these servers, each of which has answered.
fn answered(servers: usize) -> Vec<ServerReachability> {
    let names = (0..servers).map(server_name);
    names.map(|name| learned(&name, Reachability::Answered)).collect()
}

fn line(report: &Report) -> Bytes {
    let mut line = serde_json::to_vec(report).expect("a report is plain values");
    line.push(b'\n');
    line.into()
}
